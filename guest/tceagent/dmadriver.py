"""The kernel's driver `tce_dma` (guest/kmod/tce_dma_main.c): its file, and the bytes of requests and answers."""

from __future__ import annotations

from struct import Struct

from tceagent import edu, errors, testdev, vfio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tceagent.seam import Kernel, Outcome, Registers

DRIVER = "tce_dma"
PATH = "/dev/tce_dma"
VERSION = 2
STATE, MASK, ALLOC, MAP, SYNC, UNMAP, READ, WRITE, KEEP, HOLD, MAPS, UNMAPS, LOOP, DROP = range(14)
REQUEST = Struct("=IIIIQQQQII")
"""Version, command, domain, place, four arguments, parts, 0."""
PART = Struct("=QQ")
"""Address and bytes."""
ANSWER = Struct("=qQQQQ")
"""Value, streaming and coherent mask, whether it goes around the tables, extra."""
SEGMENT = Struct("=QQ")
"""Handle and bytes."""
TOLD = Struct("=11Q")
"""Of a loop: `Told`."""
PARTS = 256
"""Of one mapping, at most."""
HELD = 1024
"""Parts of all lists that are held, at most."""
ROUNDS = 1_000_000
"""Of one loop, at most."""
HOW = {"single": 0, "page": 1, "sg": 2}
DIRECTIONS = {"both": 0, "to-device": 1, "from-device": 2}
WHICH = {"streaming": 1, "coherent": 2, "both": 3}
_FOLDER = "/sys/bus/pci/drivers/" + DRIVER
BAR = "resource0"
BARS = {edu: 1 << 20, testdev: 4096}
"""Bytes of the registers of each kind of device."""
MODELS = {0x11E81234: edu, testdev.MODEL: testdev}


class Driver:
    """The driver's file, and what was made through it.

    :ivar fd: its descriptor.
    :ivar places: domain and place of each device that was bound, by name.
    :ivar maps: of what is or was mapped, by name: device, number, segments.
    :ivar registers: of devices, by name.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.fd = kernel.open(PATH)
        self.places: dict[str, tuple[int, int]] = {}
        self.addresses: dict[str, str] = {}
        self.maps: dict[str, tuple[str, int, list[list[int]]]] = {}
        self.registers: dict[str, tuple[Any, Registers]] = {}
        self._numbers = 0

    def number(self) -> int:
        """For a mapping."""
        self._numbers += 1
        return self._numbers

    def packed(self, device: str, command: int, args: tuple[int, ...] = (), parts: int = 0) -> bytes:
        """A request, without what follows it."""
        padded = (*args, 0, 0, 0, 0)[:4]
        return REQUEST.pack(VERSION, command, *self.places.get(device, (0, 0)), *padded, parts, 0)

    def know(self, device: str, address: str) -> None:
        """The device is at this PCI address."""
        domain, bus, rest = address.split(":")
        number, function = rest.split(".")
        self.places[device] = int(domain, 16), int(bus, 16) << 8 | int(number, 16) << 3 | int(function, 16)

    def ask(self, device: str, command: int, args: tuple[int, ...] = (), data: bytes = b"", parts: int = 0) -> Answer:
        """:raise RefusedError: the driver refuses."""
        request = self.packed(device, command, args, parts) + data
        most = SEGMENT.size * PARTS + (args[2] if command == READ else 0)
        try:
            self.kernel.pwrite(self.fd, request, 0)
            return Answer(self.kernel.pread(self.fd, ANSWER.size + most, 0))
        except OSError as error:
            raise errors.RefusedError(error) from error

    def renew(self) -> None:
        """Unmap all, and let go of the devices."""
        for _, registers in self.registers.values():
            registers.close()
        self.kernel.close(self.fd)
        for address in self.addresses.values():
            unbind(self.kernel, address)


class Answer:
    """:ivar value: as the DMA API gave it; `errno`: the name of what it refused with."""

    def __init__(self, raw: bytes) -> None:
        self.value, streaming, coherent, direct, self.extra = ANSWER.unpack_from(raw)
        self.rest = raw[ANSWER.size :]
        self.errno = errors.errno_name(-self.value) if self.value < 0 else ""
        self.masks = {
            "streaming": streaming.bit_length(),
            "coherent": coherent.bit_length(),
            "direct": bool(direct),
        }

    @property
    def segments(self) -> list[list[int]]:
        return [[*SEGMENT.unpack_from(self.rest, at)] for at in range(0, len(self.rest), SEGMENT.size)]

    def outcome(self, **fields: Any) -> Outcome:  # noqa: ANN401 - whatever an outcome has
        out: Outcome = {"errno": self.errno} if self.errno else {"value": self.value}
        return {**out, "fields": fields} if fields else out


class Told:
    """What the driver tells of loops: sums, and of what was wrong the first."""

    def __init__(self) -> None:
        self._sums = [0] * 5
        self._liobn = self._cpu = 0
        self._wrong: list[int] = []
        self._shared: list[int] = []

    def add(self, raw: bytes) -> None:
        """Of one more loop (`struct tce_dma_told`)."""
        self._cpu, self._liobn, met, beside, checked, wrong, *first, shared, shared_at = TOLD.unpack_from(raw)
        self._sums = [a + b for a, b in zip(self._sums, (met, beside, checked, wrong, shared))]  # noqa: B905  as ever
        self._wrong = self._wrong or (first if wrong else [])
        self._shared = self._shared or ([shared_at] if shared else [])

    @property
    def fields(self) -> dict[str, Any]:
        """As fields of an outcome."""
        met, beside, checked, wrong, shared = self._sums
        out: dict[str, Any] = {"cpu": self._cpu, "liobn": self._liobn, "met": met, "beside": beside, "checked": checked}
        if wrong:
            at, seen, expected = self._wrong
            out["wrong"] = {"count": wrong, "ioba": at, "seen": seen, "expected": expected}
        if shared:
            out["shared"] = {"count": shared, "ioba": self._shared[0]}
        return out


def unbind(kernel: Kernel, address: str) -> None:
    """Nobody drives the device at a PCI address any more."""
    kernel.write_file(f"{_FOLDER}/unbind", address.encode())
    kernel.write_file(f"{vfio.DEVICES}/{address}/driver_override", b"\n")

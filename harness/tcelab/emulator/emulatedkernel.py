"""The emulated kernel, with the interface `tceagent.seam.Kernel` that the agent uses.

Every process of a machine has one of its own. System calls parse the same bytes as in the real kernel.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING, Any, Final

from tceagent import dmadriver, vfio
from tceagent.errors import RefusedError
from tceagent.ops import BLOCKS, LIMIT
from tcelab.emulator import hcallfile
from tcelab.emulator.addressspaces import MASK, SCRATCH, SCRATCH_SIZE, Area
from tcelab.emulator.dmafile import DmaFile, RegistersFile
from tcelab.emulator.growth import BLOCK
from tcelab.emulator.hcallfile import HcallFile
from tcelab.emulator.pci import EmulatedRegisters
from tcelab.emulator.platform import EmulatedPe, Machine
from tcelab.emulator.probedevice import EmulatedInterrupt, EmulatedProbe
from tcelab.emulator.process import OpenFile, Process
from tcelab.emulator.profiles import ProfileWithQuirks
from tcelab.emulator.syscallerrors import NotModelledError, SyscallError
from tcelab.emulator.vfiocore import ContainerFile, GroupFile
from tcelab.emulator.vfiopci import DeviceFile
from tcelab.papr import window

if TYPE_CHECKING:
    from tceagent.seam import Serve

DEVICES: Final = vfio.DEVICES
TREE: Final = vfio.TREE
_ROOT: Final = 0
_OURS: Final = (hcallfile.PATH, dmadriver.PATH)
_RESOURCE: Final = "/resource0"
_PLAIN: Final = ("/dev/null", "/dev/zero")


class EmulatedChild:
    """A child of the agent, emulated in this process. `kernel` is the kernel as the child sees it."""

    def __init__(self, kernel: EmulatedKernel, serve: Serve) -> None:
        self.kernel = kernel
        self._perform = serve(kernel)

    def ask(self, op: dict[str, Any]) -> dict[str, Any]:
        """Have it do one operation: its outcome."""
        return self._perform(op)

    def begin(self, op: dict[str, Any]) -> None:
        """Have it do one operation, of which `answer` tells."""
        self._outcome = self._perform(op)

    def answer(self) -> dict[str, Any]:
        """The outcome of what was begun."""
        return self._outcome

    def end(self) -> None:
        """It exits."""
        process = self.kernel.process
        process.exit()
        self.kernel.machine.let_go(process.space)


class EmulatedKernel:
    """:ivar process: whose system calls these are."""

    def __init__(self, machine: Machine, kind: ProfileWithQuirks, process: Process) -> None:
        self.machine = machine
        self.process = process
        self.page_size = machine.page_size
        self._kind = kind
        self._since_1970 = 0.0
        self._override = ""
        self._chance = random.Random(machine.now)  # noqa: S311 - repeatable on purpose

    # -- files

    def open(self, path: str) -> int:
        try:
            file = self._opened(path)
        except SyscallError as refused:
            raise refused.os_error() from None
        if path in _OURS or path.endswith(_RESOURCE):
            self.process.wanted = hcallfile.descriptor(self.process)
        return self.process.install(file)

    def _opened(self, path: str) -> OpenFile:
        if path == "/dev/vfio/vfio":
            return ContainerFile(self.machine, self._kind)
        if path == hcallfile.PATH:
            return HcallFile(self.machine, self.process)
        if path == dmadriver.PATH:
            return DmaFile(self.machine, self.process)
        if path.endswith(_RESOURCE):
            owner, name, _ = self._device(path)
            return RegistersFile(owner.devices[name])
        if path in _PLAIN:
            return OpenFile()
        pe = next((pe for pe in self.machine.pes.values() if pe.bound and path == f"/dev/vfio/{pe.group}"), None)
        if pe is None:
            if path.startswith("/dev/vfio/"):
                raise _error("ENOENT", path)
            raise NotModelledError(f"the emulator has no file {path}")
        if self.process.uid != _ROOT:
            raise _error("EACCES", path)
        if pe.group_file is not None:
            raise _error("EBUSY", path)
        pe.group_file = GroupFile(self.machine, pe)
        return pe.group_file

    def close(self, fd: int) -> None:
        try:
            self.process.close(fd)
        except SyscallError as refused:
            raise refused.os_error() from None

    def ioctl(self, fd: int, request: int, argument: bytes | bytearray | int) -> tuple[int | None, str, bytes]:
        """As the real kernel's."""
        if not 0 <= request < 1 << 32:
            raise ValueError(f"an ioctl request has 32 bits: {request:#x}")
        if isinstance(argument, int):
            value, refusal = self._ioctl(fd, request, argument)
            return value, refusal, b""
        scratch = self.process.space.scratch = bytearray(argument.ljust(SCRATCH_SIZE, b"\0"))
        try:
            value, refusal = self._ioctl(fd, request, SCRATCH)
        finally:
            self.process.space.scratch = bytearray()  # it is there while the call lasts
        return value, refusal, bytes(scratch[: len(argument)])

    def _ioctl(self, fd: int, request: int, argument: int) -> tuple[int | None, str]:
        try:
            file = self.process.file(fd)
            return file.ioctl(self.process, request, argument), ""
        except SyscallError as refused:
            return None, refused.name

    def ioctls(
        self, fd: int, requests: list[int], arguments: list[bytearray], times: int
    ) -> tuple[int, int | None, str]:
        """As the real kernel's. Rounds that would repeat the round before them exactly are skipped."""
        done = 0
        before = None
        for turn in range(times):
            for request, argument in zip(requests, arguments, strict=True):
                value, refusal, _ = self.ioctl(fd, request, argument)
                if value != 0:
                    return done, value, refusal
                done += 1
            after = self._state()
            if after == before:
                return done + (times - turn - 1) * len(requests), 0, ""
            before = after
        return done, 0, ""

    def _state(self) -> object:
        """All that a MAP or UNMAP can change."""
        live = [pe.table.live() for pe in self.machine.pes.values()]
        tables = [(index.tobytes(), tces.tobytes()) for index, tces in live]
        return tables, dict(self.machine.ram.pins), self.process.space.locked, [dict(pe.behind) for pe in self._pes()]

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        try:
            return self.process.file(fd).pread(size, offset)
        except SyscallError as refused:
            raise refused.os_error() from None

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        try:
            return self.process.file(fd).pwrite(data, offset)
        except SyscallError as refused:
            raise refused.os_error() from None

    def map_registers(self, fd: int, offset: int, size: int) -> EmulatedRegisters:
        try:
            return self.process.file(fd).map(offset, size, self.process)
        except SyscallError as refused:
            raise refused.os_error() from None

    def interrupt(self, fd: int) -> EmulatedInterrupt:
        """The first MSI of a device. See `tceagent.seam.Kernel.interrupt`."""
        try:
            file = self.process.file(fd)
        except SyscallError as refused:
            raise RefusedError(refused.name) from None
        if not isinstance(file, DeviceFile) or not isinstance(file.device, EmulatedProbe):
            raise RefusedError("EINVAL")
        return EmulatedInterrupt(self.machine.sleep, file.device)

    def hypercall(self, opcode: int, args: list[int]) -> int:
        """A hypercall from problem state: the platform checks nothing else."""
        status, _ = hcallfile.hypercalls(self.machine).call(opcode, tuple(args), problem_state=True)
        return status

    def run(self, program: str, arguments: list[str]) -> tuple[int, bytes]:
        raise NotModelledError(f"the emulator runs no programs such as {program} with {arguments}")

    # -- memory and processes

    def allocate(self, size: int, *, huge: bool = False) -> Area:
        return self.process.space.allocate(size, huge=huge)

    def frames(self, address: int, size: int) -> list[int]:
        return self.process.space.frames(address, size)

    def vmlck(self) -> int:
        return self.process.space.locked * self.page_size // 1024 & MASK

    def pins(self, *, late: bool = False) -> int:  # noqa: ARG002
        if self.process.uid != _ROOT:
            raise _error("EACCES", "/proc/sys/vm/stat_refresh")
        return self.machine.ram.pinned

    def spawn(self, serve: Serve, uid: int | None, memlock: int | None) -> EmulatedChild:
        child = self.process.fork(uid, memlock)
        return EmulatedChild(EmulatedKernel(self.machine, self._kind, child), serve)

    # -- sysfs and the device tree, as far as binding a device looks at them

    def _pes(self) -> list[EmulatedPe]:
        return list(self.machine.pes.values())

    def _device(self, path: str) -> tuple[EmulatedPe, str, str]:
        """PE, name of the device, and what of it a sysfs path means.

        :raise OSError: ENOENT.
        """
        address, _, what = path.removeprefix(f"{DEVICES}/").partition("/")
        for pe in self._pes():
            for name in pe.devices:
                if pe.address_of(name) == address:
                    return pe, name, what
        raise _error("ENOENT", path)

    def listdir(self, path: str) -> list[str]:
        if path == BLOCKS:
            return [f"memory{number}" for number in self.machine.memory.blocks]
        if path != DEVICES:
            raise NotModelledError(f"the emulator has no folder {path}")
        return sorted(pe.address_of(name) for pe in self._pes() for name in pe.devices)

    def readlink(self, path: str) -> str:
        pe, name, what = self._device(path)
        links = {
            "iommu_group": f"../../../kernel/iommu_groups/{pe.group}",
            "of_node": f"../../../firmware/devicetree/base/pci@{window.buid(pe.phb.index):x}/device",
        }
        if name in pe.bound | pe.driven:
            links["driver"] = f"../../../bus/pci/drivers/{'vfio-pci' if name in pe.bound else dmadriver.DRIVER}"
        if what not in links:
            raise _error("ENOENT", path)
        return links[what]

    def read_file(self, path: str) -> bytes:
        for pe in self._pes():
            removed = self.machine.memory.replaced(pe.phb.index, self.machine.windows)
            name = vfio.SAVED_WINDOW if removed else vfio.DMA_WINDOW
            if path == f"{TREE}/pci@{window.buid(pe.phb.index):x}/{name}" and not pe.owned:
                return pe.dma_window()
        if path == f"{BLOCKS}/block_size_bytes":
            return b"%x" % BLOCK
        if path.startswith(BLOCKS):
            return b"online"
        if path.startswith(DEVICES) and path.endswith("/config"):
            pe, name, _ = self._device(path)
            return bytes(pe.devices[name].config)
        if path == LIMIT:
            return (self.machine.memory.limit << 20).to_bytes(8, "big")
        raise _error("ENOENT", path)

    def write_file(self, path: str, data: bytes) -> None:
        if path.endswith("/driver_override"):
            self._override = data.decode().strip()
        elif path == "/sys/bus/pci/drivers_probe":
            pe, name, _ = self._device(f"{DEVICES}/{data.decode()}")
            if self._override == dmadriver.DRIVER:
                pe.driven.add(name)
                pe.devices[name].master = True
            else:
                pe.bound.add(name)
        elif path.endswith("/driver/unbind"):
            pe, name, _ = self._device(f"{DEVICES}/{data.decode()}")
            pe.bound.discard(name)
        elif path == f"/sys/bus/pci/drivers/{dmadriver.DRIVER}/unbind":
            pe, name, _ = self._device(f"{DEVICES}/{data.decode()}")
            pe.driven.discard(name)
            pe.devices[name].master = False
            for file in [] if pe.keep else self.machine.dma.files:
                file.unbound(name)

    # -- time; only waiting lets it pass

    def monotonic(self) -> float:
        return self.machine.now

    def sleep(self, seconds: float) -> None:
        self.machine.sleep(seconds)

    def clock(self) -> float:
        return self._since_1970 + self.machine.now

    def set_clock(self, seconds: float) -> None:
        self._since_1970 = seconds - self.machine.now

    def draw(self, size: int) -> bytes:
        return self._chance.randbytes(size)

    def stir(self, entropy: bytes) -> None:
        self._chance.seed(entropy)

    # -- the agent itself

    def cell(self) -> tuple[bytearray, int]:
        frame = self.machine.ram.allocate()
        return self.machine.ram.lend(frame), frame

    def pin(self, cpu: int) -> None:
        """Does nothing: one operation is done after the other."""

    def beat(self) -> None:
        """Does nothing: nobody waits for progress."""

    def describe(self) -> dict[str, str | int | list[str]]:
        name, modules = self._kind.profile.name, ["tce_hcall", dmadriver.DRIVER]
        return {"kernel": name, "version": "", "machine": "emulator", "page_size": self.page_size, "modules": modules}


def _error(name: str, path: str) -> OSError:
    number = getattr(errno, name)
    kind = {"ENOENT": FileNotFoundError, "EACCES": PermissionError}.get(name, OSError)
    return kind(number, name, path)

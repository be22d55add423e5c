"""The state that operations leave for later ones, in one process."""

from __future__ import annotations

from tceagent import vfio
from tceagent.errors import RefusedError
from tceagent.uapi import IOMMU_PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    from tceagent import dmadriver, virtio
    from tceagent.process import Process
    from tceagent.seam import Child, Kernel, Memory, Registers

    Word = Union[int, str, dict[str, Any]]

_MASK = (1 << 64) - 1
_NO_FD = -1


class File:
    """An open file of the program.

    :ivar registers: of a device, mapped, once somebody has needed them.
    :ivar config: where its configuration space begins, once that was needed.
    :ivar known: the device's kind is known: a virtio device if `virtio`, the place of its registers, is set.
    :ivar quick: it is a probe, whose transfers end at once.
    :ivar engine: a virtio device as it was set up last.
    """

    def __init__(self, fd: int, config: int | None = None) -> None:
        self.fd = fd
        self.registers: Registers | None = None
        self.config = config
        self.known = self.quick = False
        self.virtio: virtio.Place | None = None
        self.engine: virtio.Engine | None = None


class State:
    """:ivar nonce: of the session, 16 bytes; None before the handshake.

    :ivar devices: BUID and slot of each device that a program may name.
    :ivar binder: takes the kernel, BUID and slot, and binds that device.
    :ivar bound: what `bind` found out, by device.
    :ivar buffers: memory, and how many IOMMU pages of it the program knows.
    :ivar children: by the name that the program gave them.
    :ivar daemon: ends the one that was started; see `tceagent.helpers`.
    :ivar inner: the QEMU that this guest runs, once it was started; see `tceagent.inner`.
    :ivar hypercalls: descriptor of the file through which hypercalls are made, once one was.
    :ivar dma: the driver of the DMA API, once it was asked for something.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.nonce: bytes | None = None
        self.devices: dict[str, tuple[int, int]] = {}
        self.binder: Callable[[Kernel, int, int], dict[str, str | int]] = vfio.bind
        self.bound: dict[str, dict[str, str | int]] = {}
        self.inner: Process | None = None
        self.buffers: dict[str, tuple[Memory, int]] = {}
        self.files: dict[str, File] = {}
        self.children: dict[str, Child] = {}
        self.hypercalls: int | None = None
        self.daemon: Callable[[], None] | None = None
        self.dma: dmadriver.Driver | None = None

    def fork(self, kernel: Kernel) -> State:
        """A child's initial state: `kernel` is the kernel as it sees it. Mapped registers stay the parent's."""
        child = State(kernel)
        child.nonce = self.nonce
        child.devices.update(self.devices)
        child.binder = self.binder
        child.bound.update(self.bound)
        child.files.update((name, File(file.fd, file.config)) for name, file in self.files.items())
        return child

    def renew(self) -> None:
        """Discard what programs have left: end children, close files, free memory."""
        while self.children:
            self.children.popitem()[1].end()
        for file in self.files.values():
            if file.registers is not None:
                file.registers.close()
            self.kernel.close(file.fd)
        if self.daemon is not None:
            self.daemon()
            self.daemon = None
        if self.hypercalls is not None:
            self.kernel.close(self.hypercalls)
            self.hypercalls = None
        if self.dma is not None:
            self.dma.renew()
            self.dma = None
        self.files.clear()
        self.buffers.clear()

    def file(self, name: str) -> File:
        """A file of the program. One that could not be opened is a bad descriptor, as it would be in a C program.

        :raise RefusedError: EBADF.
        """
        if name not in self.files:
            raise RefusedError("EBADF")
        return self.files[name]

    def buffer(self, name: str) -> tuple[Memory, int]:
        """:raise LookupError: this process has no such buffer."""
        try:
            return self.buffers[name]
        except KeyError:
            raise LookupError(f"no buffer {name!r}; there are: {', '.join(self.buffers) or 'none'}") from None

    def child(self, name: str) -> Child:
        """:raise LookupError: this process has no such child."""
        try:
            return self.children[name]
        except KeyError:
            raise LookupError(f"no process {name!r}; there are: {', '.join(self.children) or 'none'}") from None

    def session(self) -> bytes:
        """The nonce.

        :raise RuntimeError: there was no handshake.
        """
        if self.nonce is None:
            raise RuntimeError("no nonce before the handshake")
        return self.nonce

    def resolve(self, word: Word) -> int:
        """A word as passed to the kernel: a number as it is, a file's descriptor, an address in a buffer."""
        if isinstance(word, int):
            return word
        if isinstance(word, str):
            return self.files[word].fd if word in self.files else _NO_FD
        memory, _ = self.buffer(word["buffer"])
        address: int = memory.address + word.get("index", 0) * IOMMU_PAGE + word.get("plus", 0)
        return address & _MASK


def unused(named: dict[str, Any], name: str, kind: str) -> None:
    """:raise ValueError: there is one of that name."""
    if name in named:
        raise ValueError(f"there is a {kind} {name!r} already")

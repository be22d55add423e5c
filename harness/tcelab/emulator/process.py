"""Processes as the driver sees them: an address space, files, a user, a limit of locked memory."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, TypeVar

from tcelab.emulator.addressspaces import MASK, Space
from tcelab.emulator.syscallerrors import SyscallError

if TYPE_CHECKING:
    from tcelab.emulator.pci import EmulatedRegisters


class OpenFile:
    """An open file description. Descriptors, forks and mappings each hold a reference."""

    def __init__(self) -> None:
        self._references = 1

    def get(self) -> OpenFile:
        """One reference more."""
        self._references += 1
        return self

    def put(self, process: Process) -> None:
        """One reference less; the last one releases, in the context of that process."""
        self._references -= 1
        if not self._references:
            self.release(process)

    def release(self, _process: Process) -> None:
        """The last reference is gone."""

    def ioctl(self, _process: Process, _request: int, _argument: int) -> int:
        """:raise RefusedError: with its errno."""
        raise SyscallError("ENOTTY")

    def pread(self, _size: int, _offset: int) -> bytes:
        """:raise RefusedError: with its errno."""
        raise SyscallError("EINVAL")

    def pwrite(self, _data: bytes, _offset: int) -> int:
        """:raise RefusedError: with its errno."""
        raise SyscallError("EINVAL")

    def map(self, _offset: int, _size: int, _process: Process) -> EmulatedRegisters:
        """Map a device's registers.

        :raise RefusedError: with its errno.
        """
        raise SyscallError("ENODEV")


Kind = TypeVar("Kind", bound=OpenFile)

MEMLOCK: Final = 8 << 20
"""Bytes: RLIMIT_MEMLOCK of the agent."""

_FIRST_FD: Final = 3


class Process:
    """:ivar space: its mm. `uid` 0 has every capability.

    :ivar memlock: RLIMIT_MEMLOCK in bytes.
    :ivar wanted: the next descriptor, if it is free; None: the lowest one.
    :ivar mapped: registers of devices that it has mapped, each of which holds the device's file.
    :ivar exited: it has lost its mm, and its files are being closed.
    """

    def __init__(self, space: Space, uid: int = 0, memlock: int = MEMLOCK) -> None:
        self.space = space
        self.uid = uid
        self.memlock = memlock
        self.exited = False
        self.wanted: int | None = None
        self.mapped: list[EmulatedRegisters] = []
        self._files: dict[int, OpenFile] = {}

    @property
    def capable(self) -> bool:
        """CAP_IPC_LOCK."""
        return self.uid == 0

    def charge(self, pages: int) -> bool:
        """Charge CPU pages of locked memory; False: over the limit (mm/util.c, __account_locked_vm)."""
        # The counter is an unsigned register: below zero is far above any limit, until a charge brings it back.
        locked = self.space.locked + pages & MASK
        if not self.capable and locked > self.memlock // self.space.ram.page_size:
            return False
        self.space.locked = locked
        return True

    def fork(self, uid: int | None, memlock: int | None) -> Process:
        """A child with the same open files; none of the buffers is copied, no charge is (kernel/fork.c, dup_mmap)."""
        child = Process(
            Space(self.space.ram),
            self.uid if uid is None else uid,
            self.memlock if memlock is None else memlock,
        )
        for fd, file in self._files.items():
            child._files[fd] = file.get()
        return child

    def install(self, file: OpenFile) -> int:
        """A descriptor for a file, which is the process's from now on."""
        wanted, self.wanted = self.wanted, None
        fd = wanted if wanted is not None and wanted not in self._files else self._lowest()
        self._files[fd] = file
        return fd

    def opened(self, kind: type[Kind]) -> list[Kind]:
        """Its open files of a kind."""
        return [file for file in self._files.values() if isinstance(file, kind)]

    def _lowest(self) -> int:
        return next(fd for fd in itertools.count(_FIRST_FD) if fd not in self._files)

    def file(self, fd: int) -> OpenFile:
        """:raise RefusedError: EBADF."""
        try:
            return self._files[fd]
        except KeyError:
            raise SyscallError("EBADF") from None

    def close(self, fd: int) -> None:
        """:raise RefusedError: EBADF."""
        self.file(fd)
        self._files.pop(fd).put(self)

    def exit(self) -> None:
        """Give the memory back, then close all files, in the order of their numbers (kernel/exit.c, do_exit)."""
        self.exited = True
        self.space.free()
        while self.mapped:
            self.mapped[0].close()
        for fd in sorted(self._files):
            self._files.pop(fd).put(self)

"""The seam: the agent's interface to a kernel. Real system calls and an emulator implement it; the rest of the agent is
the same code on both. Only type checkers read this module in a guest, for `typing` is slow to import there.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Protocol, Union

Op = dict[str, Any]
"""An operation as it comes over the wire, without its process."""
Outcome = dict[str, Any]
"""Its outcome: `value`, `errno`, `fields` and `frames`, without those at their default."""
Serve = Callable[["Kernel"], Callable[[Op], Outcome]]
"""Given the kernel as a child sees it, returns the function that does one operation there."""


class Memory(Protocol):
    """Anonymous private memory of one process. `size` is a multiple of the kernel's page size."""

    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """:raise ValueError: outside, or protected."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """:raise ValueError: outside, or protected."""
        ...

    def page(self, number: int) -> memoryview:
        """One IOMMU page (4 KiB) of it, to be read and written without a call. Not to be used once it is protected.

        :raise ValueError: outside, or protected.
        """
        ...

    def protect(self, access: str) -> None:
        """Let the process do with all of it `none`, `read`, or `write`, which is both and how it begins.

        :raise OSError: the kernel refuses.
        """
        ...


class Registers(Protocol):
    """A device's registers, mapped. Each read or write is one access of exactly its size, in native byte order.

    :raise ValueError: (each method) the offset is no multiple of the size.
    """

    def read8(self, offset: int) -> int: ...
    def write8(self, offset: int, value: int) -> None: ...
    def read16(self, offset: int) -> int: ...
    def write16(self, offset: int, value: int) -> None: ...
    def read32(self, offset: int) -> int: ...
    def write32(self, offset: int, value: int) -> None: ...
    def read64(self, offset: int) -> int: ...
    def write64(self, offset: int, value: int) -> None: ...
    def close(self) -> None:
        """Unmap them: they keep the device's file open."""
        ...


class Interrupt(Protocol):
    """The MSI of a device, until it is closed."""

    def wait(self, seconds: float) -> int:
        """Wait until it has come, for so long at most. How many times it came since the last call."""
        ...

    def close(self, *, keep: bool) -> None:
        """:param keep: the device keeps its MSI, of which nobody hears: its configuration must not be touched."""
        ...


class Child(Protocol):
    """A forked process that does operations when it is asked to."""

    def ask(self, op: Op) -> Outcome:
        """:raise Exception: what the operation raised there, or that the child has died."""
        ...

    def begin(self, op: Op) -> None:
        """As `ask`, without waiting for the outcome. :raise Exception: it has died."""
        ...

    def answer(self) -> Outcome:
        """The outcome of what was begun. :raise Exception: as `ask`."""
        ...

    def end(self) -> None:
        """Let it exit: its files are closed and its memory is gone when this returns.

        :raise Exception: it had died before.
        """
        ...


class Kernel(Protocol):
    """The kernel under test, as one process sees it. Methods raise OSError where the kernel refuses, except `ioctl`
    and `ioctls`, which report it.
    """

    @property
    def page_size(self) -> int: ...

    # -- files

    def open(self, path: str) -> int:
        """For reading and writing. :raise OSError: refused."""
        ...

    def close(self, fd: int) -> None:
        """:raise OSError: no such descriptor."""
        ...

    def ioctl(self, fd: int, request: int, argument: Union[bytes, bytearray, int]) -> tuple[int | None, str, bytes]:
        """:param argument: a struct's bytes, or a word that is passed as it is: a number, an address.
        :return: what the call returned or None, the errno's name or "", the struct's bytes afterwards (b"" for a word).
        :raise ValueError: the request is wider than 32 bits or the word wider than a register.
        """
        ...

    def ioctls(
        self, fd: int, requests: list[int], arguments: list[bytearray], times: int
    ) -> tuple[int, int | None, str]:
        """Do a list of ioctls, one argument for each, `times` times over, until one does not return 0.

        :return: how many calls returned 0; what the last call returned, or None and the errno's name.
        """
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """:raise OSError: refused."""
        ...

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """:raise OSError: refused."""
        ...

    def map_registers(self, fd: int, offset: int, size: int) -> Registers:
        """:raise OSError: refused."""
        ...

    def interrupt(self, fd: int) -> Interrupt:
        """The first MSI of a device, by its file, as an eventfd. :raise RefusedError: none can be had."""
        ...

    def hypercall(self, opcode: int, args: list[int]) -> int:
        """The status of a hypercall that the process makes itself: `sc 1` from problem state.

        :raise OSError: the kernel gives no memory for code.
        """
        ...

    # -- memory

    def allocate(self, size: int, *, huge: bool = False) -> Memory:
        """Memory that holds no frames until it is touched, never in huge pages, and that no child has.

        :param huge: all of it in huge pages instead; see `tceagent.huge`.
        :raise OSError: refused.
        """
        ...

    def frames(self, address: int, size: int) -> list[int]:
        """Guest physical address of each IOMMU page that [address, address + size) touches; 0: not present."""
        ...

    def vmlck(self) -> int:
        """KiB charged to this process's RLIMIT_MEMLOCK."""
        ...

    def pins(self, *, late: bool = False) -> int:
        """Page pins held now by the whole kernel.

        :param late: another program has memory registered with VFIO, or had: it is let go late.

        :raise OSError: this process may not ask; only root may.
        :raise LookupError: this kernel does not count them.
        """
        ...

    # -- processes

    def spawn(self, serve: Serve, uid: int | None, memlock: int | None) -> Child:
        """Fork. The child has all open files, none of the memory that `allocate` gave, and no charges.

        :param uid: user and only group that it becomes, without any capability unless 0; None: it stays what it is.
        :param memlock: its RLIMIT_MEMLOCK, soft and hard, in bytes; None: as its parent's.
        :raise Exception: it could not become that.
        """
        ...

    def pin(self, cpu: int) -> None:
        """Keep this process on one CPU: of those that there are, counted round."""
        ...

    def run(self, program: str, arguments: list[str]) -> tuple[int, bytes]:
        """Run a program to its end; whenever it has written something, it goes on.

        :return: its exit status, and what it wrote to its standard output.
        :raise OSError: there is no such program.
        :raise RuntimeError: a signal killed it.
        """
        ...

    # -- sysfs and procfs, by path

    def read_file(self, path: str) -> bytes:
        """:raise OSError: refused; FileNotFoundError: no such file."""
        ...

    def write_file(self, path: str, data: bytes) -> None:
        """:raise OSError: refused; FileNotFoundError: no such file."""
        ...

    def listdir(self, path: str) -> list[str]:
        """Sorted. :raise FileNotFoundError: no such folder."""
        ...

    def readlink(self, path: str) -> str:
        """:raise FileNotFoundError: no such link."""
        ...

    # -- time and chance

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    def clock(self) -> float:
        """Seconds since 1970."""
        ...

    def set_clock(self, seconds: float) -> None:
        """:raise OSError: refused."""
        ...

    def draw(self, size: int) -> bytes:
        """Random bytes."""
        ...

    def stir(self, entropy: bytes) -> None:
        """Give the kernel's random generator entropy, and have it used at once. :raise OSError: refused."""
        ...

    # -- the agent itself

    def cell(self) -> tuple[Union[bytearray, mmap.mmap], int]:
        """One page at a guest physical address that does not change: the page, its address. Children share it."""
        ...

    def beat(self) -> None:
        """Show the host, in the cell, that the operation in flight makes progress."""
        ...

    def describe(self) -> dict[str, Union[str, int, bool, list[str]]]:
        """The handshake's description of the machine."""
        ...

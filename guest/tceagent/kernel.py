"""The seam (`tceagent.seam`) to the real kernel, by system calls.

`posix` rather than `os`, and `_ctypes` rather than `ctypes`: under TCG, each of the two would cost tens of milliseconds
before the agent's first answer.
"""

from __future__ import annotations

import _ctypes
import errno
import fcntl
import mmap
import posix
import sys
import time
from itertools import cycle, repeat
from struct import Struct, pack, unpack

from tceagent import child, uapi
from tceagent.counters import number_after
from tceagent.errors import errno_name
from tceagent.registers import Registers
from tceagent.uapi import IOMMU_PAGE

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable

    from tceagent.interrupt import Interrupt
    from tceagent.seam import Op, Outcome, Serve

CELL = "/run/tcelab.cell"
"""On a ramfs, made by init: its pages never move and, unlike locked memory, are charged to no process."""

_BEATS = Struct("<Q")
_BEATS_AT = 40  # in the cell, behind what the agent writes there

_ADD_ENTROPY = 0x80085203  # RNDADDENTROPY, _IOW('R', 3, int [2]) as powerpc spells it
_RESEED = 0x20005207  # RNDRESEEDCRNG, _IO('R', 7)

_RCU_BARRIER = "/sys/module/rcutree/parameters/do_rcu_barrier"
_TYPE_V2 = uapi.NUMBERS["SET_IOMMU"], uapi.SPAPR_TCE_V2_IOMMU
_NOT_PRESENT = 0
_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1
_INT_MAX = (1 << 31) - 1
_WORD_MAX = (1 << 64) - 1

_PROTECTIONS = {"none": 0, "read": mmap.PROT_READ, "write": mmap.PROT_READ | mmap.PROT_WRITE}


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001  ctypes.c_char, the public one
    _type_ = "c"


def _address_of(area: mmap.mmap) -> int:
    return _ctypes.addressof(_Byte.from_buffer(area))


class Memory:
    """Anonymous private memory of the agent. `size` is a multiple of the kernel's page size."""

    def __init__(self, area: mmap.mmap) -> None:
        self._area = area
        self._access = "write"
        self.address = _address_of(area)
        self.size = len(area)

    def read(self, offset: int, size: int) -> bytes:
        _within(offset, size, self.size)
        self._expect("read", "write")
        return self._area[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        _within(offset, len(data), self.size)
        self._expect("write")
        self._area[offset : offset + len(data)] = data

    def page(self, number: int) -> memoryview:
        """One IOMMU page of it. See `tceagent.seam.Memory`."""
        _within(number * IOMMU_PAGE, IOMMU_PAGE, self.size)
        self._expect("write")
        return memoryview(self._area)[number * IOMMU_PAGE : (number + 1) * IOMMU_PAGE]

    def protect(self, access: str) -> None:
        """:raise OSError: the kernel refuses."""
        import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

        libc = ctypes.CDLL(None, use_errno=True)
        protection = _PROTECTIONS[access]
        if libc.mprotect(ctypes.c_void_p(self.address), ctypes.c_size_t(self.size), protection):
            raise OSError(ctypes.get_errno(), f"mprotect to {access}")
        self._access = access

    def _expect(self, *accesses: str) -> None:
        """An access that is not allowed would end the process by a signal."""
        if self._access not in accesses:
            raise ValueError(f"memory that was protected: its access is {self._access}")


def _within(offset: int, size: int, limit: int) -> None:
    if not 0 <= offset <= offset + size <= limit:
        raise ValueError(f"bytes {offset:#x}..{offset + size:#x} of {limit:#x}")


class LinuxKernel:
    """The kernel under test. Methods raise OSError where the kernel refuses, except `ioctl`, which reports it."""

    page_size = mmap.PAGESIZE

    def __init__(self) -> None:
        self._vmstat: int | None = None
        # Shared with the children, whichever of them sets the type: files are passed on, and so are containers.
        self._lets_go_late = mmap.mmap(-1, 1)
        self._mapped: list[Registers] = []
        self._children: list[child.LinuxChild] = []
        self._open_own()

    def _open_own(self) -> None:
        # Kept open: reading a counter by pread costs an eighth of opening its file each time.
        self._pagemap = posix.open("/proc/self/pagemap", posix.O_RDONLY | posix.O_CLOEXEC)
        self._status = posix.open("/proc/self/status", posix.O_RDONLY | posix.O_CLOEXEC)

    def open(self, path: str) -> int:
        return posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)

    def close(self, fd: int) -> None:
        posix.close(fd)

    def ioctl(self, fd: int, request: int, argument: bytes | bytearray | int) -> tuple[int | None, str, bytes]:
        """:return: what the call returned or None, the errno's name or "", the argument's bytes afterwards.
        :raise ValueError: the request is wider than 32 bits or the argument wider than a register.
        """
        if not 0 <= request < 1 << 32:
            raise ValueError(f"an ioctl request has 32 bits: {request:#x}")
        if isinstance(argument, int) and not 0 <= argument <= _INT_MAX:
            return _ioctl_with_word(fd, request, argument)
        out = bytearray() if isinstance(argument, int) else bytearray(argument)
        try:
            if isinstance(argument, int):
                value: int = fcntl.ioctl(fd, request, argument)
                if (request, argument) == _TYPE_V2:
                    self._lets_go_late[0] = 1
            else:
                value = fcntl.ioctl(fd, request, out, True)  # noqa: FBT003  positional only
        except OSError as error:
            return None, errno_name(error.errno or 0), bytes(out)
        return value, "", bytes(out)

    def ioctls(
        self, fd: int, requests: list[int], arguments: list[bytearray], times: int
    ) -> tuple[int, int | None, str]:
        """Do a list of ioctls, one argument for each, `times` times over, until one does not return 0.

        :return: how many calls returned 0; what the last call returned, or None and the errno's name.
        """
        # No line of Python runs between two calls: map, and filter up to the first result that is not 0, are loops in
        # C. A bytearray is what fcntl.ioctl takes without failing first on another form, and only with one does it
        # give what the call returned. The repeated descriptor counts the calls: it ends the loop, and knows its rest.
        total = len(requests) * times
        left = repeat(fd, total)
        try:
            returned = next(filter(None, map(fcntl.ioctl, left, cycle(requests), cycle(arguments))), 0)
        except OSError as error:
            return total - left.__length_hint__() - 1, None, errno_name(error.errno or 0)
        return total - left.__length_hint__() - (returned != 0), returned, ""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return posix.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return posix.pwrite(fd, data, offset)

    def map_registers(self, fd: int, offset: int, size: int) -> Registers:
        registers = Registers(mmap.mmap(fd, size, offset=offset))
        self._mapped = [*(each for each in self._mapped if not each.closed), registers]
        return registers

    def interrupt(self, fd: int) -> Interrupt:
        """The first MSI of a device. See `tceagent.seam.Kernel.interrupt`."""
        from tceagent.interrupt import Interrupt  # noqa: PLC0415  hardly ever needed

        return Interrupt(self.ioctl, fd)

    def hypercall(self, opcode: int, args: list[int]) -> int:
        """The status of a hypercall by this process, which the platform takes from the kernel alone."""
        import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

        from tceagent.problem import code  # noqa: PLC0415  likewise

        page = mmap.mmap(-1, self.page_size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code(opcode, args))
        status: int = ctypes.CFUNCTYPE(ctypes.c_int64)(_address_of(page))()
        return status

    def allocate(self, size: int, *, huge: bool = False) -> Memory:
        """Memory that holds no frames until it is touched, never in huge pages, and that no child has.

        :param huge: all of it in huge pages instead, which the kernel is made to have.
        """
        if huge:
            from tceagent import huge as pages  # noqa: PLC0415  hardly ever needed

            area = pages.area(size, self.read_file, self.write_file)
            area.madvise(mmap.MADV_DONTFORK)
            return Memory(area)
        whole = -(-size // self.page_size) * self.page_size
        area = mmap.mmap(-1, whole + self.page_size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # One page is freed at once: an access past the end must fault, and not reach another buffer. Nothing fits into
        # the hole, because every allocation has two pages at first.
        area.resize(whole)
        # If a child shared a page, the page would get another frame when either writes to it.
        area.madvise(mmap.MADV_DONTFORK)
        try:
            area.madvise(mmap.MADV_NOHUGEPAGE)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: this kernel has no transparent huge pages
                raise
        return Memory(area)

    def frames(self, address: int, size: int) -> list[int]:
        """Guest physical address of each IOMMU page that [address, address + size) touches; 0: not present."""
        if not size:
            return []
        first = address // self.page_size
        count = -(-(address + size) // self.page_size) - first
        raw = posix.pread(self._pagemap, count * 8, first * 8)
        entries = unpack(f"={count}Q", raw.ljust(count * 8, b"\0"))  # short at the end of the address space
        frames = []
        for page in range(address // IOMMU_PAGE, -(-(address + size) // IOMMU_PAGE)):
            entry = entries[page * IOMMU_PAGE // self.page_size - first]
            if entry & _PRESENT:
                frames.append((entry & _FRAME) * self.page_size + page * IOMMU_PAGE % self.page_size)
            else:
                frames.append(_NOT_PRESENT)
        return frames

    def vmlck(self) -> int:
        """KiB charged to the agent's RLIMIT_MEMLOCK."""
        return number_after(posix.pread(self._status, 65536, 0), b"VmLck:")

    def pins(self, *, late: bool = False) -> int:
        """See `tceagent.seam.Kernel.pins`."""
        if self._vmstat is None:
            self._refresh = posix.open("/proc/sys/vm/stat_refresh", posix.O_WRONLY | posix.O_CLOEXEC)
            self._vmstat = posix.open("/proc/vmstat", posix.O_RDONLY | posix.O_CLOEXEC)
        if late or self._lets_go_late[0]:
            # Registered memory is released by an RCU callback (mm_iommu_release): wait for all of them.
            self.write_file(_RCU_BARRIER, b"1")
        # The counters are per CPU and folded lazily; this folds them now.
        posix.pwrite(self._refresh, b"1", 0)
        counters = posix.pread(self._vmstat, 65536, 0)
        return number_after(counters, b"nr_foll_pin_acquired") - number_after(counters, b"nr_foll_pin_released")

    def spawn(self, serve: Serve, uid: int | None, memlock: int | None) -> child.LinuxChild:
        """Fork: `tceagent.seam.Kernel.spawn`.

        :raise ChildError: the child could not become what it is to be.
        """

        def become() -> Callable[[Op], Outcome]:
            self._become(uid, memlock)
            return serve(self)

        made = child.fork(become, self._children)
        self._children.append(made)
        return made

    def _become(self, uid: int | None, memlock: int | None) -> None:
        """A child's first steps, while it still has the rights."""
        self._children = []
        for registers in self._mapped:  # both the mapping and its descriptor would keep the device's file open
            registers.close()
        # The parent's files report on the parent. Opened before the change of user, these report frames afterwards too.
        posix.close(self._pagemap)
        posix.close(self._status)
        self._open_own()
        if memlock is not None:
            import resource  # noqa: PLC0415  hardly ever needed

            resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))
        if uid is not None:
            posix.setgroups([])
            posix.setresgid(uid, uid, uid)
            posix.setresuid(uid, uid, uid)

    def run(self, program: str, arguments: list[str]) -> tuple[int, bytes]:
        from tceagent import native  # noqa: PLC0415  which needs this module's users

        return native.run(program, arguments, self.beat)

    def read_file(self, path: str) -> bytes:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            parts = [posix.read(fd, 65536)]
            while parts[-1]:
                parts.append(posix.read(fd, 65536))
        finally:
            posix.close(fd)
        return b"".join(parts)

    def write_file(self, path: str, data: bytes) -> None:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, data)
        finally:
            posix.close(fd)

    def listdir(self, path: str) -> list[str]:
        return sorted(posix.listdir(path))

    def readlink(self, path: str) -> str:
        return posix.readlink(path)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def set_clock(self, seconds: float) -> None:
        time.clock_settime(time.CLOCK_REALTIME, seconds)

    def draw(self, size: int) -> bytes:
        """Random bytes."""
        return posix.urandom(size)

    def stir(self, entropy: bytes) -> None:
        """Give entropy to the kernel's random generator, which uses it at once (drivers/char/random.c)."""
        fd = posix.open("/dev/urandom", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _ADD_ENTROPY, pack("=ii", 8 * len(entropy), len(entropy)) + entropy)
            fcntl.ioctl(fd, _RESEED)
        finally:
            posix.close(fd)

    def cell(self) -> tuple[mmap.mmap, int]:
        """One page at a guest physical address that does not change: the page, its address."""
        fd = posix.open(CELL, posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
        try:
            posix.ftruncate(fd, self.page_size)
            page = mmap.mmap(fd, self.page_size)
        finally:
            posix.close(fd)
        page[0] = 0
        self._cell = page
        return page, self.frames(_address_of(page), 1)[0]

    def pin(self, cpu: int) -> None:
        """Keep this process on one CPU: of those that there are, counted round."""
        posix.sched_setaffinity(0, {cpu % (posix.cpu_count() or 1)})

    def beat(self) -> None:
        """Show the host, in the cell, that the operation in flight makes progress."""
        _BEATS.pack_into(self._cell, _BEATS_AT, _BEATS.unpack_from(self._cell, _BEATS_AT)[0] + 1)

    def describe(self) -> dict[str, str | int | bool | list[str]]:
        """The handshake's description of the machine."""
        from tceagent import hotplug  # noqa: PLC0415  hardly ever needed
        from tceagent import huge as pages  # noqa: PLC0415  likewise

        uname = posix.uname()
        modules = self._says("/proc/modules").splitlines()
        return {
            "kernel": uname.release,
            "version": uname.version,
            "machine": uname.machine,
            "python": sys.version.split(" ", 1)[0],
            "page_size": self.page_size,
            "huge": pages.size_of(self.read_file),
            "kexec": self._says("/sys/kernel/kexec_loaded") != "",
            "crashkernel": int(self._says("/sys/kernel/kexec_crash_size") or 0),
            "cmdline": self.read_file("/proc/cmdline").decode().strip(),
            "modules": [line.split(" ", 1)[0] for line in modules],
            "hotplug": hotplug.lacks(),
            "helpers": [name for name, path in hotplug.HELPERS.items() if hotplug.exists(path)],
        }

    def _says(self, path: str) -> str:
        """What is in a file; "" if the kernel was built without what has it."""
        try:
            return self.read_file(path).decode()
        except FileNotFoundError:
            return ""


def _ioctl_with_word(fd: int, request: int, word: int) -> tuple[int | None, str, bytes]:
    """An ioctl with an argument that fcntl.ioctl, which takes an int, cannot pass."""
    if not 0 <= word <= _WORD_MAX:
        raise ValueError(f"an ioctl argument has 64 bits: {word:#x}")
    import ctypes  # noqa: PLC0415  slow to import and hardly ever needed

    libc = ctypes.CDLL(None, use_errno=True)
    value: int = libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(word))
    return (None, errno_name(ctypes.get_errno()), b"") if value == -1 else (value, "", b"")

"""A kernel for the agent's tests: the shape of `tceagent.seam.Kernel`, memory in bytearrays, calls on record."""

from __future__ import annotations

import errno

from tceagent.errors import RefusedError
from tceagent.uapi import IOMMU_PAGE

FIRST_ADDRESS = 0x7000_0000_0000
FIRST_FRAME = 0x100_0000
FIRST_FD = 10


class FakeMemory:
    def __init__(self, address, size, kernel):
        self.address = address
        self.size = size
        self.content = bytearray(size)
        self._kernel = kernel

    def read(self, offset, size):
        return bytes(self.content[offset : offset + size])

    def write(self, offset, data):
        if not 0 <= offset <= offset + len(data) <= self.size:
            raise ValueError(offset)
        self._kernel.calls.append(("touch", self.address + offset, len(data)))
        self.content[offset : offset + len(data)] = data

    def page(self, number):
        return memoryview(self.content)[number * IOMMU_PAGE : (number + 1) * IOMMU_PAGE]

    def protect(self, access):
        self._kernel.calls.append(("protect", self.address, access))
        if "protect" in self._kernel.refused:
            raise OSError(getattr(errno, self._kernel.refused["protect"]), "refused")


class FakeChild:
    """A child that lives in the same process. `do`: what does an operation there."""

    def __init__(self, parent, kernel, do):
        self._parent = parent
        self.kernel = kernel
        self.do = do

    def ask(self, op):
        self._parent.calls.append(("ask", op))
        return self.do(op)

    def begin(self, op):
        self._parent.calls.append(("begin", dict(op)))
        self.begun = op

    def answer(self):
        self._parent.calls.append(("answer", self._parent.children.index(self)))
        return self.do(self.begun)

    def end(self):
        self._parent.calls.append(("end", self._parent.children.index(self)))


class FakeRegisters:
    """RUN reads as set `busy` times."""

    def __init__(self, kernel, busy=2):
        self._kernel = kernel
        self.busy = busy
        self.open = True

    def write64(self, offset, value):
        self._kernel.calls.append(("write64", offset, value))

    def read64(self, offset):
        self._kernel.calls.append(("read64", offset))
        self.busy -= 1
        return 1 << 56 if self.busy >= 0 else 0

    def read8(self, offset):
        raise AssertionError(f"nothing reads 8 bits at {offset:#x}")

    def write8(self, offset, value):
        raise AssertionError(f"nothing writes {value} as 8 bits at {offset:#x}")

    def read16(self, offset):
        raise AssertionError(f"nothing reads 16 bits at {offset:#x}")

    def write16(self, offset, value):
        raise AssertionError(f"nothing writes {value} as 16 bits at {offset:#x}")

    def read32(self, offset):
        raise AssertionError(f"nothing reads 32 bits at {offset:#x}")

    def write32(self, offset, value):
        raise AssertionError(f"nothing writes {value} as 32 bits at {offset:#x}")

    def close(self):
        self._kernel.calls.append(("unmap",))
        self.open = False


class FakeKernel:
    """`answers`: request number to (value, errno, bytes out or None for what came in), or a list of them, used up.
    `files`: path to content, and `links`: path to target, for what is read by path; `refused`: path to the errno that
    opening it gives, or "protect". `children`: all that were ever spawned.
    """

    def __init__(self, page_size=4096):
        self.page_size = page_size
        self.calls = []
        self.answers = {}
        self.files = {}
        self.links = {}
        self.refused = {}
        self.on_write = {}
        self.memories = []
        self.children = []
        self.registers = FakeRegisters(self)
        self.config = bytearray(256)
        self.elapsed = 0.0
        self.since_1970 = 1000.0
        self.stirred = b""
        self.ran = (0, b"")
        self.page = bytearray(page_size)
        self._next_fd = FIRST_FD

    def open(self, path):
        self.calls.append(("open", path))
        if path in self.refused:
            raise OSError(getattr(errno, self.refused[path]), "refused", path)
        self._next_fd += 1
        return self._next_fd - 1

    def close(self, fd):
        self.calls.append(("close", fd))

    def ioctl(self, fd, request, argument):
        self.calls.append(("ioctl", fd, request, argument))
        answer = self.answers.get(request, (0, "", None))
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else (0, "", None)
        value, refusal, out = answer
        return value, refusal, out if out is not None else argument if isinstance(argument, bytes) else b""

    def ioctls(self, fd, requests, arguments, times):
        self.calls.append(("ioctls", times))
        for done in range(len(requests) * times):
            self.sleep(1e-3)
            which = done % len(requests)
            value, refusal, _ = self.ioctl(fd, requests[which], bytes(arguments[which]))
            if value != 0:
                return done, value, refusal
        return len(requests) * times, 0, ""

    def pin(self, cpu):
        self.calls.append(("pin", cpu))

    def beat(self):
        self.calls.append(("beat",))

    def pread(self, fd, size, offset):
        self.calls.append(("pread", fd, size, offset))
        return bytes(self.config[offset & 0xFF : (offset & 0xFF) + size])

    def pwrite(self, fd, data, offset):
        self.calls.append(("pwrite", fd, data, offset))
        self.config[offset & 0xFF : (offset & 0xFF) + len(data)] = data
        return len(data)

    def hypercall(self, opcode, args):
        self.calls.append(("hypercall", opcode, args))
        return -3

    def run(self, program, arguments):
        self.calls.append(("run", program, *arguments))
        return self.ran

    def map_registers(self, fd, offset, size):
        self.calls.append(("map", fd, offset, size))
        return self.registers

    def interrupt(self, fd):
        self.calls.append(("interrupt", fd))
        raise RefusedError("EINVAL")

    def allocate(self, size, *, huge=False):
        size = -(-size // self.page_size) * self.page_size
        address = FIRST_ADDRESS + sum(memory.size + 0x100000 for memory in self.memories)
        self.memories.append(FakeMemory(address, size, self))
        return self.memories[-1]

    def frames(self, address, size):
        self.calls.append(("frames", address, size))
        pages = range(address // IOMMU_PAGE, -(-(address + size) // IOMMU_PAGE))
        return [FIRST_FRAME + (page - FIRST_ADDRESS // IOMMU_PAGE) * IOMMU_PAGE for page in pages]

    def spawn(self, serve, uid, memlock):
        self.calls.append(("spawn", uid, memlock))
        kernel = FakeKernel(self.page_size)
        self.children.append(FakeChild(self, kernel, serve(kernel)))
        return self.children[-1]

    def vmlck(self):
        return 2048

    def pins(self, *, late=False):
        return 32

    def read_file(self, path):
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.files[path]

    def write_file(self, path, data):
        self.calls.append(("write", path, data))
        if path in self.refused:
            raise OSError(getattr(errno, self.refused[path]), "refused", path)
        self.on_write.get(path, lambda _: None)(data)

    def listdir(self, path):
        return sorted(
            {p[len(path) + 1 :].split("/")[0] for p in [*self.files, *self.links] if p.startswith(path + "/")}
        )

    def readlink(self, path):
        if path not in self.links:
            raise FileNotFoundError(errno.ENOENT, "no such link", path)
        return self.links[path]

    def monotonic(self):
        return self.elapsed

    def sleep(self, seconds):
        self.elapsed += seconds

    def clock(self):
        return self.since_1970 + self.elapsed

    def set_clock(self, seconds):
        self.calls.append(("set_clock", seconds))
        self.since_1970 = seconds - self.elapsed

    def draw(self, size):
        """Like a forked guest: the same bytes again, until something is stirred in."""
        return bytes(each ^ size for each in self.stirred.ljust(size, b"\0")[:size])

    def stir(self, entropy):
        self.calls.append(("stir", entropy))
        self.stirred = entropy

    def cell(self):
        return self.page, 0x2468000

    def describe(self):
        return {"kernel": "6.12.95", "page_size": self.page_size}

    def did(self, *names):
        """The calls of these names, in order."""
        return [call for call in self.calls if call[0] in names]


def with_edu(kernel, buid=0x800000020000001, slot=1, driver=""):
    """Put an edu on a PHB into the fake's sysfs, as a pseries guest shows it; returns its address."""
    domain = buid & 0xFF
    address = f"{domain:04x}:00:{slot:02x}.0"
    folder = f"/sys/bus/pci/devices/{address}"
    node = f"../../../firmware/devicetree/base/pci@{buid:x}/unknown-legacy-device@{slot}"
    kernel.links[f"{folder}/of_node"] = node
    kernel.links[f"{folder}/iommu_group"] = f"../../../kernel/iommu_groups/{domain}"
    if driver:
        kernel.links[f"{folder}/driver"] = f"../../../bus/pci/drivers/{driver}"
    # LIOBN 0x80000100, bus address 0, size 1 GiB, as five big-endian cells.
    window = bytes.fromhex("80000100 00000000 00000000 00000000 40000000")
    kernel.files[f"/sys/firmware/devicetree/base/pci@{buid:x}/ibm,dma-window"] = window

    def probe(data):
        kernel.links[f"/sys/bus/pci/devices/{data.decode()}/driver"] = "../../../bus/pci/drivers/vfio-pci"

    kernel.on_write["/sys/bus/pci/drivers_probe"] = probe
    return address

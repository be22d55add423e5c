"""An emulated kernel for the agent of a machine over ssh, which can be unfit, or go wrong."""

import os
import signal
import sys

from tcelab.emulator.addressspaces import Space
from tcelab.emulator.emulatedkernel import EmulatedKernel
from tcelab.emulator.platform import Machine
from tcelab.emulator.process import Process
from tcelab.emulator.profiles import ProfileWithQuirks, profile
from tcelab.program.topology import topology


def kernel(options):
    """The class of it. `options`: what is unusual."""
    machine = Machine(topology(options.get("topology", "two-pe")), 4096, 0, "off")
    kind = ProfileWithQuirks(profile("linux-v1"), frozenset(options.get("quirks", ())))
    files = {
        "/proc/self/status": f"Uid:\t{options.get('uid', 0)}\n",
        "/proc/meminfo": "MemTotal: 524288 kB\n",
        "vendor": "0x1234\n",
        "device": options.get("device", "0x11e8\n"),
    }
    folders = {"/sys/bus/pci/drivers/vfio-pci": [] if options.get("vfio", True) else None}
    return type(
        "Far", (_Far,), {"machine_": machine, "kind": kind, "files": files, "folders": folders, "told": options}
    )


def _print(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class _Far(EmulatedKernel):
    def __init__(self, folder, channel):
        super().__init__(self.machine_, self.kind, Process(Space(self.machine_.ram)))
        self._channel, self._calls, self._said = channel, 0, list(self.told.get("log", ()))

    def describe(self):
        return {**super().describe(), "kernel": "emulated", "huge": 0, "python": "3", "cmdline": ""}

    def log(self):
        _print("a stray word of the agent's")
        return self._said.pop(0) if self._said else []

    def note(self, address):
        """What sysfs has is nobody's."""

    def listdir(self, path):
        if self.folders.get(path) is not None:
            return self.folders[path]
        if path != "/sys/bus/pci/devices":
            raise FileNotFoundError(path)
        return super().listdir(path)

    def readlink(self, path):
        if path in self.told.get("links", {}):
            return self.told["links"][path]
        return super().readlink(path)

    def read_file(self, path):
        name = path if path.startswith("/proc/") else path.rpartition("/")[2]
        return self.files[name].encode() if name in self.files else super().read_file(path)

    def pins(self, *, late=False):
        if self.told.get("uncounted"):
            raise LookupError("this kernel does not count them")
        return super().pins()

    def vmlck(self):
        return super().vmlck() + (self.told.get("keeps", 0) if self._calls > 20 else 0)

    def ioctl(self, fd, request, argument):
        self._calls += 1
        if self._calls == self.told.get("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._calls == self.told.get("stuck"):
            _print("stuck")
            while True:
                signal.pause()
        return super().ioctl(fd, request, argument)

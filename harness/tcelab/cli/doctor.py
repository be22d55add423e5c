"""`tcelab doctor`: one screen that says what this host can do, what is missing, and the fix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import click

from tcelab import image
from tcelab.commandline import spelled
from tcelab.errors import TcelabError
from tcelab.image import archive
from tcelab.job import setup
from tcelab.qemu import machine, probe, ram
from tcelab.run import exitcode

_MEMORY: Final = machine.MEMORY * ram.MIB + ram.HEADROOM
_DISK: Final = 1500 * ram.MIB
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

State = Literal["ok", "no", "-"]


class Line(NamedTuple):
    """One line of the screen: `no` is in the way of the main job, `-` is only worth knowing."""

    state: State
    what: str
    said: str
    fix: str = ""


_STATES: Final = {"ok": "built, up to date", "absent": "not built", "stale": "stale", "damaged": "damaged"}
"""States of an image, as a person reads them."""

_ABILITIES: Final = {
    "private_ram": "forks",
    "vof": "VOF",
    "firmware_sha256": "both firmware files",
    "edu": "edu",
    "virtio_blk": "virtio-blk",
    "dimm": "memory to plug in",
    "testdev": "iommu-testdev",
    "vfio_user": "vfio-user-pci",
    "machines": "versioned machine types",
    "mapped_ram": "save and load",
    "cpus": "every CPU of --cpu",
    "traces": "live tables",
    "device_state": "the state stream",
    "log_flags": "refused accesses told in full",
    "exit_with_parent": "ends with its parent",
}
"""Fields of a QEMU's abilities, as a person reads them."""

_PROGRAMS: Final = {
    "setpriv": "apt-get install util-linux",
    "apt-get": "not a Debian host: give tcelab run --qemu, --kernel and --initrd",
    "dpkg-deb": "apt-get install dpkg",
    "gpgv": "apt-get install gpgv",
}
"""Programs that provisioning and running need, and where they come from."""


@click.command("doctor")
def command() -> None:
    """Check this host: what works, what is missing, and the fix. Exit code 1 if the main job cannot run."""
    failed = False
    for line in _lines():
        click.echo(f"{line.state:2}  {line.what:14} {line.said}")
        if line.fix and line.state != "ok":
            click.echo(f"{'':18} fix: {spelled(line.fix)}")
        failed |= line.state == "no"
    if failed:
        raise click.exceptions.Exit(exitcode.FINDING)


def _lines() -> Iterator[Line]:
    yield _python()
    for program, fix in _PROGRAMS.items():
        found = shutil.which(program)
        yield Line("ok" if found else "no", program, found or "not found", fix)
    yield Line("ok" if _KEYRING.exists() else "no", "keyring", str(_KEYRING), "apt-get install debian-archive-keyring")
    if shutil.which("apt-get"):
        yield _archive()
    yield _memory()
    yield _disk()
    yield _child_memory()
    for name in image.recipe_names():
        yield _image(name)
    yield _qemu()


def _python() -> Line:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Line("ok" if sys.version_info >= (3, 11) else "no", "python", f"{version} ({sys.executable})")


def _archive() -> Line:
    try:
        found = archive.find()
    except TcelabError as error:
        return Line("no", "archive", error.message, error.next_step)
    return Line("ok", "archive", f"{found.main}, by {found.source}")


def _memory() -> Line:
    room = ram.available()
    return Line(
        "ok" if room >= _MEMORY else "no",
        "memory",
        f"{room // ram.MIB} MiB available, a run needs {_MEMORY // ram.MIB}",
        "free some, or tcelab run --memory 256",
    )


def _disk() -> Line:
    cache = image.cache_dir()
    free = shutil.disk_usage(cache).free
    return Line(
        "ok" if free >= _DISK else "-",
        "cache",
        f"{cache}, {free // ram.MIB} MiB free, all images need {_DISK // ram.MIB}",
        "tcelab image clean, or another place with TCELAB_CACHE=DIR",
    )


def _child_memory() -> Line:
    """The live view reads the memory of our own child: not every host lets us."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            os.close(os.open(f"/proc/{child.pid}/mem", os.O_RDWR))
        except OSError as error:
            return Line(
                "no",
                "live view",
                f"a parent may not read its child's memory: {error.strerror}",
                "set /proc/sys/kernel/yama/ptrace_scope to 1 or 0; in a container, allow ptrace",
            )
        finally:
            child.kill()
    return Line("ok", "live view", "a parent may read its child's memory")


def _image(name: str) -> Line:
    status = image.status(name, full=False)
    wanted = name in {setup.DEFAULT_IMAGE, setup.DEFAULT_QEMU}
    state: State = "ok" if status.state == "ok" else "-"
    word = _STATES[status.state]
    if status.state == "absent":
        word += ", the first run builds it" if wanted else ", built when it is asked for by name"
    problems = f": {'; '.join(status.problems)}" if status.problems else ""
    return Line(state, name, f"{word}{problems}", f"tcelab image build {name}")


def _qemu() -> Line:
    if image.status(setup.DEFAULT_QEMU, full=False).state != "ok":
        return Line("-", "qemu", f"{setup.DEFAULT_QEMU} is not built yet: not probed")
    build = image.ensure_qemu(setup.DEFAULT_QEMU)
    try:
        can = probe.probe(probe.Qemu(build.name, build.argv, build.environment))
    except TcelabError as error:
        return Line("no", "qemu", error.message, error.next_step)
    return Line("ok", "qemu", abilities(can))


def abilities(can: probe.Abilities) -> str:
    """What a QEMU can do for tcelab, and what it cannot, in a line."""
    has = {name: bool(getattr(can, name)) for name in _ABILITIES} | {
        "cpus": set(can.cpus) >= {model for model, _ in machine.CPUS.values()},
        "traces": set(can.traces) >= set(probe.TRACES),
        "log_flags": set(can.log_flags) >= set(probe.LOG_FLAGS),
        "firmware_sha256": set(can.firmware_sha256) >= set(probe.FIRMWARE),
    }
    there, missing = ([_ABILITIES[name] for name in _ABILITIES if has[name] is want] for want in (True, False))
    without = f"; without {', '.join(missing)}" if missing else ""
    return f"{can.version}: {', '.join(there)}{without}"

"""What a QEMU can do: asked, never concluded from its version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from qemu.qmp import QMPClient, QMPError

from tcelab.errors import HarnessError, Scene, UsageError
from tcelab.image.manifest import file_sha256
from tcelab.program.topology import VERSIONED
from tcelab.qemu.conduct import TRACES as HEARD
from tcelab.qemu.portal import portal

_LIMIT: Final = 30.0
"""Seconds for QEMU to start without a machine and answer some questions: 0.2 s here."""

TRACES: Final = (
    "spapr_iommu_new_table",
    "spapr_iommu_ddw_create",
    "spapr_iommu_ddw_remove",
    "spapr_iommu_ddw_reset",
    *HEARD,
)
"""Trace events that the live view follows, of which the first is required; and what a guest asks for."""

FIRMWARE: Final = ("slof.bin", "vof.bin")

_NEXT: Final = "give --qemu the path of a qemu-system-ppc64"

LOG_FLAGS: Final = ("guest_errors", "invalid_mem")
"""`-d` items under which QEMU tells of refused accesses: the second where it exists (8.0 or so and up)."""


VERSION: Final = 7
"""Version of the questions; raising it invalidates remembered answers."""


class Qemu(msgspec.Struct, frozen=True):
    """How to start a QEMU: a command before any option of ours, and what to add to the environment.

    :ivar build: hash of all its files, where they are tcelab's own; empty: another program, which may change at any
        time.
    """

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}
    build: str = ""


_ALL_CPUS: Final = 11
"""Major version of the first QEMU that was seen to load several CPUs."""


class Abilities(msgspec.Struct, frozen=True):
    """What a QEMU can do.

    :ivar version: as it calls itself.
    :ivar edu: has the `edu` device; `virtio_blk`: the `virtio-blk-pci` device; `dimm`: `pc-dimm`, memory to
        plug in; `testdev`: `iommu-testdev`; `vfio_user`: `vfio-user-pci`.
    :ivar vof: its pseries machine has `x-vof`, and starts with it.
    :ivar exit_with_parent: `-run-with exit-with-parent=on`.
    :ivar traces: those of `TRACES` that exist.
    :ivar log_flags: those of `LOG_FLAGS` that exist.
    :ivar device_state: can save device state beside a running guest (`xen-save-devices-state`).
    :ivar private_ram: maps a file that it may only read as RAM, copy-on-write: what a fork needs.
    :ivar cpus: its models of POWER CPUs, without a revision.
    :ivar machines: the versioned machine types that it can be, as `pseries-10.0`.
    :ivar mapped_ram: saves a guest with each page of its RAM at a place of its own (capability `mapped-ram`).
    :ivar firmware_sha256: of each of `FIRMWARE` that it finds.
    """

    version: str
    edu: bool
    vof: bool
    exit_with_parent: bool
    traces: tuple[str, ...]
    log_flags: tuple[str, ...]
    device_state: bool
    private_ram: bool = False
    virtio_blk: bool = False
    dimm: bool = False
    testdev: bool = False
    vfio_user: bool = False
    cpus: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    mapped_ram: bool = False
    firmware_sha256: dict[str, str] = {}

    @property
    def all_cpus_go_on(self) -> bool:
        """A guest with several CPUs goes on with all of them when it is loaded. On 10.0.13 only the first one does, and
        the guest's watchdog tells a lockup of the others; on 11.1.3 they do.
        """
        return int(self.version.partition(".")[0]) >= _ALL_CPUS


def by_path(path: str) -> Qemu:
    """A QEMU that the user names.

    :raise UsageError: there is no such program, or it cannot be executed.
    """
    found = shutil.which(path)
    if found is None:
        problem = "is not executable" if Path(path).exists() else "does not exist"
        raise UsageError(f"QEMU {path} {problem}", next_step=_NEXT)
    return Qemu(Path(found).name, (str(Path(found).absolute()),))


def environment(qemu: Qemu) -> dict[str, str]:
    return {**os.environ, **qemu.environment}


def probe(qemu: Qemu) -> Abilities:
    """Start QEMU without a machine and ask it.

    :raise UsageError: it is a program of the user's, and no QEMU for ppc64.
    :raise HarnessError: it does not start.
    """
    return portal().call(_probe(qemu))


async def _probe(qemu: Qemu) -> Abilities:
    began = time.monotonic()
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as said:
        monitor = ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-qmp", "chardev:qmp"]
        quiet = ["-machine", "none", "-nodefaults", "-display", "none"]
        try:
            async with asyncio.timeout(_LIMIT):
                log_flags = await _log_flags(qemu)
                async with _running(qemu, [*quiet, *monitor], said, theirs.fileno()):
                    theirs.close()
                    can = await _questions(ours, log_flags)
                starts = can.vof and await _starts(qemu, "pseries,x-vof=on")
                return msgspec.structs.replace(can, vof=starts, firmware_sha256=await _firmware(qemu))
        except (QMPError, OSError, TimeoutError) as error:
            if not isinstance(error, TimeoutError):
                await _expect_qemu(qemu)
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-300:]
            raise HarnessError(
                f"{qemu.argv[0] if len(qemu.argv) == 1 else qemu.name} does not answer as a QEMU:"
                f" {words or type(error).__name__}",
                next_step="try it by hand with -machine none -nographic",
                scene=Scene("probe", time.monotonic() - began),
            ) from None


async def _expect_qemu(qemu: Qemu) -> None:
    """:raise UsageError: it prints a version, and that is not QEMU's. A program that prints none may just be broken."""
    if qemu.build:
        return
    with tempfile.TemporaryFile() as said:
        async with _running(qemu, ["--version"], said) as child:
            ended = await child.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
    if ended == 0 and "QEMU emulator" not in words:
        told = words.splitlines()[0] if words else "nothing"
        raise UsageError(f"{qemu.argv[0]} is no QEMU: its version says {told!r}", next_step=_NEXT)


@asynccontextmanager
async def _running(
    qemu: Qemu, arguments: list[str], said: IO[bytes], *fds: int, stdin: bytes = b""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """QEMU for as long as the context lasts, with all that it may have started; it dies with us as well."""
    child = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *qemu.argv,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=said,
        stderr=said,
        pass_fds=fds,
        env=environment(qemu),
        start_new_session=True,
    )
    try:
        assert child.stdin is not None
        child.stdin.write(stdin)
        child.stdin.close()
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


async def _starts(qemu: Qemu, machine: str) -> bool:
    """Does QEMU start that machine? It must find its firmware, for example. The monitor quits at once."""
    with tempfile.TemporaryFile() as said:
        leave = ["-display", "none", "-vga", "none", "-nodefaults", "-S", "-monitor", "stdio"]
        async with _running(qemu, ["-M", machine, "-accel", "tcg", *leave], said, stdin=b"quit\n") as child:
            return await child.wait() == 0


async def _says(qemu: Qemu, *arguments: str) -> list[str]:
    """The lines that QEMU prints before it leaves."""
    with tempfile.TemporaryFile() as said:
        async with _running(qemu, [*arguments], said) as child:
            await child.wait()
        said.seek(0)
        return said.read().decode(errors="replace").splitlines()


async def _log_flags(qemu: Qemu) -> tuple[str, ...]:
    offered = {line.split()[0] for line in await _says(qemu, "-d", "help") if line.strip()}
    return tuple(flag for flag in LOG_FLAGS if flag in offered)


async def _firmware(qemu: Qemu) -> dict[str, str]:
    folders = [Path(line) for line in await _says(qemu, "-L", "help")]
    found = {}
    for name in FIRMWARE:
        if path := next((folder / name for folder in folders if (folder / name).is_file()), None):
            found[name] = file_sha256(path)
    return found


async def _questions(end: socket.socket, log_flags: tuple[str, ...]) -> Abilities:
    client = QMPClient("probe")
    await client.connect(end)
    ask = client.execute
    types = {each["name"] for each in _rows(await ask("qom-list-types", {"implements": "device"}))}
    machines = _rows(await ask("query-machines"))
    pseries = [each for each in machines if each["name"] == "pseries" or each.get("alias") == "pseries"]
    if not pseries:
        raise UsageError("this QEMU has no pseries machine: it is not a qemu-system-ppc64", next_step=_NEXT)

    async def properties(kind: str) -> set[str]:
        return {each["name"] for each in _rows(await ask("qom-list-properties", {"typename": kind}))}

    options = {
        option["option"]: {parameter["name"] for parameter in option["parameters"]}
        for option in _rows(await ask("query-command-line-options"))
    }
    commands = {each["name"] for each in _rows(await ask("query-commands"))}
    traces = {each["name"] for each in _rows(await ask("trace-event-get-state", {"name": "spapr_iommu_*"}))}
    cpus = {each["name"] for each in _rows(await ask("query-cpu-definitions"))}
    moves = {each["capability"] for each in _rows(await ask("query-migrate-capabilities"))}
    version = await ask("query-version")
    assert isinstance(version, dict)
    number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
    can = Abilities(
        version=f"{number} {version['package']}".strip(),
        edu="edu" in types,
        virtio_blk="virtio-blk-pci" in types,
        dimm="pc-dimm" in types,
        testdev="iommu-testdev" in types,
        vfio_user="vfio-user-pci" in types,
        vof="x-vof" in await properties(f"{pseries[0]['name']}-machine"),
        exit_with_parent="exit-with-parent" in options.get("run-with", set()),
        traces=tuple(event for event in TRACES if event in traces),
        log_flags=log_flags,
        device_state="xen-save-devices-state" in commands,
        cpus=tuple(sorted(name for name in cpus if re.fullmatch(r"power\d+", name))),
        machines=tuple(sorted(each["name"] for each in machines if VERSIONED.fullmatch(each["name"]))),
        mapped_ram="mapped-ram" in moves,
        private_ram={"readonly", "rom"} <= await properties("memory-backend-file"),
    )
    await client.disconnect()
    return can


def _rows(answer: object) -> list[dict[str, Any]]:
    return msgspec.convert(answer, list[dict[str, Any]])

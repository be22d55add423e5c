"""What a QEMU can do, asked and never concluded from its version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Any, Final

import msgspec
from qemu.qmp import QMPClient, QMPError

from tcelab.errors import HarnessError, UsageError
from tcelab.qemu.portal import portal

_LIMIT: Final = 30.0
"""Seconds for QEMU to start without a machine and answer some questions: 0.2 s here."""

TRACES: Final = (
    "spapr_iommu_new_table",
    "spapr_iommu_ddw_create",
    "spapr_iommu_ddw_remove",
    "spapr_iommu_ddw_reset",
)
"""Trace events that the live view follows. The first cannot be done without."""

LOG_FLAGS: Final = ("guest_errors", "invalid_mem")
"""`-d` items under which QEMU tells of refused accesses: the second where it exists (8.0 or so and up)."""


class Qemu(msgspec.Struct, frozen=True):
    """How to start a QEMU: a command before any option of ours, and what to add to the environment."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}


class Abilities(msgspec.Struct, frozen=True):
    """What a QEMU can do.

    :ivar version: as it calls itself.
    :ivar edu: has the `edu` device.
    :ivar vof: its pseries machine has `x-vof`.
    :ivar exit_with_parent: `-run-with exit-with-parent=on`.
    :ivar traces: those of `TRACES` that exist.
    :ivar log_flags: those of `LOG_FLAGS` that exist.
    :ivar device_state: can save device state beside a running guest (`xen-save-devices-state`).
    """

    version: str
    edu: bool
    vof: bool
    exit_with_parent: bool
    traces: tuple[str, ...]
    log_flags: tuple[str, ...]
    device_state: bool


def by_path(path: str) -> Qemu:
    """A QEMU that the user names.

    :raise UsageError: there is no such program, or it cannot be executed.
    """
    found = shutil.which(path)
    if found is None:
        problem = "is not executable" if Path(path).exists() else "does not exist"
        raise UsageError(f"QEMU {path} {problem}", next_step="give --qemu the path of a qemu-system-ppc64")
    return Qemu(Path(found).name, (str(Path(found).absolute()),))


def environment(qemu: Qemu) -> dict[str, str]:
    return {**os.environ, **qemu.environment}


def probe(qemu: Qemu) -> Abilities:
    """Start QEMU without a machine and ask it.

    :raise HarnessError: it does not start, or is no QEMU for ppc64.
    """
    return portal().call(_probe(qemu))


async def _probe(qemu: Qemu) -> Abilities:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = await _start(
            qemu,
            [
                *("-machine", "none", "-nodefaults", "-display", "none"),
                *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-qmp", "chardev:qmp"),
            ],
            theirs.fileno(),
        )
        theirs.close()
        try:
            async with asyncio.timeout(_LIMIT):
                return await _questions(ours, await _log_flags(qemu))
        except (QMPError, OSError, TimeoutError) as error:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            _, said = await child.communicate()
            raise HarnessError(
                f"{qemu.argv[-1] if len(qemu.argv) == 1 else qemu.name} does not answer as a QEMU:"
                f" {said.decode(errors='replace').strip()[-300:] or type(error).__name__}",
                next_step="try it by hand with -machine none -nographic",
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def _start(qemu: Qemu, arguments: list[str], *fds: int) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *qemu.argv,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=fds,
            env=environment(qemu),
        )
    except OSError as error:
        raise UsageError(
            f"cannot execute {qemu.argv[0]}: {error.strerror}",
            next_step="give --qemu the path of a qemu-system-ppc64 for this host",
        ) from None


async def _log_flags(qemu: Qemu) -> tuple[str, ...]:
    child = await _start(qemu, ["-d", "help"])
    out, _ = await child.communicate()
    offered = {line.split()[0] for line in out.decode(errors="replace").splitlines() if line.strip()}
    return tuple(flag for flag in LOG_FLAGS if flag in offered)


async def _questions(end: socket.socket, log_flags: tuple[str, ...]) -> Abilities:
    client = QMPClient("probe")
    await client.connect(end)
    ask = client.execute
    types = {each["name"] for each in _rows(await ask("qom-list-types", {"implements": "device"}))}
    machines = _rows(await ask("query-machines"))
    pseries = [each for each in machines if each["name"] == "pseries" or each.get("alias") == "pseries"]
    if not pseries:
        raise HarnessError("this QEMU has no pseries machine: it is not a qemu-system-ppc64")
    name = f"{pseries[0]['name']}-machine"
    properties = {each["name"] for each in _rows(await ask("qom-list-properties", {"typename": name}))}
    options = {
        option["option"]: {parameter["name"] for parameter in option["parameters"]}
        for option in _rows(await ask("query-command-line-options"))
    }
    commands = {each["name"] for each in _rows(await ask("query-commands"))}
    traces = {each["name"] for each in _rows(await ask("trace-event-get-state", {"name": "spapr_iommu_*"}))}
    version = await ask("query-version")
    assert isinstance(version, dict)
    await client.disconnect()
    number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
    return Abilities(
        version=f"{number} {version['package']}".strip(),
        edu="edu" in types,
        vof="x-vof" in properties,
        exit_with_parent="exit-with-parent" in options.get("run-with", set()),
        traces=tuple(event for event in TRACES if event in traces),
        log_flags=log_flags,
        device_state="xen-save-devices-state" in commands,
    )


def _rows(answer: object) -> list[dict[str, Any]]:
    return msgspec.convert(answer, list[dict[str, Any]])

"""Where benchmarks get their guests from, and what they were measured on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tcelab.job import artefacts, setup
from tcelab.qemu import fork
from tcelab.qemu.limits import Limits
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.record import Facts


@contextmanager
def opened(
    ready: setup.PreparedMachine,
    limits: Limits,
    note: Callable[[str], None],
    folder: Path | None = None,
    *,
    boot: bool = False,
) -> Iterator[QemuSession]:
    """A session on a guest of its own.

    :param folder: for artefacts; it exists, private. A new one if not given.
    :param boot: boot it, whether or not it could be forked.
    """
    where = artefacts.folder(None, note) if folder is None else folder
    digest = ready.digest
    with fork.opened(ready.qemu, ready.options, where, digest=digest, limits=limits, boot=boot, note=note) as session:
        yield session


def told(facts: Facts) -> dict[str, str]:
    """What a figure depends on."""
    qemu, guest = facts.versions.get("qemu", {}), facts.versions.get("guest", {})
    return {
        "host": host_cpu(),
        "qemu": f"{qemu.get('version', '?')}, TCG, {qemu.get('firmware', '?')}",
        "kernel": f"{guest.get('kernel', '?')}, {facts.page_size >> 10} KiB pages",
    }


def host_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "cpu\t"))]
    return names[0] if names else platform.machine()

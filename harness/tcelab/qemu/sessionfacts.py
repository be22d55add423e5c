"""What a session under QEMU is: the versions of all that it consists of, and what it cannot give."""

from __future__ import annotations

import platform
from typing import Any, Final

import msgspec

import tcelab
from tceagent.dmadriver import DRIVER
from tcelab.image.bases import Held
from tcelab.program import RESETS
from tcelab.program.plugged import HELPERS, HOT_PLUG
from tcelab.qemu import conduct, machine, probe, transit
from tcelab.qemu.channel import Hello
from tcelab.qemu.second import loading
from tcelab.run.record import Facts

_TOLD: Final = ("kernel", "version", "machine", "python", "cmdline", "modules")
"""Fields of `Hello` that go into the result."""

_RESETS: Final = tuple(each.__name__ for each in RESETS)
_NO_KERNEL: Final = "this fork has no kernel that QEMU could boot: ask for a guest that restarts"

Parts = tuple[probe.Qemu, probe.Abilities, machine.QemuOptions, Held | None]
"""QEMU, what it can do, the machine, and the base of a fork."""


def facts(parts: Parts, ram: int, nonce: bytes, hello: Hello, queue: int = 0) -> Facts:
    """:param ram: bytes of guest RAM.
    :param nonce: of the session.
    :param hello: what the agent said.
    :param queue: see `tcelab.qemu.second.serialqueue.length`; 0: no crash kernel is asked for.
    """
    qemu, abilities, options, base = parts
    cannot = {}
    if probe.TRACES[0] not in abilities.traces:
        cannot["live"] = f"QEMU {abilities.version} does not trace {probe.TRACES[0]}"
    if not abilities.device_state:
        cannot["stream"] = f"QEMU {abilities.version} has no xen-save-devices-state"
    versions: dict[str, Any] = {
        "tcelab": tcelab.__version__,
        "host": {"python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine()},
        "qemu": {
            "name": qemu.name,
            **msgspec.to_builtins(abilities),
            "firmware": machine.firmware(options, abilities),
            "cpu": options.cpu,
        },
        "guest": {key: getattr(hello, key) for key in _TOLD},
        "agent": {"protocol": hello.protocol, "digest": hello.digest},
    }
    if base is not None:
        versions["base"] = {"key": base.record.key, "built": base.record.built, "boot": base.record.boot}
    versions["quirks"] = sorted(options.quirks)
    probes = "probe" in options.topology.models
    return Facts(
        "qemu",
        nonce,
        hello.page_size,
        ram,
        cannot,
        versions,
        views=("live", "stream", *(("messages",) if probes else ())),
        quirks=options.quirks,
        isolates=options.isolates,
        guard=options.guard,
        hypercalls="tce_hcall" in hello.modules,
        drivers=DRIVER in hello.modules,
        huge=hello.huge,
        papr="off" if not options.papr else "heard" if set(conduct.TRACES) <= set(abilities.traces) else "unheard",
        usable=machine.usable(ram),
        impossible={
            **loading.impossible(hello, options.topology.crashkernel, queue),
            **(dict.fromkeys(_RESETS, _NO_KERNEL) if base is not None and not options.restarts else {}),
            **(dict.fromkeys(HOT_PLUG, hello.hotplug) if hello.hotplug else {}),
            **{name: f"the image has no {name}, as guest-drmgr has" for name in HELPERS if name not in hello.helpers},
            **transit.impossible(abilities, options.topology.cpus),
        },
    )

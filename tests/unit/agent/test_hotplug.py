"""The guest's part of a hot plug: the steps in their order, and what the host hears when the kernel refuses one."""

import pytest
from agent_fake import FakeKernel, with_edu

from tceagent import hotplug
from tceagent.state import State

BUID = 0x800000020000003
DRC, BRIDGE = 0x40030008, 0x20000003
DEVICE = "/sys/bus/pci/devices/0003:00:01.0"


@pytest.fixture
def kernel(monkeypatch):
    made = FakeKernel()
    with_edu(made, BUID)
    made.files[hotplug.TOKEN] = (0x2007).to_bytes(4, "big")
    monkeypatch.setattr(hotplug, "_call", lambda number, block: made.calls.append(("rtas", number, bytes(block))))
    return made


def cells(block):
    return [int.from_bytes(block[at : at + 4], "big") for at in range(0, 24, 4)]


def steps(kernel):
    """Files written, and indicators set: (indicator, connector, state)."""
    out = []
    for kind, *rest in kernel.calls:
        if kind == "write":
            out.append(tuple(rest))
        elif kind == "rtas":
            number, block = rest
            assert (number, cells(block)[:3]) == (255, [0x2007, 3, 1])
            out.append(tuple(cells(block)[3:]))
    return out


def test_a_device_is_taken(kernel):
    assert hotplug.perform(State(kernel), "take device", DRC) == {"errno": "", "step": ""}
    assert steps(kernel) == [
        (9001, DRC, 1),
        ("/sys/kernel/dlpar", b"dt add index 0x40030008"),
        ("/sys/bus/pci/rescan", b"1"),
    ]


def test_a_device_is_left_and_forgotten(kernel):
    state = State(kernel)
    state.bound = {"pe3": {"group": 7}, "pe1": {"group": 1}}
    assert hotplug.perform(state, "leave device", DRC, name="pe3", buid=BUID, slot=1)["errno"] == ""
    assert state.bound == {"pe1": {"group": 1}}
    assert steps(kernel) == [
        (f"{DEVICE}/remove", b"1"),
        ("/sys/kernel/dlpar", b"dt remove index 0x40030008"),
        (9001, DRC, 0),
    ]


def test_a_bridge_is_taken_and_left(kernel):
    state = State(kernel)
    hotplug.perform(state, "take bridge", BRIDGE, slot="PHB 3")
    hotplug.perform(state, "leave bridge", BRIDGE, slot="PHB 3")
    assert steps(kernel) == [
        (9003, BRIDGE, 1),
        (9001, BRIDGE, 1),
        ("/sys/kernel/dlpar", b"dt add index 0x20000003"),
        ("/sys/bus/pci/slots/control/add_slot", b"PHB 3"),
        ("/sys/bus/pci/slots/control/remove_slot", b"PHB 3"),
        ("/sys/kernel/dlpar", b"dt remove index 0x20000003"),
        (9001, BRIDGE, 0),
        (9003, BRIDGE, 0),
    ]


def test_what_the_kernel_refuses_ends_it_and_is_told(kernel):
    kernel.refused[hotplug.DLPAR] = "EIO"
    assert hotplug.perform(State(kernel), "take device", DRC) == {"errno": "EIO", "step": "dt add"}
    assert [step[0] for step in steps(kernel)] == [9001, hotplug.DLPAR]


def test_what_firmware_refuses_is_told(kernel, monkeypatch):
    def refuses(_number, block):
        block[24:28] = (-3).to_bytes(4, "big", signed=True)

    monkeypatch.setattr(hotplug, "_call", refuses)
    told = hotplug.perform(State(kernel), "take bridge", BRIDGE, slot="PHB 3")
    assert told == {"errno": "EIO", "step": "set-indicator 9003, which gives -3"}


def test_what_a_guest_lacks_is_named(monkeypatch):
    there = {hotplug.DLPAR, "/sys/bus/pci/slots/control", "/lib/modules-tcelab/rpaphp.ko"}
    monkeypatch.setattr(hotplug, "exists", there.__contains__)
    assert hotplug.lacks() == ""
    there.remove("/lib/modules-tcelab/rpaphp.ko")
    assert hotplug.lacks() == "the guest's kernel has no rpaphp, and the image does not carry it"
    there.remove(hotplug.DLPAR)
    assert hotplug.lacks() == "the guest's kernel has no /sys/kernel/dlpar"


def test_modules_that_are_missing_are_loaded_in_order(monkeypatch):
    loaded = []
    monkeypatch.setattr(hotplug, "exists", lambda _path: False)
    monkeypatch.setattr(hotplug, "load", loaded.append)
    assert hotplug.perform(State(FakeKernel()), "ready", 0)["errno"] == ""
    assert loaded == ["rpaphp", "rpadlpar_io"]

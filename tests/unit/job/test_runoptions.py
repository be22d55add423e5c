"""What a verb was told: one set, which results print under the same names as ever."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from story import SMALL, story

from tcelab.errors import UsageError
from tcelab.job import replayline
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.program import Close

MACHINE = {
    *("qemu", "image", "kernel", "modules", "initrd", "mutant", "cures", "memory", "cpu", "firmware", "append"),
    *("expect_quirks", "without_quirks", "topology_name", "papr"),
}
KEYS = {
    "run": MACHINE | {"target", "platform", "profile", "inject", "guard", "boot", "limits", "passthrough"},
    "diff": MACHINE | {"target", "platform", "boot", "limits", "against"},
    "watch": MACHINE | {"target", "platform", "guard", "boot", "limits"},
    "table": MACHINE | {"target", "platform", "profile", "boot", "limits"},
}


def options(verb="run", *, machine=None, **more):
    return RunOptions(verb=verb, target="story.json", machine=machine or MachineChoice(topology=SMALL), **more)


@pytest.mark.parametrize("verb", KEYS)
def test_a_result_tells_all_options_of_its_verb_and_no_others(verb):
    assert options(verb).recorded().keys() == KEYS[verb]


def test_options_are_told_as_they_were_said():
    machine = MachineChoice(topology=SMALL, kernel=Path("/k/vmlinux"), memory=768, expect_quirks=("a", "b"))
    told = options(machine=machine, guard="observe", boot=True, limits=("boot=050",), topology_name="one-pe").recorded()
    said = json.loads(msgspec.json.encode(told, enc_hook=str))
    assert (said["target"], said["kernel"], said["memory"]) == ("story.json", "/k/vmlinux", 768)
    assert (said["expect_quirks"], said["limits"], said["boot"]) == (["a", "b"], ["boot=050"], True)
    assert (said["guard"], said["inject"], said["topology_name"], said["initrd"]) == ("observe", None, "one-pe", None)


def test_each_option_that_a_replay_says_is_told():
    assert replayline.OPTIONS.keys() <= options().recorded().keys()


@pytest.mark.parametrize(
    ("isolation", "said", "isolates", "guard"),
    [
        (False, None, False, "off"),
        (True, None, True, "freeze"),
        (False, "freeze", True, "freeze"),
        (False, "observe", False, "observe"),
        (True, "observe", True, "observe"),
        (True, "off", True, "off"),
    ],
)
def test_who_guards_is_settled_once_for_program_and_machine(isolation, said, isolates, guard):
    program = msgspec.structs.replace(story(), isolation=isolation)
    made, asked = settle(program, options(guard=said))
    assert (made.isolation, asked.machine.isolates, asked.machine.guard) == (isolates, isolates, guard)
    assert asked.machine.topology == program.topology
    assert asked.recorded()["guard"] == said, "what was said, and not what came of it"


def test_nothing_is_settled_that_cannot_be_done():
    with pytest.raises(UsageError, match="operation 0"):
        settle(msgspec.structs.replace(story(), ops=[Close(file="nowhere"), *story().ops]), options())


def test_a_guest_to_compare_with_has_the_driver_as_it_is():
    machine = MachineChoice(topology=SMALL, mutant="m", memory=768)
    assert options(machine=machine).other_machine() is None
    other = options("diff", machine=machine, against={"image": "guest-64k"}).other_machine()
    assert (other.image, other.mutant, other.memory) == ("guest-64k", "", 768)

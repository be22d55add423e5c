"""What is not done with pass-through is refused by name, before anything runs."""

from pathlib import Path

import msgspec
import pytest

from tcelab import scenarios
from tcelab.errors import HarnessError, UsageError
from tcelab.job import nested
from tcelab.job.nested import fitted
from tcelab.job.recording import CoverageChoice
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.passthrough import innerqemu
from tcelab.passthrough.possible import expect_possible, nest
from tcelab.program import Buffer, Call, Hcall, Ioctl, Native, Program, Reset
from tcelab.program.topology import PASSTHROUGH, TOPOLOGIES, Device, Phb, Topology, topology

DONE = ("flow", "batches", "dma", "hcalls", "isolation", "behaviour")


def program(*ops):
    return Program(name="p", topology=PASSTHROUGH, ops=[Buffer(name="b", pages=8), *ops])


@pytest.mark.parametrize("name", DONE)
def test_these_scenarios_are_done(name):
    made = scenarios.build(name, PASSTHROUGH, 1)
    settled, _ = settle(made, RunOptions(verb="run", target=name, machine=MachineChoice(topology=PASSTHROUGH)))
    assert settled.topology.nested


@pytest.mark.parametrize("name", sorted(scenarios.SCENARIOS.keys() - {*DONE, "main", "rules", "behaviour"}))
def test_the_other_scenarios_are_refused_in_one_line(name):
    with pytest.raises(UsageError) as caught:
        expect_possible(scenarios.build(name, PASSTHROUGH, 1), "run")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (Reset(), r"operation 1 \(reset\) cannot be done with --passthrough: no event in the life"),
        (Native(program="vfio_loop", args=[]), "its measurements are of one level"),
        (Ioctl(file="c", request="TCE_CREATE"), "L2 has no second window yet"),
        (Buffer(name="h", pages=512, huge=True), "L1 backs L2's RAM by small pages"),
        (Hcall(call=Call("H_STUFF_TCE", [0x80000100, 0xFFF000, 0, 2])), "outside the window: some kernels do not"),
        (Hcall(call=Call("H_GET_TCE", [0x80000000, 0])), "or has of its own: nobody sees"),
        (Hcall(call=Call("H_GET_TCE", [0x80000100, 0]), problem_state=True), "it ends the process"),
    ],
)
def test_an_operation_is_refused_by_its_name(op, said):
    with pytest.raises(UsageError, match=said):
        expect_possible(program(op), "run")


@pytest.mark.parametrize("verb", ["diff", "watch", "table"])
def test_other_verbs_have_no_such_guest(verb):
    with pytest.raises(UsageError, match=f"and {verb} has none"):
        expect_possible(program(), verb)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two-pe", "has not exactly one PHB"),
        ("pair", "has not exactly one PHB"),
        ("one-pe", "has a window of more than 512 MiB"),
        ("four-cpus", "has not exactly one PHB"),
    ],
)
def test_a_topology_that_l1_does_not_bear_is_refused(name, said):
    with pytest.raises(UsageError, match=said):
        nest(TOPOLOGIES[name])


def test_a_window_of_512_mib_is_the_largest():
    def made(size):
        return Topology("t", (Phb(1, (Device("pe1", slot=1),), size),))

    assert nest(made(512 << 20)).nested
    with pytest.raises(UsageError, match="more than 512 MiB"):
        nest(made(1 << 30))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cpu", "power8", "--cpu power8: a guest that runs a guest was tried on power9 and power10 alone"),
        ("cpu", "power11", "--cpu power11"),
        ("image", "guest-64k", "--image guest-64k: with --passthrough it is the outer guest's"),
        ("mutant", "m", "--mutant cannot be combined"),
        ("firmware", "slof", "--firmware cannot be combined"),
        ("memory", 2048, "--memory: with --passthrough, L1 has 1024 MiB"),
    ],
)
def test_an_option_of_the_machine_that_is_not_possible_is_refused_by_its_name(field, value, said):
    with pytest.raises(UsageError, match=said):
        fitted(MachineChoice(topology=PASSTHROUGH, **{field: value}))


def test_l1_has_the_memory_and_the_image_for_it():
    made = fitted(MachineChoice(topology=PASSTHROUGH, cpu="power10"))
    assert (made.image, made.memory, made.cpu) == ("passthrough", innerqemu.OUTER_MEMORY, "power10")


def test_l1_may_have_large_pages():
    assert fitted(MachineChoice(topology=PASSTHROUGH, image="passthrough-64k")).image == "passthrough-64k"


def test_a_program_keeps_that_it_is_passed_through():
    kept = msgspec.json.decode(program().to_json())
    assert kept["topology"]["nested"] is True


def test_no_command_finds_the_machine_by_its_name():
    with pytest.raises(UsageError, match="no topology 'passthrough'"):
        topology("passthrough")


@pytest.mark.parametrize("platform", ["ssh", "emulator"])
def test_other_platforms_have_no_such_guest(platform):
    asked = RunOptions(verb="run", target="p", machine=MachineChoice(topology=PASSTHROUGH), platform=platform)
    with pytest.raises(UsageError, match=f"--platform {platform} has none"):
        settle(program(), asked)


def test_nothing_is_recorded_of_a_kernel_that_is_passed_a_device_through():
    machine = MachineChoice(topology=PASSTHROUGH)
    asked = RunOptions(verb="run", target="p", machine=machine, coverage=CoverageChoice())
    with pytest.raises(UsageError, match="and --coverage is about an ordinary one"):
        settle(program(), asked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["windows", "--passthrough"], "(ddw) cannot be done with --passthrough: the host would ask firmware"),
        (["flow", "--passthrough", "--topology", "one-pe"], "--passthrough: topology one-pe has a window of more than"),
        (["flow", "--passthrough", "--image", "guest-64k"], "--image guest-64k"),
        (["flow", "--passthrough", "--mutant", "map-short"], "--mutant cannot be combined with --passthrough yet"),
    ],
)
def test_a_command_line_that_is_not_possible_is_wrong_usage_before_anything_is_prepared(words, said, host, tcelab):
    done = tcelab("run", *words, "--seed", "1")
    assert (done.code, host.made) == (2, [])
    assert said in done.err.splitlines()[0]


def test_a_run_records_the_topology_that_it_had(host, tcelab, monkeypatch):
    def refuses(*_words, on_close, **_more):
        on_close()
        raise HarnessError("no such guest today")

    monkeypatch.setattr(nested, "PassthroughSession", refuses)
    done = tcelab("run", "flow", "--passthrough", "--seed", "1", "--json", "r.json")
    assert (done.code, "no such guest today" in done.out + done.err) == (125, True)
    assert msgspec.json.decode(Path("r.json").read_bytes())["options"]["topology_name"] == PASSTHROUGH.name

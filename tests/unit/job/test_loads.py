"""QEMUs that a program loads its guest into: made ready and asked before anything boots."""

import pytest
from fake_guest import abilities

from tcelab.errors import Unsupported
from tcelab.job import setup
from tcelab.job.runoptions import RunOptions, settle
from tcelab.job.setup import MachineChoice
from tcelab.program import Checkpoint, Load, Program, Save
from tcelab.program.topology import topology
from tcelab.qemu import probe

VERSIONED = topology("versioned")
OTHER = probe.Qemu("other", ("/q",))


@pytest.fixture
def other(monkeypatch):
    """The other QEMU can what is said of it."""

    def can(**changes):
        monkeypatch.setattr(setup, "_qemu", lambda _name, told: told.update(qemu={"recipe": "other"}) or OTHER)
        monkeypatch.setattr(probe, "probe", lambda _qemu: abilities(**changes))

    return can


def test_a_program_names_the_qemus_that_it_loads_its_guest_into():
    moves = [Save(), Load(qemu="qemu-b"), Save(), Load(), Save(), Load(qemu="qemu-a"), Checkpoint(stream=True)]
    program = Program(name="x", topology=VERSIONED, ops=moves)
    _, settled = settle(program, RunOptions(verb="run", target="", machine=MachineChoice(topology=VERSIONED)))
    assert settled.machine.loads == ("qemu-a", "qemu-b")
    assert "loads" not in settled.recorded()


def test_they_are_made_ready_and_told(other):
    other(machines=("pseries-10.0",), mapped_ram=True)
    told = {}
    found = setup._others(MachineChoice(topology=VERSIONED, loads=("other",)), told)
    assert found == {"other": (OTHER, abilities(machines=("pseries-10.0",), mapped_ram=True))}
    assert told == {"loads": {"other": {"recipe": "other"}}}


@pytest.mark.parametrize(
    ("can", "why"),
    [
        ({"machines": ("pseries-9.2",), "mapped_ram": True}, r"has no machine type pseries-10\.0"),
        ({"machines": ("pseries-10.0",)}, r"cannot be loaded into other: QEMU 9\.9\.9 has no migration of RAM"),
    ],
)
def test_one_that_cannot_take_the_guest_in_is_refused_before_anything_boots(other, can, why):
    other(**can)
    with pytest.raises(Unsupported, match=why):
        setup._others(MachineChoice(topology=VERSIONED, loads=("other",)), {})

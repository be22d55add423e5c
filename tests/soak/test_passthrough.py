"""A guest inside the guest owns the device: the whole path is judged, faults are found, and what dies is named."""

import os
import signal

import pytest

from tcelab import scenarios
from tcelab.emulator import hcallfile
from tcelab.emulator.reference import second_opinion
from tcelab.errors import GuestLost, HarnessError
from tcelab.job.nested import PassthroughPlatform
from tcelab.job.setup import MachineChoice
from tcelab.judge import Judge
from tcelab.papr import hcallrules
from tcelab.program import Buffer, Call, Checkpoint, HcallBatch, Program, Read, Tce, inject
from tcelab.program.topology import PASSTHROUGH
from tcelab.quirks import LIST_KEEPS
from tcelab.run.loop import perform_program

pytestmark = pytest.mark.guest

LIOBN, AT = 0x80000100, 0x100000


@pytest.fixture
def platform():
    made = PassthroughPlatform(MachineChoice(topology=PASSTHROUGH))
    yield made
    made.close()


@pytest.fixture
def session(platform, tmp_path):
    with platform.open(tmp_path) as opened:
        yield opened


def judged(program, session):
    session.renew()
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    record = perform_program(program, session, judge)
    assert record.ending is None
    return judge.verdict(record)


def test_one_guest_passes_four_scenarios_and_lies_about_its_table_are_found(session, monkeypatch):
    for name in ("flow", "dma", "hcalls", "batches"):
        verdict = judged(scenarios.build(name, PASSTHROUGH, 1), session)
        assert (name, verdict.result, verdict.findings) == (name, "pass", [])
        assert verdict.evidence.tags > 100
    lie = judged(inject.flip(scenarios.build("flow", PASSTHROUGH, 1)), session)
    assert (lie.result, lie.findings[0].law) == ("finding", "table")

    # QEMU's rules in the place of KVM's.
    def of_qemu(machine, lost=lambda _: None):
        return hcallrules.Hypercalls(hcallfile.tables(machine), machine.ram.read)

    monkeypatch.setattr(hcallfile, "hypercalls", of_qemu)
    swapped = judged(scenarios.build("hcalls", PASSTHROUGH, 1), session)
    assert swapped.result == "finding"
    assert {finding.law for finding in swapped.findings} == {"difference"}


PUT, INDIRECT = "H_PUT_TCE", "H_PUT_TCE_INDIRECT"
NOTHING = Tce("b", permissions=0)
KEEPS = Call(INDIRECT, [LIOBN, AT, 0, 1], [NOTHING])


@pytest.mark.parametrize(
    ("calls", "kept"),
    [
        ([Call(PUT, [LIOBN, AT, Tce("b")])], False),
        ([Call(PUT, [LIOBN, AT, NOTHING]), Call(PUT, [LIOBN, AT, Tce("b")]), Call(PUT, [LIOBN, AT, 0])], False),
        ([Call(INDIRECT, [LIOBN, AT, 0, 2], [Tce("b"), Tce("b", permissions=1)])], False),
        ([KEEPS], True),
        ([KEEPS, Call(PUT, [LIOBN, AT, Tce("b")]), Call(PUT, [LIOBN, AT, 0])], True),
    ],
    ids=["PUT", "PUT without permissions", "list", "list without permissions", "list without permissions, put over"],
)
def test_a_qemu_of_l1_that_ends_leaves_nothing_but_what_a_list_without_permissions_keeps(session, calls, kept):
    batch = HcallBatch(calls=calls, expect=0)
    program = Program(name="left", topology=PASSTHROUGH, ops=[Buffer(name="b", pages=1), batch, Checkpoint()])
    judge = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    record = perform_program(program, session, judge)
    record.parting = session.leave()
    verdict = judge.verdict(record)
    assert verdict.findings == []
    assert verdict.evidence.laws["release"].judged == 1
    assert (verdict.evidence.quirks.get(LIST_KEEPS, 0) == 1) is kept
    assert (len(record.parting.trouble), record.parting.pins > record.parting.before) == (2 * kept, kept)
    with pytest.raises(HarnessError, match=r"L1's QEMU ended with status 0: .*terminating on signal 15"):
        session.ask([Read(what="pins")])


def crashed(session, end):
    """Have the shell at a console crash its kernel, and ask L2's agent until that is told."""
    session.guest.ends[end].send(b"echo c >/proc/sysrq-trigger\n")
    for _ in range(100_000):
        session.ask([Read(what="pins")])


def test_a_panic_of_l2_is_a_finding_that_says_so(session):
    with pytest.raises(GuestLost, match=r"^L2: the guest's kernel died: .*sysrq triggered crash") as caught:
        crashed(session, "inner_console")
    assert caught.value.kernel_died


def test_a_panic_of_l1_is_a_finding_that_says_so(session):
    with pytest.raises(GuestLost, match=r"^L1: the guest's kernel died: .*sysrq triggered crash") as caught:
        crashed(session, "console")
    assert caught.value.kernel_died


def test_a_qemu_of_l1_that_is_killed_and_then_that_of_l0_are_told_apart(session, tmp_path):
    session.outer("end", signal=int(signal.SIGKILL), limit=60.0)
    with pytest.raises(HarnessError, match="L1's QEMU ended by signal 9"):
        session.ask([Read(what="pins")])
    assert (tmp_path / "inner.err").exists()
    os.kill(session.guest.pid, signal.SIGKILL)
    with pytest.raises(HarnessError, match="QEMU was killed by SIGKILL"):
        session.outer("look")

"""The law of what PAPR forbids a kernel to ask for."""

import dataclasses

import pytest

from tcelab.emulator import EmulatorSession
from tcelab.judge import Judge
from tcelab.program import Call, Checkpoint, Ddw, Hcall, HcallBatch, Ioctl, Program
from tcelab.program.topology import topology
from tcelab.quirks import NOTHING_DIRECT
from tcelab.run.conduct import Breach, Conduct
from tcelab.run.loop import perform_program

TWO = topology("two-small")
PE1, PE2 = (phb.liobn for phb in TWO.phbs)
LOOK = Checkpoint(stream=True)
BOOT = Conduct(calls={"H_STUFF_TCE": 32})


def stuffed(liobn=PE1, ioba=0, entries=4096, **more):
    return Breach(call="H_STUFF_TCE", why=f"{entries} entries", liobn=liobn, ioba=ioba, entries=entries, **more)


def asked(page_shift, window_shift):
    return Breach(call="ibm,create-pe-dma-window", why="that", page_shift=page_shift, window_shift=window_shift)


def stuff(liobn=PE1, ioba=0, entries=4096):
    return Hcall(call=Call(opcode="H_STUFF_TCE", args=[liobn, ioba, 0, entries]))


class Listening(EmulatorSession):
    """The emulator, whose snapshots tell what is put there."""

    def __init__(self, told, **facts):
        super().__init__(TWO)
        self._told = iter(told)
        self.facts = dataclasses.replace(self.facts, **{"papr": "heard", **facts})

    def intervene(self, op, frames):
        result = super().intervene(op, frames)
        return dataclasses.replace(result, conduct=next(self._told)) if isinstance(op, Checkpoint) else result


def verdict(ops, *told, **facts):
    session = Listening(told, **facts)
    program = Program(name="p", topology=TWO, ops=ops)
    judge = Judge(program, session.facts)
    return judge.verdict(perform_program(program, session, judge))


def found(*arguments, **facts):
    return [(each.liobn, each.ioba, each.step) for each in verdict(*arguments, **facts).findings if each.law == "papr"]


def breaking(*breaches):
    return Conduct(calls={"H_STUFF_TCE": len(breaches)}, breaches=[(breach, times) for breach, times in breaches])


def test_calls_within_the_rules_are_judged_and_pass():
    judged = verdict([LOOK, LOOK], BOOT, Conduct(calls={"H_STUFF_TCE": 2, "H_PUT_TCE_INDIRECT": 1}))
    assert judged.findings == []
    assert (judged.evidence.laws["papr"].judged, judged.evidence.papr.calls) == (
        35,
        {"H_STUFF_TCE": 34, "H_PUT_TCE_INDIRECT": 1},
    )


def test_what_the_kernel_does_by_itself_is_a_finding_and_in_its_boot_no_operation_did_it():
    judged = verdict([stuff(), LOOK], breaking((stuffed(PE2), 1), (stuffed(PE2, entries=600, boot=True), 2)))
    late, boot = (each for each in judged.findings if each.law == "papr")
    assert (late.message, boot.message) == (
        f"LIOBN {PE2:#x} IOBA 0x0: the kernel made an H_STUFF_TCE of 4096 entries (once, before step 1)",
        f"LIOBN {PE2:#x} IOBA 0x0: the kernel made an H_STUFF_TCE of 600 entries (2 times, in its boot)",
    )
    assert late.operation.startswith("#0 ")
    assert boot.operation == ""


def test_exactly_the_programs_own_calls_are_exempt_each_as_often_as_it_was_made():
    thrice = HcallBatch(calls=[stuff().call], times=3)
    judged = verdict([thrice, LOOK], breaking((stuffed(), 3)))
    assert (judged.findings, judged.evidence.papr.programs) == ([], 3)
    assert found([thrice, LOOK], breaking((stuffed(), 4))) == [(PE1, 0, 1)]
    assert found([stuff(), stuff(ioba=0x5000), LOOK], breaking((stuffed(), 1), (stuffed(ioba=0x5000), 1))) == []


@pytest.mark.parametrize(
    "other",
    [stuffed(PE2), stuffed(ioba=0x1000), stuffed(entries=4095), stuffed(boot=True)],
    ids=["liobn", "ioba", "entries", "boot"],
)
def test_a_call_like_the_programs_is_none_of_its_own(other):
    assert found([stuff(), LOOK], breaking((other, 1))) == [(other.liobn, other.ioba, 1)]


def test_a_program_has_no_credit_for_what_comes_after_the_next_checkpoint():
    assert found([stuff(), LOOK, LOOK], BOOT, breaking((stuffed(), 1))) == [(PE1, 0, 2)]


def test_where_a_call_began_need_not_be_known_and_an_address_amidst_a_page_is_its_pages():
    assert found([stuff(ioba=0x7000), LOOK], breaking((stuffed(ioba=None), 1))) == []
    assert found([stuff(ioba=0x7123), LOOK], breaking((stuffed(ioba=0x7000), 1))) == []


def test_of_a_list_that_was_not_stored_to_its_end_the_trace_tells_fewer_entries():
    listed = Hcall(call=Call(opcode="H_PUT_TCE_INDIRECT", args=[PE1, 0x123, 0, 4], tces=[3, 3, 3, 3]))
    short = Breach(call="H_PUT_TCE_INDIRECT", why="IOBA 0x123", liobn=PE1, ioba=0x123, entries=2)
    assert found([listed, LOOK], breaking((short, 1))) == []
    assert found([LOOK], breaking((short, 1))) == [(PE1, 0x123, 0)]


def test_a_window_that_a_program_asks_for_is_its_own():
    made = Ddw(call="create", device="pe1", page_shift=13, window_shift=28)
    create = Ioctl(file="c", request="SPAPR_TCE_CREATE", fields={"page_shift": 13, "window_size": 1 << 28, "levels": 1})
    for op in (made, create):
        assert found([op, LOOK], breaking((asked(13, 28), 1))) == []
        assert found([op, LOOK], breaking((asked(13, 29), 1))) == [(None, None, 1)]
        assert found([op, LOOK], breaking((asked(13, 28), 2))) == [(None, None, 1)]


def test_a_window_of_nothing_is_what_its_quirk_declares():
    told = breaking((asked(24, 0), 1))
    assert found([LOOK], told, limit=0, quirks=frozenset({NOTHING_DIRECT})) == []
    assert found([LOOK], told, limit=0) == [(None, None, 0)]
    assert found([LOOK], told, limit=512, quirks=frozenset({NOTHING_DIRECT})) == [(None, None, 0)]


def test_switched_off_it_says_so_and_judges_nothing():
    judged = verdict([LOOK], breaking((stuffed(), 1)), papr="off")
    assert judged.findings == []
    assert (judged.evidence.laws["papr"].judged, judged.evidence.papr.off) == (0, 1)


def test_where_nobody_can_listen_it_is_not_judged():
    judged = verdict([LOOK], None, papr="unheard")
    assert judged.evidence.laws["papr"].judged == 0
    assert not any("--no-papr" in reason for reason in judged.could_not)


def test_a_trace_that_tells_of_no_call_at_all_is_no_evidence():
    why = "not even in the boot"
    assert any(why in reason for reason in verdict([LOOK], Conduct()).could_not)
    assert not any(why in reason for reason in verdict([LOOK, LOOK], BOOT, Conduct()).could_not)

"""R04: more entries in one H_STUFF_TCE than PAPR allows."""

import dataclasses
import shutil

import msgspec
import numpy as np
import pytest
from publicreports import Report

from tcelab.emulator.reference import second_opinion
from tcelab.image import apt
from tcelab.job import setup
from tcelab.judge import Judge
from tcelab.papr import hcallnumbers
from tcelab.program import Call, Checkpoint, Hcall, HcallBatch, Program, Read
from tcelab.program.topology import topology
from tcelab.qemu.qemusession import QemuSession
from tcelab.run.loop import perform_program

REPORT = Report(
    id="R04",
    title="more than 512 entries in one H_STUFF_TCE",
    reported="However many entries are removed, one H_STUFF_TCE removes them. Newer firmware refuses more than 512, and"
    " the entries stay.",
    where=("Linux 9d2ccf00bddc (2023-05)",),
    versions="Kernels before 6.4 have it by the source. Not seen on 6.12.95, nor on Debian's 6.1.176, which has the"
    " cure. QEMU takes any number.",
    right="No call names more than 512 entries.",
    shown="A guest's kernel makes such a call of which the program knows nothing; the same calls, made by the program,"
    " are its own. At night a 6.12.95 whose two limits of 512 are patched to 4,096 boots, and is found by its first"
    " calls; Linux 6.1 boots and is not (it cannot do VFIO on pseries, so its boot is all that is judged).",
)

pytestmark = pytest.mark.guest

TWO = topology("two-small")
PE1, PE2 = (phb.liobn for phb in TWO.phbs)
MANY = 4096


def stuff(liobn, entries, ioba=0):
    return Call(opcode="H_STUFF_TCE", args=[liobn, ioba, 0, entries])


def judge_of(session, ops):
    program = Program(name="r04", topology=TWO, ops=[*ops, Checkpoint(stream=True)])
    return program, Judge(program, session.facts, references=second_opinion(TWO, session.facts))


def papr(verdict):
    return [each for each in verdict.findings if each.law == "papr"]


@pytest.fixture
def guest(_tcelab_guests):
    with _tcelab_guests.fresh(TWO.name, 0) as session:
        yield session


def test_a_call_that_the_program_did_not_ask_for_is_the_kernels(guest):
    own = [Hcall(call=stuff(PE1, MANY)), HcallBatch(calls=[stuff(PE1, 513), stuff(PE2, 600, 4097)], times=3)]
    program, judge = judge_of(guest, own)
    verdict = judge.verdict(perform_program(program, guest, judge))
    assert (verdict.findings, verdict.evidence.papr.programs) == ([], 7)

    guest.renew()
    program, judge = judge_of(guest, own)
    guest.perform([Hcall(call=stuff(PE2, 600, 4097)), Hcall(call=stuff(PE2, 512)), Hcall(call=stuff(PE1, 2048))])
    verdict = judge.verdict(perform_program(program, guest, judge))
    assert [(each.liobn, each.ioba, each.seen) for each in verdict.findings] == [
        (PE2, 4096, "600 entries, and one call may have 512"),
        (PE1, 0, "2,048 entries, and one call may have 512"),
    ]
    assert verdict.findings[0].message == (
        f"LIOBN {PE2:#x} IOBA 0x1000: the kernel made an H_STUFF_TCE of 600 entries, and one call may have 512 (once,"
        " before step 2)"
    )
    assert {each.law for each in verdict.findings} == {"papr"}
    assert verdict.evidence.papr.programs == 7


def booted(choice, folder, change=lambda options: options):
    ready = setup.prepare(choice)
    folder.mkdir()
    return QemuSession(ready.qemu, change(ready.options), folder, digest=ready.digest)


@pytest.mark.night
def test_a_kernel_without_the_limit_is_found_by_its_boot(tmp_path):
    def patched(options):
        return msgspec.structs.replace(options, kernel=without_the_limit(options.kernel, tmp_path))

    with booted(setup.MachineChoice(topology=TWO), tmp_path / "guest", patched) as session:
        heard = session.guest.console.heard
        program, judge = judge_of(session, [Read(what="limit")])
        verdict = judge.verdict(perform_program(program, session, judge))
        found = {each.liobn: each.message for each in papr(verdict)}
        assert found.keys() >= {PE1, PE2}
        assert found[PE1] == (
            f"LIOBN {PE1:#x} IOBA 0x0: the kernel made an H_STUFF_TCE of 4,096 entries, and one call may have 512"
            " (once, in its boot)"
        )
        assert all(not each.operation for each in papr(verdict))
        heard.renew()
        session.facts = dataclasses.replace(session.facts, papr="off")  # as --no-papr has it
        program, judge = judge_of(session, [Read(what="limit")])
        verdict = judge.verdict(perform_program(program, session, judge))
        assert (papr(verdict), verdict.evidence.laws["papr"].judged, verdict.evidence.papr.off) == ([], 0, 1)


def without_the_limit(kernel, folder):
    """A copy of a kernel that removes up to 4,096 entries at once: where it makes H_STUFF_TCE, each 512 is 4,096."""
    words = np.fromfile(kernel, dtype="<u4", count=kernel.stat().st_size // 4)
    call = 14 << 26 | 3 << 21 | hcallnumbers.H_STUFF_TCE  # li r3,H_STUFF_TCE
    compare, load = (10, 11), 14  # cmpldi, cmpdi; li
    places = []
    for at in np.flatnonzero(words == call):
        near = [i for i in range(at - 16, at + 16) if words[i] & 0xFFFF == hcallnumbers.LIST_MOST]
        places.append([i for i in near if words[i] >> 26 in (*compare, load)])
    assert [len(each) for each in places] == [2, 2], "this kernel's limit is not where that of 6.12.95 is"
    patched = folder / "vmlinux"
    shutil.copyfile(kernel, patched)
    with patched.open("r+b") as file:
        for i in (each for place in places for each in place):
            file.seek(4 * int(i))
            file.write(int(words[i] & 0xFFFF0000 | MANY).to_bytes(4, "little"))
    return patched


@pytest.mark.night
@pytest.mark.network
def test_a_kernel_that_has_the_cure_is_not(tmp_path):
    kernels = tmp_path / "kernel"
    package = apt.FetchRequest(
        architecture="ppc64el", suites=(("bookworm",),), packages=("linux-image-6.1.*-powerpc64le",)
    )
    apt.unpack(apt.fetch(package), kernels)
    (kernel,) = kernels.glob("boot/vmlinux-*")
    with booted(setup.MachineChoice(topology=TWO, kernel=kernel, modules=kernels), tmp_path / "guest") as session:
        program, judge = judge_of(session, [Read(what="limit")])
        verdict = judge.verdict(perform_program(program, session, judge))
    assert session.facts.versions["guest"]["kernel"].startswith("6.1.")
    assert papr(verdict) == []
    assert verdict.evidence.papr.calls["H_STUFF_TCE"] == 4 * MANY // 512

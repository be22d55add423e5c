"""The session: what it does with a guest, in which order, and what it makes of the agent's answers."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_guest import CELL, HELLO, NOW, FakeGuest, FakeMemory, abilities, section

from tcelab.errors import GuestLost, HarnessError, Scene
from tcelab.image.bases import SavedRegister
from tcelab.papr.window import Shape
from tcelab.program import Checkpoint, Ddw, Flip, Read
from tcelab.program.topology import topology
from tcelab.qemu import hostviews, machine, qemusession
from tcelab.qemu.guest import Guest
from tcelab.qemu.limits import Limits
from tcelab.qemu.probe import Qemu
from tcelab.qemu.views.stream import MAGIC
from tcelab.run.record import Outcome, Refusal, Run, Snapshot

PE1, PE2 = 0x80000100, 0x80000200
DIGEST = HELLO["digest"]
OPS = [Read(what="pins"), Read(what="vmlck"), Read(what="pins")]


@pytest.fixture
def guest(tmp_path):
    return FakeGuest(tmp_path)


@pytest.fixture
def memory(guest):
    return FakeMemory(guest)


@pytest.fixture
def boot(guest, memory, monkeypatch, tmp_path):
    """Boot a session on the fake; QEMU's abilities may be changed."""

    def booted(base=None, on_spawn=lambda _: None, **changes):
        monkeypatch.setattr(qemusession, "Guest", guest)
        monkeypatch.setattr(hostviews, "LiveMemory", memory)
        monkeypatch.setattr(qemusession.probe, "probe", lambda _: abilities(**changes))
        options = machine.QemuOptions(Path("vmlinux"), Path("initrd"), topology("two-pe"))
        more = {"base": base, "on_spawn": on_spawn, "digest": DIGEST}
        return qemusession.QemuSession(Qemu("qemu", ("qemu",)), options, tmp_path, **more)

    return booted


BASE = SimpleNamespace(record=SimpleNamespace(key="0123456789abcdef", built="2030-01-02T03:04:05+00:00", boot=1.5))


@pytest.fixture
def opened(boot, guest, memory):
    """A session whose guest has one live entry in PE 1's table, as both views see it."""
    up = boot()
    guest.log.tables.at = {PE2: 0x2000, PE1: 0x1000}
    memory.held = {0x1000: {3: 0x5003}, 0x2000: {}}
    guest.saved = MAGIC + section(PE1, [0, 0, 0, 0x6001])
    guest.calls.clear()
    return up


def look(opened, *frames, stream=False):
    snapshot = opened.intervene(Checkpoint(stream=stream), frames)
    assert isinstance(snapshot, Snapshot)
    return snapshot


# -- the handshake


def test_a_boot_reads_the_memory_of_the_guests_own_process_and_dates_its_phases(boot, guest, memory):
    up = boot()
    assert guest.calls == ["start", "hello", "drain"]
    assert memory.pid == guest.pid == 77
    assert up.reached == {"kernel": 0.5, "ready": 2.5}
    assert guest.made_of[3] == Limits()


def test_the_handshake_tells_where_each_device_is(boot, guest):
    boot()
    assert guest.asked[0]["hello"]["devices"] == {
        "pe1": {"buid": 0x800000020000001, "slot": 1},
        "pe2": {"buid": 0x800000020000002, "slot": 2},
        "spare": {"buid": 0x80000002000001E, "slot": 30},
    }
    assert guest.asked[0]["hello"].keys() == {"nonce", "devices", "renew"}
    assert guest.asked[0]["hello"]["renew"] is False
    assert len(bytes.fromhex(guest.asked[0]["hello"]["nonce"])) == 16


def test_facts_are_what_the_agent_and_qemu_told(boot, guest):
    facts = boot().facts
    assert (facts.platform, facts.page_size, facts.ram, facts.cannot) == ("qemu", 4096, 0x10000, {})
    assert facts.nonce.hex() == guest.asked[0]["hello"]["nonce"]
    assert facts.versions["qemu"]["version"] == "9.9.9"
    assert facts.versions["qemu"]["firmware"] == "vof"
    assert facts.versions["guest"] == {
        key: HELLO[key] for key in ("kernel", "version", "machine", "python", "cmdline", "modules")
    }
    assert facts.versions["agent"] == {"protocol": 1, "digest": DIGEST}


def test_a_qemu_that_cannot_show_a_view_is_known_by_it(boot):
    assert "does not trace spapr_iommu_new_table" in boot(traces=()).facts.cannot["live"]
    assert "xen-save-devices-state" in boot(device_state=False).facts.cannot["stream"]


def test_a_kernel_that_dies_is_a_finding_only_after_the_handshake(boot, guest, monkeypatch):
    seen = []
    hello = guest.hello

    async def spy(request, **how):
        seen.append(guest.waiter.handshake_done)
        return await hello(request, **how)

    monkeypatch.setattr(guest, "hello", spy)
    boot()
    assert seen == [False]
    assert guest.waiter.handshake_done is True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": 2}, "the agent speaks protocol 2, this tcelab 1"),
        ({"digest": "e" * 64}, "agent of other sources \\(eeeeeeeeeeee\\) than this tcelab \\(dddddddddddd\\)"),
        ({"protocol": "one"}, "malformed frame from the agent"),
        ({"cell": 0x9000}, "progress cell is not in guest RAM at 0x9000"),
        ({"cell": 0x7FFF0000}, "progress cell is not in guest RAM at 0x7fff0000"),
    ],
)
def test_an_agent_that_is_not_ours_ends_the_boot(boot, guest, change, said):
    guest.hello_is |= change
    with pytest.raises(HarnessError, match=said):
        boot()
    assert guest.calls[-1] == "close"
    assert guest.waiter.handshake_done is ("cell" in change)


def test_an_answer_without_a_handshake_is_malformed(boot, guest, monkeypatch):
    async def hello(_request, **_how):
        return b'{"id":1,"outcomes":[]}'

    monkeypatch.setattr(guest, "hello", hello)
    with pytest.raises(HarnessError, match="malformed frame") as caught:
        boot()
    assert caught.value.scene == NOW
    assert guest.calls[-1] == "close"


def test_no_digest_given_is_any_agent(boot, guest, monkeypatch, tmp_path):
    boot()
    guest.hello_is["digest"] = "other"
    options = machine.QemuOptions(Path("vmlinux"), Path("initrd"), topology("one-pe"))
    assert (
        qemusession.QemuSession(Qemu("qemu", ("qemu",)), options, tmp_path).facts.versions["agent"]["digest"] == "other"
    )


def interrupt(*_arguments, **_how):
    """Ctrl-C reaches the caller, never the loop."""
    raise KeyboardInterrupt


def test_an_interrupted_boot_tells_where_it_was_and_closes(boot, guest, monkeypatch):
    monkeypatch.setattr(guest, "hello", interrupt)
    with pytest.raises(HarnessError, match="interrupted") as caught:
        boot()
    assert caught.value.scene == NOW
    assert guest.calls[-1] == "close"


def test_a_guest_that_never_began_is_in_its_launch(boot, guest):
    up = boot()
    del guest.waiter
    assert up.scene() == Scene("launch", artefacts=guest.folder)


def test_a_start_that_fails_is_closed(boot, guest, memory):
    guest.fail["start"] = HarnessError("no QEMU")
    with pytest.raises(HarnessError, match="no QEMU"):
        boot()
    assert guest.calls == ["start", "close"]
    assert memory.closed == 0


def test_a_session_lets_go_of_guest_and_memory_once(boot, guest, memory):
    with boot() as up:
        pass
    up.close()
    assert guest.calls.count("close") == 2
    assert memory.closed == 1


def test_renewing_takes_a_fresh_nonce_and_forgets_refusals_but_no_trouble_of_the_kernel(opened, guest):
    guest.refusals = [Refusal("read", 1, 4, "")]
    guest.words = ["WARNING: old"]
    before = opened.facts.nonce
    opened.renew()
    assert guest.asked[-1]["hello"]["renew"] is True
    assert opened.facts.nonce != before
    assert opened.facts.nonce.hex() == guest.asked[-1]["hello"]["nonce"]
    assert guest.calls == ["hello", "disks", "drain", "take_refusals"]
    assert (guest.refusals, guest.words) == ([], ["WARNING: old"])
    assert look(opened).console == ("WARNING: old",)
    assert opened.reached["ready"] == 2.5


def test_renewing_on_another_agent_is_refused(opened, guest):
    guest.hello_is["digest"] = "e" * 64
    with pytest.raises(HarnessError, match="other sources"):
        opened.renew()


# -- a fork


def test_a_forks_handshake_renews_it_and_gives_it_the_hosts_clock_and_entropy(boot, guest):
    before = time.time()
    boot(BASE)
    (hello,) = [asked["hello"] for asked in guest.asked]
    assert guest.base is BASE
    assert hello["renew"] is True
    assert before <= hello["clock"] <= time.time()
    assert len(bytes.fromhex(hello["entropy"])) == 32
    boot(BASE)
    assert guest.asked[1]["hello"]["entropy"] != hello["entropy"]


def test_a_fork_that_is_renewed_keeps_its_clock_and_its_random_generator(boot, guest):
    boot(BASE).renew()
    assert guest.asked[1]["hello"].keys() == {"nonce", "devices", "renew"}


@pytest.mark.parametrize("off", [-0.1, -3600.0, 2.0, 1e9])
def test_a_fork_whose_clock_is_not_the_hosts_is_refused(boot, guest, off):
    guest.clock_off = off
    with pytest.raises(
        HarnessError, match=r"the fork's clock could not be set: it shows \d+\.\d{3}, asked at"
    ) as caught:
        boot(BASE)
    assert caught.value.scene == NOW
    assert guest.calls[-1] == "close"
    assert guest.waiter.handshake_done is False


def test_a_clock_that_went_on_between_asking_and_answering_is_the_hosts(boot, guest, monkeypatch):
    now = [5000.0]
    monkeypatch.setattr(qemusession.time, "time", lambda: now[0])
    hello = guest.hello

    async def slow(request, **how):
        now[0] += 3.0
        return await hello(request, **how)

    monkeypatch.setattr(guest, "hello", slow)
    for off in (0.0, 2.9, 3.04, -0.04):
        guest.clock_off = off
        boot(BASE)
    guest.clock_off = 3.06
    with pytest.raises(HarnessError, match="clock"):
        boot(BASE)


def test_a_booted_guests_own_clock_is_nobodys_business(boot, guest):
    guest.clock_off = 1e9
    boot()
    assert guest.base is None


def test_what_a_guest_draws_is_kept_for_comparison(boot, guest):
    assert boot(BASE).drawn == "5a" * 16


def test_a_fork_tells_when_it_was_loaded_and_not_when_its_base_reached_a_phase(boot, guest):
    assert boot(BASE).reached == {"loaded": 2.5, "ready": 2.5}


def test_facts_of_a_fork_tell_its_base_and_those_of_a_booted_guest_none(boot):
    expected = {"key": BASE.record.key, "built": BASE.record.built, "boot": 1.5}
    assert boot(BASE).facts.versions["base"] == expected
    assert "base" not in boot().facts.versions


def test_abilities_that_are_known_are_not_probed(boot, guest, monkeypatch, tmp_path):
    boot()
    monkeypatch.setattr(qemusession.probe, "probe", interrupt)
    options = machine.QemuOptions(Path("vmlinux"), Path("initrd"), topology("one-pe"))
    can = abilities(version="1.2.3")
    up = qemusession.QemuSession(Qemu("qemu", ("qemu",)), options, tmp_path, abilities=can)
    assert up.facts.versions["qemu"]["version"] == "1.2.3"
    assert guest.made_of[1] is can


@pytest.mark.parametrize(("base", "doing"), [(None, "booting"), (BASE, "forking")])
def test_it_is_said_what_is_being_done(boot, shown, base, doing):
    boot(base)
    assert shown.phases[-1] == f"{doing} under QEMU 9.9.9, vof"


def test_a_guest_is_handed_out_before_it_starts_so_that_another_thread_can_end_it(boot, guest):
    on_spawn = []
    boot(on_spawn=lambda made: on_spawn.append((made, list(guest.calls))))
    assert on_spawn == [(guest, [])]


def test_saving_awaits_rest_stops_the_guest_and_hears_qemu_out_first_and_it_may_go_on_after_all(opened, guest):
    guest.registers = [SavedRegister(0x800000020000001, 1, 4, 2, 6)]
    assert opened.save() == (guest.saved, guest.registers)
    assert guest.calls == ["rest", "pause", "drain", "save"]
    opened.go_on()
    assert guest.calls[-1] == "cont"


def test_a_session_is_alive_until_its_guest_is_lost(opened, guest):
    assert opened.alive
    guest.waiter.lost.set_result("the agent ended")
    assert not opened.alive


# -- operations of the guest


def test_operations_go_out_in_one_request_and_come_back_in_order(opened, guest):
    guest.answers = [{"outcomes": [{"value": 1}, {"errno": "EPERM"}, {"value": 3, "frames": [4096]}]}]
    assert opened.perform(OPS) == [Outcome(value=1), Outcome(errno="EPERM"), Outcome(value=3, frames=[4096])]
    assert [op["what"] for op in guest.asked[-1]["ops"]] == ["pins", "vmlck", "pins"]
    assert guest.asked[-1]["id"] == 2
    assert guest.progress == (0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"outcomes": [{"value": 1}]}, "the agent gave 1 outcomes for 3 operations"),
        ({"outcomes": [{}] * 4}, "the agent gave 4 outcomes for 3 operations"),
        ({"outcomes": [{"value": "many"}] * 3}, "malformed frame"),
        ({"done": True}, "malformed frame"),
        ({"id": 9, "outcomes": []}, "answered request 9, not 2"),
        ({"failed": {"at": 1, "traceback": "KeyError: 'x'"}}, "the agent failed at operation 1"),
    ],
)
def test_an_answer_that_is_none_is_the_harnesss_trouble_with_its_scene(opened, guest, answer, said):
    guest.answers = [answer]
    with pytest.raises(HarnessError, match=said) as caught:
        opened.perform(OPS)
    assert caught.value.scene == NOW


def test_an_error_that_knows_its_scene_keeps_it(opened, guest):
    own = Scene("control", 9.0)
    guest.answers = [HarnessError("QEMU did not answer", scene=own)]
    with pytest.raises(HarnessError) as caught:
        opened.perform(OPS)
    assert caught.value.scene is own


@pytest.mark.parametrize(("cell", "in_flight"), [((2, 1), 1), ((2, 0), 0), ((1, 2), None)])
def test_a_lost_guest_tells_the_operation_only_of_the_request_in_flight(opened, guest, cell, in_flight):
    guest.note_begun(*cell)
    guest.answers = [GuestLost("gone")]
    with pytest.raises(GuestLost) as caught:
        opened.perform(OPS)
    assert caught.value.in_flight == in_flight


def test_a_cell_that_was_overwritten_tells_nothing(opened, guest):
    guest.memory[CELL : CELL + 40] = bytes(40)
    guest.answers = [GuestLost("gone")]
    with pytest.raises(GuestLost) as caught:
        opened.perform(OPS)
    assert caught.value.in_flight is None


# -- checkpoints


def test_a_checkpoint_stops_the_guest_then_hears_qemu_out_then_reads_then_goes_on(opened, guest):
    look(opened, stream=True)
    assert guest.calls == [
        *("pause", "drain", f"read {PE1:#x}", f"read {PE2:#x}", "xen-save-devices-state"),
        *(call for call in guest.calls if call.startswith("page")),
        *("take_refusals", "trouble", "cont"),
    ]
    assert sum(call.startswith("page") for call in guest.calls) == 2


@pytest.mark.parametrize("where", ["drain", "trouble"])
def test_the_guest_goes_on_whatever_went_wrong_while_it_stood(opened, guest, where):
    guest.fail[where] = HarnessError("disk full")
    with pytest.raises(HarnessError, match="disk full"):
        look(opened)
    assert guest.calls[-1] == "cont"


def test_a_guest_that_cannot_be_stopped_is_not_told_to_go_on(opened, guest):
    guest.fail["pause"] = GuestLost("panicked before")
    with pytest.raises(GuestLost):
        look(opened)
    assert guest.calls == ["pause"]


def test_both_views_show_their_tables_with_the_usual_sizes(opened, memory):
    snapshot = look(opened, stream=True)
    assert [(t.liobn, t.view, t.entries) for t in snapshot.tables] == [
        (PE1, "live", 1 << 18),
        (PE2, "live", 1 << 18),
        (PE1, "stream", 4),
    ]
    assert snapshot.missing == {}
    assert snapshot.tables[0].tce.tolist() == [0x5003]


def test_without_being_asked_for_the_stream_is_not_taken_and_not_missing(opened, guest):
    snapshot = look(opened)
    assert {t.view for t in snapshot.tables} == {"live"}
    assert snapshot.missing == {}
    assert "xen-save-devices-state" not in guest.calls


def test_a_table_whose_size_the_trace_told_is_read_in_that_size(opened, guest, memory):
    guest.log.tables.shapes = {PE2: Shape(0x4000, 16, 1 << 59)}
    look(opened)
    assert memory.shapes == {PE1: Shape(1 << 18), PE2: Shape(0x4000, 16, 1 << 59)}


def test_pages_are_those_of_buffers_and_those_that_live_entries_of_any_view_lead_to(opened, guest):
    guest.memory[0x5000:0x6000] = b"five" * 1024
    snapshot = look(opened, 0x7000, 0x5000, 0x99000, stream=True)
    assert set(snapshot.pages) == {0x5000, 0x6000, 0x7000, 0x99000}
    assert snapshot.pages[0x5000] == b"five" * 1024
    assert snapshot.pages[0x99000] is None


def test_refusals_and_trouble_go_into_the_snapshot_and_are_told_once(opened, guest):
    refusal = Refusal("write", 0x3C, 4, "Invalid write")
    guest.refusals, guest.words = [refusal], ["WARNING: at drivers/vfio"]
    first, second = look(opened), look(opened)
    assert (first.refusals, first.console) == ((refusal,), ("WARNING: at drivers/vfio",))
    assert (second.refusals, second.console) == ((), ())


def test_every_part_of_the_reading_has_its_time(opened):
    assert set(look(opened).seconds) == {"live", "pages", "stop and cont"}
    assert set(look(opened, stream=True).seconds) == {"live", "stream", "pages", "stop and cont"}
    assert all(seconds >= 0 for seconds in look(opened, stream=True).seconds.values())


def test_a_view_that_fails_is_missing_with_its_reason_and_the_other_is_there(opened, guest, memory):
    memory.held[0x2000] = HarnessError("no table at 0x2000")
    snapshot = look(opened, stream=True)
    assert snapshot.missing == {"live": "no table at 0x2000"}
    assert {t.view for t in snapshot.tables} == {"stream"}
    memory.held[0x2000] = {}
    guest.fail["xen-save-devices-state"] = HarnessError("QEMU refuses")
    snapshot = look(opened, stream=True)
    assert snapshot.missing == {"stream": "QEMU refuses"}
    assert {t.view for t in snapshot.tables} == {"live"}


def test_a_trace_that_told_of_no_table_is_a_missing_view(opened, guest):
    guest.log.tables.at = {}
    assert "told of no table" in look(opened).missing["live"]


def test_a_table_whose_size_nothing_told_is_a_missing_view(opened, guest):
    guest.log.tables.at[0x80000101] = 0x3000
    assert "LIOBN 0x80000101 has a table at 0x3000, but nothing told its size" in look(opened).missing["live"]


def test_what_this_qemu_cannot_show_is_missing_and_not_even_tried(boot, guest):
    up = boot(traces=(), device_state=False)
    guest.calls.clear()
    snapshot = look(up, stream=True)
    assert snapshot.missing == up.facts.cannot
    assert set(snapshot.missing) == {"live", "stream"}
    assert "xen-save-devices-state" not in guest.calls
    assert snapshot.tables == ()


def test_a_shorter_stream_after_a_longer_one_holds_nothing_of_it(opened, guest):
    guest.saved = MAGIC + section(PE1, [1] * 100) + section(PE2, [2] * 100)
    look(opened, stream=True)
    guest.saved = MAGIC + section(PE1, [1])
    snapshot = look(opened, stream=True)
    assert [t.entries for t in snapshot.tables if t.view == "stream"] == [1]
    assert guest.state_sizes == [0, 0]


def test_the_end_is_looked_at_on_a_guest_that_stands_and_the_log_is_read_out(opened, guest):
    guest.words = ["Oops: at last"]
    assert opened.finish() == ("Oops: at last",)
    assert guest.calls == ["pause", "drain", "trouble", "cont"]


def test_an_end_that_cannot_be_looked_at_is_a_lost_guest(opened, guest):
    guest.fail["cont"] = GuestLost("gone")
    with pytest.raises(GuestLost, match="gone"):
        opened.finish()


# -- the lie


def test_a_flip_changes_one_bit_of_one_entry_of_a_guest_that_stands(opened, guest):
    outcome = opened.intervene(Flip(liobn=PE1, ioba=0x3000, bit=12), [])
    assert outcome == Outcome(value=0x4003, fields={"before": 0x5003, "after": 0x4003})
    assert guest.calls == ["pause", "drain", "flip 0x1000 3 12", "cont"]


def test_a_flip_of_a_large_page_is_of_the_one_entry_that_it_has(opened, guest):
    guest.log.tables.shapes = {PE1: Shape(64, 16, 1 << 59)}
    opened.intervene(Flip(liobn=PE1, ioba=(1 << 59) + 0x3FFFF, bit=16), [])
    assert "flip 0x1000 3 16" in guest.calls


def test_the_page_behind_a_large_entry_begins_where_its_low_bits_are_cleared(opened, guest, memory):
    guest.log.tables.shapes = {PE1: Shape(64, 16, 1 << 59)}
    memory.held[0x1000] = {3: 0x45003}
    snapshot = look(opened)
    assert 0x40000 in snapshot.pages
    assert (snapshot.tables[0].page_shift, snapshot.tables[0].ioba(3)) == (16, (1 << 59) + 0x30000)


def test_firmware_is_asked_about_the_pe_that_has_the_device(opened, guest):
    asked = []

    async def calls(calls):
        asked.extend(calls)
        return [[0, 1, 0, 1 << 20, 7, 0]]

    guest.qtest = SimpleNamespace(calls=calls)
    guest.limits = SimpleNamespace(control=1.0)
    guest.waiter.run = lambda work, *_: work
    outcome = opened.intervene(Ddw(call="query", device="pe2"), [])
    assert (asked[0].arguments, outcome.value) == ((2 << 11, 0x8000000, 0x20000002), 0)
    assert outcome.fields == {"left": 1, "largest": 1 << 20, "page_sizes": 7, "migration": 0}
    assert guest.calls == [], "the guest goes on meanwhile"


@pytest.mark.parametrize("late", [[], [Run(maps=False, address=0, size=4096, count=1)]])
def test_what_a_probe_is_told_before_firmware_is_asked_is_late_and_what_firmware_does_is_not(opened, guest, late):
    async def calls(_calls):
        return [[0, 1, 0, 1 << 20, 7, 0]]

    told = iter([{"pe1": late}, {"pe1": [Run(maps=False, address=0, size=1 << 24, count=1)]}])
    guest.probes.heard = lambda: next(told)
    guest.qtest, guest.limits = SimpleNamespace(calls=calls), SimpleNamespace(control=1.0)
    guest.waiter.run = lambda work, *_: work
    outcome = opened.intervene(Ddw(call="query", device="pe2"), [])
    assert outcome.told == ({"pe1": late} if late else None)
    assert list(told) == []


def test_each_operation_is_done_alone_where_a_probe_listens(opened, guest):
    told = iter([{"pe1": []}, {"pe1": [Run(maps=True, address=0, size=4096, count=1)]}])
    guest.probes.servers, guest.probes.heard = {"pe1": None}, lambda: next(told)
    guest.answers = [{"outcomes": [{"value": number}]} for number in (1, 2)]
    done = opened.perform(OPS[:2])
    assert [(each.value, len(each.told["pe1"])) for each in done] == [(1, 0), (2, 1)]
    assert guest.calls == ["ask", "at rest", "at rest", "ask", "at rest"]


@pytest.mark.parametrize(
    "op",
    [
        Flip(liobn=0x80000300, ioba=0),
        Flip(liobn=PE1, ioba=1 << 30),
        Flip(liobn=PE1, ioba=0, bit=64),
        Flip(liobn=PE1, ioba=0, bit=-1),
    ],
    ids=["no such table", "beyond the window", "bit 64", "bit -1"],
)
def test_a_flip_of_what_is_not_there_is_refused_and_the_guest_goes_on(opened, guest, op):
    with pytest.raises(HarnessError, match="flip: LIOBN"):
        opened.intervene(op, [])
    assert guest.calls == ["pause", "drain", "cont"]


def test_a_flip_keeps_within_the_size_that_the_trace_told(opened, guest):
    guest.log.tables.shapes = {PE1: Shape(4)}
    opened.intervene(Flip(liobn=PE1, ioba=0x3000), [])
    with pytest.raises(HarnessError, match="IOBA 0x4000"):
        opened.intervene(Flip(liobn=PE1, ioba=0x4000), [])


def test_the_fake_has_no_call_that_a_real_guest_has_not():
    calls = {name for name in vars(FakeGuest) if not name.startswith("_")} - {"note_begun"}
    assert {name for name in calls if not hasattr(Guest, name)} == set()

"""Where sessions come from: one boot, then forks of it, and what happens when that cannot be."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_guest import abilities
from fake_session import REGISTERS, SAID, SAVED, SHAPE, FakeSession, World
from msgspec import structs
from shown import Shown

from patience import PATIENCE
from tcelab.errors import GuestLost, HarnessError, Interrupted, Unsupported
from tcelab.image import bases
from tcelab.logs import shown_on
from tcelab.program.topology import DRIVERS, topology
from tcelab.qemu import basekey, fork, machine
from tcelab.qemu.fork import Forks, opened
from tcelab.qemu.limits import Limits
from tcelab.qemu.probe import Qemu
from tcelab.qemu.qemusession import QemuSession

LOST = GuestLost("the fork's agent does not answer: nothing happened for 20 s")
WARNED = {"lies": {"tamper": lambda session, number, _op, out: session.console.append("WARNING: x") or out}}
"""The kernel warns while the small program runs."""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def world(monkeypatch, cache):
    made = World(cache)
    made.probed = 0
    made.can = abilities()

    def probe(_qemu):
        made.probed += 1
        return made.can

    monkeypatch.setattr(fork, "QemuSession", made)
    monkeypatch.setattr(fork.probe, "probe", probe)
    monkeypatch.setattr(fork.ability, "check", lambda session, *_: session.calls.append("able"))
    yield made
    for each in made.open:
        each.close()


@pytest.fixture
def files(tmp_path):
    """A QEMU, a kernel and an initrd."""
    for name in ("qemu", "vmlinux", "initrd"):
        (tmp_path / name).write_bytes(name.encode())
    options = machine.QemuOptions(tmp_path / "vmlinux", tmp_path / "initrd", topology("two-pe"))
    return SimpleNamespace(qemu=Qemu("qemu", (str(tmp_path / "qemu"),)), options=options, home=tmp_path)


@pytest.fixture
def make(world, files):
    """Another process's `Forks` on the same host; with `.said`, what it told, and `.get()`, which opens."""
    made = []

    def forks(**how):
        display = Shown()
        qemu, options = how.pop("qemu", files.qemu), structs.replace(files.options, memory=how.pop("memory", 512))
        one = Forks(qemu, options, digest="d", **how)
        folder = files.home / f"run{len(made)}"
        folder.mkdir()
        made.append(one)

        def get():
            with shown_on(display):
                return one.open(folder)

        return SimpleNamespace(forks=one, said=display.notes, phases=display.phases, get=get, close=one.close)

    yield forks
    for each in made:
        each.close()


@pytest.fixture
def kept(make):
    """The folder of a base that an earlier process has made."""
    earlier = make()
    earlier.get().close()
    earlier.close()
    ((folder, _),) = bases.kept()
    return folder


# -- the first, and those after it


def test_the_first_guest_is_booted_tried_saved_and_forked_and_the_fork_is_handed_out(make, world):
    first = make(limits=Limits(fork=7.0))
    session = first.get()
    assert world.kinds == ["boot", "fork", "fork"]
    assert [each.tried for each in world.made] == ["thoroughly", "thoroughly", "quickly"]
    assert [each.calls[-1] for each in world.made] == ["save", "renew", "renew"]
    assert session is world.made[-1]
    assert world.open == [session]
    assert first.said == []
    before = ["booting", "trying the guest", "saving the guest for forks", "trying a fork"]
    assert first.phases == [*before, "forking", "forking"]


def test_a_base_is_made_and_tried_out_by_one_process_at_a_time_and_forked_by_all(make, world):
    make().get()
    assert [each.locked for each in world.made] == [True, True, False]


def test_a_later_guest_is_a_fork_alone(make, world):
    first = make()
    one, two = first.get(), first.get()
    assert world.kinds == ["boot", "fork", "fork", "fork"]
    assert one is not two
    assert {one, two} == {*world.open}


def test_another_process_forks_what_this_one_has_booted(make, world, kept):
    made = len(world.made)
    session = make().get()
    assert world.kinds[made:] == ["fork"]
    assert session.base.folder == kept
    assert not session.locked


def test_a_base_is_what_the_guest_was_when_it_was_saved(make, world):
    session = make().get()
    record = session.base.record
    assert os.pread(session.base.ram, 9, 0x5000) == b"as booted"
    assert os.pread(session.base.state, 99, 0) == SAVED
    assert session.base.console == SAID
    assert (record.registers, record.windows) == (REGISTERS, {0x80000101: SHAPE})
    assert (record.boot, record.trial) == (12.35, "")
    assert record.about == {
        "kernel": "6.12 4K",
        "qemu": "9.9.9",
        "firmware": "vof",
        "topology": "two-pe",
        "memory": "512 MiB",
    }


def test_every_session_gets_what_was_chosen(make, world, files):
    limits = Limits(fork=7.0)
    make(limits=limits).get()
    for each in world.made:
        assert (each.given.qemu, each.given.options) == (files.qemu, files.options)
        assert (each.given.limits, each.given.digest, each.given.abilities) == (limits, "d", world.can)


def test_a_fork_is_handed_out_as_new(make, world):
    """What the small program left is gone: the guest is renewed after it, and not used again before."""
    *before, last = make().get().calls
    assert (set(before), last) == ({"perform"}, "renew")


# -- the key


def keyed(files, **changes):
    qemu = structs.replace(files.qemu, **changes.pop("qemu", {}))
    return Forks(qemu, structs.replace(files.options, **changes)).key()


def test_the_key_is_16_digits_that_stay(world, files):
    assert keyed(files) == keyed(files)
    assert len(keyed(files)) == 16
    int(keyed(files), 16)


@pytest.mark.parametrize("name", ["qemu", "vmlinux", "initrd"])
def test_another_content_of_a_file_is_another_key(world, files, name):
    before = keyed(files)
    (files.home / name).write_bytes(b"another content")
    assert keyed(files) != before


@pytest.mark.parametrize(
    "change",
    [
        {"append": "debug"},
        {"memory": 768},
        {"topology": topology("one-pe")},
        {"firmware": "slof"},
        {"qemu": {"build": "one"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_machine_is_another_key(world, files, change):
    assert keyed(files, **change) != keyed(files)


def test_another_build_is_another_key(world, files):
    assert keyed(files, qemu={"build": "one"}) != keyed(files, qemu={"build": "two"})


@pytest.mark.parametrize(
    "change", [{"version": "9.9.8"}, {"traces": ("spapr_iommu_new_table",)}, {"firmware_sha256": {"vof.bin": "1" * 64}}]
)
def test_another_ability_of_qemu_is_another_key(world, files, change):
    before = keyed(files)
    world.can = abilities(**change)
    assert keyed(files) != before


@pytest.mark.parametrize("module", basekey._MAKERS, ids=lambda module: module.__name__)
def test_a_base_belongs_to_the_code_that_made_it(world, files, monkeypatch, tmp_path, module):
    before = keyed(files)
    newer = tmp_path / "newer.py"
    newer.write_text(Path(module.__file__).read_text() + "# changed\n")
    monkeypatch.setattr(module, "__file__", str(newer))
    assert keyed(files) != before


def test_a_script_that_starts_qemu_tells_nothing_of_the_qemu_behind_it(make, world, files):
    (files.home / "qemu").write_text('#!/bin/sh\nexec qemu-system-ppc64 "$@"\n')
    one = make()
    one.get()
    assert world.kinds == ["boot"]
    (line,) = one.said
    assert "is a script: nothing tells when the QEMU behind it changes" in line


def test_a_kernel_that_was_replaced_while_it_booted_makes_no_base(make, world, files):
    world.plans = [{"then": lambda _: (files.home / "vmlinux").write_bytes(b"another kernel")}]
    one = make()
    session = one.get()
    assert (world.kinds, session.base) == (["boot"], None)
    assert one.said == [
        "no forks, each guest is booted: the kernel, the initrd or QEMU was changed while the guest booted"
    ]
    assert bases.kept() == []


def test_where_equal_files_lie_does_not_matter(world, files):
    before = keyed(files)
    for name in ("qemu", "vmlinux", "initrd"):
        shutil.copy(files.home / name, files.home / f"my-{name}")
    moved = {"kernel": files.home / "my-vmlinux", "initrd": files.home / "my-initrd"}
    assert keyed(files, **moved) == before
    assert keyed(files, **moved, qemu={"argv": (str(files.home / "my-qemu"),)}) == before


def test_of_a_build_of_tcelabs_own_the_program_is_not_read(world, files):
    assert len(keyed(files, qemu={"build": "b", "argv": ("/nonexistent",)})) == 16


def test_a_build_of_tcelabs_own_is_asked_once_for_all_and_any_other_each_time(make, world, files):
    own = structs.replace(files.qemu, build="b")
    for qemu, probed in ((own, 1), (own, 1), (files.qemu, 2), (files.qemu, 3), (structs.replace(own, build="c"), 4)):
        forks = make(qemu=qemu).forks
        assert forks.abilities == forks.abilities == world.can
        assert world.probed == probed


# -- where there are no forks


@pytest.mark.parametrize(
    ("can", "memory", "said"), [(False, 512, "copy-on-write"), (True, 4096, "with more than 2048 MiB")]
)
def test_a_machine_that_cannot_be_forked_is_said_once_and_booted_for_good(make, world, can, memory, said):
    world.can = abilities(private_ram=can)
    one = make(memory=memory)
    session = one.get()
    one.get()
    assert world.kinds == ["boot", "boot"]
    assert [each.tried for each in world.made] == ["not", "not"]
    assert session.calls == ["able"]
    (line,) = one.said
    assert line.startswith("no forks, each guest is booted: ")
    assert said in line
    assert bases.kept() == []


def test_whoever_wants_a_boot_gets_one_whatever_there_is(make, world, kept, monkeypatch):
    made = len(world.made)
    for name in ("take", "locked", "store"):
        monkeypatch.setattr(fork.bases, name, lambda *_: pytest.fail("a base was looked for"))
    one = make(boot=True)
    one.get()
    one.get()
    assert world.kinds[made:] == ["boot", "boot"]
    assert world.made[-1].calls == ["able"]
    assert one.said == []


@pytest.mark.parametrize("where", ["saving", "storing", "refused"])
def test_a_guest_that_cannot_be_saved_goes_on_itself_and_is_the_one_handed_out(make, world, monkeypatch, where):
    full = HarnessError(f"the disk is full: {bases.cache_dir()}")
    world.plans = [{"saving": {"saving": full}, "refused": {"refused": ["Invalid read at 40"]}}.get(where, {})]
    if where == "storing":
        real = Path.write_bytes

        def write_bytes(path, data):
            if path.name == "state":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, data)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
    one = make()
    session = one.get()
    assert world.kinds == ["boot"]
    assert session.calls[-2:] == ["save", "go on"]
    assert world.open == [session]
    assert len(one.said) == 1
    why = "Invalid read at 40" if where == "refused" else full.message
    assert one.said[0].startswith("no forks, each guest is booted: ")
    assert why in one.said[0]
    one.get()
    assert world.kinds == ["boot", "boot"]
    assert world.made[1].calls == ["able"]
    assert len(one.said) == 1
    assert bases.kept() == []


# -- a base that is not what it was, or does not work


def test_a_fork_that_does_not_answer_is_replaced(make, world, kept):
    made = len(world.made)
    world.plans = [{"fails": LOST}]
    one = make()
    session = one.get()
    assert world.kinds[made:] == ["fork", "fork"]
    assert session is world.made[-1]
    assert one.said == [f"a fork is replaced: {LOST.message}"]


@pytest.mark.parametrize("error", [LOST, HarnessError("QEMU's migrate-incoming failed")])
def test_a_fork_that_does_not_answer_twice_is_an_error(make, world, kept, error):
    made = len(world.made)
    world.plans = [{"fails": error}] * 2
    with pytest.raises(type(error), match=error.message):
        make().get()
    assert world.kinds[made:] == ["fork", "fork"]
    assert world.open == []


def test_a_finding_of_the_small_program_on_a_fork_is_an_error_and_no_other_fork_takes_its_place(make, world, kept):
    made = len(world.made)
    world.plans = [WARNED]
    one = make()
    with pytest.raises(
        HarnessError, match=r"a fork does not do what its base did: \d+ findings, the first .* WARNING: x"
    ):
        one.get()
    assert world.kinds[made:] == ["fork"]
    assert world.open == []
    assert one.said == []


def test_a_kernel_that_dies_of_the_small_program_is_not_replaced_by_one_that_lives(make, world, kept):
    made = len(world.made)
    world.plans = [{"performing": GuestLost("the guest's kernel died: Oops", kernel_died=True)}]
    one = make()
    with pytest.raises(GuestLost, match="Oops") as caught:
        one.get()
    assert caught.value.kernel_died
    assert world.kinds[made:] == ["fork"]
    assert world.open == []


def test_a_first_fork_that_does_not_answer_is_tried_once_more(make, world):
    world.plans = [{}, {"fails": LOST}]
    assert make().get().base is not None
    assert world.kinds == ["boot", "fork", "fork", "fork"]
    assert not bases.refusal(bases.kept()[0][0])


def test_a_base_whose_first_fork_does_not_work_is_refused_for_good_and_the_guest_is_booted(make, world):
    world.plans = [{}, {"fails": LOST}, {"fails": LOST}]
    one = make()
    session = one.get()
    why = f"a fork of this guest does not work: {LOST.message}"
    assert world.kinds == ["boot", "fork", "fork", "boot"]
    assert world.open == [session]
    assert session.base is None
    assert one.said == [f"no forks, each guest is booted: {why}"]
    other = make()
    other.get()
    assert world.kinds[4:] == ["boot"]
    assert other.said == one.said
    ((folder, _),) = bases.kept()
    assert bases.refusal(folder) == why


def test_a_base_whose_first_fork_finds_something_is_refused(make, world):
    world.plans = [{}, WARNED]
    one = make()
    assert one.get().base is None
    assert "a fork of this guest does not work: a fork does not do what its base did" in one.said[0]


def blind(_session, _number, _op, snapshot):
    """No view of a table is there."""
    missing = {"live": "QEMU's trace told of no table"}
    return replace(snapshot, tables=tuple(t for t in snapshot.tables if t.view != "live"), missing=missing)


def test_a_base_whose_first_fork_shows_no_table_is_refused(make, world):
    world.plans = [{}, {"lies": {"warp": blind}}]
    one = make()
    assert one.get().base is None
    assert "a fork of this guest does not work" in one.said[0]


def test_a_guest_on_which_the_small_program_finds_something_is_booted_again_and_forks_are_untouched(make, world):
    """A kernel that warns once has warned: the program under test must see it, not tcelab's own."""
    world.plans = [WARNED]
    one = make()
    session = one.get()
    assert world.kinds == ["boot", "boot", "fork", "fork"]
    assert [each.tried for each in world.made] == ["thoroughly", "not", "not", "not"]
    assert world.made[1].calls == ["able", "save"]
    assert session.calls == []
    assert session.base.record.trial.startswith(
        "2 findings, the first of the law kernel: the kernel said, before step 23: WARNING: x"
    )
    assert world.open == [session]
    (line,) = one.said
    assert line.startswith("guests are handed out untouched: the small program before them ends with")
    assert "WARNING: x" in line
    one.get()
    assert world.made[-1].calls == []


def ring(liobn):
    """An entry that nobody's program made, of a driver that the kernel has built in."""

    def warp(_session, _number, _op, snapshot):
        index, word = np.array([2], np.uint32), np.array([3], np.uint64)
        tables = (replace(t, index=index, tce=word) if t.liobn == liobn else t for t in snapshot.tables)
        return replace(snapshot, tables=tuple(tables))

    return {"lies": {"warp": warp}}


@pytest.mark.parametrize("phb", DRIVERS.phbs, ids=lambda phb: phb.devices[0].model)
def test_entries_of_drivers_that_are_built_in_do_not_concern_the_small_program_and_others_do(make, world, files, phb):
    files.options = structs.replace(files.options, topology=DRIVERS)
    world.plans = [ring(phb.liobn)]
    one = make()
    one.get()
    alarmed = [line for line in one.said if "the small program before them ends with" in line]
    assert bool(alarmed) == (phb.devices[0] not in DRIVERS.driven)


def edit(path, data):
    """Change the content; mode and time are put back."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(0x5000)
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(0o400)


def test_a_base_that_was_written_to_since_is_made_anew_before_it_is_used(make, world, kept):
    made = len(world.made)
    (kept / "ram").chmod(0o600)
    one = make()
    session = one.get()
    assert world.kinds[made:] == ["boot", "fork", "fork"]
    assert one.said == [f"the base {kept.name} is made anew: ram has mode 0600, not 0400"]
    session.base.check("ram")


def test_a_base_that_is_written_to_while_it_is_used_is_made_anew(make, world, kept):
    one = make()
    old = one.get()
    made = len(world.made)
    (kept / "ram").chmod(0o600)
    new = one.get()
    assert world.kinds[made:] == ["boot", "fork", "fork"]
    assert new.base is not old.base
    assert one.said == [f"the base {kept.name} is made anew: it was changed: ram has mode 0600, not 0400"]
    os.fstat(old.base.ram)  # whoever has the old one keeps it


def test_a_fork_of_ram_whose_content_was_changed_behind_its_time_is_not_handed_out(make, world, kept):
    made = len(world.made)
    edit(kept / "ram", b"evil")
    one = make()
    session = one.get()
    assert world.kinds[made:] == ["fork", "boot", "fork", "fork"]
    assert world.made[made].closed == 1
    assert world.open == [session]
    assert os.pread(session.base.ram, 9, 0x5000) == b"as booted"
    assert one.said == [
        f"the base {kept.name} is made anew: it was changed: the content of ram differs from what was saved"
    ]


def test_a_base_that_is_changed_again_and_again_is_an_error(make, world, kept, monkeypatch):
    real = bases.Held.check

    def check(held, *contents):
        real(held, *contents)
        raise bases.ChangedError(held, "somebody writes") if "ram" in contents else AssertionError

    monkeypatch.setattr(bases.Held, "check", lambda held, *c: real(held, *c) if not c else check(held, *c))
    made = len(world.made)
    with pytest.raises(bases.ChangedError, match="it was changed: somebody writes"):
        make().get()
    assert world.kinds[made:] == ["fork", "boot", "fork", "fork"]
    assert world.open == []


def test_two_forks_that_draw_the_same_random_numbers_are_an_error(make, world, kept):
    one = make()
    world.plans = [{"drawn": "ab"}]
    one.get()
    world.plans = [{"drawn": "ab"}, {"drawn": "ab"}]
    with pytest.raises(HarnessError, match="random numbers"):
        one.get()
    assert len(world.open) == 1
    world.plans = [{"drawn": "ab"}, {"drawn": "cd"}]
    assert one.get().drawn == "cd"


def test_a_kernel_that_lacks_what_every_program_needs_is_no_matter_of_forks(make, world, monkeypatch):
    def check(session, device, kernel):
        assert (device, kernel.name) == ("spare", "vmlinux")
        raise Unsupported("kernel 6.1 has not VFIO", next_step="build it with CONFIG_VFIO")

    monkeypatch.setattr(fork.ability, "check", check)
    for boot in (False, True):
        one = make(boot=boot)
        with pytest.raises(Unsupported, match="has not VFIO") as caught:
            one.get()
        assert caught.value.next_step == "build it with CONFIG_VFIO"
        assert one.said == []
    assert world.kinds == ["boot", "boot"]
    assert world.open == []
    assert bases.kept() == []


def test_a_guest_that_does_not_boot_is_an_error_and_leaves_nothing(make, world):
    world.plans = [{"fails": GuestLost("no agent came up")}]
    one = make()
    with pytest.raises(GuestLost, match="no agent came up"):
        one.get()
    assert bases.kept() == []
    assert not world.locked()
    one.get()
    assert world.kinds == ["boot", "boot", "fork", "fork"]


# -- what is no property of the base


@pytest.mark.parametrize(
    "error", [Unsupported("no room for guest RAM: 100 MiB"), Interrupted()], ids=["no room", "Ctrl-C"]
)
def test_a_first_fork_that_could_not_be_made_for_another_reason_refuses_nothing(make, world, error):
    world.plans = [{}, {"fails": error}]
    with pytest.raises(type(error), match=error.message):
        make().get()
    assert [folder for folder, _ in bases.kept() if bases.refusal(folder)] == []


def test_a_base_that_is_changed_before_its_first_fork_refuses_nothing(make, world, monkeypatch):
    real, looks = bases.Held.check, []

    def check(held, *contents):
        looks.append(contents)
        if len(looks) == 1:
            raise bases.ChangedError(held, "somebody writes")
        real(held, *contents)

    monkeypatch.setattr(bases.Held, "check", check)
    with contextlib.suppress(bases.ChangedError):
        make().get()
    assert [folder for folder, _ in bases.kept() if bases.refusal(folder)] == []


def test_an_interrupted_fork_is_not_replaced(make, world, kept):
    made = len(world.made)
    world.plans = [{"fails": Interrupted()}]
    with pytest.raises(HarnessError, match="interrupted"):
        make().get()
    assert world.kinds[made:] == ["fork"]


def test_an_interrupted_try_of_the_booted_guest_ends_it(make, world):
    world.plans = [{"performing": KeyboardInterrupt()}]
    with pytest.raises(HarnessError, match="interrupted"):
        make().get()
    assert world.kinds == ["boot"]
    assert bases.kept() == []


def test_a_base_that_another_thread_lets_go_is_looked_for_again(make, kept):
    one = make()
    one.get()
    real, vanished = one.forks._forked, []

    def forked(*given, **more):
        if not vanished:
            vanished.append(one.forks._base)
            one.forks._base = None
        return real(*given, **more)

    one.forks._forked = forked
    assert one.get().base is not None
    assert one.said == []


# -- the end, and several threads


@pytest.fixture(autouse=True)
def before():
    """Threads of this process that are none of the test's: guests for other tests may be kept in it."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


OTHERS = set()


def threads():
    mine = set(threading.enumerate()) - OTHERS
    return {each.name for each in mine if each.name.startswith("tcelab-") and each.name != "tcelab-loop"}


def test_at_the_first_many_threads_get_forks_of_one_boot(make, world):
    one = make()
    got = []
    together = [threading.Thread(target=lambda: got.append(one.get())) for _ in range(8)]
    for each in together:
        each.start()
    for each in together:
        each.join(PATIENCE)
    assert sorted(world.kinds) == ["boot"] + ["fork"] * 9
    assert len({*got}) == 8
    assert {*world.open} == {*got}
    assert one.said == []
    assert [phase for phase in one.phases if "waiting" in phase] == []  # for a lock between processes


def test_many_threads_are_told_once_that_there_are_no_forks(make, world, monkeypatch):
    real, begun = machine.expect_forkable, threading.Barrier(8)

    def slow(*given):
        time.sleep(0.05)
        real(*given)

    monkeypatch.setattr(machine, "expect_forkable", slow)
    world.can = abilities(private_ram=False)
    one = make()

    def get():
        begun.wait(PATIENCE)
        one.get()

    together = [threading.Thread(target=get) for _ in range(8)]
    for each in together:
        each.start()
    for each in together:
        each.join(PATIENCE)
    assert world.kinds == ["boot"] * 8
    assert len(one.said) == 1


def opening(one, world, kind, plan):
    """A thread that opens, waiting in the constructor of a session until that is ended; what comes of it."""
    begun, outcome = threading.Event(), []

    def wait(session):
        begun.set()
        deadline = time.monotonic() + PATIENCE
        while not session.ended and time.monotonic() < deadline:
            time.sleep(0.002)
        raise GuestLost("the guest was closed")

    def do():
        try:
            outcome.append(one.get())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            outcome.append(error)

    world.plans = [*plan, {"then": wait}]
    thread = threading.Thread(target=do)
    thread.start()
    assert begun.wait(PATIENCE), kind
    return thread, outcome


@pytest.mark.parametrize(("kind", "plan"), [("boot", []), ("try-out", [{}]), ("fork", [{}, {}])])
def test_closing_ends_what_is_being_opened_wherever_it_is_and_nothing_is_begun_in_its_place(make, world, kind, plan):
    one = make()
    thread, outcome = opening(one, world, kind, plan)
    one.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    (error,) = outcome
    assert isinstance(error, GuestLost)
    assert len(world.made) == len(plan) + 1
    assert world.made[-1].ended
    assert [folder for folder, _ in bases.kept() if bases.refusal(folder)] == []
    assert threads() == set()
    assert not world.locked()


def test_closing_while_the_booted_guest_is_tried_boots_no_other(make, world):
    begun = threading.Event()
    one = make()

    def tamper(session, number, _op, outcome):
        begun.set()
        deadline = time.monotonic() + PATIENCE
        while not world.made[0].ended and time.monotonic() < deadline:
            time.sleep(0.002)
        raise GuestLost("the guest was closed")

    world.plans = [{"lies": {"tamper": tamper}}]
    outcome = []

    def do():
        try:
            outcome.append(one.get())
        except GuestLost as error:
            outcome.append(error)
        except HarnessError as error:
            outcome.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    assert begun.wait(PATIENCE)
    one.close()
    thread.join(PATIENCE)
    assert isinstance(outcome[0], GuestLost | HarnessError)
    assert world.kinds == ["boot"]
    assert world.open == []
    assert bases.kept() == []


def test_closing_between_taking_a_base_and_forking_it_is_an_error_of_tcelabs_own(make, world, kept):
    one = make()
    real = one.forks._fork

    def forked(*given):
        one.close()
        return real(*given)

    one.forks._fork = forked
    with pytest.raises(HarnessError, match="closed"):
        one.get()
    assert world.open == []


def test_closing_while_another_process_makes_the_base_opens_nothing_and_holds_nothing(make, world, kept):
    made = len(world.made)
    one = make()
    key, aside = kept.name, kept.with_name(".aside")
    kept.rename(aside)
    outcome = []

    def do():
        try:
            outcome.append(one.get())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            outcome.append(error)

    opening, closing = threading.Thread(target=do), threading.Thread(target=one.close)
    with bases.locked(key):
        opening.start()
        deadline = time.monotonic() + PATIENCE
        while not one.phases and time.monotonic() < deadline:
            time.sleep(0.002)
        assert one.phases == ["waiting for another process that boots the same guest"]
        closing.start()
        time.sleep(0.05)
        aside.rename(kept)  # the other has made it
    for each in (opening, closing):
        each.join(PATIENCE)
        assert not each.is_alive()
    assert [type(each) for each in outcome] == [HarnessError]
    assert len(world.made) == made
    assert threads() == set()
    assert bases.clean() > 0


@pytest.mark.parametrize("boot", [False, True])
def test_after_closing_nothing_is_opened(make, world, kept, boot):
    made = len(world.made)
    one = make(boot=boot)
    one.close()
    with pytest.raises(HarnessError, match="closed"):
        one.get()
    assert len(world.made) == made


@pytest.mark.parametrize(
    "boot",
    [
        False,
        True,
    ],
)
def test_closing_leaves_what_was_handed_out_to_whom_it_was_given(make, world, boot):
    one = make(boot=boot)
    session = one.get()
    one.close()
    assert session.alive
    assert world.open == [session]


def test_closing_lets_go_of_the_base_and_may_be_done_twice(make, kept):
    one = make()
    one.get()
    assert bases.clean() == 0
    one.close()
    one.close()
    assert threads() == set()
    assert bases.clean() > 0


def test_an_untried_fork_is_one_on_which_no_program_ran(make, world, kept):
    one = make()
    with pytest.raises(HarnessError, match="there is no base to fork"):
        one.forks.untried(kept.parent)
    one.get()
    session = one.forks.untried(kept.parent)
    assert session.calls == []
    assert session.base.folder == kept


@pytest.mark.parametrize("error", [None, ZeroDivisionError("by the caller"), KeyboardInterrupt()])
def test_one_session_is_closed_before_its_base_is_let_go(world, files, monkeypatch, error):
    order = []
    for owner, name in ((Forks, "close"), (fork.bases.Held, "close")):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda self, real=real, what=owner.__name__: (order.append((what, len(world.open))), real(self)),
        )
    try:
        with opened(files.qemu, files.options, files.home, digest="d", limits=Limits()) as session:
            assert session.alive
            if error is not None:
                raise error
    except (ZeroDivisionError, KeyboardInterrupt) as caught:
        assert caught is error  # noqa: PT017 - it must be this very one
    assert order == [("Forks", 0), ("Held", 0)]
    assert threads() == set()


def test_a_session_that_cannot_be_opened_leaves_nothing(world, files):
    world.plans = [{"fails": HarnessError("no QEMU")}]
    with (
        pytest.raises(HarnessError, match="no QEMU"),
        opened(files.qemu, files.options, files.home, digest="d", limits=Limits()),
    ):
        pass
    assert threads() == set()


def test_the_stand_has_the_shape_of_a_session():
    real, stand = (inspect.signature(each.__init__).parameters for each in (QemuSession, FakeSession))
    assert [each for each in stand if each not in {"world", "plan"}] == [*real]
    calls = {name for name in vars(FakeSession) if not name.startswith("_")} - {"begin", "tried"}
    assert {name for name in calls if not hasattr(QemuSession, name)} == set()

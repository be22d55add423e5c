"""Bases of forks: copied exactly, trusted only as they were made, kept while they are used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from basetoy import CHUNK, KEY, SMALL, by_the_book, store
from fake_session import SHAPE
from opened import opened

from tcelab.errors import HarnessError
from tcelab.image import bases
from tcelab.image.bases import Base, ChangedError, SavedRegister, Stored
from tcelab.logs import shown_on


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def taken(key=KEY):
    held, why = bases.take(key)
    assert held is not None, why
    return closing(held)


def names(cache):
    return sorted(path.name for path in (cache / "bases").iterdir())


# -- a base that is as it was


def test_a_base_is_taken_as_it_was_stored():
    folder = store(ram=b"what was there")
    with taken() as held:
        assert os.pread(held.ram, 14, CHUNK + 5) == b"what was there"
        assert os.fstat(held.ram).st_size == 3 * CHUNK + 100
        assert os.pread(held.state, 100, 0) == SMALL["state"]
        assert held.console == SMALL["console"]
        assert held.folder == folder
        assert (held.record.key, held.record.boot, held.record.trial) == (KEY, 1.5, "")
        assert held.record.registers == [SavedRegister(0x800000020000001, 1, 4, 2, 6)]
        assert held.record.windows == {0x80000101: SHAPE}
        held.check("ram", "state", "console")


def test_whoever_holds_a_base_can_write_to_nothing_of_it():
    folder = store()
    with taken() as held:
        for descriptor in (held.ram, held.state):
            assert os.get_inheritable(descriptor) is False
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(descriptor, b"x", 0)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes == {KEY: 0o700} | dict.fromkeys(("ram", "state", "console", "base.json"), 0o400)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_base_that_was_let_go_has_no_open_file():
    folder = store()
    with taken():
        assert len(opened(str(folder.parent))) > 1
    assert opened(str(folder.parent)) == []


def test_of_a_key_that_never_was_there_is_nothing_to_say():
    assert bases.take(KEY) == (None, "")
    store("fedcba9876543210")
    assert bases.take(KEY) == (None, "")


def test_storing_again_replaces_what_was_there():
    store(ram=b"first")
    with taken() as old:
        store(ram=b"later", trial="2 findings")
        with taken() as new:
            assert (os.pread(new.ram, 5, CHUNK + 5), new.record.trial) == (b"later", "2 findings")
        assert os.pread(old.ram, 5, CHUNK + 5) == b"first"
        with pytest.raises(ChangedError):
            old.check()


# -- a base that is not


def edit(path, change):
    """Change a file's content; mode and time are put back as they were."""
    before = path.stat()
    path.chmod(0o600)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(stat.S_IMODE(before.st_mode))


def overwrite(path):
    with path.open("r+b") as file:
        file.seek(3)
        file.write(b"!")


def link(path):
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def record(path, **changes):
    edit(path, lambda each: each.write_text(json.dumps(json.loads(each.read_text()) | changes)))


def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


LOOK = {
    "a state cut short": ("state", lambda path: edit(path, lambda each: os.truncate(each, 5)), "state was written to"),
    "a state made longer": (
        "state",
        lambda path: edit(path, lambda each: os.truncate(each, 99)),
        "state was written to",
    ),
    "a console of another time": ("console", touch, "console was written to"),
    "RAM of another time": ("ram", touch, "ram was written to"),
    "RAM made longer": ("ram", lambda path: edit(path, lambda each: os.truncate(each, 1 << 20)), "ram was written to"),
    "RAM that can be written to": ("ram", lambda path: path.chmod(0o600), "ram has mode 0600, not 0400"),
    "a state that others can read": ("state", lambda path: path.chmod(0o440), "state has mode 0440, not 0400"),
    "a console that runs": ("console", lambda path: path.chmod(0o500), "console has mode 0500, not 0400"),
    "a record that can be written to": (
        "base.json",
        lambda path: path.chmod(0o600),
        "base.json has mode 0600, not 0400",
    ),
    "a folder that others can look into": ("", lambda path: path.chmod(0o755), f"{KEY} has mode 0755, not 0700"),
    "a link in the console's place": ("console", link, "console has mode 0777, not 0400"),
}
"""Damage that is seen at every look: the file, what is done to it, what is said."""

CONTENT = {
    "a state of the same size and time": ("state", lambda path: edit(path, overwrite), "the content of state differs"),
    "a console of the same size and time": (
        "console",
        lambda path: edit(path, overwrite),
        "the content of console differs from what was saved",
    ),
}
"""Damage that is seen when the base is taken."""

FILES = {
    "no RAM": ("ram", Path.unlink, "/ram: No such file"),
    "no state": ("state", Path.unlink, "/state: No such file"),
    "no console": ("console", Path.unlink, "/console: No such file"),
    "a link in the RAM's place": ("ram", link, "ram has mode 0777"),
    "a link in the state's place": ("state", link, "state has mode 0777"),
    "no record": ("base.json", Path.unlink, "base.json is missing or not readable"),
    "a record that is none": (
        "base.json",
        lambda path: edit(path, lambda each: each.write_bytes(b"{")),
        "base.json is missing or not readable",
    ),
    "a record of an older kind": ("base.json", lambda path: record(path, schema=0), "base.json is missing or not"),
    "a record without files": ("base.json", lambda path: record(path, files=3), "base.json is missing or not"),
    "a record of another key": ("base.json", lambda path: record(path, key="f" * 16), "base.json is missing or not"),
}
"""Damage that leaves nothing to look at."""


@pytest.mark.parametrize("damage", LOOK | CONTENT | FILES)
def test_a_damaged_base_is_not_taken_and_what_is_wrong_is_said(damage):
    name, do, said = (LOOK | CONTENT | FILES)[damage]
    folder = store()
    do(folder / name)
    held, why = bases.take(KEY)
    assert held is None
    assert said in why
    assert opened(str(folder.parent)) == []


@pytest.mark.parametrize("damage", LOOK)
def test_damage_while_a_base_is_used_is_seen_at_the_next_look(damage):
    name, do, said = LOOK[damage]
    folder = store()
    with taken() as held:
        held.check()
        do(folder / name)
        with pytest.raises(ChangedError, match=said) as caught:
            held.check()
        assert caught.value.held is held


@pytest.mark.parametrize("name", ["ram", "state", "console"])
def test_a_content_that_changed_behind_its_time_is_seen_by_who_asks_for_it(name):
    folder = store()
    with taken() as held:
        edit(folder / name, overwrite)
        with pytest.raises(ChangedError, match=f"it was changed: the content of {name} differs"):
            held.check(name)
    base = dict(bases.kept())[folder]
    assert f"the content of {name} differs" in bases.problems(folder, base)


@pytest.mark.parametrize("name", ["ram", "state"])
def test_whatever_is_written_to_while_a_base_is_used_is_seen_at_the_next_look(name):
    """Also with its time put back: that is what it shows by."""
    folder = store()
    with taken() as held:
        held.check()
        edit(folder / name, overwrite)
        with pytest.raises(ChangedError, match="it was changed: ram or state was touched while it was used"):
            held.check()


def test_a_base_of_somebody_else_is_not_taken(monkeypatch):
    store()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    held, why = bases.take(KEY)
    assert held is None
    assert why == f"{KEY} belongs to user {os.getuid()}"


@pytest.mark.parametrize("name", ["ram", "state", "console", "base.json"])
def test_a_file_of_somebody_else_is_seen(monkeypatch, name):
    folder = store()
    real = Path.lstat

    def foreign(path):
        status = list(real(path))
        if path == folder / name:
            status[4] = 12345
        return os.stat_result(status, {"st_mtime_ns": real(path).st_mtime_ns})

    with taken() as held:
        monkeypatch.setattr(Path, "lstat", foreign)
        with pytest.raises(ChangedError, match=f"{name} belongs to user 12345"):
            held.check()


def test_a_folder_that_vanished_while_it_was_used_is_a_change():
    folder = store()
    with taken() as held:
        folder.rename(folder.with_name("moved"))
        with pytest.raises(ChangedError, match="No such file"):
            held.check()


def test_a_change_says_who_may_have_made_it_and_is_the_harnesss_trouble():
    folder = store()
    with taken() as held:
        (folder / "ram").chmod(0o666)
        with pytest.raises(HarnessError) as caught:
            held.check()
        assert "image clean" in caught.value.next_step


# -- making


def refuse(monkeypatch, call, number, name):
    """Make the operating system find no room when it writes a file of a base."""
    if call == "pwrite":
        owner, real = os, os.pwrite
    else:
        owner, real = Path, getattr(Path, call)

    def refused(first, *rest):
        target = str(Path(f"/proc/self/fd/{first}").readlink()) if call == "pwrite" else str(first)
        if target.endswith(f"/{name}"):
            raise OSError(number, os.strerror(number))
        return real(first, *rest)

    monkeypatch.setattr(owner, call, refused)


@pytest.mark.parametrize(
    ("call", "name"), [("pwrite", "ram"), *(("write_bytes", name) for name in ("state", "console", "base.json"))]
)
@pytest.mark.parametrize("older", [False, True], ids=["the first", "another is there"])
def test_a_disk_that_is_full_is_one_clear_error_and_leaves_what_was_there(monkeypatch, cache, call, name, older):
    if older:
        store(ram=b"older")
    with monkeypatch.context() as patch:
        refuse(patch, call, errno.ENOSPC, name)
        with pytest.raises(HarnessError, match=f"the disk is full: {cache}") as caught:
            store(ram=b"newer")
    assert "TCELAB_CACHE" in caught.value.next_step
    assert names(cache) == ([KEY] if older else [])
    if older:
        with taken() as held:
            assert os.pread(held.ram, 5, CHUNK + 5) == b"older"


@pytest.mark.parametrize(("number", "error"), [(errno.EDQUOT, HarnessError), (errno.EIO, OSError)])
def test_a_quota_is_a_full_disk_and_a_broken_disk_is_not(monkeypatch, cache, number, error):
    with monkeypatch.context() as patch:
        refuse(patch, "pwrite", number, "ram")
        with pytest.raises(error):
            store()
    assert names(cache) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_of_the_same_key_alone(cache):
    for name in (f".{KEY}.dead", ".fedcba9876543210.busy"):
        (cache / "bases" / name).mkdir(parents=True)
        (cache / "bases" / name / "ram").write_bytes(bytes(1000))
    store()
    assert names(cache) == [".fedcba9876543210.busy", KEY]


def test_what_is_being_written_is_nobodys_base(cache):
    seen = []
    real = Path.write_bytes

    def look(path, data):
        seen.append((bases.take(KEY), bases.kept()))
        return real(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", look)
        store()
    assert seen == [((None, ""), [])] * 3
    assert [path.name for path, _ in bases.kept()] == [KEY]


def test_a_record_tells_what_each_file_is():
    folder = store()
    files = dict(bases.kept())[folder].files
    assert files == {
        name: Stored((folder / name).stat().st_size, (folder / name).stat().st_mtime_ns, files[name].sha256)
        for name in ("ram", "state", "console")
    }
    assert files["state"].sha256 == hashlib.sha256(SMALL["state"]).hexdigest()
    assert files["ram"].sha256 == by_the_book((folder / "ram").read_bytes())


# -- those that cannot be


def test_a_guest_that_cannot_be_forked_is_refused_with_the_reason_for_good():
    bases.refuse(KEY, "a fork of this guest does not work: QEMU ended")
    assert bases.refused(KEY) == "a fork of this guest does not work: QEMU ended"
    ((folder, base),) = bases.kept()
    assert (base, bases.refusal(folder)) == (None, "a fork of this guest does not work: QEMU ended")
    assert bases.problems(folder, base) == ""


def test_refusing_takes_the_place_of_the_base_that_did_not_work():
    folder = store()
    with taken() as held:
        bases.refuse(KEY, "no")
        assert [path.name for path in folder.iterdir()] == ["refused"]
        os.pread(held.ram, 1, 0)  # who has it goes on
    assert store() == folder
    with taken():
        assert bases.refusal(folder) == ""


# -- keeping


@pytest.fixture
def six(monkeypatch, cache):
    """How many find room."""
    monkeypatch.setattr(bases, "_made", set())
    one = bases.disk_usage(store("f" * 16))
    bases.clean()
    monkeypatch.setenv("TCELAB_CACHE_SIZE", str(6 * one))


def used(key, when):
    """So many seconds after a moment of today."""
    os.utime(bases.cache_dir() / "bases" / key, (MOMENT + when, MOMENT + when))


MOMENT = time.time() - 10_000
DAY = 86400


def test_where_there_is_no_room_the_base_that_was_not_used_for_longest_goes(cache, six, shown):
    keys = [f"{number:016x}" for number in range(7)]
    for number, key in enumerate(keys[:6]):
        store(key)
        used(key, 1000 + number)
    assert len(names(cache)) == 6
    with taken(keys[0]):
        pass
    bases._made.clear()  # another run had made them
    store(keys[6])
    assert names(cache) == [keys[0], *keys[2:]]
    (line,) = shown.notes
    assert line.startswith(f"removed the base {keys[1]} (0 MB): all may take ")
    assert line.endswith("see --cache-size")
    assert [path.name for path, _ in bases.kept()][-1] == keys[2]


def test_a_base_that_this_run_had_made_is_told_as_such_when_it_goes(cache, six, shown):
    keys = [f"{number:016x}" for number in range(7)]
    for number, key in enumerate(keys):
        store(key)
        used(key, number)
    (line,) = shown.notes
    assert line.startswith(f"removed the base {keys[0]} (0 MB), which this run had made: ")


def test_however_many_bases_of_the_last_week_find_room_they_stay_and_older_ones_go(cache, shown):
    keys = [f"{number:016x}" for number in range(20)]
    for key in keys:
        store(key)
    for number, key in enumerate(keys):
        used(key, -number * DAY / 2)
    store("f" * 16)
    assert names(cache) == [*keys[:14], "f" * 16]
    assert len(shown.notes) == 6
    assert all(": not used for " in line for line in shown.notes)


def test_how_much_they_may_take_is_the_users_to_say(cache, monkeypatch, tmp_path):
    config = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    (config / "tcelab").mkdir(parents=True)
    keys = [f"{number:016x}" for number in range(3)]
    for key in keys:
        store(key)
    (config / "tcelab" / "config.toml").write_text("cache_size = 1\n")
    store("e" * 16)
    assert names(cache) == ["e" * 16]


def test_a_base_that_is_used_is_not_removed_however_old_it_is(cache, six):
    keys = [f"{number:016x}" for number in range(8)]
    for number, key in enumerate(keys[:6]):
        store(key)
        used(key, 1000 + number)
    with taken(keys[0]), taken(keys[1]):
        used(keys[0], -9 * DAY)
        used(keys[1], -8 * DAY)
        store(keys[6])
        assert keys[:2] == names(cache)[:2]
    store(keys[7])
    assert names(cache) == keys[2:]


def test_the_base_that_was_just_made_stays_whatever_the_clock_says(cache, six):
    keys = [f"{number:016x}" for number in range(7)]
    for key in keys[:6]:
        store(key)
        used(key, 1 << 40)
    store(keys[6])
    assert keys[6] in names(cache)
    assert len(names(cache)) == 6


def test_cleaning_removes_every_base_that_nobody_uses(cache):
    folder = store()
    store("fedcba9876543210")
    bases.refuse("1" * 16, "no")
    with taken() as held:
        assert bases.clean() > 0
        assert names(cache) == [KEY]
        held.check("ram", "state")
    room = bases.disk_usage(folder)
    assert bases.clean() == room > 0
    assert names(cache) == []
    assert bases.clean() == 0


def test_cleaning_removes_what_killed_writers_left_and_not_what_is_being_written(cache):
    for key in ("1" * 16, "2" * 16):
        (cache / "bases" / f".{key}.x").mkdir(parents=True)
        (cache / "bases" / f".{key}.x" / "ram").write_bytes(bytes(1000))
    with bases.locked("2" * 16):
        bases.clean()
    assert names(cache) == [f".{'2' * 16}.x"]


def test_two_who_hold_one_base_keep_it_until_the_last_lets_go(cache):
    store()
    with taken():
        with taken():
            pass
        bases.clean()
        assert names(cache) == [KEY]
    bases.clean()
    assert names(cache) == []


def test_discarding_removes_a_base_also_while_it_is_used_and_who_has_it_goes_on(cache):
    store(ram=b"mine")
    with taken() as held:
        bases.discard(held)
        assert names(cache) == []
        assert os.pread(held.ram, 4, CHUNK + 5) == b"mine"
        assert bases.take(KEY) == (None, "")
        bases.discard(held)


def test_bases_are_told_in_the_order_of_their_use():
    for number, key in enumerate(("a" * 16, "b" * 16, "c" * 16)):
        folder = store(key)
        if key[0] == "b":
            (folder / "base.json").unlink()
        used(key, 1000 - number)
    told = bases.kept()
    assert [path.name[0] for path, _ in told] == ["a", "b", "c"]
    assert [base.key if isinstance(base, Base) else base for _, base in told] == ["a" * 16, None, "c" * 16]
    assert [bases.problems(*each) for each in told] == ["", "base.json is missing or not readable", ""]


@pytest.mark.parametrize("name", ["ram", "state", "console"])
def test_a_problem_of_any_file_is_told(name):
    folder = store()
    base = dict(bases.kept())[folder]
    (folder / name).unlink()
    assert bases.problems(folder, base) == f"{folder / name}: No such file or directory"


# -- two processes

MAKER = """
import sys; import basetoy
from tcelab.image import bases
with bases.locked(basetoy.KEY):
    assert bases.take(basetoy.KEY) == (None, "")
    print("making", flush=True)
    sys.stdin.readline()
    basetoy.store(ram=b"made by the first")
"""


@contextmanager
def maker():
    """Another process that has begun to make the base, and ends it when it gets a line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MAKER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "making\n"
        yield process
    assert process.returncode == 0


def test_a_process_that_wants_a_base_while_another_makes_it_waits_and_takes_that(cache):
    said = []
    with maker() as first:

        class Ends:
            """A display: who waits is told of, and the other goes on."""

            def phase(self, line):
                said.append((line, bases.take(KEY)))
                first.stdin.write("\n")
                first.stdin.flush()

        with shown_on(Ends()), bases.locked(KEY), taken() as held:
            assert os.pread(held.ram, 17, CHUNK + 5) == b"made by the first"
    assert said == [("waiting for another process that boots the same guest", (None, ""))]


def test_a_wait_for_another_process_has_an_end(monkeypatch):
    monkeypatch.setattr(bases, "LIMIT", 0.1)
    with maker() as first:
        with (
            pytest.raises(HarnessError, match="another process that boots the same guest holds its lock"),
            bases.locked(KEY),
        ):
            pass
        with bases.locked("f" * 16):
            pass  # another base is another lock
        first.stdin.write("\n")


def test_a_base_that_cannot_be_opened_stays(tmp_path):
    (tmp_path / "ram").mkdir()
    assert bases._remove_unused(tmp_path) == 0
    assert (tmp_path / "ram").is_dir()

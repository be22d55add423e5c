"""What can go wrong with a base and with its forks: who runs tcelab gets a verdict, is told in a line, and nothing that
was changed is ever forked. Each cache here has bases of its own; images are the user's.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import count

import msgspec
import pytest
from shown import showing

from calls import Call, tcelab
from tcelab import image
from tcelab.image import bases
from tcelab.image.store import cache_dir
from tcelab.job import setup
from tcelab.program.topology import topology
from tcelab.qemu.fork import Forks

pytestmark = pytest.mark.guest

FLOW = ("run", "flow", "--seed", "1", "--topology", "one-pe", "--memory", "256")
SMALL_SHM = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
CHOICE = setup.MachineChoice(topology=topology("one-pe"), memory=256)

TEN = """
import sys, time
from itertools import count
from pathlib import Path
from tcelab.job import setup
from tcelab.qemu.ahead import Ahead
from tcelab.qemu.fork import Forks
from tcelab.program.topology import topology

numbers = count()

def folder():
    new = Path(sys.argv[1]) / str(next(numbers))
    new.mkdir(mode=0o700)
    return new

ready = setup.prepare(setup.MachineChoice(topology=topology("one-pe"), memory=256))
ahead = Ahead(Forks(ready.qemu, ready.options, digest=ready.digest), folder, 8)
taken = [ahead.take(), ahead.take()]
ahead.prepare()
print("ten are there", file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def provisioned(guest_image):
    """Before there is a cache that shares them: nothing of the user's is built by way of another cache's locks."""
    image.ensure_qemu(setup.DEFAULT_QEMU)


@pytest.fixture(scope="module")
def empty(provisioned, tmp_path_factory):
    """A cache without bases."""
    folder = tmp_path_factory.mktemp("cache")
    for name in ("apt", "images"):
        (folder / name).symlink_to(cache_dir() / name)
    return folder


def names(cache):
    """What is in its folder of bases: whole ones, and what is being written."""
    found = [path.name for path in (cache / "bases").iterdir()]
    return [name for name in found if not name.startswith(".")], [name for name in found if name.startswith(".")]


@pytest.fixture(scope="module")
def torn(empty, tmp_path_factory):
    """A run that is killed while it writes the RAM of the first base; and its cache."""
    call = Call(*FLOW, state=tmp_path_factory.mktemp("torn"), TCELAB_CACHE=str(empty))
    call.wait_for("saving the guest for forks")
    while call.process.poll() is None:
        if any(path.stat().st_blocks for path in empty.glob("bases/.*/ram")):
            call.send(signal.SIGKILL)
            break
        time.sleep(0.001)
    call.end()
    return call, empty


@pytest.fixture(scope="module")
def two_at_once(torn, tmp_path_factory):
    """Two runs that begin together where there is no base; and their cache."""
    _, cache = torn
    calls = [Call(*FLOW, state=tmp_path_factory.mktemp("run"), TCELAB_CACHE=str(cache)) for _ in range(2)]
    for call in calls:
        call.end()
    return calls, cache


@pytest.fixture
def cache(two_at_once, tmp_path):
    """A cache with one base, whole, and nothing else in it: a test may do with it what it wants."""
    _, whole = two_at_once
    subprocess.run(["cp", "-a", whole, tmp_path / "cache"], check=True)
    for call in two_at_once[0]:
        assert call.process.returncode == 0, call.said
    return tmp_path / "cache"


def base_of(cache):
    (name,), () = names(cache)
    return cache / "bases" / name


def edit(path, change):
    """Change what a file holds, and leave no trace of that: size stays, mode and time are put back."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        change(file)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(stat.S_IMODE(before.st_mode))


def flip(file):
    """One bit, where there is data."""
    at = os.lseek(file.fileno(), 0, os.SEEK_DATA) + 100
    (byte,) = os.pread(file.fileno(), 1, at)
    os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def interrupt(call):
    """A boot that was begun is not waited for, nor does it leave anything."""
    call.send(signal.SIGINT)
    assert call.end() == 125
    assert "saving the guest" not in call.err
    call.assert_nothing_is_left()
    assert "interrupted" in call.said


def intact(cache):
    """What is recorded of the one base, which is what it was when it was made; nothing is left beside it."""
    base = base_of(cache)
    record = msgspec.json.decode((base / "base.json").read_bytes(), type=bases.Base)
    assert bases.problems(base, record) == ""
    return record


# -- while a base is made


def test_a_run_that_is_killed_while_it_writes_a_base_leaves_no_base_behind(torn):
    call, cache = torn
    call.assert_nothing_is_left()
    assert call.process.returncode == -signal.SIGKILL, call.said
    whole, (unfinished,) = names(cache)
    assert whole == []
    assert not (cache / "bases" / unfinished / "base.json").exists()


def test_of_two_runs_at_once_one_makes_the_base_and_the_other_waits_for_it_and_forks_it(two_at_once):
    """What a killed run has left there is in nobody's way, and gone afterwards."""
    calls, cache = two_at_once
    for call in calls:
        assert call.process.returncode == 0, call.said
        assert "PASS (exit code 0)" in call.out
        call.assert_nothing_is_left()
    (makes,) = [call for call in calls if "saving the guest for forks" in call.err]
    (waits,) = [call for call in calls if call is not makes]
    assert makes.err.count("booting under QEMU") == 1
    assert "waiting for another process that boots the same guest" in waits.err
    assert "booting under QEMU" not in waits.err
    assert waits.err.count("forking under QEMU") == 1
    assert intact(cache)


def test_a_cache_on_a_full_disk_costs_the_forks_and_nothing_else(empty, alone, tmp_path):
    """Nor does a guest that is booted need room in /dev/shm."""
    cache = tmp_path / "cache"
    shutil.copytree(empty, cache, symlinks=True, ignore=shutil.ignore_patterns("bases"))
    (cache / "bases").mkdir(mode=0o700)
    command = alone(
        f"{SMALL_SHM} && mount -t tmpfs -o size=40m,mode=0700 tmpfs {cache}/bases",
        after=f"ls -A {cache}/bases >{tmp_path}/left; df --output=used {cache}/bases | tail -1 >{tmp_path}/used",
    )
    code, call = tcelab(*FLOW, state=tmp_path, command=command, TCELAB_CACHE=str(cache))
    assert code == 0, call.said
    assert "PASS (exit code 0)" in call.out
    (line,) = [line for line in call.err.splitlines() if "no forks" in line]
    assert f"no forks, each guest is booted: the disk is full: {cache}" in line
    assert call.err.count("booting under QEMU") == 1
    assert (tmp_path / "left").read_text() == ""
    assert int((tmp_path / "used").read_text()) == 0


def test_a_guest_whose_forks_never_answer_is_booted_and_nobody_tries_again(empty, broken_initrd, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(empty, cache, symlinks=True, ignore=shutil.ignore_patterns("bases"))
    deaf = (*FLOW, "--initrd", broken_initrd, "--append", "tcelab.sabotage=forks", "--limit", "fork=1")
    why = "no forks, each guest is booted: a fork of this guest does not work: the fork's agent does not answer"
    code, call = tcelab(*deaf, state=tmp_path / "first", TCELAB_CACHE=str(cache))
    assert code == 0, call.said
    assert "PASS (exit code 0)" in call.out
    assert call.err.count(why) == call.err.count("no forks") == 1
    assert (call.err.count("forking under QEMU"), call.err.count("booting under QEMU")) == (1, 2)
    code, listed = tcelab("image", "list", state=tmp_path, TCELAB_CACHE=str(cache))
    assert code == 0, listed.said
    assert "the fork's agent does not answer" in listed.out
    again = Call(*deaf, state=tmp_path / "again", TCELAB_CACHE=str(cache))
    again.wait_for("booting under QEMU")
    interrupt(again)
    assert again.err.count(why) == 1
    assert "forking under QEMU" not in again.err


# -- a base that was changed


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("state", "the content of state differs from what was saved"),
        ("ram", "it was changed: the content of ram differs from what was saved"),
    ],
)
def test_a_base_with_one_bit_changed_behind_its_time_is_made_anew(cache, tmp_path, name, said):
    base = base_of(cache)
    edit(base / name, flip)
    before = (base / name).stat().st_ino
    code, call = tcelab(*FLOW, state=tmp_path, TCELAB_CACHE=str(cache))
    assert code == 0, call.said
    assert "PASS (exit code 0)" in call.out
    assert call.err.count(f"the base {base.name} is made anew: {said}") == call.err.count("made anew") == 1
    assert call.err.count("booting under QEMU") == 1
    assert (base / name).stat().st_ino != before
    assert intact(cache)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("state", lambda path: edit(path, lambda file: file.truncate(1000)), "state was written to: 1000 bytes"),
        ("state", lambda path: path.chmod(0o644), "state has mode 0644, not 0400"),
        ("ram", lambda path: path.chmod(0o644), "ram has mode 0644, not 0400"),
    ],
    ids=["cut short", "open to others", "RAM open to others"],
)
def test_a_base_that_shows_a_change_is_not_forked_but_made_anew(cache, tmp_path, name, damage, said):
    """Seen until the boot begins; what comes of it, other tests see."""
    base = base_of(cache)
    damage(base / name)
    call = Call(*FLOW, state=tmp_path, TCELAB_CACHE=str(cache))
    call.wait_for("booting under QEMU")
    interrupt(call)
    assert call.err.count(f"the base {base.name} is made anew: {said}") == call.err.count("made anew") == 1
    assert "forking under QEMU" not in call.err
    assert names(cache)[1] == []


@pytest.fixture
def forks(cache, monkeypatch, tmp_path):
    """Of a one-pe machine, in this process, and what they said; `fork()` opens one."""
    monkeypatch.setenv("TCELAB_CACHE", str(cache))
    ready = setup.prepare(CHOICE)
    numbers = count()

    def fork():
        folder = tmp_path / f"fork-{next(numbers)}"
        folder.mkdir(mode=0o700)
        return stack.enter_context(made.open(folder))

    with ExitStack() as stack:
        said = stack.enter_context(showing()).notes
        made = Forks(ready.qemu, ready.options, digest=ready.digest)
        stack.callback(made.close)
        yield fork, said


def test_ram_that_changes_while_forks_live_is_forked_no_more(forks, cache):
    """Its time is put back, and its content was looked at when the first fork was made."""
    fork, said = forks
    first = fork()
    edit(base_of(cache) / "ram", flip)
    second = fork()
    (line,) = [each for each in said if "made anew" in each]
    assert line.startswith(f"the base {base_of(cache).name} is made anew: it was changed: ")
    built = [session.facts.versions["base"]["built"] for session in (first, second)]
    assert built[0] < built[1] == intact(cache).built
    assert os.fstat(second.guest.ram.fd).st_ino == (base_of(cache) / "ram").stat().st_ino


# -- forks and what they hold


def test_ten_forks_end_with_a_process_that_is_killed(cache, tmp_path):
    call = Call(tmp_path, command=(sys.executable, "-c", TEN), state=tmp_path, TCELAB_CACHE=str(cache))
    call.wait_for("ten are there")
    assert len(call.processes("org.tcelab.agent")) == 10
    code, kept = tcelab("image", "clean", "--bases", state=tmp_path, TCELAB_CACHE=str(cache))
    assert (code, kept.out) == (0, "0 MB freed\n"), kept.said
    call.send(signal.SIGKILL)
    call.end()
    call.assert_nothing_is_left()
    code, freed = tcelab("image", "clean", "--bases", state=tmp_path, TCELAB_CACHE=str(cache))
    assert code == 0
    assert int(freed.out.split()[0]) > 50
    assert names(cache) == ([], [])


def test_a_fork_needs_no_room_in_dev_shm(cache, alone, tmp_path):
    code, call = tcelab(*FLOW, state=tmp_path, command=alone(SMALL_SHM), TCELAB_CACHE=str(cache))
    assert code == 0, call.said
    assert "PASS (exit code 0)" in call.out
    assert "booting under QEMU" not in call.err


@pytest.fixture
def alone():
    """Makes a command that runs tcelab with mounts of its own, which nobody else sees and which end with it."""
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"mounts of one's own take root: {tried.stderr.decode().strip()}")

    def command(before, after=":"):
        script = f'{before} || exit 99; "$@"; code=$?; {after}; exit $code'
        return ("unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "tcelab")

    return command

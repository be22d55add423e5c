"""Locks, folders that appear in one step, and what killed builds leave behind."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from patience import PATIENCE, SOON
from tcelab.errors import HarnessError
from tcelab.image.hosttools import RunLimit, run
from tcelab.image.locks import lock
from tcelab.image.store import cache_dir, image_dir, new_image
from tcelab.logs import shown_on

"""Seconds no step here may take."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def python(code):
    """A process that runs code, tells "ready" and then waits for the end of its input."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    process.communicate(timeout=PATIENCE)


HOLD = """
import sys
from tcelab.image.locks import lock
with lock("toy", "another build of toy"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_cache_is_private_to_its_user(cache):
    assert cache_dir() == cache
    assert cache.stat().st_mode & 0o777 == 0o700


def test_the_cache_follows_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("TCELAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg/tcelab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home/.cache/tcelab"


def test_a_second_build_says_that_it_waits_and_goes_on_after_the_first():
    first = python(HOLD)
    said, waiting = [], threading.Event()

    class Display:
        def note(self, text):
            said.append(text)
            waiting.set()

    def second():
        with lock("toy", "another build of toy"):
            said.append("mine")

    thread = threading.Thread(target=second)
    with shown_on(Display()):
        thread.start()
        assert waiting.wait(PATIENCE)
        assert said == ["waiting for another build of toy"]
        assert thread.is_alive()
        end(first)
        thread.join(PATIENCE)
    assert said[1:] == ["mine"]


def test_another_name_does_not_wait(shown):
    first = python(HOLD)
    with lock("other", "another build of other", limit=0.05):
        pass
    end(first)
    assert shown.lines == []


def test_waiting_has_a_limit_and_names_the_lock(cache):
    first = python(HOLD)
    began = time.monotonic()
    with (
        pytest.raises(HarnessError, match="another build of toy holds its lock") as caught,
        lock("toy", "another build of toy", limit=0.05),
    ):
        pass
    assert time.monotonic() - began < SOON
    assert str(cache / "locks/toy") in caught.value.next_step
    end(first)
    with lock("toy", "another build of toy", limit=PATIENCE):
        pass


def test_the_orphan_of_a_killed_build_keeps_the_lock_until_it_ends(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    builder = python(f"""
import threading
import time
from tcelab.image.locks import lock
from tcelab.image.hosttools import RunLimit, run
with lock("toy", ""):
    run(["sh", "-c", "echo ready >/proc/$PPID/fd/1; read end < {fifo}"], RunLimit("orphan", 60))
""")
    builder.kill()
    end(builder)
    with pytest.raises(HarnessError), lock("toy", "", limit=0.05):
        pass
    fifo.write_text("end\n")
    with lock("toy", "", limit=PATIENCE):
        pass


def test_an_image_appears_when_the_block_ends_and_replaces_the_old_one():
    with new_image("toy") as folder:
        (folder / "file").write_text("old")
        assert not image_dir("toy").exists()
    with new_image("toy") as folder:
        (folder / "file").write_text("new")
        assert (image_dir("toy") / "file").read_text() == "old"
    assert (image_dir("toy") / "file").read_text() == "new"
    assert [path.name for path in image_dir("toy").parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError])
def test_a_build_that_fails_leaves_the_old_image_and_nothing_else(reason):
    with new_image("toy") as folder:
        (folder / "file").write_text("old")

    def build():
        with new_image("toy") as folder:
            (folder / "file").write_text("half")
            raise reason

    with pytest.raises(reason):
        build()
    assert (image_dir("toy") / "file").read_text() == "old"
    assert [path.name for path in image_dir("toy").parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error(cache, code):
    with pytest.raises(HarnessError, match=f"the disk is full: {cache}") as caught, new_image("toy"):
        raise OSError(code, "no space")
    assert "TCELAB_CACHE" in caught.value.next_step
    assert list(image_dir("toy").parent.iterdir()) == []


def test_what_a_killed_build_left_is_removed_by_the_next_one():
    builder = python("""
import sys
from tcelab.image.store import new_image
with new_image("toy") as folder:
    (folder / "half").write_text("")
    print("ready", flush=True)
    sys.stdin.read()
""")
    builder.send_signal(signal.SIGKILL)
    end(builder)
    other = image_dir("toy").parent / ".toy-64k.new-x"  # another image's: not ours to remove
    other.mkdir()
    assert len(list(image_dir("toy").parent.iterdir())) == 2
    with new_image("toy") as folder:
        # Gone before the new one needs the space.
        assert {path.name for path in folder.parent.iterdir()} == {folder.name, ".toy-64k.new-x"}
    assert {path.name for path in image_dir("toy").parent.iterdir()} == {"toy", ".toy-64k.new-x"}


def test_a_tool_that_fails_is_reported_with_its_last_lines():
    with pytest.raises(HarnessError, match=r"(?s)fetching: sh failed with exit code 3.*\| E: no such suite"):
        run(["sh", "-c", "seq 100; echo 'E: no such suite' >&2; exit 3"], RunLimit("fetching", PATIENCE))


def test_a_tool_that_finds_the_disk_full_is_reported_as_that():
    with pytest.raises(HarnessError, match="fetching: the disk is full"):
        run(["sh", "-c", "echo 'write: No space left on device'; exit 1"], RunLimit("fetching", PATIENCE))


def test_a_silent_tool_is_stopped_after_its_limit():
    with pytest.raises(HarnessError, match="fetching: no progress"):
        run(["sleep", "60"], RunLimit("fetching", 0.05))


def test_progress_without_a_word_is_no_silence():
    counter = itertools.count()
    run(["sleep", "0.3"], RunLimit("fetching", 0.05, counter.__next__))


def test_a_tool_gets_its_input_and_its_output_is_returned():
    text = "x" * 300_000  # more than pipes hold, both ways
    assert run(["cat"], RunLimit("copying", PATIENCE), stdin=text.encode()) == text

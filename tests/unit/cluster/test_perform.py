"""A task in a folder of its own, with real commands: whole or not at all, and once."""

import msgspec
import pytest

import tcelab
from tcelab.cluster import perform as module
from tcelab.cluster.perform import GoneError, forget, perform
from tcelab.cluster.task import OUT, Task


def task(line, **more):
    return Task(**{"campaign": "c", "title": "t", "words": ["sh", "-c", line], "own": False, "limit": 60.0, **more})


def stays():
    return False


def test_a_task_is_named_by_what_it_runs():
    one = task("true")
    assert one.key() == task("true", title="another", limit=9.0, more=["--minutes", "3"]).key()
    others = [task("false"), task("true", campaign="d"), task("true", machine="m"), task("true", name="again")]
    others += [task("true", files={"a": b"1"}), task("true", files={"a": b"2"}), task("true", files={"b": b"1"})]
    assert len({one.key(), *(each.key() for each in others)}) == 1 + len(others)


def test_another_tcelab_does_not_run_the_same(monkeypatch):
    before = task("true").key()
    monkeypatch.setattr(tcelab, "__version__", "another")
    assert task("true").key() != before


def test_what_it_leaves_comes_back_with_its_exit_code_and_what_it_printed(tmp_path):
    returned = perform(task(f"echo said; echo kept >{OUT}/file; exit 3"), "w", stays, tmp_path)
    assert (returned.code, returned.why, returned.late) == (3, "", False)
    assert returned.files == {"output.txt": b"said\n", "file": b"kept\n"}


def test_files_that_it_needs_are_there(tmp_path):
    returned = perform(task("cat {tcelab-in}/a", files={"a": b"text"}), "w", stays, tmp_path)
    assert returned.files["output.txt"] == b"text"


def test_a_result_that_lies_there_is_returned_and_nothing_is_run(tmp_path):
    line = f"echo once >>{tmp_path}/count; exit 1"
    first, second = (perform(task(line), "w", stays, tmp_path) for _ in range(2))
    assert first == second
    assert (tmp_path / "count").read_text() == "once\n"
    forget("c", tmp_path)
    perform(task(line), "w", stays, tmp_path)
    assert (tmp_path / "count").read_text() == "once\nonce\n"


def test_what_a_killed_worker_has_left_is_no_result(tmp_path):
    folder = tmp_path / "c" / task("exit 5").key()
    (folder / "out").mkdir(parents=True)
    (folder / "returned.new").write_bytes(b"half")
    (folder / "out" / "piece.json").write_text("{}")
    returned = perform(task("exit 5"), "w", stays, tmp_path)
    assert (returned.code, list(returned.files)) == (5, ["output.txt"])


def test_nobody_wants_it_any_more_so_it_ends_and_nothing_is_kept(tmp_path):
    with pytest.raises(GoneError):
        perform(task("sleep 600"), "w", lambda: True, tmp_path)
    assert not list(tmp_path.rglob("returned.msgpack"))


def test_at_its_limit_it_is_ended_and_says_so(tmp_path):
    assert perform(task("sleep 600", limit=0.5), "w", stays, tmp_path).late


def test_large_files_stay_and_are_named_and_small_ones_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 100)
    line = f"cd {OUT}; printf %090d 0 >a; printf %030d 0 >b; printf %099d 0 >z; printf %050d 0 >result.json"
    returned = perform(task(line), "w", stays, tmp_path)
    assert (sorted(returned.files), sorted(returned.left_out)) == (["b", "output.txt", "result.json"], ["a", "z"])


def test_a_folder_that_is_not_there_and_a_disk_that_is_full_are_no_verdict(tmp_path):
    assert "no folder /none here" in perform(task("true", folder="/none"), "w", stays, tmp_path).why
    (tmp_path / "file").write_text("")
    full = perform(task("true"), "w", stays, tmp_path / "file")
    assert (full.code, full.why != "") == (125, True)


def test_a_verdict_is_the_exit_code_and_what_was_found(tmp_path):
    found = {"law": "table", "message": "IOBA 0x0: an entry is missing", "step": 1}
    (tmp_path / "result.json").write_bytes(msgspec.json.encode({"verdict": {"findings": [found]}}))
    one = module.verdict(1, tmp_path)
    found["message"] = "IOBA 0x1000: an entry is missing"
    (tmp_path / "result.json").write_bytes(msgspec.json.encode({"verdict": {"findings": [found, found]}}))
    assert one == module.verdict(1, tmp_path)
    assert one.split()[0] == "1"
    found["law"] = "pins"
    (tmp_path / "result.json").write_bytes(msgspec.json.encode({"verdict": {"findings": [found]}}))
    assert module.verdict(1, tmp_path) != one
    assert module.verdict(0, tmp_path / "none") == "0"

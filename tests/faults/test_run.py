"""What can go wrong while a program runs: each ends within its limit, says where and what, and leaves nothing."""

import json
import signal

import pytest

from calls import Call, kill, tcelab
from tcelab.program import Buffer, Checkpoint, Program, Read
from tcelab.program.topology import topology

pytestmark = pytest.mark.guest


def result_of(call):
    (run,) = call.runs()
    return json.loads((run / "result.json").read_bytes())


def broken_run(tmp_path, broken_initrd, kind, *more, before=()):
    ops = [
        Checkpoint(stream=True),
        *before,
        Buffer(name=f"break-{kind}", pages=1, expect="ok"),
        Checkpoint(stream=True),
    ]
    path = tmp_path / "broken.json"
    path.write_bytes(Program(name="broken", topology=topology("two-pe"), ops=ops).to_json())
    return tcelab("run", path, "--initrd", broken_initrd, *more, state=tmp_path)


def assert_told(call, *words):
    for word in ("phase:     perform", "console:   ", "artefacts:", "COULD NOT JUDGE (exit code 125)", *words):
        assert word in call.said, call.said


def test_an_agent_that_is_killed_is_noticed(tmp_path, broken_initrd):
    code, call = broken_run(tmp_path, broken_initrd, "killed")
    assert code == 125
    assert_told(call, "the agent ended", "tcelab-init: agent exited 137")


def test_an_agent_that_stops_answering_ends_by_its_limit(tmp_path, broken_initrd):
    code, call = broken_run(tmp_path, broken_initrd, "silent", "--limit", "perform=2")
    assert code == 125
    assert_told(call, "the agent stopped answering: nothing happened for 2 s")


def test_a_malformed_frame_is_named(tmp_path, broken_initrd):
    code, call = broken_run(tmp_path, broken_initrd, "garbage")
    assert code == 125
    assert_told(call, "malformed frame from the agent")


def test_an_exception_in_the_agent_comes_with_its_traceback(tmp_path, broken_initrd):
    code, call = broken_run(tmp_path, broken_initrd, "raises")
    assert code == 125
    assert_told(call, "the agent failed at operation", "Traceback (most recent call last)", "colour")


def test_a_kernel_that_dies_is_a_finding_that_names_the_operation_in_flight(tmp_path, broken_initrd):
    more = [Read(what="pins", expect="ok"), Read(what="vmlck", expect="ok")]
    code, call = broken_run(tmp_path, broken_initrd, "dies", before=more)
    assert code == 1, call.said
    result = result_of(call)
    assert result["ended"]["kernel_died"]
    assert result["ended"]["in_flight"] == 3
    (finding,) = [each for each in result["verdict"]["findings"] if each["law"] == "kernel"]
    assert finding["step"] == 3
    assert "break-dies" in finding["operation"]
    assert "FINDING (exit code 1)" in call.out
    assert "phase:     perform" in call.out


def test_a_qemu_that_is_killed_cannot_judge(tmp_path):
    call = Call("run", "batches", state=tmp_path)
    call.wait_for("batch size 1")
    kill(call.qemu())
    assert call.end() == 125
    call.assert_nothing_is_left()
    for word in ("QEMU was killed by SIGKILL", "phase:     ", "console:   ", "artefacts:"):
        assert word in call.said, call.said
    assert result_of(call)["verdict"]["evidence"]["checkpoints"] > 0


def test_nothing_survives_a_harness_that_is_killed(tmp_path):
    call = Call("run", "batches", state=tmp_path)
    call.wait_for("batch size 1")
    assert call.qemu()
    call.send(signal.SIGKILL)
    call.end()
    call.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_and_writes_down_what_is_known(tmp_path, number):
    call = Call("run", "batches", state=tmp_path)
    call.wait_for("batch size 1")
    call.send(number)
    assert call.end() == 125
    call.assert_nothing_is_left()
    for word in ("interrupted", "phase:     ", "console:   ", "artefacts:"):
        assert word in call.said, call.said
    assert result_of(call)["verdict"]["result"] == "could-not-judge"


def test_an_interrupt_during_boot_leaves_nothing(tmp_path):
    call = Call("run", "flow", "--boot", state=tmp_path)
    call.wait_for("booting under QEMU")
    call.send(signal.SIGINT)
    assert call.end() == 125
    call.assert_nothing_is_left()
    assert "interrupted" in call.said


def test_a_flipped_bit_is_found_and_its_entry_named(tmp_path):
    code, call = tcelab("run", "flow", "--seed", 3, "--inject", "flip", state=tmp_path)
    assert code == 1
    result = result_of(call)
    finding, difference = result["verdict"]["findings"]
    assert (finding["law"], difference["law"]) == ("table", "difference")
    assert (difference["liobn"], difference["ioba"]) == (finding["liobn"], finding["ioba"])
    (run,) = call.runs()
    lie = json.loads((run / "program.json").read_bytes())["ops"][-2]
    assert (lie["op"], finding["liobn"], finding["ioba"]) == ("flip", lie["liobn"], lie["ioba"])
    assert f"{1 << lie['bit']:#018x}" in finding["seen"]
    assert finding["view"] == "live, stream"
    assert f"IOBA {lie['ioba']:#x}" in call.out
    assert "tcelab run" in call.out.split("replay:")[1]

"""Programs of the guest that are run to their end, and the operation that runs them."""

import sys
from pathlib import Path

import msgspec
import pytest
from agent_fake import FakeKernel, with_edu

from tceagent import native, ops
from tceagent.state import State
from tcelab.emulator import EmulatorSession
from tcelab.errors import Unsupported, UsageError
from tcelab.program import Bind, Native, Program, from_json
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.run.loop import perform_program

SMALL = topology("two-small")
DEVICE = SMALL.phbs[1].devices[0].name


def script(*lines):
    """Arguments that make a Python of the host do this."""
    return ["-I", "-S", "-c", "\n".join(lines)]


def ran(*lines):
    beats = []
    status, output = native.run(sys.executable, script(*lines), lambda: beats.append(1))
    return status, output, len(beats)


def test_a_program_gives_its_status_and_all_that_it_wrote():
    assert ran("print('a=1 b=-2')", "raise SystemExit(3)")[:2] == (3, b"a=1 b=-2\n")


def test_it_goes_on_whenever_it_has_written_something():
    """Silence is no sign of life."""
    *_, dots = ran(
        "import array, fcntl, sys, termios, time",
        "left = array.array('i', [0])",
        "def read_by_now():",
        "    fcntl.ioctl(1, termios.FIONREAD, left)",
        "    return not left[0]",
        "for _ in range(5):",
        "    print('.', end='', flush=True)",
        "    while not read_by_now(): time.sleep(0.001)",
        "print('a=1')",
    )
    *_, silent = ran("import time", "time.sleep(0.3)")
    assert dots >= 5
    assert silent == 0


def test_it_gets_nothing_but_its_arguments():
    """Neither its environment nor its open files: those of VFIO keep a group in use."""
    with Path("/dev/null").open("rb") as mine:
        told = ran(f"import os; print('HOME' in os.environ, os.path.exists('/proc/self/fd/{mine.fileno()}'))")[1]
    assert told == b"False False\n"


def test_one_that_a_signal_kills_is_an_error_and_no_result():
    with pytest.raises(RuntimeError, match=r"was killed by signal 9$"):
        ran("import os", "os.kill(os.getpid(), 9)")


def test_one_that_is_not_there_is_refused_as_the_kernel_does():
    with pytest.raises(FileNotFoundError):
        native.run("/nowhere", [], lambda: None)


@pytest.mark.parametrize(
    ("output", "fields"),
    [(b"", {}), (b"..", {}), (b"...calls=4 errno=-1\n", {"calls": 4, "errno": -1}), (b"a=0\n", {"a": 0})],
)
def test_its_last_line_tells_numbers(output, fields):
    assert native.parse(output) == fields


@pytest.mark.parametrize("output", [b"Segmentation fault", b"a=1 b", b"a=x"])
def test_a_line_of_another_kind_is_an_error(output):
    with pytest.raises(ValueError, match="invalid literal"):
        native.parse(output)


# -- the operation


def test_the_operation_names_a_bound_devices_group_and_passes_numbers_as_they_are():
    kernel = FakeKernel()
    with_edu(kernel)
    state = State(kernel)
    state.bound = {"edu": {"group": 7}}
    kernel.ran = 1, b".errno=2 step=2\n"
    got = ops.perform(state, {"op": "native", "program": "vfio_loop", "args": ["$edu", 32, 1000]})
    assert kernel.calls[-1] == ("run", "/usr/lib/tcelab/vfio_loop", "7", "32", "1000")
    assert got == {"value": 1, "fields": {"errno": 2, "step": 2}}


def test_an_image_without_the_program_refuses():
    kernel = FakeKernel()
    kernel.run = native_missing
    assert ops.perform(State(kernel), {"op": "native", "program": "vfio_loop", "args": []}) == {"errno": "ENOENT"}


def native_missing(program, arguments):
    return native.run("/nowhere" + program, arguments, lambda: None)


def test_it_is_the_same_once_it_was_a_file():
    program = Program(name="p", topology=SMALL, ops=[Bind(device=DEVICE), Native(program="vfio_loop", args=["$a", 1])])
    assert from_json(msgspec.json.encode(program), "p.json") == program


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["nic"], "'nic' is no number, and no [$] with the name"),
        (["$other"], "'[$]other' is no number, and no [$] with the name of a device that was bound before"),
        ([-1], "an argument has 64 bits, and -1 has not"),
        ([1 << 64], "an argument has 64 bits"),
    ],
)
def test_what_is_no_argument_is_told_before_anything_runs(args, why):
    program = Program(name="p", topology=SMALL, ops=[Bind(device=DEVICE), Native(program="vfio_loop", args=args)])
    with pytest.raises(UsageError, match=rf"operation 1 \(Native\): {why}"):
        validate(program)


def test_numbers_and_bound_devices_are_arguments():
    ok = Native(program="vfio_loop", args=[f"${DEVICE}", 0, (1 << 64) - 1])
    validate(Program(name="p", topology=SMALL, ops=[Bind(device=DEVICE), ok]))


def test_the_emulator_says_that_it_runs_no_programs():
    program = Program(name="p", topology=SMALL, ops=[Native(program="vfio_loop", args=[1, 1, 1])])
    with pytest.raises(Unsupported, match="runs no programs such as /usr/lib/tcelab"):
        raise perform_program(program, EmulatorSession(SMALL)).ending.error

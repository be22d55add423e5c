"""Every wait for a guest ends: by its work, by its limit, or by the first of all the ways in which a guest is lost."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from qemu.qmp import QMPError

from patience import PATIENCE, SOON
from tcelab.errors import GuestLost, HarnessError, Scene
from tcelab.qemu.console import Console
from tcelab.qemu.limits import Limits
from tcelab.qemu.waiter import GuestWaiter

SHORT = 0.04


@pytest.fixture
def racing(tmp_path):
    """Run a scenario on a race; returns how it ended and how long that took."""

    def raced(scenario, *, settle=SHORT):
        async def main():
            console = Console(tmp_path / "console.log")
            try:
                return await scenario(GuestWaiter(console, tmp_path, Limits(settle=settle)))
            finally:
                console.close()

        return asyncio.run(main())

    return raced


async def forever():
    await asyncio.sleep(PATIENCE)


async def timed(work):
    """(the error that it ends with, seconds)."""
    began = time.monotonic()
    with pytest.raises((GuestLost, HarnessError)) as caught:
        await work
    return caught.value, time.monotonic() - began


async def later(seconds, do):
    await asyncio.sleep(seconds)
    do()


async def say(words):
    return words


def lost(racing, why, *, console=b"", **marks):
    """The error that a wait ends with, once the guest is lost for that reason."""

    async def scenario(waiter):
        for mark, value in marks.items():
            setattr(waiter, mark, value)
        waiter.console.feed(console, 1.0)
        waiter.lose(why)
        return (await timed(waiter.run(forever(), "perform", PATIENCE)))[0]

    return racing(scenario)


# -- limits


def test_work_that_ends_gives_what_it_gave(racing):
    assert racing(lambda waiter: waiter.run(say("done"), "control", 1.0)) == "done"


@pytest.mark.parametrize(
    ("phase", "kind", "said"),
    [
        ("boot", GuestLost, "no agent came up: nothing happened for 0.04 s"),
        ("perform", GuestLost, "the agent stopped answering: nothing happened for 0.04 s"),
        ("launch", HarnessError, "QEMU did not answer: nothing happened for 0.04 s"),
        ("control", HarnessError, "QEMU did not answer: nothing happened for 0.04 s"),
    ],
)
def test_a_silent_wait_ends_by_the_limit_of_its_phase(racing, phase, kind, said):
    error, took = racing(lambda waiter: timed(waiter.run(forever(), phase, SHORT)))
    assert (type(error), error.message) == (kind, said)
    assert f"--limit {phase}=SECONDS" in error.next_step
    assert getattr(error, "kernel_died", False) is False
    assert SHORT <= took < SOON


def test_progress_extends_a_wait(racing):
    ticks = itertools.count()

    async def work():
        await asyncio.sleep(SHORT * 3)
        return "done"

    assert racing(lambda waiter: waiter.run(work(), "boot", SHORT, lambda: next(ticks))) == "done"


def test_a_wait_ends_its_limit_after_the_last_progress(racing):
    looks = []

    def progress():
        looks.append(time.monotonic())
        return min(looks[-1] - looks[0], SHORT * 2)

    _, took = racing(lambda waiter: timed(waiter.run(forever(), "boot", SHORT, progress)))
    assert SHORT * 2.8 <= took < SOON


def test_the_whole_of_a_phase_has_a_limit_that_no_progress_extends(racing):
    ticks = itertools.count()
    error, took = racing(
        lambda waiter: timed(waiter.run(forever(), "boot", SHORT, lambda: next(ticks), SHORT * 2)),
    )
    assert error.message == "no agent came up: not within 0.08 s"
    assert "--limit whole_boot=SECONDS" in error.next_step
    assert SHORT * 2 <= took < SOON


def test_what_waits_is_cancelled_when_its_time_is_up(racing):
    ends = []

    async def work():
        try:
            await forever()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    racing(lambda waiter: timed(waiter.run(work(), "control", SHORT)))
    assert ends == ["cancelled"]


def test_cancelling_the_wait_cancels_the_work(racing):
    ends = []

    async def work():
        try:
            await forever()
        finally:
            ends.append("ended")

    async def scenario(waiter):
        waiting = asyncio.ensure_future(waiter.run(work(), "control", PATIENCE))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return list(ends)

    assert racing(scenario) == ["ended"]


# -- the ways in which a guest is lost


def test_a_lost_guest_ends_a_wait_at_once(racing):
    async def scenario(waiter):
        waiter.gone = True
        asyncio.get_running_loop().call_later(SHORT, waiter.lose, "the agent ended")
        return await timed(waiter.run(forever(), "perform", PATIENCE))

    error, took = racing(scenario)
    assert isinstance(error, GuestLost)
    assert error.message == "the agent ended"
    assert SHORT * 0.9 <= took < SOON


def test_the_first_reason_counts(racing):
    async def scenario(waiter):
        waiter.lose("the agent ended")
        waiter.lose("QEMU ended with status 0")
        return await waiter.loss()

    assert racing(scenario).message == "the agent ended"


@pytest.mark.parametrize(
    ("why", "kind", "said"),
    [
        ("the agent ended", GuestLost, "the agent ended"),
        ("the guest shut down (guest-reset)", GuestLost, "the guest shut down (guest-reset)"),
        ("QEMU ended with status 1", HarnessError, "QEMU ended with status 1: two / three / four"),
        ("QEMU was killed by SIGKILL", HarnessError, "QEMU was killed by SIGKILL: two / three / four"),
        ("tcelab's watcher failed: no space left", HarnessError, "tcelab's watcher failed: no space left"),
    ],
)
def test_each_way_to_be_lost_has_its_class_and_its_words(racing, tmp_path, why, kind, said):
    (tmp_path / "qemu.err").write_text("one\ntwo\nthree\nfour\n")
    error = lost(racing, why, console=b"last line\n", handshake_done=True, gone=True)
    assert (type(error), error.message) == (kind, said)
    assert getattr(error, "kernel_died", False) is False
    assert error.scene.phase == "perform"
    assert error.scene.console == ["last line"]
    assert error.next_step


def test_a_qemu_that_said_nothing_is_told_without_words(racing, tmp_path):
    (tmp_path / "qemu.err").write_text("")
    assert lost(racing, "QEMU ended with status 3", gone=True).message == "QEMU ended with status 3"


OOPS = b"[ 5.1] Oops: Kernel access of bad area, sig: 11 [#1]\nmore\n"


@pytest.mark.parametrize(("handshake_done", "when"), [(False, " during boot"), (True, "")])
@pytest.mark.parametrize("why", ["the agent ended", "the guest's kernel panicked", "QEMU ended with status 0"])
def test_a_kernel_that_dies_is_told_by_its_own_words_and_is_a_finding_after_the_handshake(
    racing, handshake_done, when, why
):
    error = lost(racing, why, console=OOPS, handshake_done=handshake_done, gone=True)
    assert isinstance(error, GuestLost)
    assert error.message == f"the guest's kernel died{when}: [ 5.1] Oops: Kernel access of bad area, sig: 11 [#1]"
    assert error.kernel_died is handshake_done


@pytest.mark.parametrize("handshake_done", [False, True])
def test_a_panic_that_only_qemu_told_is_a_death_as_well(racing, handshake_done):
    error = lost(racing, "the guest's kernel panicked", handshake_done=handshake_done)
    assert isinstance(error, GuestLost)
    assert error.message.endswith(": the guest's kernel panicked")
    assert error.kernel_died is handshake_done


# -- last words


def last_words(racing, why, words, *, settle=PATIENCE, panicked=False):
    async def scenario(waiter):
        waiter.panicked = panicked
        waiter.lose(why)

        def hear():
            waiter.console.feed(words, 1.0)
            waiter.activity.set()

        began = time.monotonic()
        _, error = await asyncio.gather(later(SHORT, hear), waiter.loss())
        return error, time.monotonic() - began

    return racing(scenario, settle=settle)


def test_a_lost_guest_may_still_say_why(racing):
    panic = b"Kernel panic - not syncing: Attempted to kill init!\n"
    error, took = last_words(racing, "the guest's kernel panicked", panic, panicked=True)
    assert "Attempted to kill init!" in error.message
    assert took < SOON


def test_an_agent_that_ended_has_said_its_last_words(racing):
    error, took = last_words(racing, "the agent ended", b"tcelab-init: agent exited 1\n")
    assert error.message == "the agent ended"
    assert error.scene.console == ["tcelab-init: agent exited 1"]
    assert took < SOON


def test_a_kernel_that_panics_is_heard_out_until_qemu_says_so(racing):
    """The line comes first; what else the kernel says until QEMU stops it belongs to the trace."""
    _, took = last_words(racing, "died", b"Kernel panic - not syncing: x\n", settle=SHORT * 3)
    assert SHORT * 2.8 <= took < SOON


def test_last_words_are_waited_for_no_longer_than_settle(racing):
    error, took = last_words(racing, "the agent ended", b"other words\n", settle=SHORT * 3)
    assert error.message == "the agent ended"
    assert SHORT * 2.8 <= took < SOON


def test_a_qemu_that_ends_meanwhile_ends_the_waiting_for_last_words(racing):
    async def scenario(waiter):
        waiter.lose("the agent ended")

        def end():
            waiter.gone = True
            waiter.lose("QEMU ended with status 0")

        began = time.monotonic()
        _, error = await asyncio.gather(later(SHORT, end), waiter.loss())
        return error, time.monotonic() - began

    error, took = racing(scenario, settle=PATIENCE)
    assert error.message == "the agent ended"
    assert took < SOON


def test_a_qemu_that_is_gone_says_no_more(racing):
    async def scenario(waiter):
        waiter.gone = True
        waiter.lose("the agent ended")
        return await timed(waiter.run(forever(), "perform", PATIENCE))

    assert racing(scenario, settle=PATIENCE)[1] < SOON


# -- what is told of a kernel that died, and where


class QemuLog:
    """QEMU's, as far as the end is concerned. `soon`: what it says once it is drained."""

    def __init__(self, *, checkstop="", strayed=""):
        self.checkstop = self.strayed = ""
        self.soon = checkstop, strayed

    def drain(self):
        self.checkstop, self.strayed = self.soon


PANIC = b"[ 5.2] Kernel panic - not syncing: Fatal exception\n[ 5.2] Call Trace:\n"
STOP = "Entering checkstop state: machine check with MSR[ME]=0, after: Invalid read at addr 0x10"
WHOLE = "console.log there has the whole trace"
PART = "console.log there has what the kernel said until then; its trace may have gone on"
NOTHING = "its console tells nothing of it; see qemu.log there"


def dead(racing, console, *, log=None, panicked=True, why="the guest's kernel panicked"):
    async def scenario(waiter):
        waiter.handshake_done, waiter.panicked, waiter.log = True, panicked, log
        waiter.console.feed(console, 1.0)
        waiter.lose(why)
        return (await timed(waiter.run(forever(), "perform", 5.0)))[0]

    return racing(scenario)


def test_the_whole_trace_is_promised_only_once_qemu_said_that_the_kernel_had_come_to_the_end_of_it(racing):
    assert dead(racing, OOPS + PANIC).next_step == WHOLE
    assert dead(racing, OOPS + PANIC, panicked=False, why="the guest's kernel died").next_step == PART
    assert dead(racing, OOPS, panicked=False, why="the guest's kernel died").next_step == PART


def test_no_trace_is_promised_where_the_console_has_none(racing):
    error = dead(racing, b"tcelab# ")
    assert (error.next_step, error.said) == (NOTHING, "")
    assert error.message == "the guest's kernel died: the guest's kernel panicked"


def test_a_cpu_that_stopped_for_good_is_told_by_qemus_words_and_at_once(racing):
    async def scenario(waiter):
        waiter.handshake_done = waiter.panicked = True
        waiter.log = QemuLog(checkstop=STOP)
        waiter.console.feed(b"tcelab# ", 1.0)
        waiter.lose("the guest's kernel panicked")
        return await timed(waiter.run(forever(), "perform", 5.0))

    error, took = racing(scenario, settle=5.0)
    assert error.message == f"the guest's kernel died: QEMU stopped it: {STOP}"
    assert (error.next_step, error.said, error.kernel_died) == (NOTHING, STOP, True)
    assert took < 5.0


def test_what_is_said_of_a_death_is_the_kernels_line_and_not_the_consoles_last(racing):
    error = dead(racing, OOPS + PANIC + b"tcelab# ")
    assert error.said == "[ 5.1] Oops: Kernel access of bad area, sig: 11 [#1]"
    assert error.scene.console[-1] == "tcelab# "


def test_a_guest_that_died_of_an_access_that_qemu_led_astray_says_nothing_about_its_kernel(racing):
    log = QemuLog(checkstop=STOP, strayed="Invalid read at addr 0x98, size 8, region 'edu.rom', reason: rejected")
    error = dead(racing, b"tcelab# ", log=log)
    assert isinstance(error, HarnessError)
    assert "led an access of the guest's astray" in error.message
    assert "region 'edu.rom'" in error.message


LOCKUP = b"[ 5.1] watchdog: CPU 0 self-detected hard LOCKUP @ x\n"


@pytest.mark.parametrize(
    ("line", "shares", "kind"),
    [
        (LOCKUP, (10.0, 80.0), HarnessError),
        (LOCKUP, (80.0, 10.0), GuestLost),
        (LOCKUP, (0.0, 0.0), GuestLost),
        (b"[ 5.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3.11:71]\n", (1.0, 2.0), HarnessError),
        (b"[ 5.1] rcu: INFO: rcu_sched self-detected stall on CPU\n", (1.0, 2.0), HarnessError),
        (b"[ 5.1] Kernel panic - not syncing: hung_task: blocked tasks\n", (1.0, 2.0), HarnessError),
        (OOPS, (1.0, 2.0), GuestLost),
        (b"[ 5.1] Kernel panic - not syncing: Attempted to kill init!\n", (1.0, 2.0), GuestLost),
    ],
)
def test_a_watchdog_is_believed_only_where_the_guest_was_given_its_time(racing, line, shares, kind):
    """A host that gives a guest no CPU for long looks to its kernel like a CPU that is stuck."""

    async def scenario(waiter):
        waiter.handshake_done, waiter.shares = True, lambda: shares
        waiter.console.feed(line, 1.0)
        waiter.lose("the guest's kernel died")
        return await waiter.loss()

    error = racing(scenario)
    assert type(error) is kind
    if kind is HarnessError:
        assert "on a host that is too busy to judge it" in error.message
        assert f"waited {shares[1]:.1f} s" in error.message


def test_a_trace_is_heard_out_for_as_long_as_it_goes_on(racing):
    """Longer than its silence may last: each line is progress."""

    async def scenario(waiter):
        waiter.lose("the guest's kernel died")

        async def speak():
            waiter.console.feed(OOPS, 1.0)
            for _ in range(6):
                await asyncio.sleep(SHORT)
                waiter.console.feed(b"[ 5.1] [c0] more of the trace\n", 1.0)
            waiter.panicked = True
            waiter.console.feed(PANIC, 1.0)

        _, error = await asyncio.gather(speak(), waiter.loss())
        return error

    assert racing(scenario, settle=SHORT * 3).next_step == WHOLE


def test_a_kernel_that_goes_on_for_ever_is_heard_out_for_no_longer_than_whole_settle(racing, tmp_path):
    async def scenario(waiter):
        waiter.limits = Limits(settle=5.0, whole_settle=SHORT * 3)
        waiter.lose("the guest's kernel died")

        async def speak():
            while True:
                await asyncio.sleep(SHORT / 4)
                waiter.console.feed(OOPS, 1.0)
                waiter.activity.set()

        speaking = asyncio.ensure_future(speak())
        error, took = await timed(fails_with(waiter.loss()))
        speaking.cancel()
        return error, took

    error, took = racing(scenario)
    assert error.next_step == PART
    assert SHORT * 2.8 <= took < 2.0


async def fails_with(loss):
    raise await loss


def test_what_lies_in_the_console_unread_is_heard(racing):
    """Its reader may have lent it, or not have had its turn."""

    async def scenario(waiter):
        async def listen():
            waiter.console.feed(PANIC, 1.0)

        waiter.listen, waiter.panicked = listen, True
        waiter.lose("the guest's kernel panicked")
        return await waiter.loss()

    error = racing(scenario)
    assert "Fatal exception" in error.message
    assert error.next_step == WHOLE


# -- errors of the work


async def broken(error):
    raise error


def test_an_error_of_the_work_gets_its_scene(racing, tmp_path):
    async def scenario(waiter):
        waiter.console.feed(b"one\ntwo\n", 1.0)

        async def work():
            await asyncio.sleep(SHORT)
            raise HarnessError("malformed frame", next_step="rebuild")

        return (await timed(waiter.run(work(), "perform", PATIENCE)))[0]

    error = racing(scenario)
    assert (error.message, error.next_step) == ("malformed frame", "rebuild")
    assert error.scene.phase == "perform"
    assert SHORT * 0.9 <= error.scene.elapsed < SOON
    assert error.scene.console == ["one", "two"]
    assert error.scene.artefacts == tmp_path


def test_an_error_of_the_work_does_not_wait_for_a_loss(racing):
    _, took = racing(lambda waiter: timed(waiter.run(broken(HarnessError("no")), "perform", PATIENCE)), settle=PATIENCE)
    assert took < SOON


def test_an_error_of_the_work_that_knows_its_scene_keeps_it(racing):
    own = Scene("boot", 3.0)
    error, _ = racing(lambda waiter: timed(waiter.run(broken(HarnessError("no", scene=own)), "perform", PATIENCE)))
    assert error.scene is own


def test_an_error_of_the_work_of_a_guest_that_is_lost_is_the_loss(racing):
    async def scenario(waiter):
        async def work():
            waiter.gone = True
            waiter.lose("the agent ended")
            raise HarnessError("malformed frame")

        return (await timed(waiter.run(work(), "perform", PATIENCE)))[0]

    assert racing(scenario).message == "the agent ended"


@pytest.mark.parametrize("kind", [ConnectionResetError, EOFError, QMPError, OSError])
def test_a_broken_connection_waits_for_the_loss_that_broke_it(racing, tmp_path, kind):
    (tmp_path / "qemu.err").write_text("cannot allocate memory\n")

    async def scenario(waiter):
        def die():
            waiter.gone = True
            waiter.lose("QEMU was killed by SIGKILL")

        asyncio.get_running_loop().call_later(SHORT, die)
        return await timed(waiter.run(broken(kind("gone")), "control", PATIENCE))

    error, took = racing(scenario, settle=PATIENCE)
    assert error.message == "QEMU was killed by SIGKILL: cannot allocate memory"
    assert took < SOON


def test_a_broken_connection_without_a_loss_is_said(racing):
    error, took = racing(lambda waiter: timed(waiter.run(broken(EOFError("closed")), "control", PATIENCE)))
    assert isinstance(error, HarnessError)
    assert error.message == "the connection to QEMU broke: closed"
    assert error.scene.phase == "control"
    assert SHORT * 0.9 <= took < SOON


def test_an_error_that_is_a_defect_of_ours_is_left_as_it_is(racing):
    async def scenario(waiter):
        with pytest.raises(KeyError):
            await waiter.run(broken(KeyError("x")), "control", PATIENCE)

    racing(scenario)


def test_now_is_the_phase_that_was_begun_last(racing, tmp_path):
    async def scenario(waiter):
        first = waiter.now()
        await waiter.run(asyncio.sleep(SHORT), "boot", PATIENCE)
        return first, waiter.now(), waiter.elapsed()

    first, now, elapsed = racing(scenario)
    assert (first.phase, now.phase, now.artefacts) == ("launch", "boot", tmp_path)
    assert SHORT * 0.9 <= now.elapsed <= elapsed < SOON

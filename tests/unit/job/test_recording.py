"""What cannot be recorded is a reason, and the machine stays what it was."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from codes import BLR, code

from tcelab.coverage.cover import NOTHING, Places
from tcelab.coverage.recorder import Function, Target
from tcelab.errors import GuestLost, HarnessError, Interrupted, Unsupported, UsageError
from tcelab.job import recording as module
from tcelab.job.recording import CoverageChoice, Recording, onto
from tcelab.job.setup import PreparedMachine
from tcelab.program.topology import topology
from tcelab.qemu.limits import Limits
from tcelab.qemu.machine import QemuOptions
from tcelab.qemu.probe import Qemu


@pytest.fixture
def ready(tmp_path, monkeypatch):
    monkeypatch.setenv("TCELAB_CACHE", str(tmp_path / "cache"))
    for name in ("vmlinux", "initrd"):
        (tmp_path / name).write_bytes(name.encode())
    options = QemuOptions(tmp_path / "vmlinux", tmp_path / "initrd", topology("one-pe"))
    return PreparedMachine(Qemu("qemu", ("qemu",)), options, "", {})


@pytest.fixture
def works(monkeypatch):
    """Plugin and kernel as they should be; how often a guest was asked for its symbols."""
    asked = []
    monkeypatch.setattr(module, "plugin", lambda _: Path("/p.so"))

    @contextmanager
    def opened(_qemu, options, _folder, *, digest, limits):
        assert options.cover is NOTHING
        asked.append(digest)
        yield SimpleNamespace(places=lambda modules, *, symbols: Places({}, 0, "symbols"))

    def kernel(_kernel, _initrd, symbols):
        assert symbols == "symbols"
        target = Target("file.c", "", [Function("f", 0xC000000000001000, code([BLR]), {})])
        return SimpleNamespace(targets=lambda chosen: ([target], [f"no {each}" for each in chosen]), start=1 << 63)

    monkeypatch.setattr(module, "opened", opened)
    monkeypatch.setattr(module, "KernelCode", kernel)
    return asked


def fails(error):
    def raises(*_args, **_more):
        raise error

    return raises


def test_a_machine_is_recorded_and_its_symbols_are_asked_for_once(ready, works):
    for _ in range(2):
        one = Recording()
        machine = one.onto(ready)
        assert machine.options.cover.option(("qemu",), 5) == ("-plugin", "/p.so,fd=5")
        assert one.onto(ready).options.cover is machine.options.cover
    assert len(works) == 1
    assert one.result().units[0].blocks == 1


def test_another_kernel_is_asked_anew(ready, works, tmp_path):
    one = Recording()
    first = one.onto(ready)
    (tmp_path / "vmlinux").write_bytes(b"another")
    assert one.onto(ready).options.cover is not first.options.cover
    assert len(works) == 2


def test_what_a_kernel_lacks_is_a_reason(ready, works):
    one = Recording(("x",))
    one.onto(ready)
    assert one.result().missing == ["no x"]


@pytest.mark.parametrize(
    "error", [Unsupported("no C compiler"), HarnessError("no answer"), GuestLost("the guest is gone")]
)
@pytest.mark.parametrize("place", ["plugin", "opened"])
def test_whatever_fails_is_a_reason_and_the_machine_stays_as_it_was(ready, works, monkeypatch, error, place):
    monkeypatch.setattr(module, place, fails(error))
    one = Recording()
    assert one.onto(ready) is ready
    assert one.result().missing == [error.message]


@pytest.mark.parametrize("error", [UsageError("no such function"), Interrupted()])
def test_a_wrong_name_and_an_interrupt_end_the_command(ready, works, monkeypatch, error):
    monkeypatch.setattr(module, "opened", fails(error))
    with pytest.raises(type(error)):
        Recording().onto(ready)


def test_another_qemu_that_takes_no_plugin_is_a_reason_of_its_own(ready, works, monkeypatch):
    def plugin(qemu):
        if qemu.name == "old":
            raise Unsupported("old loads no plugin")
        return Path("/p.so")

    monkeypatch.setattr(module, "plugin", plugin)

    options = msgspec.structs.replace(ready.options, others={"old": (Qemu("old", ("old",)), None)})
    one = Recording()
    machine = one.onto(msgspec.structs.replace(ready, options=options))
    assert machine.options.cover.option(("old",), 5) == ()
    assert machine.options.cover.option(("qemu",), 5) != ()
    assert one.result().missing == ["old loads no plugin"]


def test_nothing_is_recorded_unless_it_is_wanted(ready):
    assert Recording.of(None, Limits()) is None
    assert onto(None, ready) is ready
    assert Recording.of(CoverageChoice(of=("vfio",)), Limits()) is not None

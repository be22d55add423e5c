"""Guests inside guests are opened one at a time, and nobody waits for one that is gone."""

import threading
from types import SimpleNamespace

import pytest

from tcelab.errors import HarnessError, Interrupted
from tcelab.job import nested
from tcelab.job.setup import MachineChoice
from tcelab.program.topology import PASSTHROUGH

SOON = 0.05


class Session:
    """Told how it may begin; closes as a session does, perhaps more than once."""

    fails = False

    def __init__(self, _qemu, _options, folder, *, on_spawn, on_close, **_):
        self.guest, self.folder, self.on_close = object(), folder, on_close
        on_spawn(self.guest)
        if Session.fails:
            raise HarnessError("no guest")

    def close(self):
        self.on_close()
        self.on_close()


@pytest.fixture
def platform(monkeypatch):
    monkeypatch.setattr(
        nested.setup,
        "prepare",
        lambda choice: SimpleNamespace(qemu=None, options=choice, digest="", provenance={"image": choice.image}),
    )
    monkeypatch.setattr(nested, "PassthroughSession", Session)
    monkeypatch.setattr(Session, "fails", False)
    return nested.PassthroughPlatform(MachineChoice(topology=PASSTHROUGH))


def beside(work):
    """Begin it in a thread of its own: (the thread, its results)."""
    out = []

    def run():
        try:
            out.append(work())
        except (HarnessError, Interrupted) as error:
            out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, out


def test_a_second_guest_is_booted_once_the_first_is_closed(platform, tmp_path):
    first = platform.open(tmp_path)
    thread, out = beside(lambda: platform.open(tmp_path))
    thread.join(SOON)
    assert out == []
    first.close()
    thread.join(30)
    assert out[0].folder == tmp_path
    third, more = beside(lambda: platform.open(tmp_path))
    third.join(SOON)
    assert more == [], "closing twice makes room for one, not for two"
    out[0].close()
    third.join(30)
    more[0].close()


def test_one_that_does_not_come_up_makes_room_for_the_next(platform, tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "fails", True)
    with pytest.raises(HarnessError, match="no guest"):
        platform.open(tmp_path)
    monkeypatch.setattr(Session, "fails", False)
    thread, out = beside(lambda: platform.open(tmp_path))
    thread.join(5)
    platform.close()
    thread.join(30)
    assert isinstance(out[0], Session)


def test_who_waits_is_let_go_when_all_is_closed(platform, tmp_path):
    first = platform.open(tmp_path)
    thread, out = beside(lambda: platform.open(tmp_path))
    platform.close()
    thread.join(30)
    assert isinstance(out[0], Interrupted)
    first.close()
    with pytest.raises(HarnessError, match="closed: no guest can be had"):
        platform.open(tmp_path)


def test_where_its_parts_came_from_is_told(platform):
    assert platform.provenance == {"image": "passthrough"}

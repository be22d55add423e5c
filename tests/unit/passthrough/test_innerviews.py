"""Tables of PEs that are passed through are told in L2's addresses, in each view; those of L1's own PEs stay."""

import zlib
from binascii import b2a_base64

import numpy as np
import pytest
from fake_guest import FakeGuest, FakeMemory, section

from tcelab.papr import window
from tcelab.passthrough.chain import FOREIGN, Chain
from tcelab.passthrough.innerviews import InnerViews
from tcelab.program import Checkpoint
from tcelab.program.topology import CHANNEL_PHB, PASSTHROUGH
from tcelab.qemu import hostviews
from tcelab.qemu.views.stream import MAGIC

(PE,) = PASSTHROUGH.phbs
OWN = window.liobn(CHANNEL_PHB)
"""Of L1's own PE."""
WORDS = [0x90003, 0x2001]
"""Of L2's second page, and of none of its pages."""


@pytest.fixture
def views(tmp_path, monkeypatch):
    guest = FakeGuest(tmp_path)
    memory = FakeMemory(guest)
    monkeypatch.setattr(hostviews, "LiveMemory", memory)
    guest.log.tables.at = {PE.liobn: 0x1000, PE.liobn | 1: 0x2000, OWN: 0x3000}
    shape = window.Shape(len(WORDS))
    guest.log.tables.shapes.update(dict.fromkeys(guest.log.tables.at, shape))
    memory.held = {at: dict(enumerate(WORDS)) for at in guest.log.tables.at.values()}
    guest.ram.fd = -1
    guest.saved = MAGIC + b"".join(section(liobn, WORDS) for liobn in guest.log.tables.at)
    frames = b2a_base64(zlib.compress(np.array([0x70, 0x90], "<u8").tobytes())).decode()
    return InnerViews(guest, PASSTHROUGH, Chain(frames, 4096, 2 * 4096), lambda: ("L2: a warning",))


def test_each_view_tells_of_l2_alone_in_its_addresses(views):
    snapshot = views.snapshot(Checkpoint(stream=True), [], {})
    told = {(table.view, table.liobn): table.tce.tolist() for table in snapshot.tables}
    of_l2 = [0x1003, 0x2001 | FOREIGN]
    for view in ("live", "stream"):
        assert told[view, PE.liobn] == told[view, PE.liobn | 1] == of_l2
        assert told[view, OWN] == WORDS
    assert snapshot.missing == {}
    assert snapshot.console == ("L2: a warning",)

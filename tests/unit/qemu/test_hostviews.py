"""Which memory is read behind the entries of a table."""

import numpy as np

from tcelab.papr import window
from tcelab.qemu.hostviews import _told
from tcelab.run.record import TableView


def table(entries, start=window.SECOND_START):
    index = np.arange(entries, dtype=np.uint32)
    words = index.astype(np.uint64) << np.uint64(12) | np.uint64(3)
    return TableView(0x80000101, "live", entries, index, words, 12, start)


def test_of_a_window_of_all_ram_only_what_does_not_fit_is_read():
    whole = table(1 << 13)
    assert len(_told(whole)) == 0
    whole.tce[[5, 9]] = 0x7000003
    assert list(_told(whole)) == [0x7000003] * 2


def test_all_of_any_other_window_is_read():
    for other in (table(4096), table(1 << 13, start=0)):
        assert len(_told(other)) == len(other.tce)
    mixed = table(1 << 13)
    mixed.tce[::4] += np.uint64(1 << 40)
    assert len(_told(mixed)) == 1 << 13

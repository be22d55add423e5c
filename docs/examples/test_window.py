"""Copy this and run it with `pytest`: every test gets a guest of its own."""

import pytest

from tcelab.papr import tce


def test_a_mapped_page_is_in_the_table_and_nothing_else_is(pseries, container, tce_table):
    buffer = pseries.buffer(pages=8)
    container.map(buffer, iova=0x10000, pages=4)
    assert tce_table() == {0x10000 + i * 4096: buffer.tce(i) for i in range(4)}


def test_a_map_that_begins_beyond_the_window_is_refused(pe, pseries, container, tce_table):
    container.map(pseries.buffer(pages=1), iova=pe.window_size, expect="ENXIO")
    assert tce_table() == {}


def test_the_device_reads_what_was_mapped_for_reading(pseries, container):
    container.map(pseries.buffer(pages=1), iova=0, permissions=tce.READ)
    assert container.dma(0, 512, to_memory=False).passed


def test_the_device_cannot_write_what_was_mapped_for_reading(pseries, container):
    container.map(pseries.buffer(pages=1), iova=0, permissions=tce.READ)
    outcome = container.dma(0, 512, to_memory=True, expect="refused")
    assert outcome.refused


@pytest.mark.tcelab(topology="two-pe", needs="edu")
def test_what_one_pe_maps_does_not_show_in_the_other(pseries, container, tce_table):
    container.map(pseries.buffer(pages=32), iova=0, pages=32)
    assert len(tce_table()) == 32
    assert tce_table(pseries.pe("pe2")) == {}

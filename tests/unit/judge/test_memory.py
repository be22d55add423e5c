"""What the judge knows of a buffer's bytes."""

from tcelab.judge.models.memorymodel import BufferModel, PageModel


def test_bytes_are_read_over_page_boundaries_as_they_were_written():
    buffer = BufferModel("m", 0, [PageModel() for _ in range(3)])
    data = bytes(range(1, 251)) * 20
    buffer.write(100, data, 1)
    assert buffer.read(100, len(data)) == data
    assert buffer.read(90, 20) == bytes(10) + data[:10]
    assert buffer.read(3 * 4096 - 8, 16) is None, "what lies behind it"

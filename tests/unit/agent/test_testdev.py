"""The agent's driver of an iommu-testdev: what it asks of the registers, and what it makes of their answers."""

import pytest

from tceagent import testdev
from tceagent.errors import RefusedError


class Registers:
    """They remember what was written, and give one result."""

    def __init__(self, result):
        self.result, self.asked = result, []

    def write32(self, offset, value):
        self.asked.append((offset, testdev.swap(value)))

    def read32(self, offset):
        self.asked.append((offset, None))
        return testdev.swap(self.result if offset == testdev.RESULT else 0)


@pytest.mark.parametrize(("result", "refused"), [(0, False), (testdev.MISMATCH, False), (testdev.REFUSED, True)])
def test_a_write_is_four_bytes_at_a_time_and_armed_before_it_is_triggered(result, refused):
    registers = Registers(result)
    assert testdev.write(registers, 0x800000012345678, 77) is refused
    assert registers.asked == [(4, 0x12345678), (8, 0x8000000), (12, 77), (0x14, 1), (0, None), (0x10, None)]


@pytest.mark.parametrize("result", [0xFFFFFFFF, 0xFFFFFFFE, 0xDEAD0001, 0xDEAD0005])
def test_what_is_neither_written_nor_refused_is_an_error(result):
    with pytest.raises(RefusedError, match="EIO"):
        testdev.write(Registers(result), 0, 4)


@pytest.mark.parametrize("size", [0, -1, testdev.LONGEST + 1])
def test_a_size_that_is_none_is_refused_before_the_device_is_touched(size):
    registers = Registers(0)
    with pytest.raises(ValueError, match="an iommu-testdev writes 1"):
        testdev.write(registers, 0, size)
    assert registers.asked == []


def test_the_pattern_is_little_endian():
    assert testdev.pattern(6) == bytes.fromhex("785634127856")

"""Which doorbells can be rung."""

import pytest
from msgspec.structs import replace
from rung import bell, program

from tcelab.errors import UsageError
from tcelab.program.validate import validate

LAST = (1 << 64) - 1


@pytest.mark.parametrize(
    "ring",
    [
        bell(LAST, 1),
        bell(size=1 << 20, count=200, stride=4096),
        bell(size=1, count=32768, stride=LAST),
        bell(pattern=LAST),
        bell(LAST - 7, 8, count=2, stride=4096),
    ],
)
def test_any_length_address_and_stride_is_allowed(ring):
    validate(program(ring))


@pytest.mark.parametrize(
    ("ring", "problem"),
    [
        (bell(size=0), "a transfer of 0 bytes"),
        (bell(size=(1 << 20) + 1), "a transfer of 1048577 bytes; a doorbell does 1..1048576"),
        (bell(count=0), "0 transfers of 8 bytes"),
        (bell(count=32769), "32769 transfers of 8 bytes; a doorbell does at least 1, in 65536 pages at most"),
        (bell(size=1 << 20, count=256), "256 transfers of 1048576 bytes"),
        (bell(LAST, 2), "2 bytes at 0xffffffffffffffff end beyond all bus addresses"),
        (bell(LAST - 15, 16, count=2, stride=1), "end beyond all bus addresses"),
        (bell(1 << 64), "iova 0x10000000000000000: a word has 64 bits"),
        (bell(-1), "iova -0x1: a word has 64 bits"),
        (bell(stride=-8), "stride -0x8: a word has 64 bits"),
        (bell(pattern=1 << 64), "pattern 0x10000000000000000"),
        (replace(bell(), file="x"), "no file 'x' was opened before"),
    ],
)
def test_what_no_probe_can_do_is_wrong_usage(ring, problem):
    with pytest.raises(UsageError, match=problem):
        validate(program(ring))

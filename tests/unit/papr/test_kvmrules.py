"""KVM's answers to TCE hypercalls, and what comes of them in the table beneath: rows measured on Linux 6.12.95 under
QEMU 10.0.2, and typed from arch/powerpc/kvm/book3s_64_vio.c.
"""

import pytest

from tcelab.papr.hcallnumbers import H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE
from tcelab.papr.kvmrules import KvmHypercalls
from tcelab.papr.tcetable import Table

LIOBN, AT, ENTRIES = 0x80000100, 0x3000, 16
RAM = 1 << 20
OUT = 0x7000000000
OLD = 0x5003
"""What entry 3 holds before each row."""

ROWS = [
    # name, opcode, (IOBA, words...), status, beneath at 3.., read back at 3
    ("a page", H_PUT_TCE, (AT, 0x8003), 0, [0x8003], 0x8003),
    ("write only", H_PUT_TCE, (AT, 0x8002), 0, [0x8002], 0x8002),
    ("zero", H_PUT_TCE, (AT, 0), 0, [0], 0),
    ("a page outside RAM leaves what is beneath", H_PUT_TCE, (AT, OUT | 3), 0, [OLD], OUT | 3),
    ("reserved bits and write only: read and write beneath", H_PUT_TCE, (AT, 0x8802), 0, [0x8003], 0x8802),
    ("reserved bits and read only", H_PUT_TCE, (AT, 0x8801), 0, [0x8001], 0x8801),
    ("no permissions", H_PUT_TCE, (AT, 0x8000), 0, [0], 0x8000),
    ("all ones", H_PUT_TCE, (AT, (1 << 64) - 1), 0, [OLD], (1 << 64) - 1),
    ("misaligned", H_PUT_TCE, (AT + 1, 0x8003), -4, [OLD], OLD),
    ("behind the window", H_PUT_TCE, (ENTRIES << 12, 0x8003), -4, [OLD], OLD),
    ("stuff", H_STUFF_TCE, (AT, 0, 2), 0, [0, 0], 0),
    ("stuff with permissions", H_STUFF_TCE, (AT, 0x8003, 2), -4, [OLD], OLD),
    ("stuff with permissions and no pages", H_STUFF_TCE, (AT, 0x8003, 0), -4, [OLD], OLD),
    ("stuff of no pages", H_STUFF_TCE, (AT, 0, 0), 0, [OLD], OLD),
    ("stuff of an address", H_STUFF_TCE, (AT, 0x8000, 2), 0, [0, 0], 0x8000),
    ("a list", H_PUT_TCE_INDIRECT, (AT, [0x8003, 0x9001]), 0, [0x8003, 0x9001], 0x8003),
    ("an empty list", H_PUT_TCE_INDIRECT, (AT, []), 0, [OLD], OLD),
    (
        "a list of which one is outside RAM: all go to QEMU",
        H_PUT_TCE_INDIRECT,
        (AT, [0x8002, OUT | 3, 0x9000]),
        0,
        [0x8003, 0, 0],
        0x8002,
    ),
    ("a list with a bare page", H_PUT_TCE_INDIRECT, (AT, [0x8000, 0x9003]), 0, [0x8000, 0x9003], 0x8000),
    ("a list of reserved bits", H_PUT_TCE_INDIRECT, (AT, [0x8FFC, 0]), 0, [0x8FFC, 0], 0x8FFC),
    (
        "a list with a bare address outside RAM: what is before it stays",
        H_PUT_TCE_INDIRECT,
        (AT, [0x8003, OUT, 0x9003]),
        -4,
        [0x8003, 0, 0],
        0x8003,
    ),
]


def calls(words=()):
    table, copies = Table(LIOBN, ENTRIES), {}
    table.put(3, OLD)
    content = b"".join(word.to_bytes(8, "big") for word in words)
    made = KvmHypercalls(
        {LIOBN: table}, lambda _, size: content.ljust(size, b"\0")[:size], own=lambda at: at < RAM, copies=copies
    )
    return table, made


@pytest.mark.parametrize(
    ("opcode", "args", "status", "beneath", "back"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_row(opcode, args, status, beneath, back):
    ioba, *rest = args
    words = rest[0] if opcode == H_PUT_TCE_INDIRECT else ()
    if opcode == H_PUT_TCE_INDIRECT:
        rest = [0, len(words)]
    table, made = calls(words)
    registers = (LIOBN, ioba, *rest, 0)
    assert made.call(opcode, registers)[0] == status
    assert [table.get(3 + number) for number in range(len(beneath))] == beneath
    assert made.call(H_GET_TCE, (LIOBN, AT)) == (0, (back, AT))


@pytest.mark.parametrize("liobn", [0x80000700, 1 << 32 | LIOBN])
def test_a_liobn_that_nobody_knows_is_qemus_to_refuse(liobn):
    _, made = calls()
    assert made.call(H_PUT_TCE, (liobn, AT, 0x8003))[0] == -4
    assert made.call(H_GET_TCE, (liobn, AT))[0] == -4


def test_a_list_too_long_or_within_a_page_is_refused_before_anything_is_entered():
    table, made = calls([0x8003])
    assert made.call(H_PUT_TCE_INDIRECT, (LIOBN, AT, 0, 513))[0] == -4
    assert made.call(H_PUT_TCE_INDIRECT, (LIOBN, AT, 8, 1))[0] == -4
    assert table.get(3) == OLD


def test_what_a_driver_enters_later_is_read_as_it_is():
    table, made = calls()
    made.call(H_PUT_TCE, (LIOBN, AT, OUT | 3))
    table.put(3, 0xA003)
    assert made.call(H_GET_TCE, (LIOBN, AT))[1][0] == 0xA003

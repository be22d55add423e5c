r"""The message of a finding without what the next night changes: the kind of difference that it tells.

Seeds, machines, addresses and topologies leave no trace, nor do the program's own names (of buffers, processes,
devices). What stays: the law's words, errnos, statuses, permissions, registers, functions of the kernel.

A rule that is changed here makes known findings new ones. The tests hold the key of a message of each kind.
"""

from __future__ import annotations

import re
from typing import Final

from tcelab.program.topology import TOPOLOGIES

_PERMISSIONS: Final = r"(?<![\w-])(read-write|read|write|none)"
_OTHER: Final = "(?:emulator|reference)"
_FUNCTION: Final = r"\b(\w+)(?:\.\w+)*\+0x[0-9a-f]+"
_BYTES: Final = r"0x[0-9a-f]+ \(page 0x[0-9a-f]+, "

_RULES: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]", ""),
        (r"^\s+|\s+$", ""),
        (r"\s+", " "),
        # Which of several runs.
        (rf"^(?:{'|'.join(map(re.escape, TOPOLOGIES))}): ", ""),
        # What helps a reader, and is another tomorrow.
        (r"; (?:the declared quirk \S+ does not show here|known and not declared: [\w, -]+)", ""),
        (r"; and \d+ more like it$", ""),
        (r" \(stored by: .*\)$", ""),
        (r"^the kernel said, (?:before|between) step [\w ]+(?=: )", "the kernel said"),
        (r"^the kernel died during (?:#\d+ \{.*\}|an operation that is not known)(?=: )", "the kernel died"),
        # A warning of the kernel in both of its forms (tcelab.judge.models.consolelines), and one of the emulator's.
        (
            rf"\bWARNING: (?:(?:(?!WARNING: ).)*?{_FUNCTION}|at (\w+):).*?(?=; WARNING: |, {_OTHER} says |$)",
            r"WARNING in \1\2",
        ),
        # Memory and disks: which bytes is the seed's choice.
        (r"(?<=: the entry leads to ).*", "a page that holds something else"),
        (r"^buffer .*, which no entry leads to, must hold .*", "a page that no entry leads to holds something else"),
        (r"^buffer \S+ page \d+ holds .*, (emulator|reference) has .*", r"a page holds something else than on the \1"),
        (r"^the disk of \S+ must hold .*", "a disk holds something else"),
        (r"^the disk of \S+ holds .*, (emulator|reference) has .*", r"a disk holds something else than on the \1"),
        # Entries.
        (
            rf"(?<=: an entry has the wrong permissions); expected .*?{_PERMISSIONS}\b.*, seen .*?{_PERMISSIONS}\).*",
            r": \2 in place of \1",
        ),
        (r"(: (?:an entry|there is an entry) [^;]*); expected .*", r"\1"),
        (r": live memory shows .*(?=; the operations agree)", ": live memory and the state stream differ"),
        (rf": {_BYTES}[\w-]+\) (?=stayed)", ": an entry "),
        (rf"{_BYTES}{_PERMISSIONS}\)|(?<![\w-])[\w-]+:\d+ \({_PERMISSIONS}\)", r"a TCE (\1\2)"),
        (r"\b0 \(empty\)", "empty"),
        # Where one of the two is empty, permissions are the program's choice.
        (r"(?<=: the entry is )(empty, \w+ has a TCE|a TCE(?= \(\S+, \w+ has empty)) \([\w-]+\)", r"\1"),
        (r"\d+ entries from there on were stored while they stood", "an entry was stored while it stood"),
        # Transfers: one or several, of an edu or of a disk.
        (r"\((?:together|burst|engine)\)(?=: | gave )", "(dma)"),
        (r": each transfer was ", ": the transfer was "),
        (r"(?<=its table lets it through) at IOBA \S+", ""),
        (r"\((?:all|\d+ of \d+ pieces) (passed|refused)\)", r"(\1)"),
        # Names that the program or the topology chose.
        (r"^VmLck of process \S+(?=: )", "VmLck"),
        (r"\b(?:pe|disk|net)\d+[a-z]?\b", "a device"),
        # Numbers without a sign of it.
        (r"\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b", "N"),
        (r" after \d+ calls?\b", ""),
    )
)
_NUMBER: Final = re.compile(
    r"((?:\b(?:value|status|gave|expected) )?)(?<!\w)(?<!\w\.)"
    r"(-?(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?)s?)(?![A-Za-z_])( [A-Za-z])?"
)
_STATUS: Final = re.compile(r"0|-\d+")
_SEVERAL: Final = (
    (re.compile(r"#?N(?:(?:, |\.\.)N)+(?:, \.\.\.)?"), "N"),
    (re.compile(r"\bN (byte|page|table)s?\b"), r"N \1s"),
    (re.compile(r"\bN entry\b"), "N entries"),
    # Of a counter, 0 is a number like any other.
    (re.compile(r"\bvalue (?:0(, \w+ gives value )N|N(, \w+ gives value )0)(?=$|,)"), r"value N\1\2N"),
)


def difference(message: str, *, counts: bool = False) -> str:
    """The kind of difference.

    :param counts: the numbers are counts: none of them is a status.
    """
    for pattern, text in _RULES:
        message = pattern.sub(text, message)

    def number(found: re.Match[str]) -> str:
        context, digits, unit = found[1], found[2], found[3] or ""
        status = context and not counts and not unit and _STATUS.fullmatch(digits)
        return f"{context}{digits if status else 'N'}{unit}"

    message = _NUMBER.sub(number, message)
    for pattern, text in _SEVERAL:
        message = pattern.sub(text, message)
    return message

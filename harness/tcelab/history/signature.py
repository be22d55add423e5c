"""What makes two findings the same one, on another night, seed or machine: no number of either is part of it."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

from tcelab.judge import Finding

_NUMBER: Final = re.compile(r"(?<![\w.])#?-?(0x[0-9a-fA-F]+|\d+)(?![\w.])")
_ERRNO: Final = re.compile(r"\b(E[A-Z0-9]{2,}|H_[A-Z_]+)\b")
_OPERATION: Final = re.compile(r"#\d+ (\{.*\})", re.DOTALL)


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a finding that stay the same wherever the defect shows.

    :ivar law: name of the broken law.
    :ivar operation: kind of the operation that concerned the entry, with its request or hypercall, e.g.
        `ioctl MAP_DMA`; empty if none is known.
    :ivar errno: errnos and hypercall statuses of what was expected and seen, e.g. `EINVAL, H_PARAMETER`.
    :ivar difference: the message without its numbers.
    """

    law: str
    operation: str
    errno: str
    difference: str

    def key(self) -> str:
        """16 hex digits: equal for equal signatures, today and in later versions."""
        text = "\n".join(msgspec.structs.astuple(self))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def signature(finding: Finding) -> Signature:
    """The signature of a finding."""
    named = _ERRNO.findall(f"{finding.expected} {finding.seen}")
    return Signature(
        law=finding.law,
        operation=_kind(finding.operation),
        errno=", ".join(dict.fromkeys(named)),
        difference=_NUMBER.sub("N", finding.message),
    )


def _kind(operation: str) -> str:
    """The kind of the operation in `#12 {json}`, and what it asks for."""
    found = _OPERATION.match(operation)
    if found is None:
        return ""
    try:
        fields: dict[str, Any] = msgspec.json.decode(found[1])
    except msgspec.DecodeError:
        return ""
    return " ".join(str(fields[name]) for name in ("op", "request", "name", "service") if name in fields)

"""What makes two findings the same one, on another night, seed, machine or topology.

The name of a quirk is no part of it: a defect stays the same one when a later tcelab knows it by a name, or when an
image's recipe declares it.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tcelab.history.wording import difference
from tcelab.judge import Finding

_NAME: Final = re.compile(r"\b(E[A-Z0-9]{2,}|H_[A-Z0-9_]+)\b")
_ERRNOS: Final = frozenset(errno.errorcode.values())
_OPERATION: Final = re.compile(r"#\d+ (\{.*\})", re.DOTALL)
_TRANSFERS: Final = frozenset({"dma", "together", "burst", "doorbell", "engine"})
"""One idea: a device accesses memory. Which operation does it is the topology's choice."""
_ASKED: Final = frozenset({"outcome", "hypercalls", "isolation", "difference"})
"""Laws that judge the operation itself, whatever it is."""
_INNOCENT: Final = frozenset({"buffer", "checkpoint", "fill", "frames", "look", "protect", "put", "read", "tag"})
"""They change no table and have no device move: another law that names one names whatever came last."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a finding that stay the same wherever the defect shows.

    :ivar law: name of the broken law.
    :ivar operation: kind of the operation that concerned the entry, with its request or hypercall, e.g.
        `ioctl MAP_DMA`; of a leak check, whose driver it is; empty if none is known, or if it is a guess.
    :ivar errno: errnos and hypercall statuses of what was expected and seen, e.g. `EINVAL, H_PARAMETER`.
    :ivar difference: the message without its numbers and names.
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
    operation = _kind(finding.operation)
    word = operation.partition(" ")[0]
    told = difference(finding.message, counts=word == "read")
    guessed = "; it came " in finding.message or (finding.law not in _ASKED and word in _INNOCENT)
    device = re.sub(r"\d", "", getattr(finding, "device", ""))
    return Signature(
        law=finding.law,
        operation=f"driver of {device}" if device else "" if guessed else operation,
        errno=", ".join(dict.fromkeys(_names(f"{finding.expected} {finding.seen}"))),
        difference=told,
    )


def _names(text: str) -> Iterable[str]:
    return (name for name in _NAME.findall(text) if name.startswith("H_") or name in _ERRNOS)


def _kind(operation: str) -> str:
    """The kind of the operation in `#12 {json}`, and what it asks for."""
    found = _OPERATION.match(operation)
    if found is None:
        return ""
    try:
        fields: dict[str, Any] = msgspec.json.decode(found[1])
    except msgspec.DecodeError:
        return ""
    kind = str(fields.get("op", ""))
    if kind in _TRANSFERS:
        return "dma"
    return " ".join([kind, *_asked(kind, fields)])


def _asked(kind: str, fields: dict[str, Any]) -> Iterable[str]:
    match kind, fields:
        case "hcall", {"call": {"opcode": opcode}}:
            return [_word(opcode)]
        case "hcallbatch", {"calls": [{"opcode": opcode}, *_]}:
            return [_word(opcode)]
        case "repeat", {"ops": [*calls]}:
            requests = [_word(each["request"]) for each in calls if isinstance(each, dict) and "request" in each]
            return dict.fromkeys(requests)
        case "rtas", {"call": str() as call}:
            return [call, str(fields.get("option", 0))]
    return [_word(fields[name]) for name in ("request", "call", "what", "program") if name in fields]


def _word(value: object) -> str:
    return value if isinstance(value, str) else "N"

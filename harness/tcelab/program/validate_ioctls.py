"""The part of `tcelab.program.validate` about ioctl requests and their structs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tceagent import uapi
from tcelab.program import hazards
from tcelab.program.guestop import Page, Word

_REQUEST: Final = 32
"""Bits of an ioctl's number, as the agent's calls take it."""
_ANY_ADDRESS: Final = 1 << 46
"""A possible address of a buffer, to see whether addresses fit a field."""


def request(request: str | int) -> str:
    """Why there is no such request; empty if there may be."""
    if isinstance(request, str):
        known = request in uapi.NUMBERS
        return "" if known else f"no request {request!r}; there are: {', '.join(uapi.NUMBERS)}"
    return "" if 0 <= request < 1 << _REQUEST else f"a request has {_REQUEST} bits, and {request} has not"


def struct(layout: uapi.Layout, fields: Mapping[str, Word]) -> str:
    """Why fields do not fit the struct, or may not be passed on; empty if they fit and may."""
    stand_ins = {Page: _ANY_ADDRESS, str: 0}
    try:
        layout.pack({name: word if isinstance(word, int) else stand_ins[type(word)] for name, word in fields.items()})
    except ValueError as error:
        return str(error)
    return hazards.window(fields)

"""Who performs an operation. Each is asked of every operation, several times: by its type, for `isinstance` tries the
members of a union one by one.
"""

from __future__ import annotations

from typing import Final, TypeGuard, get_args

from tcelab.program.lifeops import LifeOp
from tcelab.program.operations import GuestOp, HostOp, Op

_GUEST: Final = frozenset(get_args(GuestOp))
_HOST: Final = frozenset(get_args(HostOp))
_LIFE: Final = frozenset(get_args(LifeOp))


def is_guest(op: Op) -> TypeGuard[GuestOp]:
    """The agent does it."""
    return type(op) in _GUEST


def is_host(op: Op) -> TypeGuard[HostOp]:
    """It is done from outside."""
    return type(op) in _HOST


def is_life(op: Op) -> TypeGuard[LifeOp]:
    """It is an event in the life of the machine, done from outside."""
    return type(op) in _LIFE

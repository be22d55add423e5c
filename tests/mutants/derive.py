"""Mutants that follow from the tables of rules: each check dropped, swapped with the next, or with another errno.

Nothing here knows what a rule is about, but for the few tables below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from mutants.mutant import NO_MODULE, NO_SEED, Mutant, using, with_entry
from tcelab.emulator.checks import Check, IoctlCall, Request
from tcelab.emulator.drivertable import Profile
from tcelab.emulator.profiles import PROFILES
from tcelab.emulator.profiles.linux_v2 import LINUX_V2
from tcelab.emulator.vfiocore import CONTAINER_REQUESTS, GROUP_REQUESTS
from tcelab.emulator.vfiopci import DEVICE_REQUESTS, NOT_MODELLED
from tcelab.papr import hcallnumbers, hcallrules

UNTRIED = "past the window's end, of a MAP"
"""No program of ours asks any kernel for it: it has no row that could kill a mutant."""

ERRNOS: dict[str, dict[str | int, bool | str]] = {
    "default window": {"ENODEV": True, "ENOMEM": "a driver goes with its group"},
    "no text": {"EFAULT": True, "EINVAL": True},
    "past the window's end": dict.fromkeys(("EPERM", 1), "today's kernel gives something else"),
    "binds": {},  # nor does this: whoever is there is not another
    "table without group": {},  # it never fails, the kernel dies of it
}
"""What checks give whose errno is not always the same: a mutant gives one of them always. Whether a guest shows it."""

PURE = {
    *("another mm's", "not enabled", "argsz", "flags", "no permission", "set already", "no such region"),
    *("size or vaddr misaligned", "size misaligned", "iova misaligned", "below the window", "past the window"),
    *("no such interrupt", "no group", "no table group", "no whole pages"),
}
"""Checks that look and do nothing else, whatever came before them: two such with one errno may change places and nobody
can tell. Not among them: what fills in the call for later checks (fault, no text), what charges, binds, makes a window,
warns or dies of it, and what cannot be asked before another has been (the driver of a container that is not there).
"""

FILLS = "fault"
"""The check that reads the struct."""

NO_GUEST = {
    ("linux-v1", "no group"): "a driver goes with its group",
    ("linux-v1", "no table group"): "a group keeps its table group",
    ("linux-v1", "no bytes"): "every window has bytes",
    ("linux-v1", "past the window's end"): "today's kernel does not look there",
    ("linux-v2", "no group"): "a driver goes with its group",
    ("linux-v2", "no table group"): "a group keeps its table group",
    ("linux-v2", "past the window's end"): "today's kernel does not look there",
}
"""Checks of which no guest of today shows whether they are made."""


def all_derived() -> list[Mutant]:
    return [*_of_profiles(), *_of_core(), *_of_hypercalls()]


# -- drivers and the VFIO core


def _of_profiles() -> Iterator[Mutant]:
    for profile in (*PROFILES.values(), LINUX_V2):
        for number, request in profile.requests.items():
            changed = partial(_with_request, profile, number)
            words = frozenset({request.name})
            yield _dropped_request(profile.name, request, changed, words)
            yield from _of_request(profile.name, request, changed, words)
        yield from _of_request(profile.name, profile.otherwise, partial(_otherwise, profile), frozenset())
        for extension in sorted(profile.extensions):
            fewer = replace(profile, extensions=profile.extensions - {extension})
            name = f"{profile.name}: does not announce type {extension}"
            yield Mutant(name, "extension", profile.name, partial(using, fewer), guest=_guest(profile.name))


def _of_core() -> Iterator[Mutant]:
    for table in (CONTAINER_REQUESTS, GROUP_REQUESTS, DEVICE_REQUESTS):
        for number, request in table.items():
            changed = partial(with_entry, table, number)
            words = frozenset({request.name})
            if number not in NOT_MODELLED or table is not DEVICE_REQUESTS:  # there, a guest is held against nothing
                yield _dropped_request("core", request, changed, words)
            yield from _of_request("core", request, changed, words)


def _with_request(profile: Profile, number: int, request: Request | None) -> AbstractContextManager[Profile]:
    others = {each: value for each, value in profile.requests.items() if each != number or request is not None}
    return using(replace(profile, requests=others | ({} if request is None else {number: request})))


def _otherwise(profile: Profile, request: Request) -> AbstractContextManager[Profile]:
    return using(replace(profile, otherwise=request))


def _dropped_request(of: str, request: Request, changed: Any, words: frozenset[str | int]) -> Mutant:
    return Mutant(f"{of} {request.name}: unknown", "request", of, partial(changed, None), words, _guest(of))


def _of_request(of: str, request: Request, changed: Any, words: frozenset[str | int]) -> Iterator[Mutant]:
    for kind, text, checks, guest, equivalent in _variants(of, request.checks):
        alive = partial(changed, replace(request, checks=checks))
        yield Mutant(f"{of} {request.name}: {text}", kind, of, alive, words, guest, equivalent)


Variant = tuple[str, str, tuple[Any, ...], bool | str, str]
"""Kind, what was done, the checks then, and see `Mutant`: guest, equivalent."""


def _variants(of: str, checks: Sequence[Check]) -> Iterator[Variant]:
    for i, check in enumerate(checks):
        if check.name == UNTRIED:
            continue
        guest = _guest(of, check)
        yield "drop", f"drop {check.name!r}", (*checks[:i], *_dropped(check), *checks[i + 1 :]), guest, ""
        for errno, shown in _other_errnos(check).items():
            changed = _put(checks, i, replace(check, errno=errno))
            yield "errno", f"{check.name!r} gives {errno}", changed, guest if shown is True else shown, ""
        for instead in _other_insteads(check):
            changed = _put(checks, i, replace(check, instead=instead))
            yield "quirk", f"{check.name!r} with its quirk gives {instead or 'nothing'}", changed, True, ""
    for i, (one, other) in enumerate(pairwise(checks)):
        guest = next((each for each in (_guest(of, one), _guest(of, other)) if each is not True), True)
        unread = (_as_zeros(one),) if one.name == FILLS else ()
        swapped = (*checks[:i], *unread, other, one, *checks[i + 2 :])
        yield "swap", f"{other.name!r} before {one.name!r}", swapped, guest, _same(one, other)


def _put(checks: Sequence[Check], i: int, check: Check) -> tuple[Check, ...]:
    return (*checks[:i], check, *checks[i + 1 :])


def _dropped(check: Check) -> tuple[Check, ...]:
    """What is left of it: a struct is still read, but nobody asks whether it could be."""

    def unasked(call: IoctlCall) -> bool:
        if check.fails(call):
            _zeros(call)
        return False

    return (replace(check, fails=unasked),) if check.name == FILLS else ()


def _as_zeros(check: Check) -> Check:
    """Instead of reading the struct."""
    return replace(check, fails=_zeros)


def _zeros(call: IoctlCall) -> bool:
    """Who looks at a struct that was not read sees zeros, as on a stack: the emulator itself must not break of it."""
    call.param = defaultdict(int)
    return False


def _guest(of: str, check: Check | None = None) -> bool | str:
    if of == "seed2013":
        return NO_SEED
    return True if check is None else NO_GUEST.get((of, check.name), True)


def _other_errnos(check: Check) -> dict[str | int, bool | str]:
    """And whether a guest shows it."""
    if check.errno is None:
        return ERRNOS[check.name]
    shown: bool | str = "today's kernel gives something else" if check.quirk else True
    other = {"EPERM" if check.errno == "EINVAL" else "EINVAL": shown}
    return other | ({check.instead: shown} if check.quirk and check.instead is not None else {})


def _other_insteads(check: Check) -> list[str | int | None]:
    return [each for each in (check.errno or "EINVAL", None) if check.quirk and each != check.instead]


def _same(one: Check, other: Check) -> str:
    same = one.errno == other.errno and not one.quirk and not other.quirk
    return f"both look and do nothing else, and give {one.errno}" if same and {one.name, other.name} <= PURE else ""


# -- hypercalls

NAMES = {
    hcallnumbers.H_GET_TCE: "H_GET_TCE",
    hcallnumbers.H_PUT_TCE: "H_PUT_TCE",
    hcallnumbers.H_STUFF_TCE: "H_STUFF_TCE",
    hcallnumbers.H_PUT_TCE_INDIRECT: "H_PUT_TCE_INDIRECT",
}
MANY = {hcallnumbers.H_STUFF_TCE, hcallnumbers.H_PUT_TCE_INDIRECT}
"""Hypercalls that may have stored something when they refuse."""
NEED_TABLE = {
    hcallrules.STUFF_TOO_MANY.name,
    hcallrules.OUTSIDE_GET.name,
    hcallrules.PAST_THE_END.name,
}
"""Checks that cannot be asked unless the LIOBN names a table."""


def _of_hypercalls() -> Iterator[Mutant]:
    for kind, text, checks, equivalent in _hypercall_variants(hcallrules.DISPATCH):
        yield _hypercall(f"dispatch: {text}", kind, {"dispatch": checks}, equivalent)
    for opcode, checks in hcallrules.CHECKS.items():
        variants = [*_hypercall_variants(checks), *(_partial(checks) if opcode in MANY else ())]
        for kind, text, changed, equivalent in variants:
            rules = {"checks": {**hcallrules.CHECKS, opcode: changed}}
            yield _hypercall(f"{NAMES[opcode]}: {text}", kind, rules, equivalent)


def _hypercall(name: str, kind: str, rules: dict[str, Any], equivalent: str) -> Mutant:
    return Mutant(f"hcalls {name}", kind, "hcalls", partial(using, rules), guest=NO_MODULE, equivalent=equivalent)


def _hypercall_variants(checks: Sequence[Any]) -> Iterator[tuple[str, str, tuple[Any, ...], str]]:
    for i, check in enumerate(checks):
        yield "drop", f"drop {check.name!r}", (*checks[:i], *checks[i + 1 :]), ""
        status = hcallnumbers.H_FUNCTION if check.status == hcallnumbers.H_PARAMETER else hcallnumbers.H_PARAMETER
        changed = (*checks[:i], check._replace(status=status), *checks[i + 1 :])
        yield "errno", f"{check.name!r} gives {hcallnumbers.STATUS_NAMES[status]}", changed, ""
    for i, (one, other) in enumerate(pairwise(checks)):
        swapped = (*checks[:i], other, one, *checks[i + 2 :])
        yield "swap", f"{other.name!r} before {one.name!r}", swapped, _same_status(one, other)


def _same_status(one: Any, other: Any) -> str:
    """Why two checks of a hypercall may change places: none of them does anything but look."""
    blind = one.name == hcallrules.LIOBN_UNKNOWN.name and other.name in NEED_TABLE
    same = one.status == other.status and one.partial == other.partial
    return "" if blind or not same else f"both look and give {hcallnumbers.STATUS_NAMES[one.status]}"


def _partial(checks: Sequence[Any]) -> Iterator[tuple[str, str, tuple[Any, ...], str]]:
    for i, check in enumerate(checks):
        changed = (*checks[:i], check._replace(partial=not check.partial), *checks[i + 1 :])
        yield "partial", f"{check.name!r} stores {'nothing' if check.partial else 'what it can'}", changed, ""

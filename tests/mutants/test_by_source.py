"""Mutants of rules that no guest of today shows: rows typed from the source kill them. And what mutants are held to."""

from functools import partial

import pytest

from mutants import derive
from mutants.by_hand import all_by_hand
from mutants.by_hand_v2 import all_by_hand_v2
from mutants.equivalent import EQUIVALENT
from mutants.judged import MUTANTS, ROWS, by_laws, by_rows, killer_of, settled
from mutants.mutant import Mutant, using, with_code
from tcelab.emulator.effects_v1 import SpaprTce
from tcelab.emulator.profiles import PROFILES
from tcelab.emulator.profiles.linux_v2 import LINUX_V2
from tcelab.emulator.vfiocore import CONTAINER_REQUESTS, GROUP_REQUESTS
from tcelab.emulator.vfiopci import DEVICE_REQUESTS
from tcelab.papr import hcallrules

TABLES = (CONTAINER_REQUESTS, GROUP_REQUESTS, DEVICE_REQUESTS)
BY_SOURCE = [mutant for mutant in MUTANTS if mutant.guest is not True]
KINDS = {"drop", "swap", "errno", "quirk", "request", "extension", "partial", "by hand"}


def nothing(of, **changes):
    """A mutant that is the original."""
    return Mutant("nothing", "by hand", of, partial(using, None), **changes)


@pytest.mark.parametrize("mutant", BY_SOURCE, ids=lambda mutant: mutant.name)
def test_a_row_kills_the_mutant(mutant, record_property):
    settled(mutant, killer_of(mutant), record_property)


@pytest.mark.parametrize("of", [*ROWS, "hcalls"])
def test_no_row_and_no_law_kills_the_original(of):
    assert by_rows(nothing(of)) == ""
    assert by_laws(nothing(of)) == ""


# -- what mutants are held to


def test_a_mutant_that_nobody_kills_fails():
    told = []
    with pytest.raises(AssertionError, match="it survives"):
        settled(nothing("core"), "", lambda *each: told.append(each))
    assert told == [("killer", "survivor")]


def test_a_mutant_that_is_said_to_be_equivalent_and_is_killed_fails():
    with pytest.raises(AssertionError, match="said to be equivalent"):
        settled(nothing("core", equivalent="because"), "guest: a row", lambda *_: None)


def test_a_mutant_that_a_guest_should_kill_and_only_the_source_does_fails():
    with pytest.raises(AssertionError, match="no guest kills it"):
        settled(nothing("core"), "source: a row", lambda *_: None)
    settled(nothing("core", guest="no such guest"), "source: a row", lambda *_: None)


def test_no_two_mutants_have_one_name_and_there_is_every_kind():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert {mutant.kind for mutant in MUTANTS} == KINDS
    assert len(all_by_hand()) >= 100


def test_every_check_is_dropped():
    requests = [request for table in TABLES for request in table.values()]
    for profile in (*PROFILES.values(), LINUX_V2):
        requests += [*profile.requests.values(), profile.otherwise]
    checks = [check for request in requests for check in request.checks]
    checks += [*hcallrules.DISPATCH, *(check for each in hcallrules.CHECKS.values() for check in each)]
    tried = [check for check in checks if check.name != derive.UNTRIED]
    assert [mutant.kind for mutant in MUTANTS].count("drop") == len(tried) == len(checks) - 1
    known = {check.name for check in checks}
    assert known >= {*derive.PURE, *derive.ERRNOS, *derive.NEED_TABLE, *(name for _, name in derive.NO_GUEST)}


def test_every_equivalent_mutant_is_one_and_has_a_reason():
    assert EQUIVALENT.keys() <= {mutant.name for mutant in MUTANTS}
    assert all(EQUIVALENT.values())


def test_a_mutant_leaves_nothing_behind():
    def state():
        edited = [mutant.alive.args[0].__code__ for mutant in (*all_by_hand(), *all_by_hand_v2())]
        return [dict(table) for table in TABLES], [list(table) for table in TABLES], edited

    def use(mutant):
        with mutant.alive() as used:
            assert used is not None or state() != before, mutant.name
            raise ZeroDivisionError

    before = state()
    for mutant in MUTANTS:
        with pytest.raises(ZeroDivisionError):
            use(mutant)
        assert state() == before, mutant.name


def test_an_edit_of_a_line_that_is_no_more_fails():
    with pytest.raises(AssertionError, match="build has 0 times 'gone'"), with_code(SpaprTce.build, "gone", ""):
        pass

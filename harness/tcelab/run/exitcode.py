"""The exit codes of `tcelab`: the one place that decides on them.

=====  =============================================================================================
0      pass
1      a finding; of a verb that only looks (`doctor`, `image list`, `table diff`), that it found something
2      wrong usage
125    could not judge: `git bisect run` skips such a revision
=====  =============================================================================================

A finding stands whatever happens later: 1 beats 125. A run that could not be judged, or whose report reached nobody, is
no pass: 125 beats 0.
"""

from __future__ import annotations

from typing import Final, Literal

from tcelab.errors import UsageError

Result = Literal["pass", "finding", "could-not-judge"]
"""The result of a run, in a word."""

PASS: Final = 0
FINDING: Final = 1
WRONG_USAGE: Final = 2
COULD_NOT_JUDGE: Final = 125

_CODES: Final[dict[Result, int]] = {"pass": PASS, "finding": FINDING, "could-not-judge": COULD_NOT_JUDGE}


def result(*, found: object, undecided: object) -> Result:
    """The result, from the findings and from the reasons against a pass."""
    return "finding" if found else "could-not-judge" if undecided else "pass"


def of_result(word: Result) -> int:
    return _CODES[word]


def of_error(error: BaseException) -> int:
    """Of a command that ended with an error. An interrupt, or a defect of tcelab, says nothing about the kernel under
    test.

    Neither does a lost guest: a kernel that died after its agent's handshake is the judge's finding, and `of_result`
    gives its code.
    """
    return WRONG_USAGE if isinstance(error, UsageError) else COULD_NOT_JUDGE


def of_untold(code: int) -> int:
    """Of a command that ended with `code`, and whose output or file could not be delivered."""
    return code or COULD_NOT_JUDGE

"""The exit codes of `tcelab`: the one place that decides on them.

=====  =============================================================================================
0      pass
1      a finding; of a verb that only looks (`doctor`, `image list`, `table diff`), that it found something
2      wrong usage
125    could not judge: `git bisect run` skips such a revision
=====  =============================================================================================

A finding stands whatever happens later: 1 beats 125. What could not be judged, or was told to nobody, is no pass: 125
beats 0.
"""

from __future__ import annotations

from typing import Final, Literal

from tcelab.errors import UsageError

Result = Literal["pass", "finding", "could-not-judge"]
"""What a run came to, in a word."""

PASS: Final = 0
FINDING: Final = 1
WRONG_USAGE: Final = 2
COULD_NOT_JUDGE: Final = 125

_CODES: Final[dict[Result, int]] = {"pass": PASS, "finding": FINDING, "could-not-judge": COULD_NOT_JUDGE}


def result(*, found: object, undecided: object) -> Result:
    """The word for what was found, if anything, and for what keeps a run without a finding from a pass."""
    return "finding" if found else "could-not-judge" if undecided else "pass"


def of_result(word: Result) -> int:
    return _CODES[word]


def of_error(error: BaseException) -> int:
    """Of a command that ended with an error. An interrupt, or a defect of ours, says nothing of the kernel under test.

    Nor does a guest that was lost: that a kernel died after its agent's handshake is a finding of the judge's, which
    has its code by `of_result`.
    """
    return WRONG_USAGE if isinstance(error, UsageError) else COULD_NOT_JUDGE


def of_untold(code: int) -> int:
    """Of a command that ended with `code`, and whose words, or whose file, nobody got."""
    return code or COULD_NOT_JUDGE

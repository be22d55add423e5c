"""`result.json` of a fuzz campaign."""

from __future__ import annotations

from collections.abc import Sequence

from tcelab.coverage.result import Coverage
from tcelab.fuzz.tally import Tally
from tcelab.judge import Finding
from tcelab.run import exitcode
from tcelab.run.resultfile import ResultFile


class FuzzResult(ResultFile, kw_only=True):
    """The result of a fuzz campaign; the programs are beside it.

    :ivar verdict: one of the three answers.
    :ivar exit_code: 0 for `pass`, 1 for `finding`, 125 for `could-not-judge`.
    :ivar seed: of the campaign.
    :ivar findings: what each saved program shows, in order.
    :ivar programs: names of their files.
    :ivar replays: the command that shows each of them again.
    :ivar could_not: why there is no pass although nothing was found.
    :ivar counts: programs, operations, checkpoints and entries compared.
    :ivar quirks: how often each quirk made a difference.
    :ivar coverage: what was executed of the kernel; null unless `--coverage` was given.
    """

    verdict: exitcode.Result
    exit_code: int
    seed: int
    findings: list[Finding]
    programs: list[str]
    replays: list[str]
    could_not: list[str]
    counts: dict[str, int]
    quirks: dict[str, int]
    coverage: Coverage | None = None


def make(tally: Tally, seed: int, replays: Sequence[str], version: str, coverage: Coverage | None = None) -> FuzzResult:
    """From what a campaign did.

    :param replays: a command for each finding.
    :param version: of tcelab.
    """
    word = exitcode.result(found=tally.found or tally.flaky, undecided=tally.could_not)
    counts = ("programs", "operations", "checkpoints", "entries")
    return FuzzResult(
        tcelab=version,
        verdict=word,
        exit_code=exitcode.of_result(word),
        seed=seed,
        findings=[each.finding for each in tally.found],
        programs=[each.file.name for each in tally.found if each.file.exists()],
        replays=list(replays),
        could_not=[each.partition("\n")[0] for each in [*tally.flaky, *tally.could_not]],
        counts={name: getattr(tally, name) for name in counts},
        quirks={name: times for name, times in sorted(tally.quirks.items()) if times},
        replay=replays[0] if replays else "",
        coverage=coverage,
    )

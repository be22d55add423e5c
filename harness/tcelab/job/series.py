"""One scenario on several topologies, one after the other: each is a run of its own, in a folder of its own, and all
together have one result.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from tcelab import report
from tcelab.errors import HarnessError
from tcelab.job import artefacts, output, replayline
from tcelab.job.job import FILES, Job
from tcelab.job.keeping import Keeper
from tcelab.job.output import note
from tcelab.job.runoptions import RunOptions
from tcelab.program import Program

_LOG: Final = logging.getLogger(__name__)

_RESULT: Final = "result.json"


class Series:
    """:ivar result: of all of them, once they were performed."""

    def __init__(
        self,
        pairs: Sequence[tuple[Program, RunOptions]],
        options: RunOptions,
        out: Path | None,
        text: Console,
    ) -> None:
        """:param pairs: each program with its options, as `settle` has made them.
        :param options: of all of them.
        :param out: folder for artefacts; each run has one in it, called after its topology.
        """
        self.result: report.Result | None = None
        options.bounds()
        self._pairs, self._options, self._text = pairs, options, text
        self._folder = artefacts.folder(out)

    def perform(self) -> None:
        """Perform all runs until an interrupt; then write and print their joint result.

        :raise UsageError: what was chosen cannot be.
        """
        keeper = Keeper(self._folder)
        with artefacts.of_a_run(self._folder), keeper.log():
            runs = self._runs()
            result = report.merge(runs, [program for program, _ in self._pairs], self._options.recorded())
            result.replay = self._replay()
            self._write(result, keeper)

    def _runs(self) -> dict[str, report.Result]:
        """The results by topology, as far as each run got."""
        runs: dict[str, report.Result] = {}
        for program, options in self._pairs:
            name = program.topology.name
            _LOG.debug("topology %s: its own log is %s there", name, FILES["log"])
            named = msgspec.structs.replace(options, topology_name=name)
            try:
                job = Job(program, named, self._folder / name, self._text)
            except HarnessError as error:  # a full disk: the other results must be reported
                note(error.report())
                break
            job.brief = True
            interrupted = False
            try:
                job.perform(keep=False)
            except KeyboardInterrupt:
                interrupted = True
            if job.result is not None:
                runs[name] = job.result
                _LOG.debug("topology %s: %s", name, job.result.verdict.result)
            if interrupted or job.interrupted:
                break
        return runs

    def _replay(self) -> str:
        program, asked = self._pairs[0][0], self._options
        return replayline.of_scenario(
            asked.target,
            program.seed,
            asked.machine,
            platform=asked.platform,
            guard=asked.guard,
            lie=asked.inject,
            boot=asked.boot,
            limits=asked.bounds(),
            ssh=asked.ssh,
        )

    def _write(self, result: report.Result, keeper: Keeper) -> None:
        self.result = result
        result.artefacts["junit"] = FILES["junit"]
        if (self._folder / FILES["log"]).exists():
            result.artefacts["log"] = FILES["log"]
        keeper.write(_RESULT, report.to_json(result))
        keeper.write(FILES["junit"], report.junit(result))
        report.render_series(self._text, result, folder=self._folder)
        output.unkept(self._text, keeper)

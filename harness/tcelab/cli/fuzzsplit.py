"""`tcelab fuzz --workers`: the folder of a campaign whose programs run in processes of their own, and its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import click
import msgspec
from rich.console import Console
from rich.text import Text

import tcelab
from tcelab.cluster import crew
from tcelab.cluster.crew import Workers
from tcelab.cluster.split import SplitCampaign
from tcelab.errors import UsageError, counted
from tcelab.fuzz import fuzzresult
from tcelab.fuzz.tally import Found, Tally
from tcelab.job import artefacts, output
from tcelab.job.keeping import Keeper, expecting_room
from tcelab.logs import NOTE
from tcelab.nightly.provision import Need
from tcelab.run.resultfile import to_json

_LOG: Final = logging.getLogger(__name__)
NAME: Final = "campaign.json"
"""In the folder of a campaign: what it is about."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign is about.

    :ivar words: of its command line, without those about workers, time and folder.
    """

    tcelab: str
    words: list[str]
    minutes: float | None


@dataclass(frozen=True)
class Split:
    """A campaign on workers.

    :ivar words: of the same campaign alone.
    :ivar programs: number, topology and operations of each.
    :ivar needs: image and QEMU that must be the same on all machines.
    """

    workers: Workers
    words: Sequence[str]
    programs: Iterable[tuple[int, str, int]]
    minutes: float | None
    needs: Sequence[Need]

    def run(
        self,
        console: Console,
        seed: int,
        folder: Path,
        again: Callable[[Found], str],
        tell: Callable[[Console, Tally, int, Path, list[str]], int],
    ) -> int:
        """:param folder: of the campaign, with what is there of it.

        :param again: the command that shows a finding again.
        :param tell: prints what was done and found.
        :return: the exit code.
        """
        numbers = [number for number, _, _ in self.programs]
        keeper = Keeper(folder)
        with keeper.log(), expecting_room(folder), crew.opened(self.workers, self.needs, folder.name) as hands:
            (folder / NAME).write_bytes(
                msgspec.json.encode(Kept(tcelab=tcelab.__version__, words=list(self.words), minutes=self.minutes))
            )
            said = "seed %d, %s on %s, in %s"
            _LOG.info(said, seed, counted(len(numbers), "program"), hands.told, folder, extra=NOTE)
            job = SplitCampaign(self.words, numbers, folder, hands.slots, self.minutes, hands.starts)
            job.perform()
        replays = [again(found) for found in job.tally.found]
        keeper.write("result.json", to_json(fuzzresult.make(job.tally, seed, replays, tcelab.__version__)))
        if hands.lost():
            lost = f"lost with their workers and run again: {counted(hands.lost(), 'task')}"
            console.print(Text(lost, "yellow"), soft_wrap=True, highlight=False)
        for each in job.tally.flaky:
            console.print(Text(f"flaky: {each}", "bold red"), soft_wrap=True, highlight=False)
        code = tell(console, job.tally, seed, folder, replays)
        output.unkept(console, keeper)
        return code


def folder(out: Path | None, into: Path | None) -> Path:
    """A new folder, or that of a campaign that goes on."""
    return artefacts.folder(out) if into is None else into.absolute()


def resume(command: click.Command, folder: Path, workers: Workers | None) -> NoReturn:
    """Go on with a campaign; it does not return.

    :raise UsageError: there is none.
    """
    path = folder / NAME
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"no campaign of --workers: {path}: {error}", next_step="name the folder of one") from None
    if kept.tcelab != tcelab.__version__:
        raise UsageError(f"{folder} is a campaign of tcelab {kept.tcelab}", next_step="begin a new one")
    if workers is None:
        raise UsageError("--resume goes on with a campaign of workers", next_step="give --workers or --scheduler")
    minutes = [] if kept.minutes is None else ["--minutes", str(kept.minutes)]
    words = [*kept.words[1:], *minutes, *workers.words(), "--into", str(folder)]
    raise click.exceptions.Exit(int(command.main(words, prog_name="tcelab fuzz", standalone_mode=False)))

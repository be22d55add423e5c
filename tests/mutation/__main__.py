"""Mutation testing: changes the sources in a copy, one place at a time, and sees whether a test notices.

    python tests/mutation [--count N] [--jobs N] [--work FOLDER [--again]]

cosmic-ray makes the mutants and keeps the session (`cr-report`, `cr-html`). A sample of them is tried, each with the
unit tests that run the mutated statement. What survives is listed in survivors.toml with the reason, or counts:
exit code 1 if more than 5 % of the sample do.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import covering
import msgspec
import places
import survivors
import trial
from cosmic_ray.config import load_config
from cosmic_ray.modules import find_modules
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_FILES = 3
"""Of the mutated package, asked first: to import a file costs as much as many a test."""
FORK = multiprocessing.get_context("fork")
FOLDERS = ("harness", "guest", "images", "tests", "scripts", "docs", "pyproject.toml", "README.md", "CHANGELOG.md")


@dataclass(frozen=True)
class Trial:
    """What became of a mutant.

    :ivar end: "killed", "timeout", "survived" or "no test".
    :ivar killer: the test that failed.
    """

    mutant: places.Mutant
    end: str
    seconds: float
    output: str
    killer: str = ""


class Trials:
    """Tries mutants in one tree; lives in a worker."""

    def __init__(self, tree: Path, tests: covering.Tests, killers: dict[str, str], config) -> None:
        self._tree, self._tests, self._killers = tree, tests, killers
        self._limit, self._sample = config.timeout, config["sample"]
        self._made = 0

    def __call__(self, mutant: places.Mutant) -> Trial:
        began = time.monotonic()
        path = self._tree / mutant.file
        stat, source = path.stat(), path.read_text()
        path.write_text(mutant.mutated(source))
        self._made += 1  # byte code is told apart by seconds
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + self._made * 10**9))
        end, output = "no test", ""
        try:
            for tests in self._rounds(mutant):
                end, output = self._round(tests)
                if end != "survived":
                    break
        finally:
            path.write_text(source)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return Trial(mutant, end, time.monotonic() - began, output, self._killer(output) if end == "killed" else "")

    def _killer(self, output: str) -> str:
        said = [line.partition(" ")[2] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        known = [test for test in self._tests.seconds for each in said if each.startswith(test)]
        return max(known, key=len, default="")

    def _rounds(self, mutant: places.Mutant):
        """Who killed it before, then cheap tests of the same package: they kill most."""
        tests = self._tests.of(mutant)
        killer = self._killers.get(mutant.job_id, "")
        package = Path(mutant.file).parts[2]
        own = [test for test in tests if test.startswith(f"{self._sample['tests']}/{package}/")]
        files = Counter(test.partition("::")[0] for test in own)
        most = {file for file, _ in files.most_common(_FILES)}
        first = self._within([each for each in own if each.partition("::")[0] in most], self._sample["own-seconds"])
        tried = set(first)
        rest = [test for test in (*own, *tests) if test not in tried]
        then = self._within(list(dict.fromkeys(rest)), self._sample["all-seconds"])
        return [each for each in ([killer] if killer in tests else [], first, then) if each]

    def _within(self, tests: list[str], seconds: float) -> list[str]:
        chosen, spent = [], 0.0
        for test in tests:
            spent += self._tests.seconds[test]
            if spent > seconds and chosen:
                break
            chosen.append(test)
        return chosen

    def _round(self, tests: list[str]) -> tuple[str, str]:
        log = self._tree.with_name(f"{self._tree.name}.log")
        limit = self._limit + 10 * sum(self._tests.seconds[test] for test in tests)
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))

        def work() -> int:
            return trial.run_tests(self._tree, files, trial.Chosen(tests))

        code = trial.forked(work, log, limit)
        ends = {0: "survived", 5: "no test", trial.TIMED_OUT: "timeout"}
        return ends.get(code, "killed"), log.read_text(errors="replace")[-3000:]


_worker: Trials


def _begin(trees, *what) -> None:
    global _worker  # noqa: PLW0603 - one of each process
    _worker = Trials(trees.get(), *what)


def _try(mutant: places.Mutant) -> Trial:
    return _worker(mutant)


def copy_tree(to: Path) -> Path:
    to.mkdir(parents=True)
    for name in FOLDERS:
        subprocess.run(["cp", "-a", ROOT / name, to / name], check=True)
    return to


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, help="how many mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="a folder to keep: session.sqlite, which test runs which line")
    parser.add_argument("--again", action="store_true", help="only what survived the last time in that folder")
    options = parser.parse_args()
    config = load_config(HERE / "cosmic-ray.toml")
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(exist_ok=True)
        return _all(work.resolve(), config, options)


def _all(work: Path, config, options) -> int:
    trial.warm()
    os.chdir(ROOT)
    modules = [str(each) for each in find_modules(map(Path, config["module-path"]))]
    mutants = list(places.mutants_of(ROOT, [ROOT / each for each in modules], config["sample"]["was"]))
    chosen = places.sample(ROOT, mutants, config["sample"]["seed"], options.count or config["sample"]["count"])
    if options.again:
        with use_db(work / "session.sqlite") as database:
            alive = {job for job, result in database.results if result.test_outcome == TestOutcome.SURVIVED}
        chosen = [each for each in chosen if each.job_id in alive]
    print(f"{len(mutants)} mutants of {len(modules)} modules, {len(chosen)} tried", flush=True)

    for number in range(options.jobs):
        shutil.rmtree(work / f"tree{number}", ignore_errors=True)
    first = copy_tree(work / "tree0")
    tests = _measured(first, modules, work, config["sample"]["tests"], options.jobs)
    trees = FORK.SimpleQueue()
    trees.put(first)
    for number in range(1, options.jobs):
        subprocess.run(["cp", "-a", first, work / f"tree{number}"], check=True)
        trees.put(work / f"tree{number}")

    known = work / "killers.json"
    killers = msgspec.json.decode(known.read_bytes(), type=dict[str, str]) if known.exists() else {}
    done = []
    with (
        FORK.Pool(options.jobs, _begin, (trees, tests, killers, config)) as pool,
        use_db(work / "session.sqlite") as database,
    ):
        database.clear()
        database.add_work_items(WorkItem(each.job_id, [each.spec]) for each in chosen)
        for each in pool.imap_unordered(_try, chosen, chunksize=1):
            done.append(each)
            print(f"{len(done):4} {each.end:8} {each.seconds:6.1f} s  {survivors.line(each.mutant)}", flush=True)
            database.set_result(each.mutant.job_id, _result(each))
    known.write_bytes(msgspec.json.encode(killers | {each.mutant.job_id: each.killer for each in done if each.killer}))
    return survivors.judge(
        ROOT, HERE / "survivors.toml", done, config["sample"]["unexplained"], config["sample"]["was"]
    )


def _measured(tree: Path, modules: list[str], work: Path, tests: str, jobs: int) -> covering.Tests:
    began = time.monotonic()
    results = work / "measured"
    results.mkdir(exist_ok=True)
    files = sorted(str(each.relative_to(ROOT)) for each in (ROOT / tests).glob("*/test_*.py"))
    with FORK.Pool(jobs) as pool:
        found = covering.merged(pool.imap_unordered(covering.Measurement(tree, modules, results), files, chunksize=1))
    print(f"{len(found.seconds)} tests measured in {time.monotonic() - began:.0f} s", flush=True)
    for each in found.failed:
        print(f"not asked, fails unmutated or is skipped: {each}", flush=True)
    return found


def _result(done: Trial) -> WorkResult:
    """For cosmic-ray's own reports."""
    return WorkResult(
        worker_outcome=WorkerOutcome.NO_TEST if done.end == "no test" else WorkerOutcome.NORMAL,
        test_outcome=TestOutcome.SURVIVED if done.end in survivors.ALIVE else TestOutcome.KILLED,
        output=f"{done.end}\n{done.output}",
        diff=survivors.diff(ROOT, done.mutant),
    )


if __name__ == "__main__":
    sys.exit(main())

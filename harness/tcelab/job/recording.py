"""Has the guests of one command record what they execute of their kernel. What cannot be recorded is a reason in the
result, and changes nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
from pathlib import Path
from typing import Final

import msgspec

from tcelab.coverage import blocks, kernelcode, text, units
from tcelab.coverage.kernelcode import KernelCode
from tcelab.coverage.lcov import lcov
from tcelab.coverage.recorder import Recorder, Target
from tcelab.coverage.result import Coverage, together
from tcelab.errors import HarnessError, Interrupted, TcelabError, Unsupported, UsageError
from tcelab.image import known
from tcelab.job.keeping import Keeper
from tcelab.job.setup import PreparedMachine
from tcelab.logs import NOTE, PHASE
from tcelab.qemu.fork import opened
from tcelab.qemu.limits import Limits
from tcelab.qemu.plugin import plugin
from tcelab.run.resultfile import SCHEMA

_LOG: Final = logging.getLogger(__name__)


class CoverageChoice(msgspec.Struct, frozen=True):
    """:ivar of: units, modules and patterns of functions; empty: the usual units.

    :ivar fail_under: percent of the blocks that can be reached; None: any will do.
    """

    of: tuple[str, ...] = ()
    fail_under: float | None = None


class _Code(msgspec.Struct, frozen=True):
    """What of a kernel was asked for, and where its code begins."""

    targets: list[Target]
    start: int
    missing: list[str]


class Recording:
    """Of one command, whose guests may have different kernels."""

    def __init__(self, chosen: tuple[str, ...] = (), limits: Limits | None = None) -> None:
        """:param chosen: units, modules and patterns of functions; empty: the usual units."""
        self._chosen, self._limits = chosen, limits or Limits()
        self._lock = threading.Lock()
        self._recorders: dict[str, Recorder] = {}
        self._missing: dict[str, None] = {}

    @classmethod
    def of(cls, asked: CoverageChoice | None, limits: Limits) -> Recording | None:
        """As it was asked for, if it was."""
        return None if asked is None else cls(asked.of, limits)

    def onto(self, ready: PreparedMachine) -> PreparedMachine:
        """That machine, recorded; the same where it cannot be.

        :raise UsageError: something was asked for that no kernel has.
        """
        with self._lock:
            try:
                path = plugin(ready.qemu)
                recorder = self._of(ready)
            except (UsageError, Interrupted):
                raise
            except TcelabError as error:
                self._lacks(error.message)
                return ready
            recorder.use(ready.qemu.argv, path)
            for other, _ in ready.options.others.values():
                try:
                    recorder.use(other.argv, plugin(other))
                except Unsupported as error:
                    self._lacks(error.message)
        options = msgspec.structs.replace(ready.options, cover=recorder)
        return msgspec.structs.replace(ready, options=options)

    def result(self) -> Coverage:
        """What was recorded of all guests that were closed."""
        with self._lock:
            found = [recorder.result() for recorder in self._recorders.values()]
            return together([*found, Coverage(missing=list(self._missing))])

    def _lacks(self, why: str) -> None:
        _LOG.warning("coverage is missing: %s", why, extra=NOTE)
        self._missing[why] = None

    def _of(self, ready: PreparedMachine) -> Recorder:
        """Of that kernel with these modules."""
        parts = known.sha256_of(ready.options.kernel), known.sha256_of(ready.options.initrd)
        key = f"code {_makers()} {parts} {self._chosen}"
        if key not in self._recorders:
            code = known.recall(key, _Code)
            if code is None:
                code = self._learn(ready)
                known.remember(key, code)
            recorder = self._recorders[key] = Recorder(code.targets, code.start)
            for why in code.missing:
                recorder.lacks(why)
        return self._recorders[key]

    def _learn(self, ready: PreparedMachine) -> _Code:
        """By a guest of that machine, once for each kernel."""
        _LOG.info("learning where the kernel's functions lie", extra=PHASE)
        with (
            tempfile.TemporaryDirectory(prefix="tcelab-symbols-") as folder,
            opened(ready.qemu, ready.options, Path(folder), digest=ready.digest, limits=self._limits) as session,
        ):
            symbols = session.places([], symbols=True).symbols
        code = KernelCode(ready.options.kernel, ready.options.initrd, symbols)
        targets, missing = code.targets(self._chosen)
        return _Code(targets, code.start, missing)


FILES: Final = {"coverage": "coverage.txt", "coverage tracefile": "coverage.lcov"}
"""What is written beside `result.json`."""


def onto(recording: Recording | None, ready: PreparedMachine) -> PreparedMachine:
    """A machine, recorded if that is wanted; see `Recording.onto`."""
    return ready if recording is None else recording.onto(ready)


def kept(recording: Recording | None, keeper: Keeper) -> Coverage | None:
    """What was recorded, once its files are written."""
    if recording is None:
        return None
    coverage = recording.result()
    for name, data in _files(coverage).items():
        keeper.write(name, data)
    return coverage


def write(coverage: Coverage, folder: Path) -> None:
    """What was recorded of no single run: into a folder that `tcelab coverage` takes for one.

    :raise HarnessError: it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode({"schema": SCHEMA, "coverage": coverage}), indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**_files(coverage), "result.json": data + b"\n"}.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise HarnessError(f"cannot write {error.filename}: {error.strerror}", next_step="make room there") from None


def _files(coverage: Coverage) -> dict[str, bytes]:
    lines = [*text.unit_lines(coverage), *text.function_lines(coverage)]
    return {
        FILES["coverage"]: "".join(f"{line}\n" for line in lines).encode(),
        FILES["coverage tracefile"]: lcov(coverage).encode(),
    }


def _makers() -> str:
    """What decides about the code that is found."""
    digest = hashlib.sha256()
    for module in (blocks, kernelcode, units):
        digest.update(Path(module.__file__ or "").read_bytes())
    return digest.hexdigest()[:16]

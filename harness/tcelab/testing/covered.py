"""`--tcelab-coverage FOLDER`: what the guests of a test run execute of their kernel, those of all workers together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tcelab.coverage.result import Coverage
    from tcelab.job.recording import Recording

_COVERED: Final = pytest.StashKey["_Covered"]()
_OF_A_WORKER: Final = "tcelab_coverage"
"""In what a worker tells at its end."""


def register(config: pytest.Config, folder: str, *, emulated: bool) -> None:
    """Record this run, if a folder was named."""
    if not folder:
        return
    if emulated:
        raise pytest.UsageError("--tcelab-coverage is recorded by QEMU: the emulator runs no kernel")
    config.stash[_COVERED] = covered = _Covered(Path(folder).absolute())
    config.pluginmanager.register(covered)


def recording(config: pytest.Config) -> Recording | None:
    """For the guests of this process; None: nobody wants it."""
    covered = config.stash.get(_COVERED, None)
    return None if covered is None else covered.recording()


class _Covered:
    """Of one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recording: Recording | None = None
        self._others: list[Coverage] = []
        self._sum: Coverage | None = None

    def recording(self) -> Recording:
        from tcelab.job.recording import Recording  # noqa: PLC0415 - only where a guest is wanted

        if self._recording is None:
            self._recording = Recording()
        return self._recording

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - of pytest-xdist
        """A worker has ended, and tells what its guests did."""
        import msgspec  # noqa: PLC0415 - as above

        from tcelab.coverage.result import Coverage  # noqa: PLC0415

        told = getattr(node, "workeroutput", {}).get(_OF_A_WORKER)
        if told is not None:
            self._others.append(msgspec.json.decode(told, type=Coverage))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """All guests are closed."""
        import msgspec  # noqa: PLC0415 - as above

        from tcelab.coverage.result import together  # noqa: PLC0415
        from tcelab.job.recording import write  # noqa: PLC0415

        own = [] if self._recording is None else [self._recording.result()]
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            if own:
                output[_OF_A_WORKER] = msgspec.json.encode(own[0]).decode()
            return
        if own or self._others:
            self._sum = together([*own, *self._others])
            write(self._sum, self._folder)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 - has no public type
        """A line for each unit."""
        from tcelab.coverage.text import unit_lines  # noqa: PLC0415 - as above

        if self._sum is not None:
            terminalreporter.section("tcelab coverage")
            for line in unit_lines(self._sum):
                terminalreporter.write_line(line)
            terminalreporter.write_line(f"in {self._folder}, for tcelab coverage")

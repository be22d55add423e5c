"""What can go wrong, split by what the reader can do about it.

::

    TcelabError
     +-- UsageError      the command line or a file given to us is wrong
     +-- Unsupported     this host, QEMU or image cannot do what was asked
     +-- HarnessError    QEMU, the host or tcelab itself failed
     |    +-- Interrupted    somebody wants it to end
     +-- GuestLost       the guest went away or stopped answering; after the agent's handshake, a kernel that died
                         is a finding

The exit code of each: `tcelab.run.exitcode`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tcelab.commandline import spelled


@dataclass(slots=True)
class Scene:
    """Where an error happened: filled in by whoever knows, shown with every report.

    :ivar phase: the named phase whose limit or rule was broken.
    :ivar elapsed: seconds since that phase began.
    :ivar console: the guest's last console lines.
    :ivar artefacts: the folder that holds the logs of this run.
    """

    phase: str = ""
    elapsed: float | None = None
    console: list[str] = field(default_factory=list)
    artefacts: Path | None = None


class TcelabError(Exception):
    """Root of all errors that tcelab raises on purpose.

    :param message: one line, what happened and where.
    :param next_step: one line, what the reader can do now.
    """

    def __init__(self, message: str, *, next_step: str = "", scene: Scene | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.scene = scene or Scene()

    def report(self) -> str:
        """All that is known, as plain lines: message, phase, console, artefacts, next step."""
        scene = self.scene
        lines = [f"tcelab: {self.message}"]
        if scene.phase:
            elapsed = "" if scene.elapsed is None else f", after {scene.elapsed:.1f} s"
            lines.append(f"  phase:     {scene.phase}{elapsed}")
        lines.extend(f"  console:   {line}" for line in scene.console)
        if scene.artefacts is not None:
            lines.append(f"  artefacts: {scene.artefacts}")
        if self.next_step:
            lines.append(f"  next step: {self.next_step}")
        return spelled("\n".join(lines))


class UsageError(TcelabError):
    """The command line, a program file or a recipe is wrong."""


class Unsupported(TcelabError):  # noqa: N818 - the name says what it is: a verdict about the platform
    """This host, QEMU or image cannot do what was asked."""


class HarnessError(TcelabError):
    """QEMU, the host or tcelab itself failed; says nothing about the kernel under test."""


class Interrupted(HarnessError):  # noqa: N818 - the word that people use
    """Somebody wants it to end: Ctrl-C, or a signal. Nothing is tried again."""

    def __init__(self, *, scene: Scene | None = None) -> None:
        super().__init__("interrupted", scene=scene)


class GuestLost(TcelabError):  # noqa: N818 - the name that kernel people's tools use
    """The guest went away or stopped answering.

    :ivar kernel_died: an oops, panic or lockup of the kernel was seen on its console or by QEMU.
    :ivar in_flight: number of the operation (within the request) that the agent had begun, if known.
    :ivar said: of a kernel that died, the line that tells it: the kernel's own, or QEMU's; empty: nobody said any.
    """

    def __init__(
        self,
        message: str,
        *,
        next_step: str = "",
        scene: Scene | None = None,
        kernel_died: bool = False,
        in_flight: int | None = None,
        said: str = "",
    ) -> None:
        super().__init__(message, next_step=next_step, scene=scene)
        self.kernel_died = kernel_died
        self.said = said
        self.in_flight = in_flight


def died(error: TcelabError) -> bool:
    """Did the kernel under test die? That is a finding, wherever it was noticed."""
    return isinstance(error, GuestLost) and error.kernel_died


_PLACE: Final = re.compile(r" - at `\$(.*)`$")


def counted(number: int, one: str, several: str = "") -> str:
    """`1 page`, `2,000 pages`.

    :param one: the noun; `several`: its plural, if that is not the noun and an s.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def meant(name: str, known: Iterable[str]) -> str:
    """A next step for a name that is not known: the known one that is most like it; empty if none is."""
    import difflib  # noqa: PLC0415 - hardly ever needed

    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]}?" if close else ""


def in_words(error: str) -> str:
    """What msgspec says of a wrong value, with the field first: `field runs_kept: Expected ...`."""
    found = _PLACE.search(error)
    if found is None:
        return error
    place = found[1].replace("[...]", "").lstrip(".")
    return f"{f'field {place}: ' if place else ''}{error[: found.start()]}"

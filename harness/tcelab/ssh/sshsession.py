"""The platform `ssh` as a `Session`: the agent on a machine that already runs, and no view from outside."""

from __future__ import annotations

import logging
import platform
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

import tcelab
from tcelab.errors import HarnessError, Interrupted, Scene, TcelabError, Unsupported
from tcelab.logs import PHASE
from tcelab.papr import window
from tcelab.program import Bind, Checkpoint, GuestOp, HostOp, Read
from tcelab.program.topology import Topology
from tcelab.qemu.channel import PROTOCOL, Hello, decode
from tcelab.qemu.console import TROUBLE
from tcelab.qemu.limits import Limits
from tcelab.run.record import KERNELS_LOG, Facts, Outcome, Snapshot
from tcelab.ssh import farside
from tcelab.ssh.agentlink import AgentLink
from tcelab.ssh.choice import SshChoice
from tcelab.ssh.connection import Connection
from tcelab.ssh.survey import Placed, Survey, expect_able, place

_LOG: Final = logging.getLogger(__name__)

NAME: Final = "ssh"
KERNEL_LOG: Final = "kernel.log"
_NONCE: Final = 16
_TOLD: Final = ("kernel", "version", "machine", "python", "cmdline", "modules")
"""Fields of `Hello` that go into the result."""

UNSEEN: Final = {
    "tables": "over ssh nobody reads the TCE tables",
    "guest RAM": "over ssh nobody reads the pages that entries and devices reach, nor the tags in them",
    "refusals": "over ssh nobody sees which accesses of devices were refused",
}
"""What is not there on any machine, and why."""


class SshSession:
    """A machine with its agent ready. Use as a context manager: nothing of it is left there, whatever happens.

    Methods run in their caller's thread, one at a time; `close` may be called from another thread at any time.

    :ivar folder: of its artefacts.
    """

    def __init__(
        self,
        choice: SshChoice,
        topology: Topology,
        folder: Path,
        *,
        limits: Limits | None = None,
        quirks: frozenset[str] = frozenset(),
        profile: str = "linux-v1",
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect, copy the agent, start it, and look at what is there.

        :param topology: that the program is for.
        :param on_close: called once, when all of it is closed.
        :raise TcelabError: the machine cannot be reached, or cannot be judged.
        """
        self.folder = folder
        self._choice, self._topology = choice, topology
        self._limits = limits or Limits()
        self._quirks, self._profile = quirks, profile
        self._on_close = on_close
        self._closing = threading.Lock()
        self._closed = False
        self._number = 0
        self._trouble: list[str] = []
        self.boot = 1  # nobody makes it boot
        self._link: AgentLink | None = None
        self._connection: Connection | None = None
        try:
            self._connection = Connection(choice, self._limits)
            _LOG.info("starting the agent on %s", choice.host, extra=PHASE)
            self._link, copied = farside.start(self._connection, choice, folder, self._limits)
            survey = self._survey()
            self._placed = place(survey, topology, choice)
            self.facts = self._greet(survey, copied)
            self._link.handshake_done = True
        except KeyboardInterrupt:
            scene = self.scene()
            self.close()
            raise Interrupted(scene=scene) from None
        except TcelabError as error:
            error.scene = error.scene if error.scene.phase else self.scene()
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def scene(self) -> Scene:
        """Where the session is now."""
        return Scene("connect", artefacts=self.folder) if self._link is None else self._link.scene()

    def tail(self, lines: int) -> list[str]:
        """The last lines that the other side printed."""
        return [] if self._link is None else self._link.tail(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the agent, which removes what it left there, and the connection."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            if self._link is not None:
                self._link.close()
        finally:
            if self._connection is not None:
                self._connection.close()
            self._on_close()

    # -- the beginning

    def _survey(self) -> Survey:
        answer = self._ask({"ask": "survey"}, "control", self._limits.control)
        survey: Survey = self._part(answer, "survey", Survey)
        expect_able(survey, self._choice.host)
        return survey

    def _greet(self, survey: Survey, copied: str) -> Facts:
        nonce = secrets.token_bytes(_NONCE)
        devices = {
            each.device.name: {
                "buid": window.buid(each.phb.index),
                "slot": each.device.slot,
                "address": each.found.address,
            }
            for each in self._placed
        }
        asked = {"hello": {"nonce": nonce.hex(), "devices": devices}}
        hello = self._part(self._ask(asked, "control", self._limits.control), "hello", Hello)
        if (hello.protocol, hello.digest) != (PROTOCOL, farside.digest()):
            raise HarnessError(
                f"the agent on {self._choice.host} is not the one that was copied there ({hello.digest[:12]})",
                next_step="who changed its folder? Please report it",
            )
        self.drawn = hello.drawn
        cannot = self._cannot(survey)
        return Facts(
            platform=NAME,
            nonce=nonce,
            page_size=hello.page_size,
            ram=survey.ram,
            cannot=cannot,
            versions=self._versions(hello, copied),
            views=(),
            profile=self._profile,
            quirks=self._quirks,
            hypercalls="tce_hcall" in hello.modules and "hypercalls" not in cannot,
            huge=0,
            behaviour_only=self._choice.behaviour_only,
            unlike=frozenset(each.device.name for each in self._placed if each.unlike),
        )

    def _cannot(self, survey: Survey) -> dict[str, str]:
        cannot = dict(UNSEEN)
        if "virtio-blk" in self._topology.models:
            cannot["disks"] = "over ssh nobody reads the disks"
        if not survey.log:
            cannot[KERNELS_LOG] = "/dev/kmsg cannot be read there: a WARN or an Oops goes unnoticed"
        if not survey.pins:
            cannot["pins"] = "its kernel does not count page pins"
        elif not self._choice.exclusive:
            cannot["pins"] = "they are the whole kernel's, and others may use it: --exclusive says that nobody does"
        if not all(each.same for each in self._placed):
            cannot["hypercalls"] = "its LIOBNs are not those of the topology"
        return cannot

    def _versions(self, hello: Hello, copied: str) -> dict[str, Any]:
        assert self._connection is not None
        return {
            "tcelab": tcelab.__version__,
            "host": {"python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine()},
            "guest": {key: getattr(hello, key) for key in _TOLD},
            "agent": {"protocol": hello.protocol, "digest": hello.digest},
            "ssh": {
                "host": str(self._choice.hops[-1]),
                "user": self._choice.hops[-1].user,
                "jumps": [str(hop) for hop in self._choice.hops[:-1]],
                "banner": self._connection.banner,
                "host_key": self._connection.host_key,
                "copied": copied,
                "devices": {each.device.name: each.found.address for each in self._placed},
            },
            "quirks": sorted(self._quirks),
        }

    # -- Session

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """See `tcelab.run.session.Session`. Page pins that cannot be judged are not read."""
        done = [op for op in ops if self._is_done(op)]
        answer = self._ask({"ops": done}, "perform", self._limits.perform) if done else {"outcomes": []}
        outcomes = self._part(answer, "outcomes", list[Outcome])
        if len(outcomes) != len(done):
            raise HarnessError(
                f"the agent gave {len(outcomes)} outcomes for {len(done)} operations", scene=self.scene()
            )
        given = iter(outcomes)
        return [self._translated(op, next(given)) if self._is_done(op) else Outcome(value=0) for op in ops]

    def _is_done(self, op: GuestOp) -> bool:
        return not (isinstance(op, Read) and op.what in self.facts.cannot)

    def _translated(self, op: GuestOp, outcome: Outcome) -> Outcome:
        """BUID and LIOBN of a bound device are the machine's own; the topology's are what programs mean by them."""
        if not isinstance(op, Bind) or not outcome.fields:
            return outcome
        placed: Placed = next(each for each in self._placed if each.device.name == op.device)
        own = outcome.fields.get("liobn"), outcome.fields.get("buid")
        if placed.found.window is None or own != (placed.found.window[0], placed.found.buid):
            return outcome
        theirs = {"liobn": placed.phb.liobn, "buid": window.buid(placed.phb.index)}
        return msgspec.structs.replace(outcome, fields=outcome.fields | theirs)

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:  # noqa: ARG002 - nobody reads them
        """See `tcelab.run.session.Session`. A checkpoint shows what the kernel said, and nothing else."""
        if not isinstance(op, Checkpoint):
            raise Unsupported(
                f"nobody is there from outside for operation {type(op).__name__} over ssh", scene=self.scene()
            )
        began = time.perf_counter()
        self._listen()
        return Snapshot(
            tables=(),
            missing={},
            pages={},
            refusals=(),
            console=self.trouble(),
            seconds={KERNELS_LOG: time.perf_counter() - began},
        )

    def trouble(self) -> tuple[str, ...]:
        """See `tcelab.run.session.Session`."""
        taken, self._trouble = tuple(self._trouble), []
        return taken

    def finish(self) -> tuple[str, ...]:
        """See `tcelab.run.session.Session`."""
        self._listen()
        return self.trouble()

    def _listen(self) -> None:
        """Ask for the kernel's log, which shows that the agent is alive as well."""
        lines = self._part(self._ask({"ask": "log"}, "control", self._limits.control), "log", list[str] | None) or []
        if lines:
            with (self.folder / KERNEL_LOG).open("a", encoding="utf-8") as log:
                log.writelines(f"{line}\n" for line in lines)
        self._trouble += [line for line in lines if TROUBLE.search(line)]

    def _ask(self, request: dict[str, Any], phase: str, limit: float) -> dict[str, Any]:
        if self._link is None or self._closed:
            raise Interrupted(scene=self.scene())
        self._number += 1
        payload = msgspec.json.encode({"id": self._number, **request})
        try:
            return decode(self._link.ask(payload, phase, limit), self._number)
        except HarnessError as error:
            error.scene = error.scene if error.scene.phase else self.scene()
            raise

    def _part(self, answer: dict[str, Any], name: str, kind: Any) -> Any:  # noqa: ANN401 - a type, and one of it
        """One part of an answer, checked.

        :raise HarnessError: it is not there, or not of that kind.
        """
        try:
            return msgspec.convert(answer[name], kind)
        except (msgspec.ValidationError, KeyError) as error:
            raise HarnessError(f"malformed frame from the agent: {error}", scene=self.scene()) from None

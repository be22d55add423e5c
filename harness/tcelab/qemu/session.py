"""The platform `qemu` as a `Session`: handshake, requests to the agent, checkpoints."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

import tcelab
from tcelab.errors import GuestLost, HarnessError, Scene
from tcelab.papr import tce, window
from tcelab.program import Checkpoint, Flip, GuestOp, HostOp
from tcelab.qemu import machine, probe
from tcelab.qemu.channel import PROTOCOL, Cell, decode
from tcelab.qemu.guest import Guest
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal
from tcelab.qemu.views import stream
from tcelab.qemu.views.live import LiveMemory
from tcelab.run import Facts, Outcome, Snapshot, TableView

T = TypeVar("T")

_NONCE: Final = 16


class Hello(msgspec.Struct, frozen=True):
    """The agent's side of the handshake. `page_size` in bytes, `cell`: guest physical address of the progress cell."""

    protocol: int
    digest: str
    cell: int
    page_size: int
    kernel: str
    version: str
    machine: str
    python: str
    cmdline: str
    modules: list[str]


_TOLD: Final = ("kernel", "version", "machine", "python", "cmdline", "modules")
"""Fields of `Hello` that go into the result."""


class QemuSession:
    """A booted guest with its agent ready. Use as a context manager: QEMU ends with it, whatever happens.

    :ivar reached: seconds from the start at which each phase of the boot was reached.
    """

    def __init__(
        self,
        qemu: probe.Qemu,
        options: machine.Options,
        folder: Path,
        *,
        limits: Limits | None = None,
        digest: str = "",
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Boot.

        :param folder: artefacts go there; it exists, private.
        :param digest: of the agent's sources that the handshake must show; empty: any.
        :param note: told of each phase.
        :raise Unsupported: this host or QEMU cannot.
        :raise HarnessError: QEMU fails, or the agent in the image is not the one of this tcelab.
        :raise GuestLost: the guest does not come up.
        """
        self._number = 0
        self._live: LiveMemory | None = None
        note("probing QEMU")
        self._abilities = probe.probe(qemu)
        self._options = options
        self._default_entries = machine.window_entries(options.topology)
        self._qemu = qemu
        self.guest = Guest(qemu, self._abilities, options, limits or Limits(), folder)
        try:
            note(f"booting under QEMU {self._abilities.version}, {machine.firmware(options, self._abilities)}")
            portal().call(self.guest.start())
            # What comes before QEMU (setpriv, a loader) replaces itself: the child is QEMU.
            self._live = LiveMemory(self.guest.pid)
            self._greet(digest)
        except KeyboardInterrupt:
            scene = self.scene()
            self.close()
            raise HarnessError("interrupted", scene=scene) from None
        except BaseException:
            self.close()
            raise

    def scene(self) -> Scene:
        """Where the session is now."""
        if hasattr(self.guest, "race"):
            return self.guest.race.now()
        return Scene("launch", artefacts=self.guest.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU. May be called twice."""
        portal().call(self.guest.close())
        if self._live is not None:
            self._live.close()
            self._live = None

    # -- the handshake

    def renew(self) -> None:
        """Begin anew on the same guest: all that programs left there is closed and forgotten, the nonce is fresh.

        The counters of QEMU's refusals and of the console's trouble begin anew as well.
        """
        self._greet(self.facts.versions["agent"]["digest"], renew=True)
        self.guest.log.drain()
        self.guest.log.take_refusals()
        self.trouble()

    def _greet(self, digest: str, *, renew: bool = False) -> None:
        nonce = secrets.token_bytes(_NONCE)
        devices = {
            device.name: {"buid": window.buid(phb.index), "slot": device.slot}
            for phb in self._options.topology.phbs
            for device in phb.devices
        }
        request = {"id": self._next(), "hello": {"nonce": nonce.hex(), "devices": devices, "renew": renew}}
        answer = decode(portal().call(self.guest.hello(msgspec.json.encode(request))), self._number)
        hello = self._part(answer, "hello", Hello)
        if not renew:
            self.reached = {**self.guest.console.reached, "ready": self.guest.race.elapsed()}
        if hello.protocol != PROTOCOL:
            raise HarnessError(
                f"the agent speaks protocol {hello.protocol}, this tcelab {PROTOCOL}",
                next_step="rebuild the image: tcelab image build",
            )
        if digest and hello.digest != digest:
            raise HarnessError(
                f"the initrd carries an agent of other sources ({hello.digest[:12]}) than this tcelab ({digest[:12]})",
                next_step="rebuild the image: tcelab image build",
            )
        self.guest.race.shaken = True
        self._cell = Cell(self.guest.ram, hello.cell, nonce)
        if self._cell.read() is None:
            raise HarnessError(
                f"the agent's progress cell is not in guest RAM at {hello.cell:#x}, where the agent says that it is",
                scene=self.scene(),
            )
        self.facts = self._facts(nonce, hello)

    def _facts(self, nonce: bytes, hello: Hello) -> Facts:
        cannot = {}
        if probe.TRACES[0] not in self._abilities.traces:
            cannot["live"] = f"QEMU {self._abilities.version} does not trace {probe.TRACES[0]}"
        if not self._abilities.device_state:
            cannot["stream"] = f"QEMU {self._abilities.version} has no xen-save-devices-state"
        versions = {
            "tcelab": tcelab.__version__,
            "host": {"python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine()},
            "qemu": {
                "name": self._qemu.name,
                **msgspec.to_builtins(self._abilities),
                "firmware": machine.firmware(self._options, self._abilities),
            },
            "guest": {key: getattr(hello, key) for key in _TOLD},
            "agent": {"protocol": hello.protocol, "digest": hello.digest},
        }
        return Facts("qemu", nonce, hello.page_size, self.guest.ram.size, cannot, versions)

    def _part(self, answer: dict[str, Any], name: str, kind: type[T]) -> T:
        """One part of an answer, checked.

        :raise HarnessError: it is not there, or not of that kind.
        """
        try:
            return msgspec.convert(answer[name], kind)
        except (msgspec.ValidationError, KeyError) as error:
            raise HarnessError(f"malformed frame from the agent: {error}", scene=self.scene()) from None

    def _next(self) -> int:
        self._number += 1
        return self._number

    # -- Session

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        """See `tcelab.run.Session`."""
        number = self._next()
        request = msgspec.json.encode({"id": number, "ops": ops})
        try:
            answer = decode(portal().call(self.guest.ask(request, self._cell.read)), number)
        except GuestLost as error:
            begun = self._cell.read()
            if begun is not None and begun[0] == number:
                error.in_flight = begun[1]
            raise
        except HarnessError as error:
            error.scene = error.scene if error.scene.phase else self.scene()
            raise
        outcomes = self._part(answer, "outcomes", list[Outcome])
        if len(outcomes) != len(ops):
            raise HarnessError(f"the agent gave {len(outcomes)} outcomes for {len(ops)} operations", scene=self.scene())
        return outcomes

    def intervene(self, op: HostOp, frames: Sequence[int]) -> Outcome | Snapshot:
        """See `tcelab.run.Session`."""
        began = time.perf_counter()
        with self._stopped():
            stopped = time.perf_counter()
            result = self._flip(op) if isinstance(op, Flip) else self._snapshot(op, frames)
            read = time.perf_counter()
        if isinstance(result, Snapshot):
            result.seconds["stop and cont"] = stopped - began + time.perf_counter() - read
        return result

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """The guest stopped, and all that QEMU has said until then read."""
        portal().call(self.guest.pause())
        try:
            self.guest.log.drain()
            yield
        finally:
            portal().call(self.guest.qmp("cont"))

    def finish(self) -> tuple[str, ...]:
        """See `tcelab.run.Session`."""
        with self._stopped():
            return self.trouble()

    def trouble(self) -> tuple[str, ...]:
        """See `tcelab.run.Session`."""
        return portal().call(self.guest.trouble())

    def _snapshot(self, op: Checkpoint, frames: Iterable[int]) -> Snapshot:
        seconds: dict[str, float] = {}
        missing: dict[str, str] = {}
        tables: list[TableView] = []
        readers: dict[str, Callable[[], list[TableView]]] = {"live": self._read_live}
        if op.stream:
            readers["stream"] = self._read_stream
        for view, reader in readers.items():
            began = time.perf_counter()
            if view in self.facts.cannot:
                missing[view] = self.facts.cannot[view]
                continue
            try:
                tables += reader()
            except HarnessError as error:
                missing[view] = error.message
            seconds[view] = time.perf_counter() - began
        began = time.perf_counter()
        addresses = {tce.address(int(word)) for table in tables for word in table.tce}
        pages = {address: self.guest.ram.page(address) for address in addresses.union(frames)}
        seconds["pages"] = time.perf_counter() - began
        return Snapshot(
            tables=tuple(tables),
            missing=missing,
            pages=pages,
            refusals=self.guest.log.take_refusals(),
            console=self.trouble(),
            seconds=seconds,
        )

    def _read_live(self) -> list[TableView]:
        assert self._live is not None
        known = self.guest.log.tables.at
        if not known:
            raise HarnessError("QEMU's trace told of no table: was it built with another trace backend than log?")
        out = []
        for liobn, at in sorted(known.items()):
            entries = self._entries(liobn)
            if entries is None:
                raise HarnessError(f"LIOBN {liobn:#x} has a table at {at:#x}, but nothing told its size")
            out.append(self._live.table(liobn, at, entries))
        return out

    def _entries(self, liobn: int) -> int | None:
        """Number of entries of a table: as RTAS was told when it made the window, else the machine's default."""
        return self.guest.log.tables.entries.get(liobn, self._default_entries.get(liobn))

    def _read_stream(self) -> list[TableView]:
        os.ftruncate(self.guest.state, 0)
        path = f"/proc/self/fd/{self.guest.state}"
        portal().call(self.guest.qmp("xen-save-devices-state", filename=path))
        size = os.fstat(self.guest.state).st_size
        return list(stream.tables(os.pread(self.guest.state, size, 0)))

    def _flip(self, op: Flip) -> Outcome:
        at = self.guest.log.tables.at.get(op.liobn)
        entries = self._entries(op.liobn) or 0
        index = op.ioba >> window.PAGE_SHIFT
        if at is None or index >= entries or not 0 <= op.bit < 64:  # noqa: PLR2004 - bits of an entry
            raise HarnessError(f"flip: LIOBN {op.liobn:#x} has no bit {op.bit} of an entry for IOBA {op.ioba:#x}")
        assert self._live is not None
        before, after = self._live.flip(at, index, op.bit)
        return Outcome(value=after, fields={"before": before, "after": after})

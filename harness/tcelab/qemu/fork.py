"""Where sessions come from: forks of a guest that was booted once, or a boot where forking is impossible.

A base is a guest whose agent has answered once, saved (`tcelab.image.bases`). Its key is the hash of all that went into
it, so it serves the next run as well as this one. A fork maps the base's RAM copy-on-write, loads its devices' state
(QEMU `migrate` with `x-ignore-shared`), gets back the registers that QEMU does not save, and is not handed out before
its agent has answered a fresh nonce, its clock and its random generator are its own, and a small program has passed.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final
from weakref import WeakSet

import msgspec

from tcelab.errors import GuestLost, HarnessError, Interrupted, Unsupported, died
from tcelab.image import bases, known
from tcelab.logs import NOTE, PHASE
from tcelab.program.topology import SPARE
from tcelab.qemu import ability, basekey, machine, probe
from tcelab.qemu.guest import Guest
from tcelab.qemu.life import EVENTS
from tcelab.qemu.limits import Limits
from tcelab.qemu.portal import portal
from tcelab.qemu.qemusession import QemuSession
from tcelab.qemu.trial import OtherwiseError, attempt, replaceable

_LOG: Final = logging.getLogger(__name__)

_ATTEMPTS: Final = 2
"""How often a base is made again when the existing one turns out to be changed."""


class _NoForksError(Exception):
    """Guests of this machine cannot be forked; says why."""


class Forks:
    """Opens sessions of one machine. May be used from several threads; `close` ends what is being opened."""

    def __init__(
        self,
        qemu: probe.Qemu,
        options: machine.QemuOptions,
        *,
        digest: str = "",
        limits: Limits | None = None,
        boot: bool = False,
    ) -> None:
        """:param digest: of the agent that must answer; empty: any.
        :param boot: boot each guest anew, whether or not it could be forked.
        """
        self._qemu, self._options, self._digest = qemu, options, digest
        self._limits = limits or Limits()
        self._boot = boot
        self._closing = False
        self._lock = threading.Lock()
        self._base: bases.Held | None = None
        self._held: dict[bases.Held, Future[None]] = {}
        self._hashing = ThreadPoolExecutor(1, "tcelab-hash")
        self._young: WeakSet[Guest] = WeakSet()
        self._births = threading.Lock()
        self._drawn: set[str] = set()

    @cached_property
    def abilities(self) -> probe.Abilities:
        """QEMU's; asked once, and of tcelab's own builds once for all."""
        key = f"abilities {probe.VERSION} {self._qemu.build}"
        can = known.recall(key, probe.Abilities) if self._qemu.build else None
        if can is None:
            _LOG.debug("probing %s", self._qemu.argv[0])
            can = probe.probe(self._qemu)
            if self._qemu.build:
                known.remember(key, can)
        return can

    def open(self, folder: Path) -> QemuSession:
        """A guest with its agent ready.

        :param folder: for artefacts; it exists, private.
        :raise TcelabError: as `QemuSession`.
        """
        for turn in range(_ATTEMPTS):
            base = None
            if not self._boot:
                with self._lock:
                    self._expect_open()
                    session = self._find(folder) if self._base is None and not self._boot else None
                    base = self._base
                    intact = self._held[base] if base is not None else None
                if session is not None:
                    return self._grown(session)
            self._expect_open()
            if base is None or intact is None:
                return self._grown(self._booted(folder))
            try:
                return self._grown(self._fork(base, intact, folder))
            except bases.ChangedError as error:
                if turn == _ATTEMPTS - 1:
                    raise
                self._discard(error)
        raise AssertionError

    def _expect_open(self) -> None:
        if self._closing:
            raise HarnessError("closed: no guest can be had from here any more")

    def _grown(self, session: QemuSession) -> QemuSession:
        """The caller owns it from now on."""
        session.guest.cover.begin(anew=session.forked)
        self._young.discard(session.guest)
        return session

    def check(self) -> None:
        """Check that the base of the forks that are kept ready is unchanged.

        :raise ChangedError: it is not.
        """
        base = self._base
        if base is not None:
            base.check()

    def close(self) -> None:
        """End what is being opened, and let go of the base."""
        with self._births:  # who is not in the list by now is refused by _on_spawn
            self._closing = True
            young = list(self._young)
        for guest in young:
            portal().call(guest.close())
        self._hashing.shutdown()
        with self._lock:
            self._base = None
            for held in self._held:
                held.close()
            self._held.clear()

    # -- the base

    def key(self) -> str:
        """Of the base: see `basekey.key`."""
        return basekey.key(self._qemu, self._options, self.abilities)

    def _key_if_forkable(self) -> str:
        """:raise _NoForksError: a guest of this machine cannot be forked, or was found to be one that cannot."""
        try:
            machine.expect_forkable(self._options, self.abilities)
            key = self.key()
        except Unsupported as error:
            raise _NoForksError(error.message) from None
        if why := bases.refused(key):
            raise _NoForksError(why)
        return key

    def _find(self, folder: Path) -> QemuSession | None:
        """Take or make the base. Where there cannot be one: a session that was booted."""
        try:
            key = self._key_if_forkable()
            held, _ = bases.take(key)
            if held is not None:
                self._take(held)
                return None
            with bases.locked(key, lambda: self._closing):
                self._expect_open()
                held, why = bases.take(key)  # another process may have made it meanwhile
                if held is not None:
                    self._take(held)
                    return None
                if why:
                    _LOG.warning("the base %s is made anew: %s", key, why, extra=NOTE)
                return self._make(key, folder)
        except _NoForksError as error:
            _LOG.warning("no forks, each guest is booted: %s", error, extra=NOTE)
            self._boot = True
            return None

    def _take(self, held: bases.Held) -> None:
        _LOG.info("guests are forked from the base %s, built %s", held.record.key, held.record.built)
        with self._births:
            if self._closing:
                held.close()
            self._expect_open()
            self._base = held
            self._held[held] = self._hashing.submit(held.check, "ram")

    def _discard(self, error: bases.ChangedError) -> None:
        """The base is not what it was."""
        with self._lock:
            if self._base is error.held:
                key = error.held.record.key
                _LOG.warning("the base %s is made anew: %s", key, error.message, extra=NOTE)
                with bases.locked(key):
                    bases.discard(error.held)
                self._base = None

    def _make(self, key: str, folder: Path) -> QemuSession | None:
        """Boot a guest and save it, under the lock; that guest itself where it cannot be saved."""
        session = self._booted(folder)
        _LOG.info("trying the guest", extra=PHASE)
        try:
            why = attempt(session, self._options.topology.at_start, thorough=True)
        except GuestLost as error:
            self._expect_open()
            why = error.message
        if self._closing:
            session.close()
            self._expect_open()
        if why:
            # A kernel warns only once of some things (WARN_ON_ONCE): what programs get must be untouched.
            said = "guests are handed out untouched: the small program before them ends with %s"
            _LOG.warning(said, why, extra=NOTE)
            session.close()
            session = self._booted(folder)
            session.facts.versions["trial"] = why
        try:
            _LOG.info("saving the guest for forks", extra=PHASE)
            try:
                self._save(key, session, trial=why)
            except (HarnessError, OSError) as error:
                if self._closing or isinstance(error, Interrupted):
                    raise
                _LOG.warning("no forks, each guest is booted: %s", error, extra=NOTE)
                self._boot = True
                session.go_on()
                return session
        except BaseException:
            session.close()
            raise
        session.close()
        held, why = bases.take(key)
        if held is None:
            raise HarnessError(f"the base {key} is not what was written: {why}")
        self._try_out(held, folder)
        self._take(held)
        return None

    def _save(self, key: str, session: QemuSession, *, trial: str) -> None:
        state, registers = session.save()
        log = session.guest.log
        if self.key() != key:
            raise HarnessError("the kernel, the initrd or QEMU was changed while the guest booted")
        if refused := log.refusals:
            raise HarnessError(f"QEMU refused accesses while the guest booted: {refused[0].line}")
        versions = session.facts.versions
        facts = {
            "about": {
                "kernel": f"{versions['guest']['kernel']} {session.facts.page_size >> 10}K",
                "qemu": versions["qemu"]["version"],
                "firmware": versions["qemu"]["firmware"],
                "topology": self._options.topology.name,
                "memory": f"{self._options.memory} MiB",
            },
            "built": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "boot": round(session.reached["ready"], 2),
            "registers": msgspec.to_builtins(registers),
            "windows": dict(log.tables.shapes),
            "trial": trial,
            "conduct": msgspec.to_builtins(session.guest.console.heard.boot),
        }
        files = {"state": state, "console": (session.guest.folder / "console.log").read_bytes()}
        bases.store(key, session.guest.ram.fd, files, facts)

    def _try_out(self, held: bases.Held, folder: Path) -> None:
        """The first fork of a new base must do what the base did.

        :raise _NoForksError: it does not; noted for ever.
        :raise TcelabError: it could not be tried.
        """
        _LOG.info("trying a fork", extra=PHASE)
        try:
            try:
                session = self._forked(held, folder, thorough=True)
            except GuestLost as error:  # a busy host is no reason to refuse for ever
                if self._closing or died(error):
                    raise
                session = self._forked(held, folder, thorough=True)
            session.close()
        except (GuestLost, HarnessError) as error:
            held.close()
            if self._closing or isinstance(error, bases.ChangedError | Interrupted) or died(error):
                raise
            why = f"a fork of this guest does not work: {error.message}"
            bases.refuse(held.record.key, why)
            raise _NoForksError(why) from None
        except BaseException:
            held.close()
            raise

    # -- sessions

    def _booted(self, folder: Path) -> QemuSession:
        """:raise Unsupported: its kernel cannot do what every program needs."""
        _LOG.debug("a guest is booted in %s", folder)
        session = self._session(folder, None)
        try:
            ability.check(session, SPARE.devices[0].name, self._options.kernel)
        except BaseException:
            session.close()
            raise
        return session

    def _fork(self, base: bases.Held, intact: Future[None], folder: Path) -> QemuSession:
        """A fork that works; one that does not is replaced once."""
        try:
            session = self._forked(base, folder)
        except (GuestLost, HarnessError) as error:
            if self._closing or not replaceable(error):
                raise
            _LOG.warning("a fork is replaced: %s", error.message, extra=NOTE)
            session = self._forked(base, folder)
        try:
            intact.result()
        except BaseException:
            session.close()
            raise
        return session

    def _forked(self, base: bases.Held, folder: Path, *, thorough: bool = False) -> QemuSession:
        """A fork that does what its base did."""
        session = self._untried(base, folder)
        # On a base whose own trial did not pass, a fork's would not either.
        why = "" if base.record.trial else attempt(session, self._options.topology.at_start, thorough=thorough)
        _LOG.debug("the fork in %s: %s", folder, why or "fit for use")
        if why:
            session.close()
            raise OtherwiseError(f"a fork does not do what its base did: {why}", scene=session.scene())
        return session

    def untried(self, folder: Path, loaded: Callable[[Guest], None] = lambda _: None) -> QemuSession:
        """A fork on which no program was run at all. There must be a base: `open` makes it.

        :param loaded: called once it is loaded, before anything is asked of its agent.
        """
        if self._base is None:
            raise HarnessError("there is no base to fork: closed, or this guest cannot be forked")
        return self._grown(self._untried(self._base, folder, loaded))

    def _untried(self, base: bases.Held, folder: Path, loaded: Callable[[Guest], None] = lambda _: None) -> QemuSession:
        base.check()
        _LOG.debug("the base %s is forked in %s", base.record.key, folder)
        session = self._session(folder, base, loaded)
        if base.record.trial:
            session.facts.versions["trial"] = base.record.trial
        if session.drawn in self._drawn:
            session.close()
            raise HarnessError("two forks draw the same random numbers: the host's entropy does not reach them")
        self._drawn.add(session.drawn)
        return session

    def _session(
        self,
        folder: Path,
        base: bases.Held | None,
        loaded: Callable[[Guest], None] = lambda _: None,
    ) -> QemuSession:
        return QemuSession(
            self._qemu,
            self._options,
            folder,
            limits=self._limits,
            abilities=self.abilities,
            base=base,
            digest=self._digest,
            events=EVENTS,
            on_spawn=self._on_spawn,
            loaded=loaded,
        )

    def _on_spawn(self, guest: Guest) -> None:
        with self._births:
            self._expect_open()
            self._young.add(guest)


@contextmanager
def opened(
    qemu: probe.Qemu,
    options: machine.QemuOptions,
    folder: Path,
    *,
    digest: str,
    limits: Limits,
    boot: bool = False,
) -> Iterator[QemuSession]:
    """One session, for as long as the context lasts. Parameters as of `Forks` and `Forks.open`."""
    forks = Forks(qemu, options, digest=digest, limits=limits, boot=boot)
    try:
        with forks.open(folder) as session:
            yield session
    finally:
        forks.close()

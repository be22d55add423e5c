"""What `Forks` needs of sessions, without QEMU: an ideal guest that can be saved, and a world where it goes wrong."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from ideal import Ideal

from tcelab.errors import Scene
from tcelab.image.bases import SavedRegister
from tcelab.logs import PHASE
from tcelab.papr.window import Shape
from tcelab.program import Dma, GuestOp
from tcelab.qemu.conduct import Heard
from tcelab.run.record import Outcome, Refusal
from tcelab.scenarios.warmup import warm_up

_LOG = logging.getLogger("tcelab.stand")

REGISTERS = [SavedRegister(0x800000020000001, 1, 0x10, 4, 0xE0000000), SavedRegister(0x800000020000001, 1, 0x04, 2, 6)]
SHAPE = Shape(0x4000, 16, 1 << 59)
SAID = b"Linux version 6.12\n"
SAVED = b"the devices' state"


class World:
    """Takes the place of the class `QemuSession`.

    :ivar made: every session, in order.
    :ivar plans: how each session to come goes wrong, in order: `fails` and `saving` (errors to raise), `lies` (of the
        ideal guest), `drawn`, `refused` (an access that QEMU refused), `then` (called in the session's constructor).
    """

    def __init__(self, cache: Path) -> None:
        self.made: list[FakeSession] = []
        self.plans: list[dict[str, Any]] = []
        self._cache = cache

    def __call__(self, *given: Any, **more: Any) -> FakeSession:
        session = FakeSession(self, self.plans.pop(0) if self.plans else {}, *given, **more)
        session.begin()
        return session

    def locked(self) -> bool:
        """Somebody holds the lock of a base now."""
        for path in (self._cache / "locks").glob("base-*"):
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False

    @property
    def kinds(self) -> list[str]:
        return ["boot" if each.base is None else "fork" for each in self.made]

    @property
    def open(self) -> list[FakeSession]:
        return [each for each in self.made if not each.closed]


class _Guest:
    """What another thread may end."""

    def __init__(self, session: FakeSession, folder: Path) -> None:
        self._session = session
        self.folder = folder
        self.ram = SimpleNamespace(fd=os.memfd_create("fake-ram"))
        os.ftruncate(self.ram.fd, 1 << 20)
        os.pwrite(self.ram.fd, b"as booted", 0x5000)
        self.console = SimpleNamespace(heard=Heard())
        self.cover = session.given.options.cover.guest()
        self.log = SimpleNamespace(tables=SimpleNamespace(shapes={0x80000101: SHAPE}), refusals=())

    async def close(self) -> None:
        self._session.ended = True


class FakeSession:
    def __init__(
        self,
        world: World,
        plan: dict[str, Any],
        qemu: Any,
        options: Any,
        folder: Path,
        *,
        limits: Any = None,
        abilities: Any = None,
        base: Any = None,
        digest: str = "",
        events: Any = None,
        on_spawn: Callable[[Any], None] = lambda _: None,
        loaded: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.world, self.plan = world, plan
        self.given = SimpleNamespace(qemu=qemu, options=options, limits=limits, abilities=abilities, digest=digest)
        self.base, self.folder, self._on_spawn = base, folder, on_spawn
        self.forked = base is not None
        self._loaded = loaded
        self.ended = False
        self.closed = 0
        self.calls: list[str] = []
        self.performed: list[GuestOp] = []

    def begin(self) -> None:
        """The constructor's second half: what can fail."""
        self.world.made.append(self)
        self.locked = self.world.locked()
        _LOG.info("booting" if self.base is None else "forking", extra=PHASE)
        self.guest = _Guest(self, self.folder)
        try:
            self._on_spawn(self.guest)
        except BaseException:
            self.close()
            raise
        if self.base is not None:
            self._loaded(self.guest)
        (self.folder / "console.log").write_bytes(SAID)
        if then := self.plan.get("then"):
            then(self)
        if error := self.plan.get("fails"):
            self.close()
            raise error
        self._ideal = Ideal(warm_up(self.given.options.topology), **self.plan.get("lies", {}))
        versions = {"guest": {"kernel": "6.12"}, "qemu": {"version": "9.9.9", "firmware": "vof"}}
        self.facts = self._ideal.facts
        self.facts.versions.update(versions)
        self.guest.log.refusals = tuple(Refusal("read", 0x40, 4, each) for each in self.plan.get("refused", []))
        self.drawn = self.plan.get("drawn", secrets.token_hex(16))
        self.reached = {"ready": 12.345}

    # -- as of a session

    @property
    def alive(self) -> bool:
        return not self.ended

    def scene(self) -> Scene:
        return Scene("perform")

    def close(self) -> None:
        self.closed += 1
        self.ended = True
        if self.closed == 1:
            os.close(self.guest.ram.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def boot(self) -> int:
        return 1

    def perform(self, ops: Sequence[GuestOp]) -> list[Outcome]:
        self.calls.append("perform")
        self.performed += ops
        if error := self.plan.get("performing"):
            raise error
        return self._ideal.perform(ops)

    def intervene(self, op: Any, frames: Sequence[int]) -> Any:
        return self._ideal.intervene(op, frames)

    def trouble(self) -> tuple[str, ...]:
        return self._ideal.trouble()

    def finish(self) -> tuple[str, ...]:
        return self._ideal.finish()

    def renew(self) -> None:
        self.calls.append("renew")

    def save(self) -> tuple[bytes, list[SavedRegister]]:
        self.calls.append("save")
        if error := self.plan.get("saving"):
            raise error
        return SAVED, REGISTERS

    def go_on(self) -> None:
        self.calls.append("go on")

    # -- for tests

    @property
    def tried(self) -> str:
        """How the small program was run on it."""
        if not self.performed:
            return "not"
        return "thoroughly" if any(isinstance(op, Dma) for op in self.performed) else "quickly"

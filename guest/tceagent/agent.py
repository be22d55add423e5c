"""Answers the host: one answer to each message, until the port breaks.

Messages are `{"id", "hello": {"nonce", "devices", ...}}` and `{"id", "ops": [...]}`; and those that no program causes:
`{"id", "plug": {...}}` of an event that the host makes (`tceagent.hotplug`), `{"id", "places": {...}}` of what the host
wants to know (`tceagent.places`). An answer carries the same id and `hello`, `outcomes`, `plug` or `places`; or
`failed`, when the message, the program or the agent is wrong. A refusal by the kernel is an outcome, not a failure.
"""

from __future__ import annotations

import posix
from struct import Struct

from tceagent import atonce, ops, wire
from tceagent.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tceagent.seam import Kernel

PROTOCOL = 1
NONCE_SIZE = 16
DRAWN_SIZE = 16

CELL_MAGIC = b"TCELABPC"
_CELL_HEAD = Struct("<8s16s")
_CELL_PROGRESS = Struct("<QQ")


class Agent:
    """What the agent knows between two messages."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._state = State(kernel)
        self._cell, self._cell_address = kernel.cell()
        # Every fork asks again, with cold code: answer from memory then.
        self._about = {"protocol": PROTOCOL, "digest": digest(__file__.rpartition("/")[0]), **kernel.describe()}

    def answer(self, payload: bytes) -> dict[str, Any]:
        """The answer to one message. Never raises because of the message's contents."""
        number = None
        try:
            message = wire.decode(payload)
            number = message["id"]
            if "hello" in message:
                return {"id": number, "hello": self._hello(**message["hello"])}
            if rare := self._rarely(message):
                return {"id": number, **rare}
            program = message["ops"]
            if not (isinstance(number, int) and isinstance(program, list)):
                raise TypeError("id is a number and ops a list")  # noqa: TRY301  the answer is the same
        except Exception:  # noqa: BLE001  whatever it is, the host must hear of it
            return {"id": number, "failed": {"at": None, "traceback": wire.failure()}}
        return self._perform(number, program)

    def _rarely(self, message: dict[str, Any]) -> dict[str, Any]:
        """What is hardly ever asked, by a module that is loaded for it; empty: it is none of that."""
        if "second" in message:
            from tceagent import second  # noqa: PLC0415  hardly ever needed

            return {"second": second.perform(self._kernel, message["second"])}
        if "places" in message:
            from tceagent import places  # noqa: PLC0415  hardly ever needed

            return {"places": places.find(self._kernel, **message["places"])}
        if "plug" in message:
            if "by" in message["plug"]:
                from tceagent import helpers as way  # noqa: PLC0415  hardly ever needed
            else:
                from tceagent import hotplug as way  # type: ignore[no-redef]  # noqa: PLC0415  likewise
            return {"plug": way.perform(self._state, **message["plug"])}
        if "inner" in message:
            from tceagent import inner  # noqa: PLC0415  hardly ever needed

            return {"inner": inner.perform(self._state, **message["inner"])}
        return {}

    def _hello(
        self,
        nonce: str,
        devices: dict[str, dict[str, int]] | None = None,
        *,
        renew: bool = False,
        clock: float | None = None,
        entropy: str | None = None,
    ) -> dict[str, Any]:
        """:param renew: discard what programs of an earlier session left.
        :param clock: the host's, seconds since 1970, for a guest whose own stood still.
        :param entropy: the host's, in hex, for a guest that draws what others of its kind draw.
        """
        session = bytes.fromhex(nonce)
        if len(session) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(session)}")
        if renew:
            self._state.renew()
        self._state.nonce = session
        _CELL_HEAD.pack_into(self._cell, 0, CELL_MAGIC, session)
        for name, place in (devices or {}).items():
            self._state.devices[name] = place["buid"], place["slot"]
        if clock is not None:
            self._kernel.set_clock(clock)
        if entropy is not None:
            self._kernel.stir(bytes.fromhex(entropy))
        return {
            **self._about,
            "cell": self._cell_address,
            "clock": self._kernel.clock(),
            "drawn": self._kernel.draw(DRAWN_SIZE).hex(),
        }

    def _perform(self, number: int, program: list[dict[str, Any]]) -> dict[str, Any]:
        outcomes: list[dict[str, Any]] = []
        for index, op in enumerate(program):
            if len(outcomes) > index:
                continue  # it was begun with others
            try:
                # For the host to find in guest memory if the kernel dies of this operation.
                _CELL_PROGRESS.pack_into(self._cell, _CELL_HEAD.size, number, index)
                if op["op"] == "atonce":
                    group = program[index + 1 : index + 1 + op["count"]]
                    outcomes += atonce.perform(self._state, op["count"], group)
                else:
                    outcomes.append(ops.perform(self._state, op))
            except Exception:  # noqa: BLE001  whatever it is, the host must hear of it
                return {"id": number, "failed": {"at": index, "traceback": wire.failure()}, "outcomes": outcomes}
        return {"id": number, "outcomes": outcomes}


def serve(agent: Agent, channel: wire.Channel) -> None:
    """Answer messages for ever.

    :raise FrameError: the host sent what cannot be a message; it has been told.
    """
    while True:
        try:
            payload = channel.receive()
        except wire.FrameError:
            channel.send(wire.encode({"id": None, "failed": {"at": None, "traceback": wire.failure()}}))
            raise
        answer = agent.answer(payload)
        try:
            encoded = wire.encode(answer)
            channel.send(encoded)
        except (TypeError, ValueError):
            channel.send(wire.encode({"id": answer["id"], "failed": {"at": None, "traceback": wire.failure()}}))


def digest(folder: str) -> str:
    """SHA-256, in hex, of the agent's sources: of each module by name, its name, NUL, its bytes, NUL."""
    try:
        # Built in, while hashlib loads OpenSSL.
        from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    except ImportError:
        from hashlib import sha256  # noqa: PLC0415

    total = sha256()
    for name in sorted(name for name in posix.listdir(folder) if name.endswith(".py")):
        with open(f"{folder}/{name}", "rb") as module:
            total.update(name.encode() + b"\0" + module.read() + b"\0")
    return str(total.hexdigest())

"""Probes of a real QEMU: what they reach at any moment, and what becomes of a run when a probe's server fails."""

import errno
import os

import pytest

from tcelab.device.vfio_user.connection import Connection
from tcelab.emulator.reference import second_opinion
from tcelab.errors import GuestLost, HarnessError
from tcelab.judge import Judge
from tcelab.papr import tce
from tcelab.program import Page, Program
from tcelab.program.topology import PROBE, topology
from tcelab.qemu.portal import portal
from tcelab.run.loop import perform_program
from tcelab.scenarios import vocabulary as b

pytestmark = pytest.mark.guest

TOPOLOGY = topology(PROBE)
PE = b.pes(TOPOLOGY, "probe")[0]
AT, MIB = 0x100000, 1 << 20
ONLY_READ, ONLY_WRITE = AT + 2 * MIB, AT + 3 * MIB
NODEV = errno.ENODEV


@pytest.fixture
def session(_tcelab_guests):
    with _tcelab_guests.fresh(TOPOLOGY.name, 0) as made:
        yield made


def set_up():
    return [
        *b.buffer("a", 258, 1),
        *b.bind(PE),
        *b.open_container(PE),
        *b.enable(PE),
        *b.open_device(PE),
        *b.map_dma(PE, Page("a"), AT, 256, tce.READ | tce.WRITE),
        *b.map_dma(PE, Page("a", 256), ONLY_READ, 1, tce.READ),
        *b.map_dma(PE, Page("a", 257), ONLY_WRITE, 1, tce.WRITE),
    ]


def dma(session, address, what, name="pe1", mode="message"):
    return portal().call(session.guest.probes.probe(name).dma(address, what, mode))


def errnos(done):
    return [piece.errno for piece in done.pieces]


def test_a_probe_reaches_at_each_moment_exactly_what_the_table_holds(session):
    outcomes = session.perform(set_up())
    assert [each for each in outcomes if each.errno] == []
    for name in ("pe1", "pe1b"):  # the other one does not master the bus
        done = dma(session, AT, bytes(8), name)
        assert errnos(done) == ([0] if name == "pe1" else [NODEV])

    for size in (1, 2, 511, 4095, 4096, 4097, 65536, MIB):
        data = os.urandom(size)
        for at in {AT, AT + MIB - size, AT + (MIB - size) // 2}:
            assert dma(session, at, data).refused == ()
            assert dma(session, at, size).data == data

    end = PE.phb.window_end
    for at in (0, AT - 4096, end - 1, end, 1 << 32, 1 << 59, (1 << 64) - 4096):
        for what in (1, b"x"):
            assert errnos(dma(session, at, what)) == [NODEV], hex(at)
    assert errnos(dma(session, AT - 1, bytes(2))) == [NODEV, 0]
    assert errnos(dma(session, AT + MIB - 1, bytes(2))) == [0, NODEV]
    assert [errnos(dma(session, ONLY_READ, what)) for what in (1, b"x")] == [[0], [NODEV]]
    assert [errnos(dma(session, ONLY_WRITE, what)) for what in (1, b"x")] == [[NODEV], [0]]

    # Both verdicts were the same, but for what no message can tell.
    probe = session.guest.probes.probe("pe1")
    assert {(at, write) for at, _, write, _, _ in probe.apart} == {(ONLY_WRITE, False)}
    assert probe.judged > 600
    session.perform(b.vmlck())  # whoever looks takes it along

    # No unmap is delayed, and a map opens its page alone.
    for page in range(1, 32, 5):
        at = AT + page * 4096
        session.perform(b.unmap_dma(PE, at, 1))
        assert [errnos(dma(session, at - 1, bytes(4098)))] == [[0, NODEV, 0]]
        session.perform(b.map_dma(PE, Page("a", page), at, 1, tce.READ))
        assert [errnos(dma(session, at, what)) for what in (1, b"x")] == [[0], [NODEV]]

        assert probe.apart == []


# -- a table of the probe's that is wrong


def late(maps):
    """Each unmap is done when the next one comes."""
    real, waiting = maps.unmap, []

    def unmap(*what):
        waiting.append(what)
        if len(waiting) > 1:
            real(*waiting.pop(0))

    maps.unmap = unmap


def careless(maps):
    """What is mapped may be reached in any way."""
    maps.verdict = lambda address, _need: 0 if address & ~4095 in maps.live else errno.EFAULT


@pytest.mark.parametrize(
    ("wrong", "said"), [(late, "by its messages, probe pe1 reaches"), (careless, "is to write 64 bytes")]
)
def test_a_wrong_table_of_the_probe_s_is_found(session, wrong, said):
    wrong(session.guest.probes.probe("pe1").maps)
    there = [*b.unmap_dma(PE, AT, 1), *b.dma(PE, ONLY_READ, 64, to_memory=True), *b.checkpoint("after", stream=True)]
    verdict = judged(session, [*set_up(), *b.checkpoint("mapped"), *there])
    assert {each.law for each in verdict.findings} == {"messages"}
    assert any(said in each.message for each in verdict.findings), verdict.findings
    assert not any("pe1b" in each.message for each in verdict.findings)


# -- a server that fails


def judged(session, ops):
    program = Program(name="probe", topology=TOPOLOGY, ops=ops)
    judge = Judge(program, session.facts, references=second_opinion(TOPOLOGY, session.facts))
    run = perform_program(program, session, judge)
    return judge.verdict(run)


def spoilt(monkeypatch, session, how):
    """The next reply of pe1's server is spoilt, once."""
    link = session.guest.probes.servers["pe1"].connection
    real = Connection._send

    def send(self, data):
        if self is not link:
            return real(self, data)
        monkeypatch.setattr(Connection, "_send", real)
        return how(lambda changed: real(self, changed), self, data)

    monkeypatch.setattr(Connection, "_send", send)


def other_id(data):
    return bytes([data[0] ^ 0xFF]) + data[1:]


def longer(data):
    return data[:4] + (len(data) + 64).to_bytes(4, "little") + data[8:] + bytes(64)


def with_descriptor(link, data):
    import array  # noqa: PLC0415
    import socket  # noqa: PLC0415

    rights = array.array("i", [0])
    link._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


FAULTS = {
    "a reply twice": lambda send, _, data: [send(data), send(data)],
    "a wrong id": lambda send, _, data: send(other_id(data)),
    "a descriptor too many": lambda _, link, data: with_descriptor(link, data),
    "a wrong length": lambda send, _, data: send(longer(data)),
    "no reply": lambda *_: None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_does_not_keep_to_the_protocol_makes_the_run_could_not_judge(session, monkeypatch, fault):
    spoilt(monkeypatch, session, FAULTS[fault])
    verdict = judged(session, [*set_up(), *b.checkpoint("mapped", stream=True)])
    assert verdict.exit_code == 125, verdict.findings
    assert any("QEMU complains of a probe" in each or "the link of the probe" in each for each in verdict.could_not)


def test_a_server_that_dies_makes_the_run_could_not_judge(session):
    ops = set_up()
    session.perform(ops[:-1])

    async def die():
        session.guest.probes.servers["pe1"].close()

    portal().call(die())
    with pytest.raises((GuestLost, HarnessError), match="the link of the probe pe1 ended"):
        session.perform(b.vmlck() * 1000)


def test_a_qemu_that_dies_ends_its_servers(session):
    servers = session.guest.probes.servers
    os.kill(session.guest.pid, 9)
    with pytest.raises((GuestLost, HarnessError), match="SIGKILL"):
        session.perform(b.vmlck())
    session.close()
    assert all(server.why is not None for server in servers.values())

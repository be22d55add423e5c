"""The pytest plugin: a fresh pseries guest for each test, its tables, and what went wrong with them.

Fixtures: `pseries`, `pseries_session`, `pe`, `container`, `tce_table`, `emulator`. Marker: `tcelab(topology=, needs=)`.
Nothing of tcelab is imported before a test asks for a guest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tcelab.testing import covered, unjudged

if TYPE_CHECKING:
    from tcelab.job import setup
    from tcelab.job.pool import Emulators, Guests
    from tcelab.testing.container import Container, Pe
    from tcelab.testing.expectedtable import TceTable
    from tcelab.testing.pseries import Pseries

OPTIONS: Final = {
    "qemu": "A recipe's name, or a qemu-system-ppc64.",
    "image": "The guest image's recipe.",
    "kernel": "A ppc64 vmlinux instead of the image's.",
    "modules": "Where that kernel's modules are.",
    "initrd": "An initrd with tcelab's agent instead of the image's.",
    "append": "Added to the kernel's command line.",
    "memory": "Guest RAM in MiB, a multiple of 256.",
    "cpu": "CPU of the guest: power8, power9, power9-hash, power10 or power11.",
    "platform": "What the tests run on: qemu, or emulator.",
    "profile": "Of the emulated driver.",
    "expect-quirk": "Known defects of the kernel, separated by spaces, beside those that the image's recipe declares.",
    "cure": "Quirks that the kernel shall not have, separated by spaces; all: see tcelab image cures.",
    "ahead": "Guests that are kept ready; by default one for each core.",
    "coverage": "Record what is executed of the kernel: into this folder, for tcelab coverage.",
}
"""Each is `--tcelab-NAME` and the ini option `tcelab_NAME`, with `_` for `-`."""
FLAGS: Final = {"boot": "Boot each guest, fork none.", "no-papr": "Do not judge the law papr."}

PLATFORMS: Final = ("qemu", "emulator")
CPUS: Final = ("power8", "power9", "power9-hash", "power10", "power11")
"""As `tcelab.qemu.machine` has them: the plugin is loaded into every test run, and shall not cost its import."""
_WORDS: Final = ("qemu", "append", "cpu", "profile")
_PATHS: Final = ("kernel", "modules", "initrd")
_NUMBERS: Final = ("memory", "ahead")
_TOPOLOGY: Final = "two-pe"
_GUESTS: Final = pytest.StashKey[list["Pseries"]]()
_TOLD: Final = pytest.StashKey[bool]()
"""The test has failed, and its report has the sections of its guests."""
_LEFT: Final = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tcelab", "guests of tcelab")
    for name, text in OPTIONS.items():
        group.addoption(f"--tcelab-{name}", dest=f"tcelab_{name}", help=text, metavar=name.upper())
        for spelling in _ini(name):
            parser.addini(spelling, text)
    for name, text in FLAGS.items():
        group.addoption(f"--tcelab-{name}", dest=_ini(name)[0], action="store_true", help=text)
        parser.addini(_ini(name)[0], text, "bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(unjudged.Unjudged())
    covered.register(config, _option(config, "coverage"), emulated=_option(config, "platform") == "emulator")
    config.addinivalue_line(
        "markers",
        "tcelab(topology='two-pe', needs=()): the machine of the test's guest, and what it must be able to do;"
        " a test whose needs the QEMU cannot fulfil is skipped",
    )
    platform = _option(config, "platform")
    if platform and platform not in PLATFORMS:
        raise pytest.UsageError(f"no platform {platform!r}; there are: {', '.join(PLATFORMS)}")
    cpu = _option(config, "cpu")
    if cpu and cpu not in CPUS:
        raise pytest.UsageError(f"no CPU {cpu!r}; there are: {', '.join(CPUS)}")
    for name in _NUMBERS:
        text = _option(config, name)
        if text and not text.isdigit():
            raise pytest.UsageError(f"--tcelab-{name} {text}: not a number")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the guests of each topology that will be requested, so that none is made in vain."""
    left: dict[str, int] = {}
    for item in session.items:
        if "pseries" in getattr(item, "fixturenames", ()):
            topology = _topology(item)
            left[topology] = left.get(topology, 0) + 1
    session.config.stash[_LEFT] = left


# -- fixtures


@pytest.fixture(scope="session")
def _tcelab_guests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guests | Emulators]:
    from tcelab.job.pool import Emulators, Guests  # noqa: PLC0415

    config = request.config
    tmp_path_factory.getbasetemp()  # the first call creates it, and folders are made in several threads
    choice = _choice(config)
    if _option(config, "platform") == "emulator":
        with _clearly():
            yield Emulators(choice, lambda: tmp_path_factory.mktemp("tcelab"))
        return
    ahead = int(_option(config, "ahead")) if _option(config, "ahead") else _share()
    boot, recording = _flag(config, "boot"), covered.recording(config)
    guests = Guests(choice, lambda: tmp_path_factory.mktemp("tcelab"), boot=boot, ahead=ahead, recording=recording)
    try:
        yield guests
    finally:
        guests.close()


@pytest.fixture
def pseries(request: pytest.FixtureRequest, _tcelab_guests: Guests) -> Iterator[Pseries]:
    """A fresh pseries guest: `tcelab.testing.pseries.Pseries`. What the test does with it is judged."""
    from tcelab.program.topology import topology as topology_  # noqa: PLC0415

    item = request.node
    topology, needs = _marked(item)
    left = None if _worker() else item.config.stash[_LEFT]
    if left is not None:
        left[topology] = max(0, left.get(topology, 0) - 1)
    with _clearly():
        topology_(topology)
        _expect(_tcelab_guests, topology, needs)
        session = _tcelab_guests.fresh(topology, None if left is None else left[topology])
    with session:
        guest = _driven(item, session, topology)
        yield guest
        _settle(item, guest)


@pytest.fixture(scope="session")
def _tcelab_shared(_tcelab_guests: Guests) -> Iterator[Any]:
    with _clearly():
        session = _tcelab_guests.fresh(_TOPOLOGY, 0)
    with session:
        yield session
        with _clearly():
            session.renew()
            last = _made(session, _TOPOLOGY, "after the last test", shared=True)
            last.checkpoint()
            findings = last.look()
        if findings:
            pytest.fail(f"tcelab: after the last test: {findings[0].message}", pytrace=False)


@pytest.fixture
def pseries_session(
    request: pytest.FixtureRequest,
    _tcelab_shared: Any,  # noqa: ANN401 - a session
    _tcelab_guests: Guests,
) -> Iterator[Pseries]:
    """One guest for all tests that ask for it, where a fork for each is not wanted. What tests leave open is closed
    before the next; what they did to the kernel stays.
    """
    item = request.node
    topology, needs = _marked(item)
    if topology != _TOPOLOGY:
        pytest.fail(f"pseries_session is on {_TOPOLOGY}; for {topology} take pseries", pytrace=False)
    with _clearly():
        _expect(_tcelab_guests, topology, needs)
        _tcelab_shared.renew()
        guest = _driven(item, _tcelab_shared, topology, shared=True)
        guest.checkpoint()  # state left by the previous test is not this one's fault
    yield guest
    _settle(item, guest)


@pytest.fixture
def pe(pseries: Pseries) -> Pe:
    """The first PE of the test's guest, without a container."""
    return pseries.pe(pseries.topology.devices[0].name)


@pytest.fixture
def container(pe: Pe) -> Container:
    """A v1 container with the group of `pe`, enabled."""
    return pe.open()


@pytest.fixture
def tce_table(pe: Pe) -> Callable[[], TceTable]:
    """A function that reads the table of `pe` as it is now in QEMU: bus address to TCE. Give it another PE, of any
    guest, to read that one's.
    """

    def read(which: Pe = pe) -> TceTable:
        return which.guest.table(which)

    return read


@pytest.fixture
def emulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pseries]:
    """The emulator on the test's topology, driven as a guest is, whatever the platform: without any known defect."""
    from tcelab.emulator import EmulatorSession  # noqa: PLC0415
    from tcelab.program.topology import topology as topology_  # noqa: PLC0415

    item = request.node
    topology, _ = _marked(item)
    with _clearly():
        session = EmulatorSession(topology_(topology), folder=tmp_path_factory.mktemp("tcelab"))
    guest = _driven(item, session, topology)
    yield guest
    _settle(item, guest)


# -- verdicts and reports


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """After the test function, look once more: a broken law fails the test. `_settle` sees what comes later."""
    result = yield
    for guest in pyfuncitem.stash.get(_GUESTS, []):
        with _clearly():
            findings = guest.look()
            if guest.ending is not None:
                raise guest.ending
        if findings:
            pytest.fail(f"tcelab: {_findings(findings)} in what the test did", pytrace=False)
    return result


def _settle(item: pytest.Item, guest: Pseries) -> None:
    """The end of a guest's use by a function, a class, a doctest or another fixture."""
    from tcelab.errors import Interrupted  # noqa: PLC0415

    with _clearly():
        verdict = guest.conclude()
    if item.stash.get(_TOLD, False):
        return
    if isinstance(guest.ending, Interrupted):
        return  # and the whole run will be, too
    if guest.ending is not None:
        unjudged.fail_by(guest.ending, guest.ending.report())
    if verdict.findings:
        lines = [f"{each.law}: {each.message}" for each in verdict.findings[:3]]
        pytest.fail("\n".join([f"tcelab: {_findings(verdict.findings)} in all that was done", *lines]), pytrace=False)
    if guest.unseen:
        unjudged.fail("\n".join(["tcelab: could not judge", *guest.unseen]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add tcelab's sections, once, to the report of a failure in setup, test or teardown."""
    report = yield
    if report.failed and not item.stash.get(_TOLD, False) and item.stash.get(_GUESTS, []):
        item.stash[_TOLD] = True
        for guest in item.stash.get(_GUESTS, []):
            report.sections += _sections(guest, item.config)
    return report


def _sections(guest: Pseries, config: pytest.Config) -> list[tuple[str, str]]:
    from tcelab.testing.explain import sections  # noqa: PLC0415

    try:
        return [(f"tcelab {name}", text) for name, text in sections(guest, _choice(config), boot=_flag(config, "boot"))]
    except OSError as error:  # for example a full disk; the test's own report must appear nevertheless
        return [("tcelab", f"nothing more can be told: {error}")]


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Two tables that differ: by runs of entries."""
    if op != "==" or not all(isinstance(each, Mapping) for each in (left, right)):
        return None
    tables = [each for each in (left, right) if type(each).__name__ == "TceTable"]
    if not tables:
        return None
    from tcelab.testing.expectedtable import difference  # noqa: PLC0415

    seen, expected = (left, right) if left is tables[0] else (right, left)
    assert isinstance(seen, Mapping)
    assert isinstance(expected, Mapping)
    return [f"{seen!r} is not as expected:", *difference(expected, seen)]


# -- parts


def _findings(findings: Sequence[object]) -> str:
    from tcelab.errors import counted  # noqa: PLC0415

    return counted(len(findings), "finding")


def _option(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"tcelab_{name}") or next(filter(None, map(config.getini, _ini(name))), ""))


def _ini(name: str) -> list[str]:
    """The keys of an option in pytest.ini: with an underscore, as keys are written, and as the option has it."""
    return list(dict.fromkeys([f"tcelab_{name.replace('-', '_')}", f"tcelab_{name}"]))


def _topology(item: pytest.Item) -> str:
    """Of the test's guest, whatever else its markers say."""
    given = (marker.kwargs["topology"] for marker in item.iter_markers("tcelab") if "topology" in marker.kwargs)
    return next(given, _TOPOLOGY)  # what it is, _marked checks


def _marked(item: pytest.Item) -> tuple[str, tuple[str, ...]]:
    """Topology and needs of a test, by its nearest marker that has them."""
    given: dict[str, Any] = {}
    for marker in item.iter_markers("tcelab"):
        if marker.args:
            pytest.fail(f"the marker tcelab takes topology= and needs=, not {marker.args[0]!r}", pytrace=False)
        given = {**marker.kwargs, **given}
    if unknown := sorted(given.keys() - {"topology", "needs"}):
        pytest.fail(f"the marker tcelab takes topology and needs, not {', '.join(unknown)}", pytrace=False)
    needs = given.get("needs", ())
    listed = (needs,) if isinstance(needs, str) else needs
    if not isinstance(listed, tuple | list) or not all(isinstance(each, str) for each in (_topology(item), *listed)):
        pytest.fail("the marker tcelab takes names: topology='two-pe', needs='edu' or a list of them", pytrace=False)
    return _topology(item), tuple(listed)


def _expect(guests: Guests, topology: str, needs: tuple[str, ...]) -> None:
    from tcelab.errors import Unsupported  # noqa: PLC0415
    from tcelab.job.pool import NEEDS  # noqa: PLC0415

    for need in needs:
        if need not in NEEDS:
            pytest.fail(f"nobody knows the need {need!r}; known are: {', '.join(NEEDS)}", pytrace=False)
        try:
            guests.expect(topology, need)
        except Unsupported as error:
            pytest.skip(error.message)


@contextmanager
def _clearly() -> Iterator[None]:
    """Errors of tcelab in their own words, without a traceback through its insides."""
    from tcelab.errors import Interrupted, TcelabError  # noqa: PLC0415

    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt from None
    except TcelabError as error:
        unjudged.fail_by(error, error.report())


def _driven(item: pytest.Item, session: Any, topology_name: str, *, shared: bool = False) -> Pseries:  # noqa: ANN401
    guest = _made(session, topology_name, item.name, item.nodeid, shared=shared)
    item.stash.setdefault(_GUESTS, []).append(guest)
    return guest


def _made(session: Any, topology_name: str, name: str, test: str = "", *, shared: bool) -> Pseries:  # noqa: ANN401
    from tcelab.program.topology import topology  # noqa: PLC0415
    from tcelab.testing.pseries import Pseries  # noqa: PLC0415

    return Pseries(session, topology(topology_name), name, test=test, shared=shared)


def _worker() -> str:
    """Name of this pytest-xdist worker; empty without xdist."""
    import os  # noqa: PLC0415

    return os.environ.get("PYTEST_XDIST_WORKER", "")


def _share() -> int | None:
    """Guests to keep ready by a worker of pytest-xdist: its part of the cores."""
    import os  # noqa: PLC0415

    if not _worker():
        return None
    return max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def _choice(config: pytest.Config) -> setup.MachineChoice:
    """Of the machine; a test has a topology of its own."""
    from tcelab.job import setup  # noqa: PLC0415
    from tcelab.program.topology import topology  # noqa: PLC0415

    given = {name: _option(config, name) for name in OPTIONS}
    chosen: dict[str, Any] = {name: given[name] for name in _WORDS if given[name]}
    chosen |= {"expect_quirks": tuple(given["expect-quirk"].split()), "cures": tuple(given["cure"].split())}
    chosen["image"] = setup.image_of(given["image"] or setup.DEFAULT_IMAGE, "", chosen["cures"])
    chosen |= {name: Path(given[name]) for name in _PATHS if given[name]}
    chosen |= {"memory": int(given["memory"])} if given["memory"] else {}
    return setup.MachineChoice(topology=topology(_TOPOLOGY), papr=not _flag(config, "no_papr"), **chosen)


def _flag(config: pytest.Config, name: str) -> bool:
    return bool(config.getoption(f"tcelab_{name}") or config.getini(f"tcelab_{name}"))

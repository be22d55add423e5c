"""Platforms by name: what each may be told, which defects are declared for its kernel, and the verbs that use them."""

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

import rowkit
from rows.row import LAST, closed, enabled, look, mapping, unmapping
from tcelab import cli, image
from tcelab.emulator import EmulatorSession
from tcelab.errors import UsageError
from tcelab.job import platforms, setup
from tcelab.job.platforms import EMULATOR, QEMU, EmulatorPlatform, prepare
from tcelab.job.setup import MachineChoice, quirks_of
from tcelab.program import Checkpoint, Program, Read, Tag
from tcelab.program.topology import topology
from tcelab.quirks import BINDS_EARLY, MISALIGNED, ONE_PAGE, QUIRKS, ROLLBACK

SMALL = topology("two-small")
DECLARED = {MISALIGNED, ROLLBACK}


def choice(**more):
    return MachineChoice(topology=SMALL, **more)


@pytest.fixture
def recipe(monkeypatch):
    """The image's recipe declares two quirks, and nothing can be provisioned."""

    def provisioned(*_arguments, **_more):
        raise AssertionError("the emulator needs nothing provisioned")

    monkeypatch.setattr(image, "quirks", lambda _name: frozenset(DECLARED))
    monkeypatch.setattr(image, "ensure_qemu", provisioned)
    monkeypatch.setattr(image, "ensure_guest", provisioned)


# -- the emulator as a platform


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("qemu", "qemu-7.2"),
        ("image", "other"),
        ("kernel", Path("/k")),
        ("modules", Path("/m")),
        ("initrd", Path("/i")),
        ("memory", 1024),
        ("firmware", "vof"),
        ("append", "quiet"),
    ],
)
def test_the_emulator_refuses_what_is_about_a_guest(name, value):
    with pytest.raises(UsageError, match=f"--{name} is about a guest"):
        EmulatorPlatform(choice(**{name: value}))


def test_whoever_adds_an_option_says_whether_it_is_about_a_guest():
    others = {"topology", "profile", "expect_quirks", "without_quirks", "isolates", "guard", "restarts", "loads"}
    assert set(platforms._OF_A_GUEST) | others == {field.name for field in msgspec.structs.fields(MachineChoice)}


@pytest.mark.usefixtures("recipe")
def test_the_emulator_has_the_chosen_profile_and_quirks_and_none_that_an_image_declares(tmp_path, shown):
    platform = prepare(EMULATOR, choice(profile="seed2013", expect_quirks=(ONE_PAGE,)))
    session = platform.open(tmp_path)
    assert isinstance(session, EmulatorSession)
    assert (session.facts.profile, session.facts.quirks) == ("seed2013", {ONE_PAGE})
    assert {pe.phb.window_size for pe in session.machine.pes.values()} == {16 << 20}
    assert (shown.lines, platform.provenance) == (["making a machine"], {})
    platform.close()


def test_the_emulator_isolates_as_it_was_asked_to(tmp_path):
    facts = EmulatorPlatform(choice(isolates=True, guard="observe")).open(tmp_path).facts
    assert (facts.isolates, facts.guard) == (True, "observe")
    facts = EmulatorPlatform(choice()).open(tmp_path).facts
    assert (facts.isolates, facts.guard) == (False, "off")


def test_each_session_of_the_emulator_has_frames_and_a_nonce_of_its_own(tmp_path):
    platform = EmulatorPlatform(choice())
    sessions = [platform.open(tmp_path) for _ in range(3)]
    frames = [frame for each in sessions for frame in each.perform(rowkit.PROLOGUE)[3].frames]
    assert len(set(frames)) == len(frames)
    assert len({each.facts.nonce for each in sessions}) == 3


def test_a_guests_kernel_has_todays_driver_and_no_other():
    with pytest.raises(UsageError, match="no kernel of today has the driver of profile seed2013") as refusal:
        prepare(QEMU, choice(profile="seed2013"))
    assert refusal.value.next_step == "add --platform emulator"


# -- declared quirks


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, DECLARED),
        ({"expect_quirks": (ONE_PAGE,)}, {*DECLARED, ONE_PAGE}),
        ({"expect_quirks": (ROLLBACK,)}, DECLARED),
        ({"without_quirks": (ROLLBACK,)}, {MISALIGNED}),
        ({"without_quirks": (BINDS_EARLY,)}, DECLARED),
        ({"expect_quirks": (ONE_PAGE,), "without_quirks": (ONE_PAGE, *DECLARED)}, set()),
        ({"kernel": Path("/k")}, set()),
        ({"kernel": Path("/k"), "expect_quirks": (ONE_PAGE,)}, {ONE_PAGE}),
    ],
)
def test_a_recipe_declares_the_quirks_of_its_own_kernel_and_the_user_those_of_any(given, expected):
    assert quirks_of(choice(**given)) == expected


@pytest.mark.parametrize("option", ["expect_quirks", "without_quirks"])
def test_a_quirk_that_nobody_knows_is_named_with_those_that_there_are(option):
    with pytest.raises(UsageError, match="no quirk nonsense; there are: ") as refusal:
        quirks_of(choice(**{option: (ROLLBACK, "nonsense")}))
    assert all(name in refusal.value.message for name in QUIRKS)


def test_the_recipes_of_this_repository_declare_quirks_that_exist():
    assert image.quirks(setup.DEFAULT_IMAGE) <= QUIRKS.keys()
    assert image.quirks(setup.DEFAULT_QEMU) == frozenset()


# -- the verbs


def program(*ops):
    begin = [*rowkit.PROLOGUE, Tag(buffer="m", count=64, liobn=0x80000100)]
    count = [Read(what="vmlck"), Read(what="pins")]
    return Program(name="maps", topology=SMALL, ops=[*begin, *count, *ops, *count, Checkpoint(stream=True)])


SOUND = program(*enabled(), mapping(0, 3), look(), unmapping(0x1000), look(), *closed())
MEETS = program(*enabled(), mapping(0, 3), look(), unmapping(LAST, 2, "EINVAL"), *closed())
"""A kernel with the quirk `ONE_PAGE` does not give that EINVAL."""


@pytest.fixture
def tcelab(monkeypatch, capfd, tmp_path):
    """The command; returns its exit code and all that it said."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound.json").write_bytes(SOUND.to_json())
    (tmp_path / "meets.json").write_bytes(MEETS.to_json())

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["tcelab", *words])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        said = capfd.readouterr()
        return SimpleNamespace(code=ending.value.code or 0, said=said.out + said.err)

    yield command
    signal.signal(signal.SIGTERM, before)


def result(folder="out"):
    return json.loads(Path(folder, "result.json").read_bytes())


@pytest.mark.usefixtures("recipe")
def test_a_run_on_the_emulator_passes_with_0_and_says_what_it_was(tcelab):
    done = tcelab("run", "sound.json", "--platform", "emulator", "--out", "out")
    assert (done.code, "PASS (exit code 0)" in done.said) == (0, True)
    told = result()
    assert told["verdict"]["result"] == "pass"
    assert told["platform"]["name"] == "emulator"
    assert told["versions"]["emulator"] == {"profile": "linux-v1", "quirks": []}
    assert told["verdict"]["evidence"]["steps"] == {"emulator": 3}


@pytest.mark.usefixtures("recipe")
def test_a_scenario_runs_on_the_emulator_as_on_a_guest(tcelab):
    done = tcelab("run", "flow", "--platform", "emulator", "--topology", "two-small", "--out", "out")
    assert done.code == 0


@pytest.mark.usefixtures("recipe")
def test_a_lie_on_the_emulator_is_found_with_1(tcelab):
    done = tcelab("run", "sound.json", "--platform", "emulator", "--inject", "flip", "--out", "out")
    assert (done.code, "finding 1" in done.said) == (1, True)
    assert {finding["law"] for finding in result()["verdict"]["findings"]} == {"table"}


@pytest.mark.usefixtures("recipe")
def test_a_quirk_that_the_emulator_is_given_shows(tcelab):
    assert tcelab("run", "meets.json", "--platform", "emulator", "--out", "without").code == 0
    done = tcelab("run", "meets.json", "--platform", "emulator", "--expect-quirk", ONE_PAGE, "--out", "with")
    assert done.code == 1
    assert result("with")["versions"]["emulator"]["quirks"] == [ONE_PAGE]


@pytest.mark.usefixtures("recipe")
def test_another_profile_of_the_emulator_is_another_driver(tcelab):
    done = tcelab("run", "meets.json", "--platform", "emulator", "--profile", "seed2013", "--out", "out")
    assert done.code == 0, "the driver of 2013 holds the whole range against the window's end"
    assert result()["versions"]["emulator"]["profile"] == "seed2013"


@pytest.mark.usefixtures("recipe")
def test_the_profile_of_a_container_type_is_the_driver_that_makes_both(tcelab):
    done = tcelab("run", "windows", "--platform", "emulator", "--profile", "linux-v2", "--seed", "3", "--out", "out")
    assert (done.code, result()["versions"]["emulator"]["profile"]) == (0, "linux-v2")
    done = tcelab("run", "windows", "--platform", "emulator", "--profile", "linux-v1", "--seed", "3", "--out", "other")
    assert done.code == 0


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "seed2013"), "add --platform emulator"),
        (("--profile", "nonsense"), "no kernel of today has the driver of profile nonsense"),
        (
            ("--platform", "emulator", "--profile", "nonsense"),
            "no profile 'nonsense'; there are: seed2013, linux-v1, linux-v2",
        ),
        (("--expect-quirk", "nonsense"), "no quirk nonsense; there are: "),
        (("--without-quirk", "nonsense"), "no quirk nonsense; there are: "),
        (("--platform", "emulator", "--expect-quirk", "nonsense"), "no quirk nonsense; there are: "),
        (("--platform", "emulator", "--kernel", "/k"), "--kernel is about a guest"),
        (("--platform", "emulator", "--no-papr"), "--no-papr is about a guest"),
        (("--platform", "emulator", "--keep"), "--keep is about a guest"),
        (("--platform", "powernv"), "'powernv' is not one of"),
    ],
    ids=" ".join,
)
def test_a_choice_that_cannot_be_is_wrong_usage(tcelab, words, said):
    done = tcelab("run", "sound.json", *words)
    assert (done.code, said in done.said) == (2, True)


def test_diff_says_with_what_it_compares(tcelab):
    done = tcelab("diff", "--help")
    assert done.code == 0
    words = " ".join(done.said.split())
    assert "compare each outcome and each whole table with the emulator" in words
    assert all(f"--against-{name}" in words for name in ("qemu", "image", "kernel", "modules"))


def test_diff_is_about_guests_alone(tcelab):
    for words in (("--platform", "emulator"), ("--profile", "seed2013"), ("--inject", "flip")):
        assert tcelab("diff", "sound.json", *words).code == 2


@pytest.mark.parametrize("verb", ["run", "fuzz", "leakcheck"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory", "-256"), "-256 MiB of memory: a pseries machine takes multiples of 256 MiB from 256 on"),
        (("--qemu", "none-such"), "QEMU none-such does not exist"),
        (("--kernel", "none-such"), "no kernel none-such"),
        (("--image", "none-such"), "no image recipe is called 'none-such'"),
        (("--expect-quirk", "none-such"), "none-such"),
    ],
    ids=lambda each: each[0].strip("-") if isinstance(each, tuple) else "",
)
def test_an_option_that_cannot_be_is_told_before_any_progress(tcelab, monkeypatch, verb, words, said):
    monkeypatch.setattr(image, "ensure_guest", None)  # nothing is provisioned
    monkeypatch.setattr(image, "ensure_qemu", None)
    done = tcelab(verb, *words)
    assert done.code == 2
    assert done.said.startswith("tcelab: ")
    assert said in done.said.splitlines()[0]


def test_a_profile_that_is_none_is_told_before_any_progress(tcelab):
    done = tcelab("run", "flow", "--topology", "one-pe", "--platform", "emulator", "--profile", "none-such")
    assert done.code == 2
    assert done.said.startswith("tcelab: no profile 'none-such'")

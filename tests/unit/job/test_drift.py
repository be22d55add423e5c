"""What is told about newer packages: versions alone are no finding, what the verifier rests on is one."""

import msgspec
import pytest
from ideal import Ideal
from story import story

from tcelab import image, report
from tcelab.cli import cli
from tcelab.errors import HarnessError, UsageError
from tcelab.image import mutants
from tcelab.image.manifest import Manifest
from tcelab.image.packages import Locked, Package
from tcelab.job import drift
from tcelab.job.parallel import ParallelRun
from tcelab.judge import Finding

KERNEL = "linux-image-6.12.95-powerpc64le"


def package(name, version):
    return Package(name, version, "ppc64el", "stable", "0" * 64, 1)


@pytest.fixture
def verb(monkeypatch, tmp_path, capsys):
    """Call it on an image of these packages (by name), which are locked in these versions; its exit code and text."""

    def called(packages, locked, *arguments):
        of = [package(name, version) for name, version in packages.items()]
        made = Manifest(recipe="guest", recipe_sha256="", date="", packages=of, files=[], tree_sha256="")
        monkeypatch.setattr(image, "built", lambda _: made)
        held = tuple(Locked(name, version, "ppc64el", "0" * 64, 1) for name, version in locked.items())
        monkeypatch.setattr(drift, "read_lock", lambda _: held)
        code = cli.main(["image", "drift", *map(str, arguments)], standalone_mode=False)
        return code or 0, capsys.readouterr().out.splitlines()

    return called


@pytest.fixture(scope="module")
def result():
    return report.make(*ParallelRun(story(), lambda _: Ideal(story())).run())


@pytest.fixture
def results(tmp_path, result):
    """Two result files of one program: as it is, and after a change."""

    def made(change):
        other = msgspec.convert(msgspec.to_builtins(result), type(result))
        change(other)
        for name, each in {"before": result, "after": other}.items():
            report.write(each, tmp_path / name)
        return "--before", tmp_path / "before", "--after", tmp_path / "after"

    return made


def broken(monkeypatch, **reasons):
    def build(name, *_):
        if name in reasons:
            raise HarnessError(f"{reasons[name]}\nand more")

    monkeypatch.setattr(mutants, "build", build)


def test_newer_packages_are_told_and_are_no_finding(verb):
    assert verb({"a": "1", "b": "2"}, {"a": "1", "b": "1", "c": "1"}) == (
        0,
        ["guest: 2 of 2 packages drifted", "  b (ppc64el) 1 -> 2", "  c (ppc64el) 1 -> gone"],
    )
    with pytest.raises(UsageError, match="guest is not locked"):
        verb({"a": "1"}, {})


def test_of_a_newer_kernel_each_mutant_is_tried_and_one_that_no_longer_builds_is_a_finding(verb, monkeypatch):
    count = len(mutants.known().fault)
    broken(monkeypatch)
    code, lines = verb({KERNEL: "2"}, {KERNEL: "1"})
    assert (code, lines[-1]) == (0, f"guest: {count} of {count} mutants build")
    broken(monkeypatch, **{"map-short": "the source has moved on"})
    code, lines = verb({KERNEL: "2"}, {KERNEL: "1"})
    assert code == 1
    assert lines[-2:] == [f"guest: {count - 1} of {count} mutants build", "  map-short: the source has moved on"]
    assert verb({KERNEL: "1"}, {KERNEL: "1"})[0] == 0  # none is tried
    assert verb({KERNEL: "1"}, {KERNEL: "1"}, "--mutants")[0] == 1


def test_without_the_sources_nothing_is_known_of_any_mutant(verb, monkeypatch):
    broken(monkeypatch, clean="Debian has the sources of another version")
    with pytest.raises(HarnessError, match="Debian has the sources"):
        verb({KERNEL: "2"}, {KERNEL: "1"})


def test_two_equal_results_show_no_drift(verb, results):
    code, lines = verb({"a": "1"}, {"a": "1"}, *results(lambda _: None))
    assert (code, lines[1:]) == (0, ["0 quirks drifted", "0 counts drifted"])


def test_quirks_and_counts_that_differ_are_a_finding(verb, results, result):
    def change(other):
        other.verdict.evidence.quirks = {"appeared": 2, "stays": 1}
        other.verdict.evidence.dma.refused += 3
        other.verdict.result = "finding"
        other.verdict.findings = [Finding(law="outcome", step=1, message="x", quirk="undeclared")]

    result.verdict.evidence.quirks.clear()
    result.verdict.evidence.quirks.update({"vanished": 4, "stays": 7})
    code, lines = verb({"a": "1"}, {"a": "1"}, *results(change))
    refused = result.verdict.evidence.dma.refused
    assert code == 1
    assert lines[1:] == [
        "3 quirks drifted",
        "  appeared: met never -> 2 times",
        "  vanished: met 4 times -> never",
        "  undeclared: shows and is not declared",
        "2 counts drifted",
        "  verdict: pass -> finding",
        f"  DMA pieces refused: {refused} -> {refused + 3}",
    ]


def test_results_that_do_not_compare_are_refused(verb, results, tmp_path):
    def other_program(other):
        other.program.sha256 = "0"

    def undecided(other):
        other.verdict.result, other.verdict.could_not = "could-not-judge", ["no view"]

    for change, error, complaint in [
        (other_program, UsageError, "results of two programs"),
        (undecided, HarnessError, "after could not be judged: no view"),
    ]:
        with pytest.raises(error, match=complaint):
            verb({"a": "1"}, {"a": "1"}, *results(change))
    with pytest.raises(UsageError, match="belong together"):
        verb({"a": "1"}, {"a": "1"}, "--before", tmp_path / "before")
    with pytest.raises(UsageError, match="cannot read"):
        verb({"a": "1"}, {"a": "1"}, "--before", tmp_path / "x", "--after", tmp_path / "y")

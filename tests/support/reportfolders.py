"""Folders of runs and nights, made once: a report changes nothing in them."""

from __future__ import annotations

import json
from pathlib import Path

import madenight
import pytest
from click.testing import CliRunner
from htmlpage import Page

from tcelab import htmlreport, report
from tcelab.cli import cli
from tcelab.errors import HarnessError, Scene
from tcelab.leakcheck.leakresult import Calls, LeakFinding, LeakResult, Origin, TableAt
from tcelab.run.resultfile import to_json

EMULATED = ("--platform", "emulator", "--seed", "1")
CONSOLE = "\n".join(
    [
        *(f"[    {i}.000000] line {i} of a boot" for i in range(40)),
        "[   40.000000] WARNING: CPU: 0 PID: 1 at drivers/vfio/vfio_iommu_spapr_tce.c:1 tce_iommu_ioctl+0x1/0x2",
        *(f"[   {41 + i}.000000] after it {i}" for i in range(20)),
    ]
)


def run(*words, code):
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == code, done.output


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def passed(made):
    run("run", "isolation", "--topology", "two-pe", *EMULATED, "--out", str(made / "passed"), code=0)
    return made / "passed"


@pytest.fixture(scope="session")
def flipped(made):
    """A run with a finding of the table, on a guest that said something."""
    out = str(made / "flipped")
    run("run", "flow", "--topology", "two-small", *EMULATED, "--inject", "flip", "--out", out, code=1)
    (made / "flipped" / "console.log").write_text(CONSOLE)
    return made / "flipped"


@pytest.fixture(scope="session")
def series(made, passed):
    """Two runs with one result: the second one's own is gone."""
    folder = made / "series"
    own = json.loads((passed / "result.json").read_text())
    runs = [{**own, "timeline": [], "program": {**own["program"], "topology": name}} for name in ("one-pe", "two-pe")]
    joint = {**own, "runs": runs, "timeline": [], "program": {**own["program"], "topology": "one-pe, two-pe"}}
    (folder / "one-pe").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(joint))
    (folder / "one-pe" / "result.json").write_text(json.dumps(own))
    return folder


@pytest.fixture(scope="session")
def leaking(made):
    folder = made / "leaking"
    folder.mkdir()
    origin = Origin(hypercall="H_PUT_TCE", seconds=1.25, ioba=0x8000, entries=4, number=2)
    leak = LeakFinding(law="leak", message="it stayed", liobn=0x80000100, device="disk1", ioba=0x9000, origin=origin)
    result = LeakResult(tcelab="0.1", command="dd if=/dev/vda of=/dev/null", status=0, judged=True, findings=[leak])
    result.tables = [TableAt(liobn=0x80000100, device="disk1", after=1)]
    result.calls = [Calls(phase="command", liobn=0x80000100, hypercall="H_PUT_TCE", entries=1, calls=7)]
    result.conclude()
    (folder / "result.json").write_bytes(to_json(result))
    return folder


@pytest.fixture(scope="session")
def campaign(made, flipped):
    """A campaign that was killed: it left a program."""
    folder = made / "campaign"
    folder.mkdir()
    program = json.loads((flipped / "program.json").read_text())
    program["ops"] = program["ops"][:12]
    (folder / "finding-1.json").write_text(json.dumps(program))
    (folder / "finding-1.original.json").write_bytes((flipped / "program.json").read_bytes())
    return folder


@pytest.fixture(scope="session")
def unbegun(made):
    """A run that never began: nothing is known of its platform."""
    folder = made / "unbegun"
    folder.mkdir()
    scene = Scene("boot", 97.3, ["[    3.171402] vfio_pci: no"], folder)
    error = HarnessError("no agent came up: nothing happened for 90 s", next_step="see console.log", scene=scene)
    report.write(report.failed(error), folder / "result.json")
    return folder


def cells():
    """A cell of each kind; the numbers are those of their folders."""
    kinds = ["pass", "finding", "flaky", "could-not-judge", "not-run"]
    out = [madenight.cell("batches", word, number=i) for i, word in enumerate(kinds)]
    out.append(madenight.cell("flow", "finding", number=5, expected="finding", mutant="map-short", image="guest-64k"))
    out.append(madenight.cell("flow", "pass", number=6, expected="finding", mutant="map-long", cpu="power8"))
    for each in out[1:3]:
        each.findings = [madenight.found()]
    return out


@pytest.fixture(scope="session")
def night(made, flipped):
    return madenight.write(made / "nights" / "1", madenight.night(*cells(), day=1), flipped)


@pytest.fixture(scope="session")
def gone(made):
    """The same, but the folders of its cells are gone."""
    return madenight.write(made / "nights" / "0", madenight.night(*cells()))


@pytest.fixture(scope="session")
def page():
    """The report on a folder, taken apart."""
    pages = {}

    def of(folder: Path, *others) -> Page:
        key = folder, len(others)
        if key not in pages:
            pages[key] = Page(htmlreport.build(folder, others))
        return pages[key]

    return of

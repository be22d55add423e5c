"""`tcelab bench`: figures come from what was really done, and from nothing that is broken."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from ideal import Ideal
from story import SMALL, story

from tcelab import bench
from tcelab.bench import Figure, Fit, Measured, batch, plot
from tcelab.bench.benchguests import host_cpu
from tcelab.cli import bench as verb
from tcelab.errors import GuestLost, Unsupported
from tcelab.judge import judge
from tcelab.program import Checkpoint, Ioctl, Program, Repeat, load
from tcelab.program.topology import topology
from tcelab.program.validate import validate
from tcelab.run import exitcode
from tcelab.run.loop import perform_program
from tcelab.run.record import Outcome

CALL, PAGE = {"map": 12.0, "unmap": 8.0}, {"map": 2.5, "unmap": 1.5}


class Clocked(Ideal):
    """A guest in which calls and pages have a price, in microseconds; `slow`: each turn slower than the one before."""

    slow = 0.0
    worst = 1.0

    def do_repeat(self, op):
        outcome = super().do_repeat(op)
        price = 0.0
        for call in op.ops:
            kind = "map" if call.request == "MAP_DMA" else "unmap"
            price += (CALL[kind] + PAGE[kind] * call.fields["size"] / 4096) * op.times
        price *= (1 + self.slow * self.turn) * (3 if op.loop == "python" else 1)
        return msgspec.structs.replace(outcome, fields={"calls": outcome.fields["calls"], "seconds": price * 1e-6})

    @property
    def turn(self):
        return sum("turn" in getattr(op, "label", "") for op in self.program.ops[: self.number])


def guest(host, monkeypatch, topology_, sizes, turns, **world):
    """Let the stand be that guest, for the program that the benchmark makes."""
    made = []

    def enter(self):
        program = Program(name="bench batch", topology=topology_, ops=batch.plan(topology_, sizes, turns).ops)
        session = Clocked(program, **{k: v for k, v in world.items() if k not in {"slow", "fail"}})
        session.slow = world.get("slow", 0.0)
        session.facts = dataclasses.replace(session.facts, hypercalls=False)  # its ways have tests of their own
        session.fail = world.get("fail", session.fail)
        self.ideal = session
        made.append(session)
        return self

    monkeypatch.setattr(host, "__enter__", enter)
    return made


@pytest.fixture
def small(monkeypatch):
    """Fewer calls, so that a test is quick."""
    monkeypatch.setattr(batch, "CALLS", 6)
    monkeypatch.setattr(batch, "PAIRS", 3)


# -- boot and table


def test_figures_of_boots_are_taken_in_turns_and_compared(host, tcelab):
    done = tcelab("bench", "boot", "--repeat", "2", "--json", "-")
    assert done.code == 0
    data = json.loads(done.out)
    assert data["schema"] == 1
    figures = {figure["name"]: figure for figure in data["figures"]}
    assert list(figures) == ["slof: kernel", "slof: ready", "vof: kernel", "vof: ready", "vof / slof: ready"]
    assert figures["vof / slof: ready"]["values"] == [0.5, 0.5]
    assert figures["slof: ready"]["median"] == 2.0
    assert [each.options.firmware for each in host.made] == ["vof", "slof"] * 2
    assert [each.folder.name for each in host.made] == ["0-vof", "0-slof", "1-vof", "1-slof"]


def test_figures_of_tables_are_taken_by_both_views(host, tcelab, monkeypatch):
    def enter(self):
        self.ideal = Ideal(story())
        return self

    monkeypatch.setattr(host, "__enter__", enter)
    done = tcelab("bench", "table", "--repeat", "3", "--json", "figures.json")
    figures = {figure["name"]: figure for figure in json.loads(Path("figures.json").read_text())["figures"]}
    assert done.code == 0
    assert {"live: whole", "live: judging", "with stream: whole", "with stream: stream"} <= set(figures)
    assert all(len(figure["values"]) == 3 and figure["unit"] == "ms" for figure in figures.values())
    assert "live: whole" in done.out


def test_a_figure_is_told_by_median_and_extremes(capsys):
    verb._show(Measured(figures=[Figure("x", "s", [3.0, 1.0, 8.0])]), None)
    assert capsys.readouterr().out.splitlines()[1].split() == ["x", "3.000", "1.000", "8.000", "3", "s"]


@pytest.mark.parametrize("name", ["boot", "table", "batch"])
def test_every_benchmark_has_the_options_that_all_have(tcelab, name):
    said = tcelab("bench", name, "--help").out
    assert [option for option in ("--repeat", "--json", "--qemu", "--topology", "--limit") if option not in said] == []
    assert verb.command.commands[name].help, "what it measures"


def test_limits_reach_the_guest(host, tcelab):
    tcelab("bench", "boot", "--repeat", "1", "--limit", "boot=7")
    assert {each.limits.boot for each in host.made} == {7.0}
    assert {each.digest for each in host.made} == {"digest"}


# -- batch: the program


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1..4", [1, 2, 3, 4]),
        ("8", [8]),
        ("4,1,2", [1, 2, 4]),
        ("1..3,2..5", [1, 2, 3, 4, 5]),
        (" 3 , 7..8", [3, 7, 8]),
    ],
)
def test_sizes_are_lists_and_ranges(text, found):
    assert batch.sizes(text) == found


def test_the_program_is_whole_and_an_honest_guest_passes_it():
    plan = batch.plan(topology("two-pe"), [1, 2, 32], 2)
    program = Program(name="p", topology=topology("two-pe"), ops=plan.ops)
    validate(program)
    verdict = judge(perform_program(program, Ideal(program)))
    assert (verdict.findings, verdict.could_not, verdict.exit_code) == ([], [], 0)
    assert [(each.size, each.maps) for each in verdict.evidence.batches] == [(1, 128), (2, 128), (32, 128)]


def test_everything_that_is_timed_is_looked_at_before():
    plan = batch.plan(SMALL, [1, 3], 2)
    first = min(plan.timed)
    looked = []
    for number, op in enumerate(plan.ops[:first]):
        if isinstance(op, Repeat):
            after = next(each for each in plan.ops[number + 1 :] if type(each).__name__ != "Read")
            assert isinstance(after, Checkpoint)
            looked.append(op)
    assert all(plan.ops[number] in looked for number in plan.timed)
    assert isinstance(plan.ops[-1], Checkpoint)
    assert plan.ops[-1].stream


def test_each_turn_takes_every_size_in_an_order_of_its_own():
    plan = batch.plan(SMALL, [1, 2, 3, 4, 5, 6, 7, 8], 4)
    keys = list(plan.timed.values())
    assert len(keys) == 4 * 18
    orders = [keys[i : i + 18] for i in range(0, len(keys), 18)]
    for order in orders:
        assert sorted(order) == sorted(
            [*((kind, n) for kind in ("map", "unmap") for n in range(1, 9)), ("c", 1), ("python", 1)]
        )
        assert all(order[i + 1] == ("unmap", order[i][1]) for i in range(0, 16, 2))
    assert len({tuple(order[:16]) for order in orders}) == 4
    assert {tuple(order[16:]) for order in orders} == {(("c", 1), ("python", 1)), (("python", 1), ("c", 1))}


def test_maps_go_to_empty_entries_and_unmaps_to_live_ones():
    plan = batch.plan(SMALL, [1, 4], 1)
    live = set()
    for op in plan.ops:
        for call in op.ops * op.times if isinstance(op, Repeat) else []:
            assert isinstance(call, Ioctl)
            first = call.fields["iova"] // 4096
            entries = set(range(first, first + call.fields["size"] // 4096))
            if call.request == "MAP_DMA":
                assert not live & entries
                live |= entries
            else:
                assert entries <= live
                live -= entries
    assert not live


# -- batch: the figures


def test_a_call_and_a_page_are_told_apart(host, tcelab, monkeypatch, small):
    guest(host, monkeypatch, topology("two-pe"), [1, 2, 4, 8], 3)
    done = tcelab("bench", "batch", "--sizes", "1,2,4,8", "--repeat", "3", "--json", "figures.json")
    assert (done.code, done.err.count("batch: turn")) == (0, 3)
    data = json.loads(Path("figures.json").read_text())
    figures = {figure["name"]: figure for figure in data["figures"]}
    assert figures["map 4"]["values"] == pytest.approx([22.0] * 3)
    assert figures["unmap 8"]["unit"] == "us/call"
    assert figures["unmap 8: pages"]["values"] == pytest.approx([8e6 / 20] * 3)
    assert figures["loop in Python / loop in C"]["median"] == pytest.approx(3)
    assert figures["map and unmap 1, loop in C"]["median"] == pytest.approx((12 + 2.5 + 8 + 1.5) / 2)
    fits = {fit["name"]: fit for fit in data["fits"]}
    for kind in ("map", "unmap"):
        assert (fits[kind]["call"], fits[kind]["page"]) == pytest.approx((CALL[kind], PAGE[kind]))
        assert fits[kind]["residual"] == pytest.approx(0, abs=1e-9)
    assert data["schema"] == bench.SCHEMA == 1
    assert (data["verdict"]["result"], set(data["on"])) == ("pass", {"host", "qemu", "kernel"})
    assert "map:   a call costs 12.00 us, each page 2.50 us (residual 0.00 us)" in done.out
    assert "loop in Python / loop in C, 1 page: 3.00" in done.out
    assert [line.split()[0] for line in done.out.splitlines()[5:9]] == ["1", "2", "4", "8"]


def test_a_host_that_slows_down_does_not_bend_the_line(host, tcelab, monkeypatch, small):
    guest(host, monkeypatch, topology("two-pe"), [1, 2, 4, 8], 5, slow=0.5)
    done = tcelab("bench", "batch", "--sizes", "1,2,4,8", "--repeat", "5", "--json", "-")
    data = json.loads(done.out)
    (fit,) = [fit for fit in data["fits"] if fit["name"] == "map"]
    assert fit["call"] / fit["page"] == pytest.approx(CALL["map"] / PAGE["map"])
    (figure,) = [figure for figure in data["figures"] if figure["name"] == "map 1"]
    assert figure["values"] == pytest.approx([14.5 * (1 + 0.5 * turn) for turn in range(5)])
    assert "a call costs" in done.err


def test_one_size_has_no_line(host, tcelab, monkeypatch, small):
    guest(host, monkeypatch, topology("two-pe"), [2], 1)
    done = tcelab("bench", "batch", "--sizes", "2", "--repeat", "1", "--json", "-")
    assert done.code == 0
    assert "fits" not in json.loads(done.out)


def test_a_residual_is_the_distance_of_the_medians():
    fit = batch.fit("map", {1: [2.0, 99.0, 1.0], 2: [3.0], 3: [4.0], 4: [1.0]})
    medians = [2.0, 3.0, 4.0, 1.0]
    assert (fit.call, fit.page) == pytest.approx((3.0, -0.2))
    assert fit.residual == pytest.approx(
        statistics.fmean((m - fit.at(n)) ** 2 for n, m in enumerate(medians, 1)) ** 0.5
    )


# -- batch: nothing broken is measured


def lost_entry(session, number, op, outcome):
    if isinstance(op, Repeat) and len(session.pes["pe1"].table) > 2:
        session.pes["pe1"].table.pop(2)
    return outcome


def test_a_broken_driver_gives_findings_and_no_figures(host, tcelab, monkeypatch, small):
    guest(host, monkeypatch, topology("two-pe"), [1, 2], 1, tamper=lost_entry)
    options = ["--sizes", "1,2", "--repeat", "1", "--json", "figures.json", "--plot", "picture.svg"]
    done = tcelab("bench", "batch", *options)
    assert done.code == 1
    assert "table: LIOBN 0x80000100 IOBA 0x2000: an entry that was mapped is missing" in done.err
    assert "no figures" in done.err
    assert "a call costs" not in done.out
    data = json.loads(Path("figures.json").read_text())
    assert (data["figures"], data["verdict"]["result"], data["verdict"]["exit_code"]) == ([], "finding", 1)
    assert data["verdict"]["findings"][0]["law"] == "table"
    assert not Path("picture.svg").exists()
    (replay,) = [
        line.rpartition(" ")[2] for line in done.err.splitlines() if line.startswith("to repeat it: tcelab run")
    ]
    assert load(Path(replay)).ops == batch.plan(topology("two-pe"), [1, 2], 1).ops
    kept = json.loads(Path(replay).with_name("result.json").read_text())
    assert kept["verdict"]["findings"] == data["verdict"]["findings"]


def test_a_call_that_fails_is_a_finding(host, tcelab, monkeypatch, small):
    def fail(_session, done, call):
        return Outcome(errno="EFAULT") if (done, call.request, call.fields["size"]) == (3, "MAP_DMA", 8192) else None

    guest(host, monkeypatch, topology("two-pe"), [1, 2], 1, fail=fail)
    done = tcelab("bench", "batch", "--sizes", "1,2", "--repeat", "1")
    assert done.code == 1
    assert "EFAULT after 3 calls" in done.err


def test_a_view_that_is_missing_is_125(host, tcelab, monkeypatch, small):
    guest(host, monkeypatch, topology("two-pe"), [1, 2], 1, cannot={"stream": "too old"})
    done = tcelab("bench", "batch", "--sizes", "1,2", "--repeat", "1")
    assert (done.code, done.out) == (125, "")
    assert "could not judge: the stream view is missing: cannot" in done.err


def test_a_lost_guest_is_125(host, tcelab, monkeypatch, small):
    def lose(_session, _number, op, outcome):
        if isinstance(op, Repeat):
            raise GuestLost("the guest is gone")
        return outcome

    guest(host, monkeypatch, topology("two-pe"), [1, 2], 1, tamper=lose)
    done = tcelab("bench", "batch", "--sizes", "1,2", "--repeat", "1")
    assert done.code == 125
    assert "could not judge: the run ended early: the guest is gone" in done.err


# -- the plot


@pytest.fixture
def measured():
    """Of 1..32 pages, in seven turns that differ."""
    noise = [0.9, 0.97, 0.99, 1.0, 1.01, 1.1, 1.5]
    figures = [
        Figure(f"{kind} {n}", "us/call", [(CALL[kind] + n * PAGE[kind]) * each for each in noise])
        for kind in batch.KINDS
        for n in range(1, 33)
    ]
    fits = [batch.fit(kind, batch.curve(figures, kind)) for kind in batch.KINDS]
    on = {"host": "Some CPU", "qemu": "11.1.3, TCG, vof", "kernel": "6.12.95, 4 KiB pages"}
    return Measured(figures=figures, fits=fits, on=on)


def test_the_picture_is_the_same_for_the_same_figures(measured, tmp_path):
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    plot.draw(measured, one)
    plot.draw(measured, two)
    assert one.read_bytes() == two.read_bytes()
    assert b"<dc:date>" not in one.read_bytes()
    assert ET.fromstring(one.read_bytes()).tag.endswith("svg")


def words(measured, path, monkeypatch):
    """All that is written in the picture."""
    monkeypatch.setitem(plot._STYLE, "svg.fonttype", "none")
    plot.draw(measured, path)
    return "\n".join("".join(each.itertext()) for each in ET.parse(path).iter() if each.tag.endswith("text"))


def test_the_picture_says_what_was_measured_and_on_what(measured, tmp_path, monkeypatch):
    said = words(measured, tmp_path / "x.svg", monkeypatch)
    for each in (
        "Some CPU",
        "QEMU 11.1.3, TCG",
        "Linux 6.12.95",
        "median of 7 turns of 128 calls",
        "microseconds per call",
        "pages per second",
        "a call itself costs as much as 4.8 pages to map, 5.3 pages to unmap",
        "MAP_DMA: 12.0 µs + n · 2.50 µs (residual 0.0 µs)",
        "MAP_DMA, if a call cost nothing: 400",
    ):
        assert each in said


def test_axes_start_at_zero_and_show_every_point_with_its_spread(measured, tmp_path, monkeypatch):
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415

    drawn = []
    monkeypatch.setattr(Picture, "savefig", lambda self, path, **_: drawn.append(self))
    plot.draw(measured, tmp_path / "x.svg")
    cost, rate = drawn[0].axes
    for axes in (cost, rate):
        assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0)
        assert axes.get_xlim()[1] > 32
    bars = [container for container in cost.containers if container.has_yerr]
    assert [list(bar.lines[0].get_xdata()) for bar in bars] == [list(range(1, 33))] * 2
    assert bars[0].lines[0].get_ydata()[3] == pytest.approx(22.0)
    low, high = (point[1] for point in bars[0].lines[2][0].get_segments()[3])
    assert (low, high) == pytest.approx((22 * 0.98, 22 * 1.055))
    bands = [vertices.get_paths()[0].vertices[:, 1] for vertices in rate.collections]
    assert len(bands) == 2
    assert bands[0].max() == pytest.approx(32e3 / 92 * (1 / 0.97 + 1 / 0.99) / 2)
    assert rate.get_ylim()[1] >= 400


def test_a_picture_of_one_size_and_one_turn_can_be_drawn(tmp_path):
    figures = [Figure(f"{kind} 4", "us/call", [9.0]) for kind in batch.KINDS]
    plot.draw(Measured(figures=figures), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_is_drawn_from_the_command(host, tcelab, monkeypatch, small):
    guest(host, monkeypatch, topology("two-pe"), [1, 2], 2)
    done = tcelab("bench", "batch", "--sizes", "1,2", "--repeat", "2", "--plot", "picture.svg")
    assert done.code == 0
    assert b"</svg>" in Path("picture.svg").read_bytes()


def test_without_matplotlib_a_plot_is_refused_before_anything_is_measured(host, tcelab, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = tcelab("bench", "batch", "--plot", "picture.svg")
    assert done.code == exitcode.of_error(Unsupported(""))
    assert done.err.splitlines()[0] == "tcelab: --plot needs matplotlib, which is not installed"
    assert "pip install 'tcelab[plot]'" in done.err
    assert host.chosen == []


@pytest.mark.parametrize(
    ("sizes", "ticks"),
    [([1, 3, 7], [1, 3, 7]), (range(1, 33), [1, 4, 8, 12, 16, 20, 24, 28, 32]), (range(1, 11), [1, 2, 4, 6, 8, 10])],
)
def test_ticks_are_round(sizes, ticks):
    assert plot._ticks(list(sizes)) == ticks


# -- what it was measured on


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor: 0\nmodel name\t: Some CPU @ 3 GHz\n", "Some CPU @ 3 GHz"),
        ("processor : 0\ncpu\t\t: POWER9\n", "POWER9"),
    ],
)
def test_the_hosts_processor_has_a_name(tmp_path, text, name):
    (tmp_path / "cpuinfo").write_text(text)
    assert host_cpu(tmp_path / "cpuinfo") == name


def test_a_host_that_does_not_name_its_processor_has_an_architecture(tmp_path):
    assert host_cpu(tmp_path / "none")


def test_a_verdict_that_is_no_pass_is_in_the_json_whole():
    verdict = judge(perform_program(story(), Ideal(story(), cannot={"stream": "too old"})))
    kept = Measured(figures=[], verdict=verdict).to_dict()["verdict"]
    assert "the stream view is missing" in kept.pop("could_not")[0]
    assert kept == {"result": "could-not-judge", "exit_code": 125, "findings": []}
    assert "verdict" not in Measured(figures=[]).to_dict(), "what was not judged"


def test_a_fit_is_a_line():
    assert Fit(name="x", unit="us", call=1.0, page=2.0, residual=0.0).at(3) == 7.0

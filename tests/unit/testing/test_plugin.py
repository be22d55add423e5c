"""The pytest plugin, in pytest runs of their own on guests that are ideal."""

from __future__ import annotations

import dataclasses
import io
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import plugin_stand
import pytest
from click.testing import CliRunner
from ideal import Ideal
from rich.console import Console

from tcelab import report
from tcelab.cli import cli
from tcelab.emulator.reference import second_opinion
from tcelab.errors import UsageError
from tcelab.job import pool, setup
from tcelab.judge import Judge
from tcelab.program import load
from tcelab.program.validate import validate
from tcelab.qemu import machine
from tcelab.run.loop import perform_program as perform
from tcelab.testing import explain, plugin
from tcelab.testing.plugin import OPTIONS

# Imported before pytester looks: it forgets what is imported later.
assert explain
assert setup

PLUGIN = ("-p", "tcelab.testing.plugin")
QUIET = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest")

EXAMPLE = Path(__file__).parents[3] / "docs/examples/test_window.py"

MAPS = """
def test_it(pseries, container, tce_table):
    buffer = pseries.buffer(4)
    container.map(buffer, 0x10000, pages=4)
    assert tce_table() == {0x10000 + i * 4096: buffer.tce(i) for i in range(4)}
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a test file with the stand in the guests' place; ends with its result."""
    monkeypatch.setattr(plugin_stand.StandGuests, "said", [])
    monkeypatch.setattr(plugin_stand.StandGuests, "sessions", [])
    monkeypatch.setattr(pool, "Guests", plugin_stand.StandGuests)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    # Which plugins are installed is looked up by the tests that start pytest as users do.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def ran(source, *arguments):
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(*QUIET, *PLUGIN, *arguments, no_reraise_ctrlc=True)

    return ran


def asked(kind):
    return [each[1:] for each in plugin_stand.StandGuests.said if each[0] == kind]


def test_each_test_has_a_guest_of_its_own_which_ends_with_it(run):
    run(MAPS + MAPS.replace("test_it", "test_again")).assert_outcomes(passed=2)
    assert len(plugin_stand.StandGuests.sessions) == 2
    assert all(each.closed for each in plugin_stand.StandGuests.sessions)
    assert asked("closed") == [()]


LOGGED = """
def test_it(pseries, caplog):
    assert [each.message for each in caplog.get_records("setup")] == ["booting", "a fork is replaced"]
    assert {each.name for each in caplog.get_records("setup")} == {"tcelab.stand"}
"""


def test_what_is_going_on_goes_to_pytests_own_logging_and_is_printed_only_where_that_is_asked_for(run):
    result = run(LOGGED, "-o", "log_level=INFO")
    result.assert_outcomes(passed=1)
    assert "booting" not in result.stdout.str() + result.stderr.str()
    asked_for = run(LOGGED, "--log-cli-level=INFO", "-o", "log_cli=true")
    asked_for.assert_outcomes(passed=1)
    asked_for.stdout.fnmatch_lines(["INFO *tcelab.stand:* booting", "WARNING *tcelab.stand:* a fork is replaced"])


def test_a_plugins_user_who_asks_for_nothing_is_shown_nothing(run):
    result = run(MAPS)
    assert "a fork is replaced" not in result.stdout.str() + result.stderr.str()


def test_no_guest_is_made_in_vain_at_the_end(run):
    source = MAPS + MAPS.replace("test_it", "test_2") + "def test_alone(): pass\n"
    source += "import pytest\n@pytest.mark.tcelab(topology='one-pe')" + MAPS.replace("test_it", "test_3")
    run(source).assert_outcomes(passed=4)
    assert asked("fresh") == [("two-pe", 1), ("two-pe", 0), ("one-pe", 0)]


def test_under_xdist_nobody_knows_how_many_more_a_worker_will_want(run, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "64")
    run(MAPS).assert_outcomes(passed=1)
    assert asked("fresh") == [("two-pe", None)]
    assert asked("made")[0][2] == 1


def test_a_shared_guest_is_renewed_for_each_test_and_ends_after_the_last(run):
    source = """
def test_one(pseries_session): assert pseries_session.buffer(1).pages == 1
def test_two(pseries_session): assert pseries_session.buffer(1).name == "buffer0"
"""
    run(source).assert_outcomes(passed=2)
    (session,) = plugin_stand.StandGuests.sessions
    assert (session.renewed, session.closed) == (3, True)  # once more for a last look


def test_tests_that_want_no_guest_make_none(run):
    run("def test_it(): pass").assert_outcomes(passed=1)
    assert plugin_stand.StandGuests.said == []


def test_a_broken_law_fails_a_test_whose_own_assertions_hold(run):
    result = run("""
def test_it(pseries, container):
    container.map(pseries.buffer(1), 0)
    del pseries.session.pes["pe1"].table[0]
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tcelab: 1 finding in what the test did*",
            "*tcelab findings*",
            "table: LIOBN 0x80000100 IOBA 0x0: *",
            "*tcelab tables*",
            "*IOBA 0x0 is missing: *",
            "*tcelab replay*",
        ]
    )


def test_a_test_that_fails_of_itself_tells_program_tables_console_and_replay(run):
    result = run(
        """
def test_it(pseries, container):
    container.map(pseries.buffer(1), 0)
    assert False
""",
        "--tcelab-memory=768",
        "--tcelab-append=debug loud",
        "--tcelab-boot",
    )
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    (program,) = [Path(line) for line in text.splitlines() if line.endswith("program.json")]
    assert program.exists()
    result.stdout.fnmatch_lines(
        [
            "*tcelab program*",
            '*"request":"MAP_DMA"*',
            "*tcelab tables*",
            "pe1: <table of LIOBN 0x80000100: 1 of 262144 entries live>",
            "*as the operations must have left it*",
            "*tcelab console*",
            "[[] 1.0] last words",
            "*tcelab replay*",
            f"tcelab run {program} --append 'debug loud' --memory 768 --boot",
            "(the laws hold in what the test did: what failed is the test's own assertion, which no replay has)",
        ]
    )
    assert "tcelab findings" not in text


def replayed(result):
    """Exit code and words of the replay of the one test that failed, on a guest that is ideal."""
    (line,) = [line for line in result.stdout.lines if line.startswith("tcelab run ")]
    program = load(Path(line.split()[2]))
    validate(program)
    session = Ideal(program)
    session.facts = dataclasses.replace(session.facts, platform="qemu")
    judged = Judge(program, session.facts, references=second_opinion(program.topology, session.facts))
    done = perform(program, session, judged)
    made = report.make(done, judged.verdict(done))
    out = io.StringIO()
    report.render(Console(file=out, width=200), made)
    return made.verdict.exit_code, out.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        "container.map(pseries.buffer(1), 0); assert False",
        "assert tce_table() == {0: 3}",
        "container.map(pseries.buffer(1), 1 << 30, expect='ENXIO'); container.close(); assert False",
        "container.map(pseries.buffer(1), 0); pseries.checkpoint(stream=True); assert False",
    ],
)
def test_the_replay_of_a_test_whose_own_assertion_failed_says_that_the_laws_hold(run, body):
    result = run(f"def test_it(pseries, container, tce_table):\n    {body}")
    result.assert_outcomes(failed=1)
    code, said = replayed(result)
    assert code == 0, said
    name = "test_the_replay_of_a_test_whose_own_assertion_failed_says_that_the_laws_hold.py::test_it"
    assert f"the laws hold in all that {name} did; what it asserts itself is no part of a program" in said


def test_the_replay_of_a_test_that_did_nothing_is_judged(run):
    code, said = replayed(run("def test_it(pseries): assert False"))
    assert code == 0, said


def test_the_replay_of_an_outcome_that_is_not_as_expected_finds_it_again(run):
    code, said = replayed(
        run("""
def test_it(pseries, container):
    container.map(pseries.buffer(1), 0, expect="ENXIO")
""")
    )
    assert code == 1
    assert "gave value 0, expected ENXIO" in said
    assert "the laws hold" not in said


def test_a_guest_that_was_lost_leaves_a_program_that_can_be_judged(run):
    result = run("""
def test_it(pseries, container):
    pseries.session.lost = True
    pseries.buffer(1)
""")
    assert "the laws hold" not in result.stdout.str()
    assert replayed(result)[0] == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_breaks_before_or_after_the_test_is_told_with_its_replay_too(run, when):
    wrong = "pseries.pe('pe1').open().map(pseries.buffer(1), 1 << 30)"
    result = run(f"""
import pytest
@pytest.fixture
def mine(pseries):
    {wrong if when == "before" else "pass"}
    yield
    {wrong if when == "after" else "pass"}
def test_it(mine): pass
""")
    assert result.parseoutcomes()["errors"] == 1
    assert replayed(result)[0] == 1


def test_a_replay_on_the_emulator_says_nothing_of_the_guest_that_the_other_tests_have(run, tmp_path):
    result = run(
        """
def test_it(emulator):
    emulator.buffer(1)
    assert False
""",
        "--tcelab-qemu=qemu-10.0",
        "--tcelab-memory=768",
        "--tcelab-expect-quirk=pin-for-write",
    )
    (line,) = [each for each in result.stdout.lines if each.startswith("tcelab run")]
    words = shlex.split(line)[1:]
    assert words[2:] == ["--platform", "emulator"]
    out = ["--out", str(tmp_path / "again")]
    told = CliRunner().invoke(cli, [*words, *out])
    assert not isinstance(told.exception, UsageError)
    assert load(tmp_path / "again" / "program.json") == load(Path(words[1]))


def test_an_outcome_that_is_not_as_expected_fails_the_test_at_its_line(run):
    result = run("""
def test_it(pseries, container):
    container.map(pseries.buffer(1), 0, expect="ENXIO")
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["> *container.map(pseries.buffer(1), 0, expect=*", "E *gave 0, not ENXIO: *"])
    assert "pseries.py" not in result.stdout.str()


MASTERED = """
def blind(pseries):
    "Tells of no refusal."
    pseries.session.refuse = lambda op, address: None
def leaky(pseries):
    "Tells that it refuses a write, and lets it through."
    session = pseries.session
    honest = session.transfer
    def transfer(op, by):
        frame = next(iter(session.buffers.values()))[0]
        session.ram[frame][:8] = b"!" * 8
        return honest(op, by)
    session.transfer = transfer
"""


def test_a_transfer_that_must_go_through_and_one_that_must_be_refused_are_told_apart(run):
    run("""
def test_it(pseries, container):
    container.map(pseries.buffer(2), 0, permissions=1)
    through = container.dma(0, 512, to_memory=False)
    assert (through.passed, through.refused, through.passed_at) == (True, False, ((0, 512),))
    refused = container.dma(0x800, 512, to_memory=True, expect="refused")
    assert (refused.passed, refused.refused, refused.refused_at) == (False, True, ((0x800, 512),))
    part = container.dma(0xF00, 512, to_memory=False, expect=None)
    assert (part.passed, part.refused) == (False, False)
    assert (part.passed_at, part.refused_at) == (((0xF00, 256),), ((0x1000, 256),))
""").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("permissions", "lie", "call", "said"),
    [
        (3, "", "0, 64, to_memory=True, expect='refused'", "the write of 64 bytes at 0x0 by pe1, went through: QEMU"),
        (3, "", "0, 64, to_memory=False, expect='refused'", "the read of 64 bytes at 0x0 by pe1, went through: QEMU"),
        (1, "", "0, 64, to_memory=True", "was refused (Invalid write at addr 0x0, size 8), guest RAM is as before"),
        (3, "", "0xf80, 256, to_memory=True", "was refused in part: at 0x1000..0x107f, not at 0xf80..0xfff;"),
        (1, "blind", "0, 64, to_memory=True, expect='refused'", "went through: QEMU refused no whole piece"),
        (1, "leaky", "0, 64, to_memory=True, expect='refused'", "was refused (*), guest RAM changed at 0x"),
        (3, "", "0, 64, to_memory=True, expect='EPERM'", "a transfer is expected to be 'ok' or 'refused', not 'EPERM'"),
    ],
)
def test_what_becomes_of_a_transfer_fails_a_test_that_expects_something_else(run, permissions, lie, call, said):
    result = run(f"""{MASTERED}
def test_it(pseries, container):
    container.map(pseries.buffer(2), 0, permissions={permissions})
    {lie + "(pseries)" if lie else "pass"}
    container.dma({call})
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{said.replace('[', '[[]')}*"])
    assert "transferred.py" not in result.stdout.str()


@pytest.mark.parametrize(
    ("permissions", "call", "said"),
    [
        (3, "0, 64, to_memory=True, expect='refused'", "must be refused; its table lets it through at IOBA 0x0"),
        (1, "0, 64, to_memory=True", "must pass; its table refuses it: no permission at IOBA 0x0"),
        (3, "0xf80, 256, to_memory=True", "must pass; its table refuses it: no entry at IOBA 0x1000"),
        (3, "0xf80, 256, to_memory=True, expect='refused'", "lets it through at IOBA 0xf80 (1 of 2 pieces passed)"),
    ],
)
def test_the_replay_of_a_transfer_of_which_something_else_became_finds_it_again(run, permissions, call, said):
    result = run(f"""
def test_it(pseries, container):
    container.map(pseries.buffer(1), 0, permissions={permissions})
    container.dma({call})
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *UnexpectedOutcomeError: operation *"])
    code, told = replayed(result)
    assert code == 1
    assert said in " ".join(told.split())
    assert "the laws hold" not in told


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "map(page, 0, expect='EINVALID')",
            "expect 'EINVALID' is neither \"ok\", nor a number, nor an errno's name; *",
        ),
        (
            "unmap(0, expect='passed')",
            "expect 'passed' is for transfers alone: dma, together, burst, *",
        ),
        ("ioctl('ENABLE', expect='fine')", "expect 'fine' is neither *"),
        ("dma(0, 0, to_memory=True)", "a transfer of 0 bytes is none"),
        ("dma(0, 0, to_memory=True, expect='refused')", "a transfer of 0 bytes is none"),
        ("dma(0, 0, to_memory=True, expect=None)", "a transfer of 0 bytes is none"),
    ],
)
def test_what_nothing_can_give_is_wrong_usage_and_is_not_done(run, call, said):
    result = run(f"""
import pytest
from tcelab.errors import UsageError
def test_it(pseries, container):
    page = pseries.buffer(1)
    done = len(pseries.program.ops)
    with pytest.raises(UsageError) as caught:
        container.{call}
    print("it says", caught.value.message)
    assert len(pseries.program.ops) == done
    assert "told once" == ""
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"it says *{said}"])
    result.stdout.fnmatch_lines(["E *'told once'*"])
    assert "tcelab findings" not in result.stdout.str()


def test_a_device_that_cannot_be_reached_is_neither_refused_nor_through(run):
    result = run("""
def test_it(pseries, container):
    container.map(pseries.buffer(1), 0)
    pseries.session.transfer = lambda op, by: (1 << 64) - 1
    lost = container.dma(0, 64, to_memory=True, expect=None)
    assert (lost.passed, lost.refused) == (False, False)
    print(lost.describe())
""")
    result.assert_outcomes(failed=1)  # by the laws: a device that nothing isolated must be there
    result.stdout.fnmatch_lines(["*tcelab: * finding* in what the test did*", "did not end: 18446744073709551615"])


def test_the_example_passes_on_the_emulator_and_notices_a_device_that_may_write(pytester):
    text = EXAMPLE.read_text()
    pytester.makepyfile(text)
    pytester.runpytest_inprocess(*QUIET, "--tcelab-platform=emulator").assert_outcomes(passed=5)
    pytester.makepyfile(text.replace("permissions=tce.READ", "permissions=tce.PERMISSIONS"))
    result = pytester.runpytest_inprocess(*QUIET, "--tcelab-platform=emulator")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*the write of 512 bytes at 0x0 by pe1, went through: *; expected: refused"])


def test_the_table_of_another_guest_is_read_there(run):
    """Else a test of a shared guest would look at one on which nothing was done."""
    run("""
def test_it(pseries_session, tce_table):
    pe = pseries_session.pe("pe1")
    buffer = pseries_session.buffer(1)
    container = pe.open()
    container.map(buffer, 0)
    assert tce_table(pe) == {0: buffer.tce()}
    assert tce_table() == {}
    container.unmap(0)
""").assert_outcomes(passed=1)


def test_a_table_that_is_not_shown_is_not_an_empty_one(run):
    result = run("""
from dataclasses import replace
def test_it(pseries, container, tce_table):
    hide = lambda s, n, op, shot: replace(shot, tables=tuple(t for t in shot.tables if t.liobn != 0x80000100))
    pseries.session.warp = hide
    assert tce_table() == {}
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*QEMU's memory shows no table of LIOBN 0x80000100, whose window must be there*"])


def test_a_guest_that_is_lost_fails_the_test_in_its_own_words(run):
    result = run("""
def test_it(pseries):
    pseries.session.lost = True
    pseries.buffer(1)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the agent stopped answering*", "*tcelab guest*", "  next step: see console.log"])


def test_a_test_that_swallows_the_loss_of_its_guest_fails_all_the_same(run):
    result = run("""
def test_it(pseries):
    pseries.session.lost = True
    try:
        pseries.buffer(1)
    except Exception:
        pass
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tcelab: the agent stopped answering*"])


LOST = """
    pseries.session.lost = True
    pseries.buffer(1)
"""
IN_SETUP = """
    pass
@pytest.fixture
def mine(pseries):
    pseries.session.lost = True
    pseries.buffer(1)
def test_that_asks(mine):
    pass
"""
DIED = """
    raise GuestLost("Kernel panic", kernel_died=True)
"""


@pytest.mark.parametrize(
    ("ends", "code", "told"),
    [
        ([LOST, "    pass"], 125, "tcelab: 1 could not be judged: exit code 125, not 1"),
        ([IN_SETUP, LOST], 125, "tcelab: 2 could not be judged: exit code 125, not 1"),
        ([LOST, "    assert False"], 1, "tcelab: 1 of 2 failures could not be judged"),
        ([LOST, "    pseries.pe('pe1').open().map(pseries.buffer(1), 1 << 30)"], 1, "tcelab: 1 of 2 failures *"),
        ([DIED], 1, "*1 failed*"),
        (["    raise UsageError('wrong')"], 1, "*1 failed*"),
        (["    pytest.skip()"], 0, "*1 skipped*"),
    ],
    ids=["lost", "in setup too", "and one that fails", "and a finding", "the kernel died", "wrong usage", "skipped"],
)
def test_a_run_that_failed_only_by_what_could_not_be_judged_ends_with_125(run, ends, code, told):
    imports = "import pytest\nfrom tcelab.errors import GuestLost, UsageError\n"
    result = run(imports + "".join(f"def test_{at}(pseries):\n{end}\n" for at, end in enumerate(ends)), "-rf")
    assert result.ret == code
    result.stdout.fnmatch_lines([told])


def test_what_could_not_be_judged_is_told_in_junit_and_by_workers(pytester):
    pytester.makepyfile(
        "from tcelab.errors import HarnessError\n"
        "def test_lost(): raise HarnessError('the disk is full')\n"
        "def test_fine(): pass\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-n", "1", "--junitxml=junit.xml")
    assert result.ret == 125
    cases = list(ET.parse(pytester.path / "junit.xml").iter("testcase"))
    told = {case.get("name"): [each.get("value") for each in case.iter("property")] for case in cases}
    assert told == {"test_lost": ["could not judge"], "test_fine": []}


def test_tables_that_differ_are_told_by_runs_of_entries(run):
    result = run("""
def test_it(pseries, container, tce_table):
    buffer = pseries.buffer(300)
    container.map(buffer, 0x10000, pages=256)
    assert tce_table() == {0x10000 + i * 4096: buffer.tce(i, 1) for i in range(250)}
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *table of LIOBN 0x80000100: 256 of 262144 entries live* is not as expected:",
            "E *IOBA 0x10000..0x109fff, 250 entries, each has the permissions read-write instead of read*",
            "E *IOBA 0x10a000..0x10ffff, 6 entries, each should not be there*",
        ]
    )
    assert len([line for line in result.stdout.lines if line.startswith("E ")]) < 8


def test_the_table_may_stand_on_either_side(run):
    result = run("""
def test_it(tce_table):
    assert {0: 0x1003} == tce_table()
""")
    result.stdout.fnmatch_lines(["E *IOBA 0x0 is missing: expected 0x0000000000001003*"])


def test_what_the_qemu_cannot_do_is_skipped_with_the_reason(run):
    result = run("import pytest\npytestmark = pytest.mark.tcelab(needs='vof')\n" + MAPS, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*QEMU 7.2 cannot do what the test needs: vof*"])


def test_the_nearest_marker_says_the_topology_and_others_add_to_it(run):
    marks = "import pytest\npytestmark = pytest.mark.tcelab(topology='one-pe', needs='vof')\n"
    result = run(marks + "@pytest.mark.tcelab(topology='three-pe')" + MAPS, "-rs")
    result.assert_outcomes(skipped=1)
    run(marks + "@pytest.mark.tcelab(topology='three-pe', needs=())" + MAPS).assert_outcomes(passed=1)
    assert asked("fresh")[-1][0] == "three-pe"


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("needs='a miracle'", "nobody knows the need 'a miracle'; known are: edu"),
        ("topology='ring'", "no topology 'ring'; there are: one-pe"),
        ("topologie='one-pe'", "the marker tcelab takes topology and needs, not topologie"),
        ("'one-pe'", "the marker tcelab takes topology= and needs=, not 'one-pe'"),
        ("needs=3", "the marker tcelab takes names"),
        ("needs=None", "the marker tcelab takes names"),
        ("topology=None", "the marker tcelab takes names"),
    ],
)
def test_a_marker_that_says_nonsense_is_an_error_in_one_line(run, mark, said):
    result = run(f"import pytest\n@pytest.mark.tcelab({mark})" + MAPS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_options_and_ini_say_what_the_guest_is_and_options_win(run, pytester):
    pytester.makeini("[pytest]\ntcelab_qemu = /opt/qemu\ntcelab_memory = 1024\ntcelab_boot = true\n")
    run(
        MAPS, "--tcelab-kernel=/k/vmlinux", "--tcelab-memory=256", "--tcelab-cpu=power8", "--tcelab-ahead=0"
    ).assert_outcomes(passed=1)
    ((choice, boot, ahead),) = asked("made")
    assert (choice.qemu, choice.kernel, choice.memory, boot, ahead) == ("/opt/qemu", Path("/k/vmlinux"), 256, True, 0)
    assert choice.cpu == "power8"
    assert (*machine.CPUS,) == plugin.CPUS


@pytest.mark.parametrize("key", ["tcelab_expect_quirk", "tcelab_expect-quirk"])
def test_a_key_of_the_ini_file_has_an_underscore_or_the_dash_of_the_option(run, pytester, key):
    pytester.makeini(f"[pytest]\n{key} = pin-for-write\n")
    run(MAPS).assert_outcomes(passed=1)
    assert asked("made")[0][0].expect_quirks == ("pin-for-write",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--tcelab-cpu=power7", "no CPU 'power7'; there are: power8"),
        ("--tcelab-platform=lpar", "no platform 'lpar'; there are: qemu"),
        ("--tcelab-memory=much", "--tcelab-memory much: not a number"),
    ],
)
def test_an_option_that_is_nonsense_is_wrong_usage(run, given, said):
    result = run(MAPS, given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])


def test_every_option_is_in_the_help(run):
    text = run(MAPS, "--help").stdout.str()
    for name in (*OPTIONS, "boot"):
        assert f"--tcelab-{name}" in text
        assert f"tcelab_{name}" in text


def test_the_plugin_costs_a_run_without_guests_nothing(pytester):
    """Neither numpy nor asyncio nor tcelab's own modules."""
    pytester.makepyfile("""
import sys
def test_it():
    assert [name for name in ("numpy", "asyncio", "tcelab.job.setup", "msgspec") if name in sys.modules] == []
""")
    pytester.runpytest_subprocess(*QUIET).assert_outcomes(passed=1)


BREAKS = "    del pseries.session.pes['pe1'].table[0]\n"
MAPPED = "    container.map(pseries.buffer(1), 0)\n"


def test_what_a_fixture_breaks_after_the_test_is_an_error(run):
    result = run(f"""
import pytest
@pytest.fixture
def mine(pseries, container):
{MAPPED}    yield container
{BREAKS}
def test_it(mine): pass
""")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tcelab: 1 finding in all that was done*", "table: LIOBN 0x80000100 IOBA 0x0: *"])


def test_a_broken_law_is_told_though_the_test_skips_itself(run):
    run(f"""
import pytest
def test_it(pseries, container):
{MAPPED}{BREAKS}    pytest.skip("not today")
""").assert_outcomes(skipped=1, errors=1)


def test_a_broken_law_is_told_of_a_test_case_too(run):
    run(f"""
import pytest, unittest
class TestIt(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def guest(self, pseries, container): self.pseries, self.container = pseries, container
    def test_it(self):
        pseries, container = self.pseries, self.container
    {MAPPED}    {BREAKS}
""").assert_outcomes(passed=1, errors=1)


def test_a_broken_law_is_told_of_whichever_guest_broke_it(run):
    run("""
def test_it(pseries, pseries_session):
    container = pseries.pe("pe1").open()
    container.map(pseries.buffer(1), 0)
    del pseries.session.pes["pe1"].table[0]
    pseries_session.buffer(1)
""").assert_outcomes(failed=1)


def test_a_view_that_is_missing_is_no_pass_and_no_empty_table(run):
    blind = """
from dataclasses import replace
def blinded(pseries):
    seen = pseries.session.warp
    pseries.session.warp = lambda s, n, op, shot: replace(shot, tables=(), missing={"live": "no trace", "stream": "no"})
"""
    run(f"""{blind}
def test_it(pseries, container):
    blinded(pseries)
{MAPPED}""").assert_outcomes(passed=1, errors=1)
    result = run(f"""{blind}
def test_it(pseries, container, tce_table):
    blinded(pseries)
    assert tce_table() == {{}}
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the tables in QEMU's memory cannot be seen: no trace*"])


def test_a_test_that_looks_at_nothing_but_passes_its_own_checks_passes(run):
    """That nothing was mapped is no reason to fail it."""
    run("def test_it(pseries): assert pseries.facts.page_size == 4096").assert_outcomes(passed=1)


def test_an_interrupt_in_a_test_ends_the_whole_run(run):
    source = MAPS.replace("    buffer =", "    pseries.session.perform = stop\n    buffer =")
    result = run("def stop(ops): raise KeyboardInterrupt\n" + source + MAPS.replace("test_it", "test_2"))
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_a_guest_that_is_asked_for_by_name_is_had_too(run):
    run("def test_it(request): assert request.getfixturevalue('pseries').buffer(1).pages == 1").assert_outcomes(
        passed=1
    )
    assert asked("fresh") == [("two-pe", 0)]


def test_a_disk_that_is_full_costs_no_report(run, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tcelab.testing.pseries.Pseries.write_program", full)
    result = run("def test_it(pseries):\n    pseries.buffer(1)\n    assert False")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*nothing more can be told: *No space left*"])


@pytest.mark.parametrize(
    "source",
    [
        "pseries_session.session and pseries_session.perform(Dma(file='d', iova=0, size=4, to_memory=True))",
        "pseries_session.perform(Fresh())",
    ],
)
def test_a_shared_guest_refuses_what_would_reach_into_other_tests(run, source):
    result = run(f"from tcelab.program import Dma, Fresh\ndef test_it(pseries_session):\n    {source}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cannot be done here: *"])


def test_a_shared_guest_has_one_topology(run):
    result = run("import pytest\n@pytest.mark.tcelab(topology='one-pe')\ndef test_it(pseries_session): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pseries_session is on two-pe; for one-pe take pseries*"])


@pytest.mark.parametrize("broken", ["pseries", "pseries_session"])
def test_the_end_of_one_guest_says_nothing_of_another(run, broken):
    """A test with two guests, one of which a fixture breaks after the test."""
    result = run(f"""
import pytest
@pytest.fixture
def mine(pseries, pseries_session):
    for guest in (pseries, pseries_session):
        guest.pe("pe1").open().map(guest.buffer(1), 0)
    yield
    del {broken}.session.pes["pe1"].table[0]
def test_it(mine): pass
""")
    result.assert_outcomes(passed=1, errors=1)
    assert "tcelab: 1 finding in all that was done" in result.stdout.str()

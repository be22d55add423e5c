"""A matrix file: what is wrong in it is told in one line with its place, and what is right becomes cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcelab import scenarios
from tcelab.cli import nightly as verb
from tcelab.errors import UsageError
from tcelab.nightly import matrixfile, plan
from tcelab.program.topology import topology

DAY = 86400.0


@pytest.fixture(scope="module")
def known():
    return verb.vocabulary()


@pytest.fixture
def cells(tmp_path, known):
    """The cells of a matrix, as the verb makes and checks them."""

    def made(text, when=0.0):
        path = tmp_path / "m.toml"
        path.write_text(text)
        matrix = matrixfile.read(path, known)
        found = plan.cells(matrix, when)
        verb.check(matrix, found)
        return [each.cell for each in found]

    return made


RUN = '[[cell]]\nscenario = "flow"\n'


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[axes]\nscenrio = "flow"\n', 2, "unknown key scenrio: did you mean scenario?"),
        ("minuts = 3\n" + RUN, 1, "unknown key minuts: did you mean minutes?"),
        (RUN + '\n[[cell]]\nscenario = "flow"\nlimt = 3\n', 6, "unknown key limt: did you mean limit?"),
        ("[kernels.mine]\nkernel = 'a'\nmodule = 'b'\n" + RUN, 3, "unknown key module: did you mean modules?"),
        ("[kernels.mine]\nmodules = 'b'\n" + RUN, 1, "Object missing required field `kernel`"),
        ("[qemus.new]\npaht = 'b'\n" + RUN, 2, "unknown key paht: did you mean path?"),
        (
            '[axes]\nscenario = [\n  "flow",\n  "isolatoin",\n]\n',
            4,
            "unknown scenario isolatoin: did you mean isolation?",
        ),
        (RUN + 'qemu = "qemu-11.2"\n', 3, "unknown qemu qemu-11.2: did you mean qemu-11.1?"),
        (RUN + 'image = ["guest", "gest-64k"]\n', 3, "unknown image gest-64k: did you mean guest-64k?"),
        (RUN + 'cpu = "power12"\n', 3, "unknown cpu power12: did you mean power11?"),
        (RUN + 'topology = "two-ep"\n', 3, "unknown topology two-ep: did you mean two-pe?"),
        (RUN + 'mutant = "map-shrt"\n', 3, "unknown mutant map-shrt: did you mean map-short?"),
        (RUN + 'expect = "findings"\n', 3, "unknown expect findings: did you mean finding?"),
        (RUN + 'kind = "runs"\n', 3, "unknown kind runs: did you mean run?"),
        (RUN + "options = { firmwre = 'slof' }\n", 3, "unknown option firmwre: did you mean firmware?"),
        (RUN + "[cell.options]\nboot = true\nseeed = 1\n", 5, "unknown option seeed"),
        (RUN + "options = { firmware = 'slow' }\n", 3, "Invalid value for '--firmware': 'slow' is not one of"),
        # What only `tcelab run` itself would refuse, hours later.
        (RUN.replace("flow", "hotplug") + "options = { device = 'probe' }\n", 2, "topology probe"),
        (RUN.replace("flow", "smp") + "options = { passthrough = true }\n", 2, "L2 has one CPU"),
        (RUN + "options = { passthrough = true, platform = 'emulator' }\n", 2, "--platform emulator has none"),
        (RUN + "\n[[cell]]\nscenario = './gone.json'\n", 5, "gone.json"),
        (RUN + "limit = 'long'\n", 3, "field cell[0].limit: Expected `float`, got `str`"),
        (RUN + "seed = -1\n", 3, "Expected `int` >= 0"),
        ('[[cell]]\nkind = "bench"\nscenario = "isolatio"\n', 3, "unknown benchmark isolatio: did you mean isolation?"),
        ('[[cell]]\nkind = "bench"\n', 1, "a cell of kind bench needs a scenario"),
        ('[[cell]]\nkind = "command"\nname = "x"\n', 1, "a cell of kind command needs a name and a command"),
        (RUN + 'command = "ls"\n', 3, "a cell of kind run has no command"),
        ("[kernels.guest]\nkernel = 'a'\n" + RUN, 1, "guest is the name of a recipe: take another one"),
        (
            "[kernels.mine]\nkernel = 'a'\nexpect_quirks = ['pin-for-writ']\n" + RUN,
            3,
            "unknown quirk pin-for-writ: did you mean pin-for-write?",
        ),
        ('[[exclude]]\nqemu = "qemu-7.1"\n' + RUN, 2, "unknown qemu qemu-7.1: did you mean qemu-7.2?"),
        (RUN + RUN, 3, "this cell is there twice: run flow guest qemu-11.1 power9 seed 1"),
        ('[axes]\nscenario = "flow"\n[[include]]\nqemu = "qemu-7.2"\n', 3, "alone it has no scenario"),
        ("a = = 1\n" + RUN, 1, "Invalid value"),
        ('[axes]\nscenario = "flow\n', 2, "Illegal character"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_place_and_what_may_be_meant(cells, text, line, says):
    with pytest.raises(UsageError) as error:
        cells(text)
    assert f"m.toml:{line}: " in error.value.message
    assert says in error.value.message
    assert len(error.value.report().splitlines()) == 1


def test_a_matrix_without_a_cell_is_wrong(cells):
    with pytest.raises(UsageError, match="there is no cell"):
        cells("minutes = 3\n")


def titles(cells):
    return [plan.title(each) for each in cells]


def test_the_axes_make_every_combination_in_their_order(cells):
    made = cells('seed = 3\n[axes]\nscenario = ["flow", "rules"]\nqemu = ["qemu-11.1", "qemu-7.2"]\ncpu = "power8"\n')
    assert titles(made) == [
        "run flow guest qemu-11.1 power8 seed 3",
        "run rules guest qemu-11.1 power8 seed 3",
        "run flow guest qemu-7.2 power8 seed 3",
        "run rules guest qemu-7.2 power8 seed 3",
    ]
    assert made[0].command == [
        "tcelab",
        "run",
        "flow",
        "--qemu",
        "qemu-11.1",
        "--image",
        "guest",
        "--cpu",
        "power8",
        "--seed",
        "3",
    ]


AXES = '[axes]\nscenario = ["flow", "rules"]\nqemu = ["qemu-11.1", "qemu-7.2"]\n'


def test_what_matches_in_all_that_is_named_is_excluded(cells):
    assert len(cells(AXES + '[[exclude]]\nqemu = "qemu-7.2"\nscenario = "rules"\n')) == 3
    assert len(cells(AXES + '[[exclude]]\nscenario = ["rules", "dma"]\n')) == 2
    assert len(cells(AXES + '[[exclude]]\nqemu = "qemu-7.2"\ncpu = "power8"\n')) == 4


def test_an_include_tells_more_of_what_it_matches_and_else_is_one_more(cells):
    made = cells(
        AXES
        + '[[include]]\nscenario = "rules"\noptions = { boot = true }\nlimit = 5\n'
        + '[[include]]\nscenario = "dma"\ncpu = "power10"\nexpect = "finding"\n'
    )
    assert [each.options for each in made] == [{}, {"boot": True}] * 2 + [{}]
    assert made[1].command[-1] == "--boot"
    assert titles(made)[4] == "run dma guest qemu-11.1 power10 seed 1"
    assert [each.expected for each in made] == ["pass"] * 4 + ["finding"]


def test_a_list_in_a_cell_is_a_cell_for_each_and_options_become_words(cells):
    made = cells(
        '[[cell]]\nscenario = "main"\nseed = [1, 2]\ntopology = ["one-pe", "pair"]\n'
        'options = { limit = ["boot=300", "perform=90"], boot = false, expect_quirk = "pin-for-write" }\n'
    )
    assert [(each.topology, each.seed) for each in made] == [("one-pe", 1), ("one-pe", 2), ("pair", 1), ("pair", 2)]
    assert made[3].command[10:] == (
        ["pair", "--seed", "2", "--limit", "boot=300", "--limit", "perform=90", "--expect-quirk", "pin-for-write"]
    )
    assert len({plan.key(each) for each in made}) == 4
    assert len({each.id for each in made}) == 2


def test_kernels_and_qemus_of_the_users_own_are_found_beside_the_matrix(cells, tmp_path):
    made = cells(
        '[kernels.next]\nkernel = "linux/vmlinux"\nmodules = "/m"\nimage = "guest-64k"\n'
        'expect_quirks = ["pin-for-write"]\n'
        '[qemus.master]\npath = "qemu"\n'
        '[axes]\nscenario = "flow"\nimage = ["guest", "next"]\nqemu = "master"\n'
    )
    (_, own) = made
    assert (own.image, own.kernel, own.qemu) == ("guest-64k", "next", "master")
    line = " ".join(own.command)
    assert f"--qemu {tmp_path / 'qemu'} --image guest-64k" in line
    assert f"--kernel {tmp_path / 'linux/vmlinux'} --modules /m --expect-quirk pin-for-write" in line


def test_a_cell_is_the_same_wherever_its_kernel_lies_and_another_one_with_another_option(cells):
    one, other = (
        cells(f'[kernels.next]\nkernel = "{path}"\n{RUN}image = "next"\n')[0] for path in ("a/vmlinux", "b/vmlinux")
    )
    assert (one.id, one.command == other.command) == (other.id, False)
    assert len({cells(RUN + f"options = {each}\n")[0].id for each in ("{}", "{ boot = true }")}) == 2


def test_another_seed_each_night_changes_no_id(cells):
    text = '[[cell]]\nkind = "fuzz"\nseed = "nightly"\noptions = { minutes = 20 }\n'
    (first,), (second,) = cells(text, 7 * DAY), cells(text, 8 * DAY)
    assert (first.seed, second.seed, first.id) == (7, 8, second.id)
    assert first.command[-4:] == ["--seed", "7", "--minutes", "20"]


def test_every_kind_has_its_command(cells, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "program.json").write_bytes(scenarios.build("flow", topology("two-pe"), 1).to_json())
    made = cells(
        '[[cell]]\nkind = "leakcheck"\ncommand = ["dd", "if=/dev/vda"]\n'
        '[[cell]]\nkind = "bench"\nscenario = "fork"\noptions = { repeat = 2 }\n'
        '[[cell]]\nkind = "command"\nname = "ours"\ncommand = "make test"\n'
        '[[cell]]\nscenario = "old/program.json"\n'
        '[[cell]]\nscenario = "flow"\noptions = { platform = "emulator" }\n'
    )
    machine = "--qemu qemu-11.1 --image guest --cpu power9"
    assert [" ".join(each.command) for each in made] == [
        f"tcelab leakcheck {machine} -- dd if=/dev/vda",
        f"tcelab bench fork {machine} --repeat 2",
        "sh -c make test",
        f"tcelab run {tmp_path}/old/program.json {machine}",
        "tcelab run flow --seed 1 --platform emulator",
    ]
    assert [plan.with_folder(each, "/o")[:4] for each in made[:2]] == [
        ["leakcheck", "--out", "/o", "--qemu"],
        ["bench", "fork", "--json", "/o/bench.json"],
    ]


def test_the_matrices_that_come_with_tcelab_are_right(known):
    """Nothing in them is run here."""
    scripts = Path(__file__).parents[3] / "scripts"
    for path in (matrixfile.DEFAULT, scripts / "nightly.toml", scripts / "weekly.toml"):
        matrix = matrixfile.read(path, known)
        verb.check(matrix, plan.cells(matrix, 0.0))

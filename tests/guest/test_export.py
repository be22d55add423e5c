"""`tcelab export`: the C file, built as its README says and run in guests, gives what tcelab's own runs give."""

import re
import shlex
from pathlib import Path

import pytest

from tcelab import export
from tcelab.image import library
from tcelab.program import Buffer, Frames, load
from tcelab.qemu.typist import Typist
from thorough import often

pytestmark = pytest.mark.guest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
READY = 60.0
LIMIT = 300.0
BINARY = "/tmp/reproducer"
"""In the guest."""
PAGE = 4096

TAKE = """
import os
(pid,) = [each for each in os.listdir("/proc") if each.isdigit() and int(each) != os.getpid()
          and b"tceagent" in open("/proc/" + each + "/cmdline", "rb").read()]
with open("/proc/" + pid + "/mem", "rb") as memory, open("%(to)s", "wb") as file:
    memory.seek(%(at)d)
    file.write(memory.read(%(size)d))
os.chmod("%(to)s", 0o755)
"""
"""Takes a program out of the agent's memory, into which the host has written it: to type a megabyte takes minutes."""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile a C file for the guest."""
    release = library.ensure_guest("guest").manifest.kernel_release
    path = tmp_path_factory.mktemp("c") / "reproducer.c"

    def compiled(text):
        path.write_text(text)
        with library.toolchain(release) as toolchain:
            return toolchain.program(path)

    return compiled


@pytest.fixture(scope="module")
def one_pe(_tcelab_guests):
    """A guest for all programs that leave its kernel as it was."""
    with _tcelab_guests.fresh("one-pe", 0) as session:
        yield session


def run(session, program, build, change=lambda text: text, before=""):
    """Run the reproducer of a program as its README says: the exit status, and what was printed.

    :param change: made to its text.
    :param before: lines for the shell, before it is run.
    """
    files = {name: data.decode() for name, data in export.files(program).items()}
    text = files["reproducer.c"]
    changed = change(text)
    assert (changed != text) == (change.__name__ != "<lambda>")
    put(session, build(changed))
    binding = re.findall(r"^    (echo .*/.*)$", files["README.md"], re.MULTILINE)
    done = Typist(session, READY).run("\n".join([*binding, before, BINARY]), LIMIT)
    assert done is not None, "it did not end"
    return done.status, done.output


def put(session, binary):
    """A program into the guest, by the host's own way into its RAM."""
    session.renew()  # the agent forgets the one before
    made, lies = session.perform(
        [Buffer(name="binary", pages=-(-len(binary) // PAGE)), Frames(buffer="binary")],
    )
    for number, frame in enumerate(lies.frames):
        session.guest.ram.write(frame, binary[number * PAGE : (number + 1) * PAGE])
    take = TAKE % {"to": BINARY, "at": made.value, "size": len(binary)}
    done = Typist(session, READY).run(shlex.join(["python3.11", "-S", "-c", take]), LIMIT)
    assert done is not None
    assert done.status == 0, done.output


def wrong(output):
    """What differed: (number, what, got, expected)."""
    found = re.findall(r"operation (\d+): (.*): got (.*), expected (.*?)\r?$", output, re.MULTILINE)
    return [(int(number), what, got.partition(" (0x")[0], right) for number, what, got, right in found]


def example(name):
    return load(EXAMPLES / f"{name}.json")


def test_a_program_that_passes_gives_what_was_recorded_and_its_transfers_are_seen_in_memory(one_pe, build):
    status, said = run(one_pe, example("dma"), build)
    assert (status, wrong(said)) == (0, []), said
    assert re.search(r"^(\d\d) answers compared, 0 of them wrong", said, re.MULTILINE), said


def test_all_rules_of_the_driver_are_kept(_tcelab_guests, build):  # noqa: PT019 - of the plugin
    program = load(EXAMPLES.parents[1] / "tests/data/programs/1-2026-11-24-rules.json")
    with _tcelab_guests.fresh(program.topology.name, 0) as session:
        status, said = run(session, program, build)
    assert (status, wrong(said)) == (0, []), said


def test_a_defect_shows_in_the_errno_and_in_the_page_that_is_unpinned(one_pe, build):
    status, said = run(one_pe, example("map-across-the-end"), build)
    assert (status, wrong(said)) == (
        1,
        [
            (18, "VFIO_IOMMU_MAP_DMA", "EINTR", "EINVAL"),
            (19, "pinned pages", "0", "1"),
            (20, "pinned pages", "0", "1"),
        ],
    ), said
    assert said.count("that is the defect") == 3


def test_an_expectation_that_is_changed_is_not_met(one_pe, build):
    def busy(text):
        return text.replace('"VFIO_IOMMU_UNMAP_DMA", got, 0);', '"VFIO_IOMMU_UNMAP_DMA", got, -EBUSY);')

    status, said = run(one_pe, example("dma"), build, busy)
    assert (status, wrong(said)) == (1, [(23, "VFIO_IOMMU_UNMAP_DMA", "0", "EBUSY")]), said


def test_a_transfer_that_takes_other_bytes_is_seen_in_memory(one_pe, build):
    """The page that the device reads first has another tag."""

    def other_tag(text):
        return text.replace("0x1f000, 1);", "0x1f000, 7);")

    status, said = run(one_pe, example("dma"), build, other_tag)
    differing = {(number, what) for number, what, _, _ in wrong(said)}
    assert status == 1, said
    assert (18, "what buffer target holds then (CRC-32)") in differing, said


def test_without_vfio_it_could_not_be_tried(one_pe, build):
    unbind = "echo 0001:00:01.0 > /sys/bus/pci/drivers/vfio-pci/unbind"
    status, said = run(one_pe, example("map-across-the-end"), build, before=unbind)
    assert status == 2, said
    assert "vfio-pci does not have it" in said
    assert "answers compared" not in said


USUAL = ("close-strands-memory", "rollback-loses-entries", "enable-binds-before-limit", "register-part-returns-pages")
ALL = (
    *USUAL,
    "failed-create-keeps-charge",
    "ioba-check-one-page",
    "misaligned-iova-returns-1",
    "pin-for-write",
    "register-nothing-warns",
    "unregister-in-use-succeeds",
    "window-below-page-is-made",
)
"""Of one part that shows it."""


def test_a_process_that_dies_is_waited_for_until_the_limit_and_then_it_could_not_be_tried(_tcelab_guests, build):  # noqa: PT019 - of the plugin
    def dying(text):
        text = text.replace("#define LIMIT 300", "#define LIMIT 2")
        return text.replace("m = buffer(13, 64);", "_exit(3);")

    program = example("quirks/close-strands-memory")
    with _tcelab_guests.fresh(program.topology.name, 0) as session:
        status, said = run(session, program, build, dying)
    assert (status, wrong(said)) == (2, []), said
    assert "it took too long: it could not be tried" in said


@pytest.mark.parametrize("name", often(USUAL, ALL))
def test_each_difference_that_the_readme_announces_is_seen_and_no_other_one(_tcelab_guests, build, name):  # noqa: PT019 - of the plugin
    """Of defects that take several processes, that show in the kernel's log, or in pinned pages alone."""
    program = example(f"quirks/{name}")
    page = export.files(program)["README.md"].decode()
    table = re.findall(r"^\| (\d+) \| .* \| (.*) \| (.*) \|$", page, re.MULTILINE)
    with _tcelab_guests.fresh(program.topology.name, 0) as session:
        status, said = run(session, program, build)
    assert status == 1, said
    assert [(number, got, expected) for number, _, got, expected in wrong(said)] == [
        (int(number), known, right) for number, right, known in table
    ], said
    assert said.count("that is the defect") == len(table) > 0

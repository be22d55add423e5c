"""`tcelab export`: the text of the C file and of its README, and what is refused."""

import re
from pathlib import Path

import msgspec
import pytest
from every_operation import BEFORE, BEFORE_IT, GROWING, ONE_OF_EACH
from exported import compiles, source

from calls import tcelab
from tcelab import export
from tcelab.errors import UsageError
from tcelab.export import refusals
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Dma,
    Exit,
    Ioctl,
    Master,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Read,
    Spawn,
    Tag,
    load,
)
from tcelab.program.topology import topology
from tcelab.report import load as load_result

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted([*ROOT.glob("docs/examples/*.json"), *ROOT.glob("docs/examples/quirks/*.json")])
KEPT = sorted(ROOT.glob("tests/data/programs/*.json"))
SMALL = topology("two-small")
CONTAINER = (
    Bind(device="pe1"),
    Open(file="c", path="/dev/vfio/vfio"),
    Open(file="g", path="/dev/vfio/$pe1"),
    Ioctl(file="g", request="GROUP_SET_CONTAINER", fields={"container": "c"}),
    Ioctl(file="c", request="SET_IOMMU", value=2),
    Ioctl(file="c", request="ENABLE"),
)


def program(*ops, **more):
    return Program(name="p", topology=SMALL, ops=[*ops], **more)


def part(text):
    """The functions of the parts, without what is the same in every file."""
    return text[text.index("static void part_1") : text.index("int main")]


def exported(one):
    """Whether it was, and the text; or why not."""
    try:
        return True, source(one)
    except UsageError as error:
        return False, error.message


def kind(op):
    return type(op).__name__.lower()


# -- the text


@pytest.mark.parametrize("path", [*EXAMPLES, *KEPT], ids=lambda path: path.stem)
def test_each_example_is_compiled_without_a_warning_or_refused_by_name(path):
    done, text = exported(load(path))
    if done:
        assert compiles(text) == ""
    else:
        assert re.search(r"operation \d+ \(\w+\) cannot be exported: |isolates PEs", text), text


def test_most_examples_of_defects_are_exported():
    done = [path.stem for path in EXAMPLES if exported(load(path))[0]]
    assert len(done) == 15
    assert {"dma", "map-across-the-end", "close-strands-memory"} <= {*done}


def test_a_map_is_written_with_the_names_of_the_header():
    text = part(
        source(
            program(
                *CONTAINER,
                Buffer(name="b", pages=2),
                Ioctl(
                    file="c",
                    request="MAP_DMA",
                    fields={"flags": 3, "vaddr": Page("b", 1, 4), "iova": 0x10000, "size": 4096},
                ),
            )
        )
    )
    assert (
        """\
		struct vfio_iommu_type1_dma_map map = {
			.argsz = sizeof(map),
			.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
			.vaddr = (__u64)b + 0x1004,
			.iova = 0x10000,
			.size = 0x1000,
		};
		long got = result(ioctl(c, VFIO_IOMMU_MAP_DMA, &map));

		expect(7, "VFIO_IOMMU_MAP_DMA", got, -EINVAL);
"""
        in text
    )
    assert 'need(4, "VFIO_SET_IOMMU", result(ioctl(c, VFIO_SET_IOMMU, VFIO_SPAPR_TCE_IOMMU)), 0);' in text
    assert 'g = open_path("/dev/vfio/%d", group_of(pe1));' in text


def test_what_the_kernel_writes_into_a_struct_is_compared():
    text = part(source(program(*CONTAINER, Ioctl(file="c", request="SPAPR_TCE_GET_INFO"))))
    assert "if (got >= 0)" in text
    size = 'expect(6, "VFIO_IOMMU_SPAPR_TCE_GET_INFO: dma32_window_size", info.dma32_window_size, 0x1000000);'
    assert size in text


def test_where_the_known_defects_show_both_answers_are_named():
    text = part(source(load(ROOT / "docs/examples/map-across-the-end.json")))
    assert 'expect_but(18, "VFIO_IOMMU_MAP_DMA", got, -EINVAL, -EINTR);' in text
    assert text.count("expect_but(") == 3


def test_a_file_is_closed_with_what_is_mapped_of_it():
    text = part(source(program(*CONTAINER, Close(file="c"))))
    assert 'expect(6, "close of c", shut(&c), 0);' in text


def test_processes_take_turns():
    text = source(
        program(
            *CONTAINER[:5],
            Spawn(process="p", uid=1000, memlock=65536),
            Ioctl(file="c", request="ENABLE", by="p"),
            Read(what="vmlck", by="p"),
            Exit(process="p"),
            Checkpoint(),
        )
    )
    assert compiles(text) == ""
    assert "start(P, 1000, 65536);" in part(text)
    assert "if (turn_of(P)) {" in part(text)
    assert "\tend(P);" in part(text)


def test_names_that_c_or_the_file_itself_uses_are_given_others():
    names = ["main", "int", "errno", "tally", "a-b", "a_b", "*/", '"', "b c", "result"]
    text = source(program(*CONTAINER, *(Buffer(name=each, pages=1) for each in names), *(Tag(buffer=n) for n in names)))
    assert compiles(text) == ""
    assert len(set(re.findall(r"^static char \*(\w+);", text, re.MULTILINE))) == len(names)


def test_a_transfer_compares_what_memory_holds_then():
    text = part(source(load(ROOT / "docs/examples/dma.json")))
    crcs = re.findall(r'expect\((\d+), "what buffer (\w+) holds then \(CRC-32\)", crc32\(.*\), (\w+)\);', text)
    assert [(number, name) for number, name, _ in crcs] == [
        ("18", "source"),
        ("18", "target"),
        ("20", "source"),
        ("20", "target"),
    ]
    # The second transfer is refused: nothing changes.
    assert [crc for *_, crc in crcs[:2]] == [crc for *_, crc in crcs[2:]]


def test_a_buffer_that_holds_addresses_is_not_compared():
    ops = [
        *CONTAINER,
        Buffer(name="b", pages=1),
        Buffer(name="plain", pages=1),
        Put(buffer="b", request="MAP_DMA", fields={"vaddr": Page("b")}),
        Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d"),
        Master(file="d"),
        Dma(file="d", iova=0, size=8, to_memory=True),
    ]
    text = source(program(*ops))
    assert compiles(text) == ""
    assert re.findall(r"what buffer (\w+) holds", text) == ["plain"]


# -- what the program itself expects


def test_what_the_program_expects_goes_before_the_emulators_answer():
    disable = Ioctl(file="c", request="DISABLE", expect="EBUSY")
    text = part(source(program(*CONTAINER, disable)))
    assert re.search(r"expect\(6, .*, -EBUSY\);", text)
    assert "expect_but" not in text


def test_an_expectation_that_is_the_defects_answer_does_not_make_it_right():
    enable = Ioctl(file="c", request="MAP_DMA", fields={"flags": 1, "iova": 1, "vaddr": Page("b")}, expect=1)
    text = part(source(program(*CONTAINER, Buffer(name="b", pages=1), enable)))
    assert 'expect_but(7, "VFIO_IOMMU_MAP_DMA", got, -EINVAL, 1);' in text


def test_a_transfer_that_is_expected_to_pass_and_is_refused_by_the_rules_is_not_exported():
    ops = [
        *CONTAINER,
        Ioctl(file="g", request="GROUP_GET_DEVICE_FD", fields={"name": "pe1"}, into="d"),
        Master(file="d"),
        Dma(file="d", iova=0, size=8, to_memory=False, expect="passed"),
    ]
    with pytest.raises(UsageError, match=r"operation 8 .* it expects passed, and by the rules it is refused"):
        export.files(program(*ops))


# -- the page


def test_the_readme_names_the_defect_the_machine_and_the_commands():
    files = export.files(load(ROOT / "docs/examples/quirks/rollback-loses-entries.json"))
    text = files["README.md"].decode()
    assert "a MAP_DMA that fails midway clears the entries that it had exchanged" in text
    assert "| 14 | pinned pages | 1 | 0 |" in text
    assert "-device edu,id=pe1,bus=phb1.0,addr=0x1,dma_mask=0xffffffffffffffff" in text
    assert "-device spapr-pci-host-bridge,index=1,id=phb1,dma_win_size=0x1000000,ddw=on" in text
    assert "echo 0001:00:01.0 > /sys/bus/pci/drivers_probe" in text
    assert "powerpc64le-linux-gnu-gcc" in text
    assert "in which nothing shows is left out" in text
    for own in ("/proc/self/fd", "qtest", "chardev", "id=channel", "spare"):
        assert own not in text


def test_the_readme_tells_an_answer_as_the_reproducer_prints_it():
    files = export.files(load(ROOT / "docs/examples/quirks/register-part-returns-pages.json"))
    assert "| 12 | SPAPR_REGISTER_MEMORY on c | EFAULT | 48 |" in files["README.md"].decode()


def test_a_kernel_that_warns_once_is_to_be_booted_anew():
    files = export.files(load(ROOT / "docs/examples/quirks/register-nothing-warns.json"))
    assert "boot the guest anew" in files["README.md"].decode()
    assert "it has warned since its boot" in files["reproducer.c"].decode()
    other = export.files(load(ROOT / "docs/examples/dma.json"))
    assert "boot the guest anew" not in other["README.md"].decode()


def test_page_size_is_that_of_the_kernel_that_it_is_for():
    ops = [*CONTAINER, Buffer(name="b", pages=1), Checkpoint()]
    for size in export.PAGE_SIZES:
        text = source(program(*ops), page_size=size)
        assert compiles(text) == ""
        assert f"sysconf(_SC_PAGESIZE) != {size}" in text
    with pytest.raises(UsageError, match="not made for pages of 65536 bytes"):
        source(program(*ops, page_sizes=[4096]), page_size=65536)


# -- what is refused


@pytest.mark.parametrize("op", ONE_OF_EACH, ids=kind)
def test_each_kind_of_operation_has_a_form_or_is_refused_by_its_name(op):
    needed = BEFORE_IT.get(type(op), ())
    one = Program(name="p", topology=GROWING, ops=[*BEFORE, *needed, op])
    done, text = exported(one)
    if done:
        assert compiles(text) == ""
    assert done == (isinstance(op, refusals.EXPORTED) and not needed), text
    if not done:
        assert re.search(rf"operation \d+ \({kind((*needed, op)[0])}\) cannot be exported: ", text), text


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ([Buffer(name="b", pages=512, huge=True)], "huge pages"),
        ([Read(what="memory")], "the counter memory"),
        ([Spawn(process="p"), Spawn(process="q", by="p")], "another one than the first starts"),
        ([Buffer(name="b", pages=1), Protect(buffer="b", access="none")], "binds no device"),
    ],
)
def test_what_has_no_form_is_named(ops, why):
    done, text = exported(program(*ops))
    assert not done
    assert why in text


def test_a_device_with_registers_of_another_kind_is_named():
    one = Program(name="p", topology=topology("fast"), ops=[Bind(device="disk1")])
    done, text = exported(one)
    assert not done
    assert "operation 0 (bind) cannot be exported: device disk1 is a virtio-blk" in text


# -- runs, and the command


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The folder of a run on the emulator."""
    state = tmp_path_factory.mktemp("state")
    folder = state / "run"
    example = ROOT / "docs/examples/map-across-the-end.json"
    code, call = tcelab("run", example, "--platform", "emulator", "--out", folder, state=state)
    assert code == 0, call.err
    return folder


def result(folder, **ended):
    told = load_result((folder / "result.json").read_bytes())
    return msgspec.structs.replace(told, ended=msgspec.structs.replace(told.ended, **ended))


def test_a_run_is_exported_with_what_it_found(a_run):
    one = load(a_run / "program.json")
    text = export.files(one, result(a_run))["README.md"].decode()
    assert "- Verdict: pass, 0 findings" in text
    assert "No run was given" not in text


def test_a_run_that_ended_in_the_kernels_death_is_refused_by_name(a_run):
    one = load(a_run / "program.json")
    died = result(a_run, complete=False, done=18, kernel_died=True)
    with pytest.raises(UsageError, match="'map-across-the-end' ended in the death of the kernel, after 18 of 27"):
        export.files(one, died)
    with pytest.raises(UsageError, match="ended in the loss of its guest"):
        export.files(one, result(a_run, complete=False, done=3))


def test_the_command_writes_two_files_and_refuses_in_one_line(a_run, tmp_path):
    def call(*arguments):
        return tcelab("export", *arguments, state=tmp_path)

    code, told = call(a_run, "--c", "-o", tmp_path / "out")
    assert (code, told.out) == (0, ""), told.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "reproducer.c"]
    assert compiles((tmp_path / "out/reproducer.c").read_text()) == ""
    refused = {
        (a_run, "-o", tmp_path / "new"): "say in which form",
        (a_run, "--c", "-o", tmp_path / "out"): "not an empty folder",
        (ROOT / "docs/examples/window-low.json", "--c", "-o", tmp_path / "new"): r"operation 1 \(ddw\)",
        (tmp_path / "none.json", "--c", "-o", tmp_path / "new"): "cannot read",
        ("nobody", "--c", "-o", tmp_path / "new"): "there is no run nobody",
    }
    for arguments, why in refused.items():
        code, told = call(*arguments)
        assert code == 2, told.err
        assert re.match(rf"tcelab: .*{why}", told.err), told.err
        assert len(told.err.splitlines()) <= 2
    assert not (tmp_path / "new").exists()

"""Puts the C file together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import jinja2

import tcelab
from tceagent import edu, tag, uapi
from tcelab.export.answers import Answers
from tcelab.export.ctext import Names
from tcelab.export.statements import Writer
from tcelab.program import Bind, Program

LIMIT: Final = 300
"""Seconds that a reproducer may take."""

_TEMPLATES: Final = "templates"
_HELPER: Final = re.compile(r"\b([a-z]\w*)\(")
_TAKEN: Final = frozenset(
    """
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    return short signed sizeof static struct switch typedef union unsigned void volatile while errno
    acting argc argv ask at bars before bit buffer bus_master bytes close command crc crc32 defect dma end errno expect
    expect_but fd fill got group group_of i identity impossible inside ioctl kernel_log line link links locked main map
    me memory mixed named need number_in old open open_path operation part path pause pids pinned pins pins_before
    process read record region registers result same shut size start status tally tag text the_tally time turn turn_of
    sig too_long
    turns unmap wait_for_turn warnings what whole why word words write FIRST PROCESSES LIMIT SOMETHING FROM_MEMORY
    TO_MEMORY container_fd create eeh info irq irqs remove signal stdin stdout stderr index select send bind listen
    accept connect kill link pipe dup fork exit abort free malloc y0 y1 yn j0 j1 jn gamma sleep
    """.split()  # noqa: SIM905 - a list of them would take a page
)
"""Words of C, and what the template, the structs' variables and the C library call something."""
_INDIRECT: Final = {
    "dma": ("registers", "region"),
    "identity": ("registers", "region"),
    "bus_master": ("command", "region"),
    "command": ("region",),
}
"""A helper to others that it calls."""


class CPart(NamedTuple):
    """A part of the program as a C function."""

    number: int
    about: str
    lines: list[str]


def source(program: Program, told: Sequence[Answers], page_size: int, about: Sequence[str]) -> str:
    """The C file.

    :param told: of the parts that it shall have.
    :param about: lines of its first comment.
    """
    names = Names(_TAKEN)
    writer = Writer(program, names)
    made = [_part(writer, each) for each in told]
    body = "\n".join(line for part in made for line in part.lines)
    uses = set(_HELPER.findall(body))
    uses |= {other for each in uses for other in _INDIRECT.get(each, ())}
    made_of: str = template("reproducer.c").render(
        title=f"{_plain(program.name)}: what a kernel answers, and what it should answer",
        about=[_plain(line) for line in about],
        version=tcelab.__version__,
        spawns=writer.spawns,
        uses=uses,
        processes=names.all("process"),
        files=names.all("file"),
        buffers=names.all("buffer"),
        devices=[(names.of("device", each), address(program, each)) for each in bound(told)],
        parts=made,
        page_size=page_size,
        iommu_page=uapi.IOMMU_PAGE,
        limit=LIMIT,
        warns=any(map(warns, told)),
        edu=edu,
        magic=tag.MAGIC.decode(),
        tag_size=tag.SIZE,
        golden=f"{tag._GOLDEN:#x}",  # noqa: SLF001 - one place for the number
    )
    return made_of


def bound(told: Sequence[Answers]) -> list[str]:
    """Names of the devices that the parts use, in order."""
    ops = (step.op for each in told for step in each.steps)
    return list(dict.fromkeys(op.device for op in ops if isinstance(op, Bind)))


def address(program: Program, device: str) -> str:
    """A device's PCI address in the guest: the kernel numbers a PHB's domain by its index, which is in its BUID
    (arch/powerpc/kernel/pci-common.c, get_phb_number).
    """
    phb, slot = next((phb, each.slot) for phb in program.topology.phbs for each in phb.devices if each.name == device)
    return f"{phb.index:04x}:00:{slot:02x}.0"


def _part(writer: Writer, told: Answers) -> CPart:
    lines = [line for step in told.steps if (made := writer.lines(step)) for line in (*made, "")]
    what = f"the known defects show: {', '.join(told.quirks)}" if told.differs else "no known defect shows"
    return CPart(told.part.number + 1, f"Part {told.part.number + 1} of the program; {what}.", lines[:-1])


def warns(told: Answers) -> bool:
    """A kernel with the known defects warns in it."""
    return any(step.known.sight is not None and step.known.sight.warnings for step in told.steps)


def _plain(text: str) -> str:
    """Nothing in it ends a comment, or leaves the line."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /")


@cache
def _environment() -> jinja2.Environment:
    """For plain text: nothing is escaped."""
    return jinja2.Environment(  # noqa: S701 - C and Markdown, no HTML
        loader=jinja2.PackageLoader(__package__, _TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def template(name: str) -> Any:  # noqa: ANN401 - jinja2's own type has no types
    """Of a file."""
    return _environment().get_template(name)

"""`docs/quirks.md`: all known defects of kernels, made from `tcelab.quirks`.

`python -m tcelab.emulator.quirkspage > docs/quirks.md` makes it anew; a test holds the page against this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from tcelab.quirks import QUIRKS, Quirk

_INTRO: Final = """\
# Quirks

<!-- Made from harness/tcelab/quirks.py: python -m tcelab.emulator.quirkspage > docs/quirks.md -->

A quirk is a known defect of a kernel, with a name. A declared quirk is part of what is expected, to the errno.

- The recipe of an image declares those of its kernel (`[quirks]` in `images/guest.toml`), with what shows each.
- For a kernel of yours (`--kernel`) nothing is declared but what you name with `--expect-quirk NAME`.
- `--without-quirk NAME` takes a declaration back: the run then reports the defect.
- tcelab never infers a quirk. A difference that an undeclared quirk would explain is a finding that names the quirk.
- A declared quirk must show: where the emulator meets it and the kernel does not, or in a program that is made to
  show it (`shows`), the missing defect is a finding.

The report lists the quirks that a run met. Each quirk has a program of 10 to 40 operations that shows it, unless it
needs another platform. Run on your kernel, it passes once the kernel is cured:

    tcelab run docs/examples/quirks/rollback-loses-entries.json --kernel vmlinux

`--cure NAME` rebuilds the image's driver, or a kernel, without a quirk: [defects with cures](defects/index.md).

"""


def page() -> str:
    """The whole page, Markdown."""
    rows = [f"| [{name}](#{name}) | {_cell(quirk.what)} | {_cell(quirk.right)} |" for name, quirk in QUIRKS.items()]
    table = "\n".join(["| quirk | with it | without it |", "| --- | --- | --- |", *rows, ""])
    return _INTRO + table + "\n" + "\n".join("\n".join(_section(quirk)) for quirk in QUIRKS.values())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _section(quirk: Quirk) -> Iterator[str]:
    yield f"## {quirk.name}\n"
    yield f"- Kernels: {quirk.kernels}."
    yield f"- Source: {quirk.source}."
    yield f"- Fixed upstream: {quirk.cure or 'not known'}."
    if quirk.warns:
        yield f"- The kernel warns in {_listed(quirk.warns)}, each time."
    if quirk.warns_once:
        yield f"- The kernel warns in {_listed(quirk.warns_once)}, once after each boot."
    if quirk.nested:
        yield "- Shown by `tcelab run hcalls --passthrough`: [Pass-through](passthrough.md#what-it-has-found).\n"
        return
    shown = f"[{quirk.report}](reports.md#{quirk.report.lower()})"
    yield f"- Test: {shown}.\n" if quirk.report else f"- Program: `docs/examples/quirks/{quirk.name}.json`.\n"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())

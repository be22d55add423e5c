"""`docs/defects/`: a page for each known defect that has a cure, made from `images/cures.toml` and `tcelab.quirks`.

`python -m tcelab.image.defectspage docs/defects` makes them anew; a test holds the pages against this.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tcelab.image import cures
from tcelab.image.cures import Cure
from tcelab.quirks import QUIRKS

INDEX: Final = "index.md"

_INTRO: Final = """\
# Defects with cures

<!-- Made from images/cures.toml: python -m tcelab.image.defectspage docs/defects -->

Each of these known defects of Linux ([quirks](../quirks.md)) has a cure: some lines of the kernel's sources are other
ones, and the driver or the kernel is built anew with them. `--cure NAME` does that for a run; what is cured is not
declared, so the old behaviour would be a finding.

    tcelab image cures                                                             # which there are
    tcelab run docs/examples/quirks/rollback-loses-entries.json --without-quirk rollback-loses-entries   # finding
    tcelab run docs/examples/quirks/rollback-loses-entries.json --cure rollback-loses-entries            # pass
    tcelab run main --cure all                        # the driver with each cure that is its own
    tcelab run windows --image guest-built --cure all # a kernel with all of them: it is built, minutes of CPU

`images/cures.toml` has the changes. They are applied in the cache to the sources of Debian's package, of which nothing
is part of tcelab. Each page ends with a text for the kernel's maintainers. A cure is a proof that a defect is
understood; whoever sends one writes it in the kernel's own style. `tcelab export` makes a reproducer that needs no
tcelab: [Export](../export.md).

| defect | built as | cure |
| --- | --- | --- |
"""

_OTHERS: Final = """
Without a cure so far: {names}.
"""

_PAGE: Final = """\
# {quirk}

<!-- Made from images/cures.toml: python -m tcelab.image.defectspage docs/defects -->

{symptom}

- Kernels: {kernels}.
- What is right: {right}.
- Cause: {cause}
- Where: {source}.
- Who is hurt: {hurts}
- Cure: {fix}
- Fixed upstream: {upstream}.
- Smallest program: `{program}`.

| changed file | function |
| --- | --- |
{changes}

## How it was tested

    tcelab run {program} --without-quirk {quirk}{image}
    tcelab run {program} --cure {quirk}{image}

The first must end with a finding (exit code 1), and the second pass: `{test}` runs both. {whole}

A reproducer in C:

    tcelab export {program} --c -o reproducer

## Text for the maintainers

```text
{text}
```
"""

_OF_MODULE: Final = """\
The same file runs `main`, `windows`, `isolation` and a fuzz campaign with all cures of the driver in and none of their
quirks declared."""
_BUILT_IN: Final = "It is built-in code: `--cure` builds the kernel of `{image}`."
_UNTRIED: Final = "This cure has not been tried in that kernel yet."


def pages() -> dict[str, str]:
    """Each page by its file's name, Markdown."""
    known = cures.known()
    return {INDEX: _index(known)} | {f"{cure.quirk}.md": _page(known, cure) for cure in known.cure}


def _index(known: cures.Cures) -> str:
    rows = [
        f"| [{cure.quirk}]({cure.quirk}.md) | {'module' if known.of_module(cure) else 'kernel'} | {cure.fix} |\n"
        for cure in known.cure
    ]
    without = sorted(QUIRKS.keys() - {cure.quirk for cure in known.cure})
    names = ", ".join(f"[{name}](../quirks.md#{name})" for name in without)
    return _INTRO + "".join(rows) + _OTHERS.format(names=names)


def _page(known: cures.Cures, cure: Cure) -> str:
    quirk, of_module = QUIRKS[cure.quirk], known.of_module(cure)
    rows = dict.fromkeys(f"| {change.file} | {change.function} |" for change in cure.change)
    return _PAGE.format(
        quirk=cure.quirk,
        symptom=cure.symptom,
        kernels=quirk.kernels,
        right=quirk.right,
        cause=cure.cause,
        source=quirk.source,
        hurts=cure.hurts,
        fix=cure.fix,
        upstream=quirk.cure or "not known",
        program=_program(cure),
        changes="\n".join(rows),
        image="" if of_module else f" --image {known.image}",
        test="tests/soak/test_cures.py",
        whole="\n".join(_more(known, cure)),
        text=_text(known, cure),
    )


def _more(known: cures.Cures, cure: Cure) -> Iterator[str]:
    yield _OF_MODULE if known.of_module(cure) else _BUILT_IN.format(image=known.image)
    if not cure.tried:
        yield _UNTRIED


def _program(cure: Cure) -> str:
    return f"docs/examples/quirks/{cure.quirk}.json"


def _text(known: cures.Cures, cure: Cure) -> str:
    """Symptom, cause, fix, and how it was tested."""
    prefix = "vfio/spapr_tce" if known.driver in cure.files else "powerpc/iommu"
    tested = (
        f"Tested on 6.12.95 in a pseries guest (QEMU 11.1, power9, 4 KiB pages): the program of {cure.quirk} fails"
        " without the change and passes with it; table, charges and page pins are as they should be."
        if cure.tried
        else "Not tested yet."
    )
    parts = [f"{prefix}: {cure.fix.rstrip('.')}", cure.symptom, cure.cause, cure.fix, f"Affected: {cure.hurts}", tested]
    title, *body = parts
    return "\n\n".join([title, *(textwrap.fill(part, 72, break_on_hyphens=False) for part in body)])


def main(folder: Path) -> None:
    """Write the pages into a folder, and delete others there."""
    folder.mkdir(exist_ok=True)
    made = pages()
    for path in folder.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

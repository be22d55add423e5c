"""`tcelab export`: a program as a C file that needs nothing of tcelab, and a page that says how to run it.

- `answers`: what each operation must give, and what a kernel with the known defects gives
- `csource`: puts the C file together
- `ctext`: names, numbers and texts as C writes them
- `qemuline`: the machine as a plain QEMU command line
- `readme`: the page beside it
- `refusals`: what cannot be exported
- `statements`: each operation as lines of C
- `uapinames`: the kernel's names of requests and fields
"""

from __future__ import annotations

from typing import Final

from tcelab.errors import UsageError
from tcelab.export import answers, csource, readme, refusals
from tcelab.papr import window
from tcelab.program import Program
from tcelab.program.validate import validate
from tcelab.report import Result

__all__ = ["PAGE_SIZES", "files"]

PAGE_SIZES: Final = (4096, 65536)
"""Of kernels for pseries, in bytes."""


def files(program: Program, result: Result | None = None, page_size: int = 0) -> dict[str, bytes]:
    """The files of a reproducer, by name.

    :param result: of a run of the program; it is named in the page.
    :param page_size: of the kernel that it is for, in bytes; 0: that of the run, or 4 KiB.
    :raise UsageError: the program cannot be exported, or may not.
    """
    refusals.check(program, result)
    validate(program)
    size = page_size or (result.platform.page_size if result is not None and result.platform else window.PAGE_SIZE)
    if program.page_sizes and size not in program.page_sizes:
        raise UsageError(f"program {program.name!r} is not made for pages of {size} bytes")
    try:
        every = answers.answers(program, size)
    except UsageError as error:
        raise UsageError(f"program {program.name!r}, {error.message}", next_step=error.next_step) from None
    shown = [each for each in every if each.differs] or every
    if not csource.bound(shown):
        raise UsageError(f"program {program.name!r} binds no device: there is nothing to reproduce")
    return {
        "reproducer.c": csource.source(program, shown, size, readme.about(program, shown)).encode(),
        "README.md": readme.page(program, shown, len(every), size, result).encode(),
    }

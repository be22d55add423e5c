"""What the C file calls requests and fields is what the kernel's header has, at the places that the layouts say."""

import struct

import pytest
from exported import compiles

from tceagent import uapi
from tcelab.export import uapinames


def offsets(layout):
    """Name of each field to its offset: padding is part of the form."""
    form = layout.struct.format
    words = [(int(each[:-1] or 1), each[-1]) for each in split(form.removeprefix("="))]
    at, found = 0, []
    for count, kind in words:
        size = struct.calcsize(f"={kind}")
        found += [] if kind == "x" else [at + i * size for i in range(count)]
        at += count * size
    return dict(zip(layout.fields, found, strict=True))


def split(form):
    out, digits = [], ""
    for each in form:
        digits += each
        if not each.isdigit():
            out.append(digits)
            digits = ""
    return out


def assertion(what):
    return f'_Static_assert({what}, "");\n'


HEADER = "#include <linux/vfio.h>\n#include <stddef.h>\n"


@pytest.mark.parametrize("request_", uapi.LAYOUTS)
def test_each_field_lies_where_the_layout_has_it(request_):
    named, layout = uapinames.STRUCTS[request_], uapi.LAYOUTS[request_]
    if not named.tag:
        assert (layout.size, len(layout.fields)) == (4, 1)
        return
    text = HEADER
    for name, offset in offsets(layout).items():
        text += assertion(f"offsetof(struct {named.tag}, {named.field(name)}) == {offset}")
    whole = "<=" if named.grows else "=="
    text += assertion(f"{layout.size} {whole} sizeof(struct {named.tag})")
    assert compiles(text) == ""
    # A layout that says otherwise is found out.
    last = layout.fields[-1]
    assert "static assertion failed" in compiles(
        HEADER + assertion(f"offsetof(struct {named.tag}, {named.field(last)}) == {offsets(layout)[last] + 4}")
    )


def test_each_request_has_the_number_of_its_macro():
    """On every architecture the same but for the bits of the direction."""
    text = HEADER + "".join(
        assertion(f"({uapinames.macro(name)} & 0xffff) == {number & 0xFFFF}") for name, number in uapi.NUMBERS.items()
    )
    assert compiles("#include <sys/ioctl.h>\n" + text) == ""


def test_constants_and_flags_are_those_of_the_header():
    both = {name: number for names in uapinames.CONSTANTS.values() for number, name in names.items()}
    both |= {name: number for names in uapinames.FLAGS.values() for number, name in names.items()}
    assert len(both) == 4
    assert compiles(HEADER + "".join(assertion(f"{name} == {number}") for name, number in both.items())) == ""

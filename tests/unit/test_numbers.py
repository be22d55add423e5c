"""What comes from a header or a specification is written once: ioctl numbers, opcodes, container types, names of RTAS
services, identities of devices. The agent cannot import the host's code, but the host can import the agent's.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "harness" / "tcelab").rglob("*.py"), *(ROOT / "guest" / "tceagent").rglob("*.py")])

MIXERS = {0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x0101010101010101}
"""Of the generator of test data, which the agent computes byte by byte and the host with numpy."""
OF_HEADERS = re.compile(r"H_[A-Z_]+|SPAPR_TCE\w*|VFIO_\w+")


def telling(value):
    """No bit, no mask, and not so small that it may be anything."""
    lowest = value & -value or 1
    run_of_ones = (value // lowest) & (value // lowest + 1) == 0
    return value > 0xFF and not run_of_ones


def hexadecimals(source):
    if "0x" not in source:
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER and token.string.startswith("0x"):
            value = int(token.string, 16)
            if telling(value) and value not in MIXERS:
                yield value


@cache
def parsed(source):
    return ast.parse(source)


def prose(tree):
    """Texts that stand alone: docstrings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def rtas(source):
    if "ibm," not in source:
        return
    tree = parsed(source)
    told = prose(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield from re.findall(r"\bibm,[a-z0-9-]+", node.value)


def named(source):
    """Names of headers that are given a literal number: `H_X = 1`, `A, H_X = 1, 2`, `{"H_X": 1}`."""
    for node in ast.walk(parsed(source)) if OF_HEADERS.search(source) else ():
        pairs = []
        if isinstance(node, ast.Dict):
            pairs = [(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                many = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                them = zip(target.elts, node.value.elts, strict=True) if many else [(target, node.value)]
                pairs += [(getattr(name, "id", None), value) for name, value in them]
        for name, value in pairs:
            number = value.operand if isinstance(value, ast.UnaryOp) else value
            is_number = isinstance(number, ast.Constant) and isinstance(number.value, int)
            if isinstance(name, str) and OF_HEADERS.fullmatch(name) and is_number:
                yield name


def twice(find, files):
    where = defaultdict(set)
    for path in files:
        for each in find(path.read_text()):
            where[each].add(path.name)
    return {each: names for each, names in where.items() if len(names) > 1}


def test_no_telling_number_is_written_in_two_files():
    assert twice(hexadecimals, FILES) == {}


def test_no_name_of_a_service_or_property_of_firmware_is_written_in_two_files():
    assert twice(rtas, FILES) == {}


def test_no_name_of_a_header_is_given_its_number_in_two_files():
    assert twice(named, FILES) == {}


def test_what_is_written_twice_would_be_seen(tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text('"""ibm,doc"""\nA = 0x13C\nH_X = -2\ncall(f"{a}/ibm,set-thing")\nB = 0xFFFF0000\n')
    other.write_text('"""ibm,doc"""\nB = [0x13C]\nD = {"H_X": -2}\ncall("ibm,set-thing", 0xFFFF0000)\n')
    both = [one, other]
    assert [*twice(hexadecimals, both)] == [0x13C]
    assert [*twice(rtas, both)] == ["ibm,set-thing"]
    assert [*twice(named, both)] == ["H_X"]

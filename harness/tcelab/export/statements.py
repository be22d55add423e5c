"""Each operation as lines of C, with the names of the kernel's own headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tceagent import uapi
from tcelab.export import uapinames
from tcelab.export.answers import Answer, Given, Sight
from tcelab.export.ctext import Names, comment, constant, number, quoted
from tcelab.program import (
    Bind,
    Buffer,
    Checkpoint,
    Close,
    Dma,
    Exit,
    Frames,
    Ioctl,
    Look,
    Master,
    Op,
    Open,
    Page,
    Program,
    Protect,
    Put,
    Read,
    Spawn,
    Tag,
)
from tcelab.program.guestop import Word
from tcelab.program.operations import Fill
from tcelab.run.record import Outcome

_SETTING_UP: Final = frozenset(
    {
        "GET_API_VERSION",
        "CHECK_EXTENSION",
        "SET_IOMMU",
        "GROUP_GET_STATUS",
        "GROUP_SET_CONTAINER",
        "GROUP_GET_DEVICE_FD",
    }
)
"""Requests without which nothing can be tried: where one of them should succeed and does not, nothing is told."""

_OURS: Final = 0x6
"""Of the command register: memory and bus master."""
_MASK: Final = (1 << 64) - 1


class Writer:
    """Writes the operations of a program."""

    def __init__(self, program: Program, names: Names) -> None:
        self._program, self.names = program, names
        self._pages: dict[str, int] = {op.name: op.pages for op in program.ops if isinstance(op, Buffer)}

    def lines(self, answer: Answer) -> list[str]:
        """Of one operation; none: a program in the guest has nothing to do for it."""
        op = answer.op
        if op is None or isinstance(op, Checkpoint):
            return list(self._sights(answer, op))
        if isinstance(op, Frames):
            return []
        body = list(self._op(op, answer))
        by = getattr(op, "by", "")
        head = f"\t/* {answer.number}. {_about(op)}{f', by process {by}' if by else ''} */"
        if not self.spawns:
            return [head, *body]
        if isinstance(op, Exit):
            return [head, *body]
        return [head, *self._in_turn(by, body)]

    def _in_turn(self, by: str, body: list[str]) -> list[str]:
        """What one process does when it is its turn."""
        who = self.names.of("process", by) if by else "FIRST"
        if body[0] == "\t{":  # a block already
            return [f"\tif (turn_of({who})) {{", *body[1:]]
        return [f"\tif (turn_of({who})) {{", *(f"\t{line}" for line in body), "\t}"]

    @property
    def spawns(self) -> bool:
        """The program has several processes."""
        return any(isinstance(op, Spawn) for op in self._program.ops)

    def _op(self, op: Op, answer: Answer) -> Iterator[str]:  # noqa: C901, PLR0912 - one case for each kind
        file = self.names.of("file", op.file) if isinstance(op, Open | Close | Ioctl | Master | Dma | Look) else ""
        match op:
            case Bind():
                yield f"\tgroup_of({self.names.of('device', op.device)});"
            case Buffer():
                yield f"\t{self.names.of('buffer', op.name)} = buffer({answer.number}, {op.pages});"
            case Open():
                yield f"\t{file} = {self._open(op.path)};"
                yield from self._checks(answer, f"open of {op.path}", file, need=True)
            case Close():
                yield from self._checks(answer, f"close of {op.file}", f"shut(&{file})")
            case Ioctl():
                yield from self._ioctl(op, answer, file)
            case Put():
                yield from self._put(op)
            case Protect():
                access = {"none": "PROT_NONE", "read": "PROT_READ", "write": "PROT_READ | PROT_WRITE"}[op.access]
                size = f"whole({self._pages.get(op.buffer, 1)})"
                call = f"result(mprotect({self.names.of('buffer', op.buffer)}, {size}, {access}))"
                yield from self._checks(answer, f"mprotect of {op.buffer}", call)
            case Tag():
                where = self._place(op.buffer, op.first * uapi.IOMMU_PAGE)
                numbers = ", ".join(map(number, (op.liobn, op.ioba, op.sequence)))
                yield f"\ttag({where}, {op.count}, {numbers});"
            case Fill():
                where = self._place(op.buffer, op.offset)
                yield f"\tfill({where}, {number(op.size)}, {number(op.seed & _MASK)});"
            case Read():
                call = "locked()" if op.what == "vmlck" else "pinned()"
                yield from self._checks(answer, COUNTED[op.what], call)
            case Master():
                yield from self._checks(answer, "bus mastering", f"bus_master({file}, {int(op.on)})")
            case Look():
                call = "identity" if op.what == "identity" else "command"
                yield from self._checks(answer, f"the device's {op.what}", f"{call}({file})")
            case Dma():
                yield from self._dma(op, answer, file)
            case Spawn():
                uid, memlock = (-1 if each is None else each for each in (op.uid, op.memlock))
                yield f"\tstart({self.names.of('process', op.process)}, {uid}, {memlock});"
            case Exit():
                yield f"\tend({self.names.of('process', op.process)});"
            case _:
                raise AssertionError(f"{type(op).__name__} has no form in C")

    def _open(self, path: str) -> str:
        devices = [each.name for each in self._program.topology.devices if f"${each.name}" in path]
        if not devices:
            return f'open_path("{quoted(path).replace("%", "%%")}", 0)'
        device = max(devices, key=len)
        form = quoted(path).replace("%", "%%").replace(f"${device}", "%d")
        return f'open_path("{form}", group_of({self.names.of("device", device)}))'

    def _ioctl(self, op: Ioctl, answer: Answer, file: str) -> Iterator[str]:
        request = op.request if isinstance(op.request, str) else ""
        macro = uapinames.macro(request) if request else number(int(op.request))
        struct = uapinames.STRUCTS.get(request) if op.value is None else None
        into = self.names.of("file", op.into) if op.into else ""
        what, need = macro, request in _SETTING_UP
        if struct is None:
            argument = self._argument(op, request)
            call = f"result(ioctl({file}, {macro}{f', {argument}' if argument else ''}))"
            if into:
                yield f"\t{into} = {call};"
            yield from self._checks(answer, what, into or call, need=need)
            return
        yield "\t{"
        for line in self._struct(request, op.fields, struct.variable):
            yield f"\t{line}"
        yield f"\t\tlong got = result(ioctl({file}, {macro}, &{struct.variable}));"
        yield ""
        if into:
            yield f"\t\t{into} = got;"
        for line in self._checks(answer, what, "got", need=need):
            yield f"\t{line}"
        for line in self._fields(answer, what, struct):
            yield f"\t{line}"
        yield "\t}"

    def _argument(self, op: Ioctl, request: str) -> str:
        if isinstance(op.value, int):
            return uapinames.CONSTANTS.get(request, {}).get(op.value) or number(op.value)
        if op.value is not None:
            return self._word(op.value)
        name = op.fields.get("name") if request == "GROUP_GET_DEVICE_FD" else None
        if name is None:
            return ""
        if any(each.name == name for each in self._program.topology.devices):
            return self.names.of("device", str(name))
        return f'"{quoted(str(name))}"'

    def _struct(self, request: str, fields: dict[str, Word], variable: str) -> Iterator[str]:
        struct, layout = uapinames.STRUCTS[request], uapi.LAYOUTS[request]
        if not struct.tag:
            (name,) = layout.fields
            yield f"\tint {variable} = {self._word(fields.get(name, 0))};"
            return
        yield f"\tstruct {struct.tag} {variable} = {{"
        if "argsz" in layout.fields and "argsz" not in fields:
            yield f"\t\t.argsz = {layout.size if struct.grows else f'sizeof({variable})'},"
        for name, word in fields.items():
            yield f"\t\t.{struct.field(name)} = {self._flags(request, name, word)},"
        yield "\t};"

    def _flags(self, request: str, name: str, word: Word) -> str:
        bits = uapinames.FLAGS.get(request, {}) if name == "flags" else {}
        if isinstance(word, int) and word and not word & ~sum(bits):
            return " | ".join(text for bit, text in bits.items() if word & bit)
        return self._word(word)

    def _word(self, word: Word) -> str:
        if isinstance(word, int):
            return number(word)
        if isinstance(word, str):
            return self.names.of("file", word)
        assert isinstance(word, Page)
        return f"(__u64){self._place(word.buffer, word.index * uapi.IOMMU_PAGE + word.plus)}"

    def _place(self, buffer: str, plus: int) -> str:
        sign = f" {'-' if plus < 0 else '+'} {number(abs(plus))}" if plus else ""
        return f"{self.names.of('buffer', buffer)}{sign}"

    def _put(self, op: Put) -> Iterator[str]:
        struct = uapinames.STRUCTS[op.request]
        yield "\t{"
        for line in self._struct(op.request, op.fields, struct.variable):
            yield f"\t{line}"
        size = uapi.LAYOUTS[op.request].size
        yield ""
        where = self._place(op.buffer, op.offset)
        yield f"\t\tmemcpy({where}, &{struct.variable}, {size});"
        yield "\t}"

    def _fields(self, answer: Answer, what: str, struct: uapinames.Struct) -> Iterator[str]:
        """What a call that succeeded has written into its struct."""
        right, known = (_outcome(each) for each in (answer.right, answer.known))
        for name, value in right.fields.items():
            other = known.fields.get(name, value)
            yield "\tif (got >= 0)"
            place = f"{struct.variable}.{struct.field(name)}"
            yield "\t" + check(answer.number, f"{what}: {name}", place, constant(value), constant(other))

    def _dma(self, op: Dma, answer: Answer, file: str) -> Iterator[str]:
        way = "TO_MEMORY" if op.to_memory else "FROM_MEMORY"
        call = f"dma({file}, {number(op.iova)}, {number(op.size)}, {number(op.offset)}, {way})"
        yield from self._checks(answer, f"a transfer {'to' if op.to_memory else 'from'} {number(op.iova)}", call)
        for name, value in answer.right.contents.items():
            buffer = self.names.of("buffer", name)
            other = answer.known.contents.get(name, value)
            call = f"crc32({buffer}, whole({self._pages[name]}))"
            yield check(
                answer.number, f"what buffer {name} holds then (CRC-32)", call, constant(value), constant(other)
            )

    def _checks(self, answer: Answer, what: str, got: str, *, need: bool = False) -> Iterator[str]:
        right, known = (_expected(answer.op, each) for each in (answer.right, answer.known))
        demanded = _demanded(answer.op, right, known)
        if known == right:
            known = demanded  # no defect shows here, so no wrong answer is a known one
        right = demanded
        if need and right == known and not right.startswith("-"):
            yield f'\tneed({answer.number}, "{quoted(what)}", {got}, {right});'
        else:
            yield check(answer.number, what, got, right, known)

    def _sights(self, answer: Answer, op: Checkpoint | None) -> Iterator[str]:
        right, known = answer.right.sight, answer.known.sight
        assert right is not None
        assert known is not None
        label = f": {op.label}" if op is not None and op.label else ""
        yield f"\t/* {answer.number}. {'Checkpoint' if op is not None else 'The end'}{comment(label)} */"
        body = list(_seen(answer.number, right, known))
        yield from self._in_turn("", body) if self.spawns else body


def _spoken(constant: str) -> str:
    """As the reproducer prints it: an errno's name, or a decimal number."""
    return constant.removeprefix("-") if not constant[:1].isdigit() else str(int(constant.removesuffix("ul"), 0))


class Row(NamedTuple):
    """An answer in which the known defects show, in words. :ivar number: of the operation."""

    number: int
    what: str
    right: str
    known: str


def differing(answer: Answer) -> Iterator[Row]:
    """What of an operation differs with the known defects."""
    for sight, other in [(answer.right.sight, answer.known.sight)]:
        if sight is not None and other is not None:
            names = (COUNTED["pins"], COUNTED["vmlck"], _WARNED)
            for what, one, two in zip(names, sight, other, strict=True):
                if one != two:
                    yield Row(answer.number, what, str(one), str(two))
    if answer.right.outcome is None or answer.op is None:
        return
    right, known = (_expected(answer.op, each) for each in (answer.right, answer.known))
    if right != known:
        yield Row(answer.number, _about(answer.op), *map(_spoken, (right, known)))
    elif answer.differs:
        yield Row(answer.number, _about(answer.op), "see reproducer.c", "another one")


_WARNED: Final = "warnings of the kernel"
COUNTED: Final = {"vmlck": "KiB of locked memory", "pins": "pinned pages"}


def _seen(step: int, right: Sight, known: Sight) -> Iterator[str]:
    yield check(step, COUNTED["pins"], "pinned()", str(right.pins), str(known.pins))
    yield check(step, COUNTED["vmlck"], "locked()", str(right.vmlck), str(known.vmlck))
    yield check(step, _WARNED, "warnings()", str(right.warnings), str(known.warnings))


def check(step: int, what: str, got: str, right: str, known: str) -> str:
    """A line that compares. Where the known defects show, it names both answers."""
    if right == known:
        return f'\texpect({step}, "{quoted(what)}", {got}, {right});'
    return f'\texpect_but({step}, "{quoted(what)}", {got}, {right}, {known});'


def _outcome(given: Given) -> Outcome:
    assert given.outcome is not None
    return given.outcome


def _expected(op: Op | None, given: Given) -> str:
    """What C's `result` must be: a number, a negative errno, or `SOMETHING`, a descriptor."""
    outcome = _outcome(given)
    if outcome.errno:
        return f"-{outcome.errno}"
    assert outcome.value is not None
    if isinstance(op, Read):
        return str(outcome.value)
    if isinstance(op, Master | Look) and getattr(op, "what", "command") == "command":
        return number(outcome.value & _OURS)  # the rest is firmware's
    opens = isinstance(op, Open) or (isinstance(op, Ioctl) and (op.into or op.request == "GROUP_GET_DEVICE_FD"))
    return "SOMETHING" if opens else number(outcome.value)


def _demanded(op: Op | None, right: str, known: str) -> str:
    """What the program's `expect` says, where that is neither the right answer nor the known one."""
    expect = None if op is None else op.expect
    if expect is None or expect in {"passed", "refused"}:
        return right
    opens = "SOMETHING" in {right, known}
    wanted = ("SOMETHING" if opens else "0") if expect == "ok" else number(expect) if isinstance(expect, int) else ""
    wanted = wanted or f"-{str(expect).removeprefix('errno ')}"
    plain = str(expect) if isinstance(op, Read) and isinstance(expect, int) else wanted
    if plain in {right, known} or (
        expect == "ok" and isinstance(op, Read | Look | Master) and not right.startswith("-")
    ):
        return right
    return plain


def _about(op: Op) -> str:
    name = type(op).__name__.lower()
    match op:
        case Read():
            name = COUNTED[op.what]
        case Ioctl():
            name = f"{op.request} on {op.file}"
        case Open() | Close():
            name = f"{name} {op.file}"
        case Buffer():
            name = f"{name} {op.name}"
        case Bind():
            name = f"the group of {op.device}"
        case Spawn() | Exit():
            name = f"{'start' if isinstance(op, Spawn) else 'end'} of process {op.process}"
    return comment(name)

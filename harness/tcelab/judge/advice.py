"""What to add to a program that could not be judged because something is missing in it."""

from __future__ import annotations

from tcelab.program import Checkpoint, DmaMap, DmaMapSg, Ioctl, Program, Repeat, Tag

LOOK = '{"op": "checkpoint", "stream": true}'


def for_view(program: Program, view: str) -> str:
    """Advice if no checkpoint was judged by a view; empty if there is none to give."""
    checkpoints = [number for number, op in enumerate(program.ops) if isinstance(op, Checkpoint)]
    if not checkpoints:
        return f"add {LOOK} at the end"
    if view == "stream" and not any(isinstance(op, Checkpoint) and op.stream for op in program.ops):
        return f'add "stream": true to a checkpoint, such as operation {checkpoints[-1]}'
    return ""


def for_tags(program: Program) -> str:
    """Advice if no live entry was proven by its tag."""
    maps = [number for number, op in enumerate(program.ops) if _maps(op)]
    if not maps:
        return "the program maps nothing"
    first = maps[0]
    if not any(isinstance(op, Tag) for op in program.ops[:first]):
        return f"put a `tag` before operation {first}, which maps"
    if any(isinstance(op, Checkpoint) for op in program.ops[first:]):
        return f"look ({LOOK}) while what operation {first} maps is live, before guest or device replaces its tag"
    return f"add {LOOK} while what operation {first} maps is live"


def _maps(op: object) -> bool:
    calls = op.ops if isinstance(op, Repeat) else [op]
    if isinstance(op, DmaMap | DmaMapSg):
        return True
    return any(isinstance(each, Ioctl) and each.request == "MAP_DMA" for each in calls)

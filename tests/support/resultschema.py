"""The schema of `result.json` as plain data: each struct, its fields, their types. The one that dashboards rely on is
kept in tests/data, one file for each value of SCHEMA:

    python tests/support/resultschema.py      # adds what is new to the kept file; takes nothing away
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from msgspec import inspect

from tcelab.leakcheck.leakresult import LeakResult
from tcelab.report.result import Result
from tcelab.run.resultfile import SCHEMA

Schema = dict[str, dict[str, list[str]]]

KEPT = Path(__file__).parents[1] / "data" / f"result-schema-{SCHEMA}.json"


def schema() -> Schema:
    """By struct and field: each type that its value may have, a `Literal`'s word by word; `optional`: may be absent."""
    found: Schema = {}
    ahead: list[inspect.Type] = [inspect.type_info(Result), inspect.type_info(LeakResult)]
    while ahead:
        kind = ahead.pop()
        if isinstance(kind, inspect.StructType) and kind.cls.__name__ not in found:
            left_out = kind.cls.__struct_config__.omit_defaults
            found[kind.cls.__name__] = {
                field.encode_name: sorted(
                    {*_types(field.type), *(["optional"] if left_out and not field.required else [])}
                )
                for field in kind.fields
            }
            ahead += [field.type for field in kind.fields]
        below = (getattr(kind, name, None) for name in ("item_type", "key_type", "value_type"))
        ahead += [each for each in [*below, *getattr(kind, "types", ())] if each is not None]
    return {name: found[name] for name in sorted(found)}


def _types(kind: inspect.Type) -> list[str]:
    match kind:
        case inspect.UnionType():
            return [word for each in kind.types for word in _types(each)]
        case inspect.StructType():
            return [kind.cls.__name__]
        case inspect.LiteralType():
            return [json.dumps(value) for value in kind.values]
        case inspect.ListType() | inspect.CollectionType():
            return [f"list of {word}" for word in _types(kind.item_type)]
        case inspect.DictType():
            return [f"object of {word}" for word in _types(kind.value_type)]
    return [type(kind).__name__.removesuffix("Type").lower()]


def broken(kept: Schema, now: Schema) -> list[str]:
    """What a reader of the kept schema may no longer find, or finds as something else."""
    out = []
    for name, fields in kept.items():
        for field, types in fields.items():
            there = now.get(name, {}).get(field)
            if there is None:
                out.append(f"{name}.{field} is gone")
            elif set(types) - set(there):
                out.append(f"{name}.{field} was {', '.join(types)} and is {', '.join(there)}")
            elif "optional" in set(there) - set(types) or "none" in set(there) - set(types):
                out.append(f"{name}.{field} may now be absent or null")
    return out


def added(kept: Schema, now: Schema) -> list[str]:
    """What is not in the kept schema."""
    pairs = [(name, field, word) for name, fields in now.items() for field, types in fields.items() for word in types]
    return [f"{name}.{field}: {word}" for name, field, word in pairs if word not in kept.get(name, {}).get(field, [])]


def read() -> Schema:
    kept: Any = json.loads(KEPT.read_text())
    return kept


def main() -> str:
    """Keep today's schema, if a reader of the kept one can read it.

    :return: what stands against it.
    """
    now = schema()
    if KEPT.exists() and (wrong := broken(read(), now)):
        return f"raise SCHEMA in harness/tcelab/run/resultfile.py: {'; '.join(wrong)}"
    KEPT.write_text(json.dumps(now, indent=1) + "\n")
    return ""


if __name__ == "__main__":
    sys.exit(main())

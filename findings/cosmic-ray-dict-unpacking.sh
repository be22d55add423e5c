#!/usr/bin/env bash
# cosmic-ray 8.7.0: the `**` of a dict display is taken for the power operator, so mutants are no Python at all.
#
# Guessed: an operator that replaces `**` is offered only where there are two operands.
# Seen: `{**a, "x": 1}` is one place for each replacement (`+`, `-`, `*`, ...); only the signs give a file that compiles no
#   more. Every such mutant counts as killed by whatever test command there is, for nothing can import the module, so the
#   survival rate comes out too low.
# Worth knowing for whoever quotes a rate: compile each mutant first, and leave out those that are no Python.
#
# Needs python3 with venv, and a package index. Exit 0: as described; 1: it changed; 125: it could not be tried.
set -u
work="$(mktemp -d)" || exit 125
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check cosmic-ray==8.7.0 || exit 125

cat >"$work/try.py" <<'PY'
from pathlib import Path
from importlib.metadata import version
import sys

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code

path = Path(sys.argv[1])
path.write_text('a = {"y": 2}\nb = {**a, "x": 1}\n')
print("cosmic-ray", version("cosmic-ray"))
valid = invalid = 0
for name in sorted(cosmic_ray.plugins.operator_names()):
    if "ReplaceBinaryOperator_Pow" not in name:
        continue
    operator = cosmic_ray.plugins.get_operator(name)()
    places = sum(len(list(operator.mutation_positions(node))) for node in ast_nodes(get_ast_from_path(path)))
    for occurrence in range(places):
        mutant = mutate_code(path.read_text(), operator, occurrence)
        try:
            compile(mutant, "mutant", "exec")
        except SyntaxError:
            invalid += 1
            print(f"  {name.rpartition('/')[2]}: {mutant.splitlines()[1]}   no Python")
        else:
            valid += 1
            print(f"  {name.rpartition('/')[2]}: {mutant.splitlines()[1]}   compiles")
print(f"there is no power operator in the file; mutants offered: {valid + invalid}, of them no Python: {invalid}")
sys.exit(invalid == 0)
PY
"$work/venv/bin/python" "$work/try.py" "$work/example.py"

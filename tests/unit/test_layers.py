"""The house's plan: what may import what, and where things lie."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from tcelab.judge.laws import ALL, LAWS

ROOT = Path(__file__).parents[2]
HOST = ROOT / "harness" / "tcelab"
GUEST = ROOT / "guest" / "tceagent"
MOST_LOOSE = 5


def test_no_import_goes_up_or_round():
    """The contracts are in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def statements(node):
    """All below a node. Imports are statements: there is no need to look into expressions."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for each in getattr(node, name, ()):
            yield each
            yield from statements(each)


def imports(path, names):
    """Which of the modules `names` a file imports, wherever it does. `from package import module` is of the module."""
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from modules
            if not names.keys() >= set(modules):
                yield node.module


def edges(folder, package):
    """Module to the modules of the same package that it imports; a package is its __init__."""
    names = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return {
        name: {each for each in imports(path, names) if each in names and each != name} for name, path in names.items()
    }


def circles(graph):
    """Modules from which a way leads back to them."""
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            at = waiting.pop()
            if at == start:
                yield start
                break
            if at not in seen:
                seen.add(at)
                waiting += graph[at]


def test_no_module_leads_back_to_itself():
    """The contract is about neighbours; this is about single modules, whatever is between them."""
    assert [*circles(edges(HOST, "tcelab")), *circles(edges(GUEST, "tceagent"))] == []


def test_a_circle_would_be_seen(tmp_path):
    (tmp_path / "one.py").write_text("def late():\n    from pack import two\n")
    (tmp_path / "two.py").write_text("import pack.three\n")
    (tmp_path / "three.py").write_text("if TYPE_CHECKING:\n    from pack.one import late\n")
    (tmp_path / "four.py").write_text("from pack import one\n")
    assert list(circles(edges(tmp_path, "pack"))) == ["pack.one", "pack.three", "pack.two"]


def test_what_is_loose_at_the_top_can_be_counted_on_one_hand():
    loose = [path.name for path in HOST.glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= MOST_LOOSE, loose


def test_each_law_is_a_file_of_its_name():
    files = {path.stem for path in (HOST / "judge" / "laws").glob("*.py")} - {"__init__"}
    assert files == set(LAWS)


def test_each_law_says_what_it_needs_and_how_it_finds():
    assert [law.name for law in ALL if not (law.says and law.needs and law.finds)] == []


def test_unit_tests_lie_in_folders_like_the_packages():
    packages = {path.name for path in HOST.iterdir() if (path / "__init__.py").is_file()} | {"agent", "docs"}
    folders = {
        path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert folders <= packages
    of_the_tree = {"house", "layers", "readme", "numbers", "wheel", "rows_are_sound", "calls", "setup_script", "spread"}
    loose = {path.stem for path in HOST.glob("*.py")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "unit").glob("test_*.py")}
    assert tests <= of_the_tree | loose


_NAMES_A_TEST = re.compile(r"(?<!\w)(?<!def )test_")
"""Other than that it defines one; a file that does not is not worth to be parsed."""


def test_no_file_of_tests_imports_another_one():
    """What they share lies in tests/support; a test file can be renamed and split, and be read alone."""
    tests = ROOT / "tests"
    assert [
        f"{path.relative_to(tests)}: {module}"
        for path in sorted(tests.rglob("*.py"))
        if _NAMES_A_TEST.search(path.read_text())
        for module in imports(path, {})
        if any(part.startswith("test_") for part in module.split("."))
    ] == []


def listed(package):
    """Names in the list of modules that a package's docstring is."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return re.findall(r"^- `(\w+)`: ", text, re.MULTILINE)


def test_each_package_says_of_each_of_its_modules_what_is_in_it():
    """But for the laws, which say it themselves."""
    for init in sorted(HOST.rglob("__init__.py")):
        package = init.parent
        if package == HOST / "judge" / "laws":
            continue
        modules = {path.stem for path in package.glob("*.py")} | {
            path.parent.name for path in package.glob("*/__init__.py")
        }
        assert sorted(listed(package)) == sorted(modules - {"__init__", "__main__"}), package

"""docs/api.md has all that tcelab.testing offers; docstrings say what goes in, what comes out and what is raised."""

import ast
import importlib
import inspect
import re
import textwrap

import pytest
from pagesteps import ROOT

from tcelab.testing.plugin import OPTIONS

PAGE = (ROOT / "docs" / "api.md").read_text()
FOLDER = ROOT / "harness" / "tcelab" / "testing"
MODULES = [importlib.import_module(f"tcelab.testing.{path.stem}") for path in sorted(FOLDER.glob("[!_]*.py"))]


def public(holder, module):
    """Classes and functions that are defined there, by name."""
    return {
        name: each
        for name, each in vars(holder).items()
        if not name.startswith(("_", "pytest_")) and getattr(each, "__module__", module) == module
    }


OBJECTS = {
    f"{module.__name__}.{name}": each
    for module in MODULES
    if not module.__name__.endswith((".plugin", ".unjudged", ".covered"))  # what pytest is given, not what a test uses
    for name, each in public(module, module.__name__).items()
    if inspect.isclass(each) or inspect.isfunction(each)
}
FIXTURES = [
    node
    for node in ast.parse((FOLDER / "plugin.py").read_text()).body
    if isinstance(node, ast.FunctionDef)
    and not node.name.startswith("_")
    and any("fixture" in ast.unparse(each) for each in node.decorator_list)
]


def functions():
    """Each public function and method, by its name on the page."""
    for name, each in OBJECTS.items():
        if inspect.isfunction(each):
            yield pytest.param(each, id=name)
        else:
            for method, inside in vars(each).items():
                shown = not method.startswith("_") and not getattr(each, "_is_protocol", False)
                function = getattr(inside, "__func__", inside)  # of a class method
                if shown and inspect.isfunction(function):
                    yield pytest.param(function, id=f"{name}.{method}")


def test_every_public_class_and_function_is_on_the_page():
    shown = set(re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE))
    assert OBJECTS.keys() - shown == set()
    assert {name for name in shown if name.startswith("tcelab.testing.")} - {"tcelab.testing.plugin"} <= OBJECTS.keys()


def test_every_fixture_and_option_is_on_the_page():
    assert [each.name for each in FIXTURES if f"| `{each.name}` | function |" not in PAGE] == []
    members = re.search(r"tcelab\.testing\.plugin\n.*?members: \[(.*?)\]", PAGE, re.DOTALL)[1].split(", ")
    assert sorted(members) == sorted(each.name for each in FIXTURES)
    assert [
        name
        for name, text in OPTIONS.items()
        if f"| `--tcelab-{name}` | `tcelab_{name.replace('-', '_')}` | {text}" not in PAGE
    ] == []


def test_everything_has_a_docstring():
    properties = [
        (f"{name}.{member}", inside.fget)
        for name, each in OBJECTS.items()
        if inspect.isclass(each) and not getattr(each, "_is_protocol", False)
        for member, inside in vars(each).items()
        if isinstance(inside, property) and not member.startswith("_")
    ]
    assert [name for name, each in (*OBJECTS.items(), *properties) if not each.__doc__] == []
    assert [each.name for each in FIXTURES if not ast.get_docstring(each)] == []


@pytest.mark.parametrize("function", [*functions()])
def test_a_docstring_says_what_goes_in_what_comes_out_and_what_is_raised(function):
    told = inspect.cleandoc(function.__doc__ or "")
    names = [name for name in inspect.signature(function).parameters if name not in {"self", "cls"}]
    assert [name for name in names if f":param {name}:" not in told] == []
    if names:
        assert function.__annotations__["return"] == "None" or ":return:" in told
    raised = {
        node.exc.func.id
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    assert [name for name in raised if f":raise {name}:" not in told] == []

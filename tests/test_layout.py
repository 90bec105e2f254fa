"""The house rules: imports go down the floors, heavy libraries stay in their rooms, a file is one short idea."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "magicvideo_jax"
VERBS = {"train", "sample", "convert", "prepare", "evaluate", "plan", "serve"}
FLOORS = [
    {"core"},
    {"runtime"},
    {"parallel"},
    {"diffusion", "models"},
    {"weights", "media", "data"},
    {"training", "sampling", "evaluation"},
    {"experiment"},
    {"preparation", "planning", "serving"},
    VERBS,
    {"__init__"},  # what `import magicvideo_jax as mv` offers
]
VAGUE = {"utils", "helpers", "misc", "base", "manager"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON = sorted(
    path
    for folder in ("magicvideo_jax", "configs", "launch", "benchmarks", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """A folder or a file right inside the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(room: str) -> int:
    found = [i for i, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"the room {room} stands on no floor: give it one in tests/test_floors.py"
    return found[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names of all imports, those inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_on_loading(tree: ast.Module) -> Iterator[str]:
    """The dotted names of imports that run when the module is loaded: those outside of functions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def libraries(names: Iterator[str]) -> set[str]:
    return {dotted.split(".")[0] for dotted in names}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_go_down(path: Path):
    room = room_of(path)
    floor = floor_of(room)
    for dotted in imports(parsed(path)):
        package, *parts = dotted.split(".")
        if package == PACKAGE.name:
            target = parts[0]
            assert target == room or floor_of(target) < floor, f"{name(path)} imports {dotted}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_libraries_stay_in_their_rooms(path: Path):
    tree = parsed(path)
    anywhere, on_loading = libraries(imports(tree)), libraries(imports_on_loading(tree))
    assert "flax" not in anywhere or room_of(path) == "models", f"{name(path)} imports flax"
    assert not anywhere & {"tensorflow", "torchvision", "diffusers"}
    assert "torch" not in anywhere or room_of(path) == "weights", f"{name(path)} imports torch"
    assert "torch" not in on_loading, f"{name(path)} imports torch before anybody asked for it"


def test_the_walk_sees_what_it_should():
    """The tests above are worth what `imports` and `imports_on_loading` find."""
    tree = ast.parse(
        "import a.b\nif True:\n    from c import d, e\ndef f():\n    import torch\nclass G:\n    import h\n"
    )
    assert set(imports(tree)) == {"a.b", "c.d", "c.e", "torch", "h"}
    assert set(imports_on_loading(tree)) == {"a.b", "c.d", "c.e", "h"}
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_file_is_short_and_says_what_it_is(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, f"{name(path)} is over 400 lines"
    assert not VAGUE & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    assert "from __future__ import annotations" not in text or path == Path(__file__)
    assert ast.get_docstring(ast.parse(text)), f"{name(path)} does not say what it is"


@pytest.mark.parametrize(
    "verb", sorted(verb for verb in VERBS if (PACKAGE / f"{verb}.py").exists())
)
def test_a_verb_answers_before_it_loads_jax(verb: str):
    """`--help` must take less than two seconds, and loading JAX alone takes that long."""
    heavy = ("jax", "flax", "torch", "transformers", "orbax", "grain", "tensorflow_datasets")
    program = f"""
import runpy, sys
sys.argv = [{verb!r}, "--help"]
try:
    runpy.run_module("magicvideo_jax.{verb}", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
else:
    raise AssertionError("it went on after --help")
loaded = set({heavy!r}) & set(sys.modules)
assert not loaded, loaded
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    assert verb in answer.stdout

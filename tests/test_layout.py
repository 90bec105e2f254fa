"""Laws of the package's layout: imports go down the floors, names are unique, a file is one short idea.

Each test lists every offender at once.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import jax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from tiny_experiment import tiny

from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import abstract_run
from magicvideo_jax.parallel.mesh import make_mesh

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
MOST_LINES = 400
MOST_FILES_OF_AN_EXPERIMENT = 12
MOST_FILES_OF_A_STEP = 10
PREPOSITIONS = re.compile(
    r"(About|Across|After|Against|Along|Among|Around|As|At|Before|Behind|Beside|Between|By|Despite"
    r"|During|For|From|In|Inside|Into|Like|Of|On|Onto|Out|Outside|Over|Per|Since|Than|Through|To"
    r"|Toward|Under|Until|Upon|Via|With|Within|Without)\b"
)
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON = sorted(
    path
    for folder in ("magicvideo_jax", "configs", "launch", "benchmarks", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
TREES = {path: ast.parse(path.read_text()) for path in PYTHON}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """A folder or a file right inside the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(room: str) -> int:
    found = [i for i, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"the room {room} stands on no floor: give it one in tests/test_layout.py"
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


def public_names(tree: ast.Module) -> Iterator[str]:
    """The functions, classes and constants that a module defines for others."""
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found = [node.name]
            case ast.Assign():
                found = [target.id for target in node.targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=one)):
                found = [one]
            case _:
                found = []
        yield from (one for one in found if not one.startswith("_"))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those of attributes and constants too."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text.strip()


def module_of(dotted: str) -> Path | None:
    """The file of the package that an import of `dotted` loads: a module, or the module of a name."""
    path = ROOT.joinpath(*dotted.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py"))
    return next((file for file in found if file in TREES and PACKAGE in file.parents), None)


def test_imports_go_down():
    wrong = []
    for path in SOURCES:
        room = room_of(path)
        for dotted in imports(TREES[path]):
            package, *parts = dotted.split(".")
            if package != PACKAGE.name or parts[0] == room:
                continue
            if floor_of(parts[0]) >= floor_of(room):
                wrong.append(f"{name(path)} imports {dotted}")
    assert not wrong, "\n".join(wrong)


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {
        name(path): {
            name(file)
            for dotted in imports_on_loading(TREES[path])
            if (file := module_of(dotted)) is not None and file != path
        }
        for path in SOURCES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_libraries_stay_in_their_rooms():
    wrong = []
    for path in SOURCES:
        room = room_of(path)
        anywhere = libraries(imports(TREES[path]))
        forbidden = anywhere & {"torch", "tensorflow", "torchvision", "diffusers", "matplotlib"}
        forbidden |= anywhere & {"flax"} if room != "models" else set()
        wrong += [f"{name(path)} imports {library}" for library in sorted(forbidden)]
    assert not wrong, "\n".join(wrong)


def test_the_walks_see_what_they_should():
    """The tests above and below are worth what these functions find."""
    tree = ast.parse(
        '"""As one."""\n'
        "import a.b\nif True:\n    from c import d, e\ndef f():\n    import torch\nclass G:\n    import h\n"
        'x: int = 3\n"""In metres."""\n_Y = z = 4\n'
    )
    assert set(imports(tree)) == {"a.b", "c.d", "c.e", "torch", "h"}
    assert set(imports_on_loading(tree)) == {"a.b", "c.d", "c.e", "h"}
    assert set(public_names(tree)) == {"f", "G", "x", "z"}
    assert [text for _, text in docstrings(tree)] == ["As one.", "In metres."]
    assert module_of("magicvideo_jax.core.tree.merge") == PACKAGE / "core" / "tree.py"
    assert module_of("magicvideo_jax.core") == PACKAGE / "core" / "__init__.py"
    assert module_of("jax.numpy") is None
    assert len(SOURCES) > 20


def test_files_are_short_and_say_what_they_are():
    wrong = []
    for path in PYTHON:
        text = path.read_text()
        if len(text.splitlines()) > MOST_LINES:
            wrong.append(f"{name(path)} has {len(text.splitlines())} lines, over {MOST_LINES}")
        if vague := VAGUE & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}:
            wrong.append(f"{name(path)}: {', '.join(vague)} says nothing")
        if "annotations" in [dotted.removeprefix("__future__.") for dotted in imports(TREES[path])]:
            wrong.append(f"{name(path)} imports annotations from __future__: jaxtyping needs none")
        if not ast.get_docstring(TREES[path]):
            wrong.append(f"{name(path)} has no docstring")
    assert not wrong, "\n".join(wrong)


def test_file_names_are_unique():
    found = defaultdict(list)
    for path in SOURCES:
        if path.name != "__init__.py":
            found[path.name].append(name(path))
    wrong = {file: paths for file, paths in found.items() if len(paths) > 1}
    assert not wrong, "\n".join(map(str, wrong.values()))


def test_public_names_are_defined_once():
    """Verbs are left out: each is a program with a `main` and flags, and nothing imports it."""
    found = defaultdict(set)
    for path in SOURCES:
        if room_of(path) not in VERBS:
            for one in public_names(TREES[path]):
                found[one].add(name(path))
    wrong = {one: sorted(paths) for one, paths in found.items() if len(paths) > 1}
    assert not wrong, "\n".join(f"{one}: {', '.join(paths)}" for one, paths in wrong.items())


def test_docstrings_stand_alone():
    """None opens with a bare preposition: a headless phrase that only its name completes."""
    wrong = [
        f"{name(path)}:{line}: {text.splitlines()[0]}"
        for path in PYTHON
        for line, text in docstrings(TREES[path])
        if PREPOSITIONS.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_an_experiment_is_a_dozen_files_and_its_stages():
    files = [path.name for path in (PACKAGE / "experiment").glob("*.py") if path.stem != "__init__"]
    folders = {path.parent.name for path in (PACKAGE / "experiment").glob("*/*.py")}
    assert len(files) <= MOST_FILES_OF_AN_EXPERIMENT, sorted(files)
    assert folders == {"stages", "cascade", "comparison", "opening", "requests", "animation"}


def equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The operations of a traced program, those of programs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from equations(inner if isinstance(inner, Jaxpr) else inner.jaxpr)


def files_of_a_step() -> set[str]:
    """Files that a reader opens to follow one train step of text to video from the loop to the U-Net.

    The loop, and the files on the call stack of every operation of the traced step, each stack from the outside to
    where a network begins. So the step, the objective, the mathematics of diffusion and what binds a network to its
    parameters count; the networks' insides do not, and neither does what assembles the step before it runs.
    """
    experiment = tiny()
    run = abstract_run(experiment, Networks(experiment.model), make_mesh(experiment.mesh))
    seen = {PACKAGE / "training" / "loop.py"}
    for equation in equations(jax.make_jaxpr(run.step)(run.state, run.batch).jaxpr):
        traceback = equation.source_info.traceback
        for frame in reversed(traceback.frames if traceback is not None else ()):
            path = Path(frame.file_name)
            is_network = path.parent == PACKAGE / "models" and path.stem != "bind"
            if (
                path in TREES
                and PACKAGE in path.parents
                and (not is_network or path.stem == "unet")
            ):
                seen.add(path)
            if is_network:
                break
    return {name(path) for path in seen}


def test_from_the_loop_to_the_network_a_reader_opens_few_files():
    files = files_of_a_step()
    assert {"magicvideo_jax/training/step.py", "magicvideo_jax/models/unet.py"} <= files
    assert len(files) <= MOST_FILES_OF_A_STEP, sorted(files)


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

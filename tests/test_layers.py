"""The shape of the repository: imports go one way, nothing names a machine."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
STAGES = ("preprocessing", "training", "evaluation", "inference")
# A module imports from its own layer or those before; what is not named stands in the third.
LAYERS = (
    ("config",),
    ("labels", "features", "audio", "melody_io", "model", "metrics"),
    (),
    ("tuning", "app", *STAGES),
)


def layer_of(module: str) -> int:
    return next((k for k, names in enumerate(LAYERS) if module in names), 2)


def imports_of(source: str) -> set[str]:
    """Our own modules that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found & set(MODULES)


GRAPH = {name: imports_of(path.read_text()) for name, path in MODULES.items()}


def test_the_core_is_there():
    named = {name for layer in LAYERS for name in layer}
    assert named | {"corpora", "dataset", "decoding", "checkpoint", "report"} <= set(MODULES)
    assert GRAPH["config"] == set() and "labels" in GRAPH["features"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    later = {name for name in GRAPH[module] if layer_of(name) > layer_of(module)}
    assert not later, f"{module} imports {later} of a later layer"
    stages = GRAPH[module] & set(STAGES)
    assert not stages, f"{module} imports the stage {stages}"


def test_no_circle():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError


def test_imports_inside_functions_are_seen():
    source = "def f():\n    from config import x\n    import labels as l\nimport os, model\n"
    assert imports_of(source) == {"config", "labels", "model"}


def repository_files() -> list[Path]:
    """What git holds or would take."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def test_no_file_names_a_folder_of_some_machine():
    pattern = re.compile(rb"(?<![\w./:-])/(work|root|home/\w+|Users/\w+|tmp)/\w")
    named = b"/".join((b'open("', b"tmp", b"x"))  # in pieces, so as not to be found itself
    assert pattern.search(named) and not pattern.search(named.replace(b'open("', b"frame"))
    files = repository_files()
    assert len(files) > 20
    for path in files:
        found = pattern.search(path.read_bytes())
        assert not found, f"{path.relative_to(ROOT)} names {found.group().decode()}..."


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))

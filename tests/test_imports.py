"""Imports go one way, and what takes seconds to import is imported late."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(REPOSITORY / "segdiff").rglob("*.py"), *(REPOSITORY / "data_pipelines").rglob("*.py")])
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
}


def imported(source: str) -> set[str]:
    """Every dotted name that a module imports, wherever in it, but for type checkers alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


FORBIDDEN = {
    "data_pipelines": ["segdiff"],
    "segdiff.models": [
        "data_pipelines", "segdiff.training", "segdiff.inference", "segdiff.visualization", "segdiff.cli"
    ],
    "segdiff.training": ["segdiff.inference", "segdiff.visualization", "segdiff.cli"],
    "segdiff.inference": ["segdiff.visualization", "segdiff.cli"],
    "segdiff.visualization": [
        "data_pipelines", "segdiff.models", "segdiff.training", "segdiff.inference", "segdiff.cli", "segdiff.config",
        "segdiff.resources",
    ],
    "segdiff.cli.commands": ["segdiff.cli.application", "segdiff.cli.entry_point"],
    **{
        module: ["segdiff.cli.commands", "segdiff.cli.application", "segdiff.cli.entry_point"]
        for module, path in MODULES.items()
        if path.parent.name == "cli" and path.stem not in ("__init__", "application", "entry_point")
    },
    "segdiff.config": ["data_pipelines", "segdiff", "keras", "tensorflow"],
    "segdiff.resources": ["data_pipelines", "segdiff", "keras", "tensorflow"],
}  # fmt: skip


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package):
    checked = 0
    for module, path in MODULES.items():
        if not within(module, package):
            continue
        checked += 1
        wrong = [
            name for name in imported(path.read_text()) for other in FORBIDDEN[package] if within(name, other)
        ]  # fmt: skip
        assert not wrong, f"{path.relative_to(REPOSITORY)} imports {wrong}"
    assert checked


def test_no_module_imports_what_imports_it():
    """Late imports count too. `segdiff` itself is left out: it offers what lies below it, under names of its own."""
    names = MODULES.keys() - {"segdiff"}
    needs = {
        module: {
            max((other for other in names if within(name, other)), key=len)  # a module, or a name in it
            for name in imported(MODULES[module].read_text())
            if any(within(name, other) for other in names)
        }
        for module in names
    }
    assert "segdiff.inference.exporting" in needs["segdiff.inference.runtimes"]  # imported late
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def test_the_reader_of_imports_sees_them_all():
    source = (
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import hidden\n"
        "def f():\n    from segdiff.cli import main\n"
    )
    assert imported(source) == {"a.b", "c.d", "segdiff.cli.main"}
    assert within("segdiff.cli.main", "segdiff.cli")
    assert not within("segdiff.client", "segdiff.cli")


def test_tensorflow_is_imported_late():
    modules = ["segdiff", "segdiff.config", "segdiff.resources"]
    modules += [name for name in MODULES if within(name, "segdiff.cli")]
    modules += [
        f"segdiff.visualization.{path.stem}" for path in (REPOSITORY / "segdiff/visualization").glob("[!_]*.py")
    ]
    modules += [
        f"data_pipelines.{path.stem}"
        for path in (REPOSITORY / "data_pipelines").glob("[!_]*.py")
        if path.stem != "pipeline"
    ]
    modules += [
        f"data_pipelines.{package}.{path.stem}"
        for package in ("published", "synthetic")
        for path in (REPOSITORY / "data_pipelines" / package).glob("[!_]*.py")
    ]
    code = (
        f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
        "    heavy = {'tensorflow', 'keras'} & set(sys.modules)\n    assert not heavy, f'{name} imports {heavy}'\n"
        "print(len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "tests" / "benchmarks").glob("[a-z]*.py")))
def test_benchmarks_take_names_that_are_there(name):
    """They measure what the README says, and no test runs them."""
    importlib.import_module(f"tests.benchmarks.{name}")

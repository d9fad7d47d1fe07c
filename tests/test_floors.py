"""Files import from lower floors of the package only, and no files import each other in a circle."""

import ast
from pathlib import Path

import pytest

import sr_train

ROOT = Path(sr_train.__file__).parent
FLOOR = {
    "__main__": 9,
    "cli": 8,
    "training": 7,
    "tasks": 6,
    "evaluation": 6,
    "upscaling": 6,
    "inference": 5,
    "weights": 4,
    "losses": 4,
    "models": 3,
    "data": 3,
    "metrics": 3,
    "runs": 3,
    "config": 2,
    "batch": 1,
    "devices": 1,
    "resampling": 1,
    "torch_files": 1,
    "console": 0,
    "files": 0,
}
ONLY = {  # folders or files that may import a package
    "av": ("data/video", "upscaling/film_writer"),
    "cv2": ("data", "evaluation/contact_sheet", "evaluation/report/pictures"),
    "lmdb": ("data/store",),
    "PIL": ("data", "evaluation/contact_sheet", "inference/image_kinds"),
    "hydra": ("config",),
    "omegaconf": ("config", "runs/resume", "cli"),
    "lightning": ("tasks", "data/module", "data/video/module", "training", "runs/resume"),
    "wandb": ("training/wandb_logger", "training/preflight"),
    "spandrel": ("models/spandrel", "weights/foreign/spandrel"),
}
OPTIONAL = ("av", "wandb", "google", "fcntl")  # packages that may be imported inside a function
FILES = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py")


def _where(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _imports(tree):
    """Return (module, names) of every import statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module or "", [alias.name for alias in node.names]


def _files_imported(tree):
    """Return the files of the package that a file imports when it is imported itself."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sr_train"):
            for name in [alias.name for alias in node.names]:
                inside = ROOT.parent / node.module.replace(".", "/")
                yield _where(inside / f"{name}.py" if (inside / f"{name}.py").exists() else inside.with_suffix(".py"))


def test_every_module_at_the_root_has_a_layer_and_there_are_at_most_20():
    assert len(FILES) > 80
    names = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in FILES}
    assert names == set(FLOOR)
    assert len(names - {"__main__"}) <= 20


def test_the_commands_hold_no_logic():
    lines = {p: len(p.read_text().splitlines()) for p in (ROOT / "cli").glob("*.py") if p.name != "__init__.py"}
    assert len(lines) <= 8
    assert sum(lines.values()) <= 1000, lines


@pytest.mark.parametrize("path", FILES, ids=_where)
def test_modules_import_lower_layers_only(path):
    where, part = _where(path), path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name, _ in _imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        if top == "sr_train" and rest:
            other = rest.split(".")[0]
            assert other == part or FLOOR[other] < FLOOR[part], f"{where} imports {name}, which is not below it"
        if top in ONLY:
            assert where.startswith(ONLY[top]), f"{where} imports {top}"


def test_no_files_import_each_other_in_a_circle():
    graph = {_where(p): set(_files_imported(ast.parse(p.read_text()))) for p in FILES}
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize(
    "path", [p for p in FILES if FLOOR[p.relative_to(ROOT).parts[0].removesuffix(".py")] < FLOOR["cli"]], ids=_where
)
def test_only_optional_packages_are_imported_inside_functions(path):
    """Commands import the rest when they run, so that their help is fast; a file of the library imports at its top."""
    functions = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    found = [name for function in functions for name, _ in _imports(function)]
    assert not [name for name in found if name.split(".")[0] not in OPTIONAL]


@pytest.mark.parametrize("path", FILES, ids=_where)
def test_nothing_is_executed_or_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path}: {name}"
            if name == "torch.load":
                assert path.name == "torch_files.py"
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_no_file_is_long():
    lines = {_where(p): len(p.read_text().splitlines()) for p in FILES}
    assert not [name for name, count in lines.items() if count > 360]
    assert len([name for name, count in lines.items() if count > 300]) <= 6

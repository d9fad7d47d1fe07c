"""The house stands on its floors: a lower one never imports a higher one, siblings never import each other."""

import ast
from pathlib import Path

import pytest

import sr_train

ROOT = Path(sr_train.__file__).parent
FLOOR = {
    "__main__": 4,
    "cli": 4,
    "stages": 3,
    "callbacks": 3,
    "validation": 3,
    "records": 3,
    "checkpoints": 3,
    "profiling": 3,
    "ledger": 3,
    "tasks": 2,
    "inference": 2,
    "tiling": 2,
    "clip_inference": 2,
    "frame_features": 2,
    "weights": 2,
    "growth": 2,
    "foreign": 2,
    "layouts": 2,
    "rrdb_layouts": 2,
    "edvr_layouts": 2,
    "edsr_layouts": 2,
    "models": 1,
    "losses": 1,
    "data": 1,
    "films": 1,
    "metrics": 1,
    "batch": 0,
    "advice": 0,
    "configs": 0,
    "files": 0,
    "imresize": 0,
    "torch_files": 0,
    "typecheck": 0,
}
ONLY = {  # who may know a package
    "av": ("films",),
    "cv2": ("data",),
    "lmdb": ("data",),
    "PIL": ("data",),
    "hydra": ("cli", "stages"),
    "omegaconf": ("cli", "stages"),
    "lightning": ("tasks", "data/module", "callbacks", "validation", "records", "profiling", "ledger", "cli"),
}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def test_the_files_are_found():
    assert len(FILES) > 25
    assert {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_below(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    where = path.relative_to(ROOT).with_suffix("").as_posix()
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "sr_train" and rest:
            other = rest.split(".")[0]
            assert other == part or FLOOR[other] < FLOOR[part] or (FLOOR[part] >= 2 and FLOOR[other] == FLOOR[part]), (
                f"{where} (floor {FLOOR[part]}) imports {name} (floor {FLOOR[other]})"
            )
        if top in ONLY:
            assert where.startswith(ONLY[top]), f"{where} imports {top}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_executed_or_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads"), f"{path}: {name}"
            if name == "torch.load":
                assert path.name == "torch_files.py"
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path

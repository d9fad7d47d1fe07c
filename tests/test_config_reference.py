"""The generated configuration reference has every key that a command or a recipe can have, with its type and meaning."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from sr_train.config.check import known_names
from sr_train.config.folders import conf_folder, files_of, groups
from sr_train.config.help import keys_of
from sr_train.config.plan import plan

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "docs" / "config_reference.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("config_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reference()


@pytest.fixture(scope="module")
def rows(page):
    lines = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") > 3]
    return [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]


def test_every_row_has_a_type_a_default_and_a_meaning(rows):
    assert len(rows) > 300
    assert [row for row in rows if len(row) != 4 or not all(cell.strip() for cell in row)] == []


def test_every_key_of_every_command_is_in_the_reference(page):
    for config in ("train", "evaluate", "upscale", "interp", "prepare", "convert"):
        section = page.partition(f"## sr-{config.replace('evaluate', 'eval')}\n")[2].partition("\n## ")[0]
        keys = [key for key, _, _ in keys_of(conf_folder() / f"{config}.yaml")]
        assert [key for key in keys if f"| `{key}` |" not in section] == []


def test_every_option_of_every_group_is_in_the_reference(page):
    for group in (g for g in groups() if g != "experiment"):
        for file in files_of(group):
            content = yaml.safe_load(file.read_text()) or {}
            if content.get("_target_") == "???":
                continue  # keys that other options share: they are listed with those
            section = page.partition(f"### {group}={file.stem}\n")[2].partition("\n##")[0]
            keys = [k for k in content if k != "defaults" and not k.startswith("_")]
            assert section, file
            missing = [k for k in keys if not re.search(rf"\| `[\w.]*\b{k}[.`]", section)]
            assert missing == [], file
    assert [f.stem for f in files_of("experiment") if f"| `{f.stem}` |" not in page] == []


def keys_below(config, path=""):
    """Every key of a stage's config, and every argument that what it builds could be given."""
    for name in known_names(config, f"{path}.x".lstrip(".")) or []:
        key = f"{path}.{name}".lstrip(".")
        child = OmegaConf.select(config, key)
        if OmegaConf.is_dict(child) and ("_target_" in child or key in ("init", "validate", "checkpoint", "record")):
            yield from keys_below(config, key)
        elif not name.startswith("_"):
            yield key


@pytest.mark.parametrize("experiment", ["esrgan_x4", "edvr_m_x4", "mdsr"])
def test_every_key_of_a_recipe_and_every_argument_is_in_the_reference(experiment, rows):
    there = {row[0].strip("`") for row in rows} | set(groups())
    elsewhere = (
        r"task\.(model|loss|curve)|task\.optimizer\.(params|lr)|.*\.(size_average|reduce)"  # groups; rate; deprecated
    )
    for stage in plan([f"experiment={experiment}"]).stages:
        keys = keys_below(OmegaConf.create(stage.config))
        assert [k for k in keys if k not in there and not re.fullmatch(elsewhere, k)] == []

"""Every experiment composes, builds and takes one step, with the data replaced by toy photographs and the net made small."""

from pathlib import Path

import pytest
import torch

import sr_train.cli.train as train_command
from sr_train.cli.common import conf_folder
from sr_train.stages import plan
from sr_train.weights import load_weights

EXPERIMENTS = sorted((conf_folder() / "experiment").rglob("*.yaml"))
KNOWN = {"quickstart", "edsr_baseline_x2"}


def test_the_experiments_are_found():
    assert {p.stem for p in EXPERIMENTS} == KNOWN


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_opens_with_what_its_user_needs_to_know(path: Path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n# ")
    for heading in ("Paper:", "Command:", "Needs:", "Takes:", "Reaches:", "Differs:"):
        assert heading in text, f"{path.name} does not say {heading}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_stage_composes_builds_and_takes_one_step(path: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["data=toy", "sets=[toy]", "data.lr_patch=16", "data.batch=2", "data.workers=0", "trainer.max_steps=1"]
    composed = plan([f"experiment={path.stem}", "trainer.accelerator=cpu", *small])
    assert composed.stages
    for stage in composed.stages:
        file = train_command.run_stage(composed, stage)
        weights = load_weights(file)
        assert weights.origin["step"] == 1
        assert weights.scale == stage.config["scale"]
        assert all(torch.isfinite(v).all() for v in weights.state.values())
        assert "toy/y/psnr" in weights.scores

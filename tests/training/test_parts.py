"""The number of parts of a batch: chosen where it pays, kept by a run, and the same bits with any number of threads."""

import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import equal
from safetensors.torch import load_file
from torch import nn

from sr_train import train
from sr_train.config.plan import plan, with_trainer
from sr_train.models.edsr import EDSR
from sr_train.models.srresnet import SRResNet
from sr_train.runs import resume
from sr_train.tasks.curves import Constant
from sr_train.tasks.pixel import PixelTask
from sr_train.training.parts import with_parts

TINY = (
    "data.workers=0", "data.batch=5", "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32",
    "validate.every=100", "checkpoint.every=2", "record.every=2", "logger=csv", "sets=[]", "model.blocks=1", "model.channels=4",
    "name=run",
)  # fmt: skip
MAIN = Path("run", "main")


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads that torch uses."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@cache
def composed(*arguments):
    (stage,) = plan([*TINY, *arguments]).stages
    return stage


def parts_of(*arguments, network=None, device="cpu", world=1, compiled=False, task=PixelTask):
    (stage,) = plan([*TINY, *arguments]).stages
    stage = with_trainer(
        stage, precision={"32": "32-true"}.get(str(stage.config["trainer"]["precision"]), "bf16-mixed")
    )
    options = {"optimizer": torch.optim.Adam, "rate": 1e-3, "curve": Constant(), "ema": None, "compile": compiled}
    made = task(model=network or EDSR(scale=2, channels=4, blocks=1), loss=nn.L1Loss(), **options)
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=world)
    chosen = with_parts(stage, made, trainer)
    return chosen.config["task"]["parts"]


class OwnStep(PixelTask):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class OwnNetwork(EDSR):
    pass


def test_auto_is_one_part_per_thread_where_it_pays(threads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads(1)
    assert parts_of() == 1
    threads(2)
    assert parts_of() == 2
    assert parts_of("data.batch=3") == 1, "a part would have one image"
    assert parts_of("data.batch=6", "trainer.accumulate_grad_batches=3") == 1
    assert parts_of("task.parts=4", device="cuda", world=2) == 4
    assert parts_of("trainer.precision=bf16-mixed") == 1
    assert parts_of(network=SRResNet(scale=2, channels=4, blocks=1)) == 1, "it has BatchNorm"
    assert parts_of(network=OwnNetwork(scale=2, channels=4, blocks=1)) == 1, "it may look at the whole batch"
    assert parts_of(task=OwnStep) == 1
    assert parts_of(compiled=True) == 1
    assert parts_of(device="cuda") == 1
    assert parts_of(world=2) == 1, "processes are parts already"


def test_a_run_keeps_its_parts_and_continues_bit_for_bit_with_any_number_of_threads(threads, tmp_path, capsys):
    def run(folder, steps, *arguments):
        assert train([*TINY, f"paths.runs={tmp_path / folder}", f"trainer.max_steps={steps}", *arguments]) == 0
        return load_file(tmp_path / folder / MAIN / "weights.safetensors")

    threads(2)
    whole = run("whole", 4)
    assert "each batch is computed in 2 parts" in capsys.readouterr().out
    run("half", 2)
    threads(1)  # as on a machine with one core
    assert equal(run("half", 4), whole)
    config = resume.read_config(tmp_path / "half" / MAIN)
    assert config is not None
    assert config["task"]["parts"] == 2
    shutil.rmtree(tmp_path / "half")
    one = run("half", 4, "task.parts=1")
    assert not equal(one, whole)
    assert all((one[name] - whole[name]).abs().max() < 1e-4 for name in one)
    with pytest.raises(resume.ChangedError, match=r"task\.parts: 1 -> 2"):
        run("half", 5, "task.parts=2")


def test_a_run_of_an_earlier_version_keeps_one_part(threads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads(2)
    stage = composed()
    config = {**stage.config, "task": {k: v for k, v in stage.config["task"].items() if k != "parts"}}
    resume.write_config(stage.folder, config)
    assert parts_of() == 1
    assert resume.differences(config, {**config, "task": {**config["task"], "parts": 1}}) == []
    assert parts_of("resume=never") == 2

"""Bytes of a training step's tensors, counted without memory, against what torch's allocator sees in a real step."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sr_train.config.plan import plan
from sr_train.training.stage import build_task
from sr_train.training.step_memory import GPUS, StepMemory, count_step, describe_step, empty_batch, fits, outline_task

SMALL = ("data.batch=2", "data.lr_patch=24", "trainer.precision=32-true", "task.optimizer.fused=true")


def small(*typed):
    return plan([*SMALL, *typed]).stages[-1].config


def allocated(config):
    """Return (bytes before a step, most bytes in it) of the tensors of a real second step, by the allocator's own records."""
    task = build_task(config, "main", None)
    task._trainer = outline_task(config)._trainer
    task.train()
    optimizer = task.configure_optimizers()
    batch = empty_batch(config, "cpu")
    for image in (batch["lr"], batch["hr"]):
        image.random_(0, 256)

    def step():
        optimizer.zero_grad()
        task.guard.begin(batch, task.networks())
        task.training_step(batch, 0).backward()
        optimizer.step()
        task.ema.update_parameters(task.model)
        task.guard.end()
        task.numbers.clear()

    step()
    optimizer.zero_grad()
    states = [v for state in optimizer.state.values() for v in state.values()]
    tensors = [*task.parameters(), *task.buffers(), *states]
    kept = sum(t.numel() * t.element_size() for t in tensors)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    now = most = kept + sum(batch[k].numel() for k in ("lr", "hr"))
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return kept, most


@pytest.mark.parametrize("typed", [
    ("experiment=edsr_baseline_x2", "model.blocks=4", "model.channels=32"),
    ("experiment=esrgan_x4", "stage=gan", "model.blocks=1", "model.channels=16", "loss.perceptual=null",
     "task.discriminator.channels=16", "data.lr_patch=16", "task.discriminator.size=64"),
], ids=["pixel", "gan"])  # fmt: skip
def test_the_counted_peak_is_that_of_a_real_step(typed):
    config = small(*typed)
    kept, most = allocated(config)
    counted = count_step(config)
    assert counted.kept == pytest.approx(kept, rel=0.01)
    assert counted.most == pytest.approx(most, rel=0.1)


def test_what_saves_memory_is_counted():
    config = small("experiment=esrgan_x4", "stage=gan", "model.blocks=1", "model.channels=16", "task.discriminator.channels=8",
                   "loss.perceptual.layers={conv5_4: null, conv2_2: 1}", "data.lr_patch=32")  # fmt: skip
    full = count_step(config)
    assert set(full.graphs) == {"generator", "discriminator", "features"}
    assert sum(full.graphs.values()) < full.most
    perceptual = config["loss"]["perceptual"]
    half = {**perceptual, "extractor": {**perceptual["extractor"], "precision": "bf16"}}
    less = count_step({**config, "loss": {**config["loss"], "perceptual": half}}, recompute=True, ema_device="cpu")
    assert less.graphs["generator"] < 0.6 * full.graphs["generator"], "recompute"
    assert less.graphs["features"] < 0.6 * full.graphs["features"], "precision of the features"
    task = outline_task(config)
    weights = sum(4 * p.numel() for p in task.model.parameters())
    features = sum(2 * p.numel() for p in task.loss.perceptual.extractor.parameters())
    assert full.kept - less.kept == pytest.approx(weights + features, rel=0.01), "the EMA is on the host"


def test_the_lines_of_check_name_the_gpu_and_what_recomputation_saves(monkeypatch):
    config = small("experiment=edsr_baseline_x2", "model.blocks=2")
    assert count_step(config, "bf16-mixed").graphs["network"] < 0.8 * count_step(config).graphs["network"]
    first, second = describe_step(config)
    assert first.startswith(f"{count_step(config).most / 1e6:,.1f} MB in a step of 2: ")
    assert second.startswith("a GPU needs 8 GB; ")
    assert second.endswith("MB with task.recompute=true, 8 GB")
    (reason,) = describe_step({**config, "model": {"_target_": "torch.nn.utils.parametrizations.weight_norm"}})
    assert "cannot be counted" in reason
    texts = [fits(StepMemory(0, int(1e9 * gb), {})) for gb in (1, 7, 20, 30)]
    assert texts == ["8 GB", "12 GB", "24 GB", "more than 24 GB"]
    assert torch.is_grad_enabled()
    assert GPUS == (8, 12, 16, 24)

"""EDVR trained as its recipes do: without attention, the attention alone, everything; offsets watched."""

import warnings

import lightning as L
import pytest
import torch

from sr_train.config.plan import plan
from sr_train.losses.pixel import CharbonnierLoss
from sr_train.models.edvr import EDVR
from sr_train.tasks.curves import CosineRestarts
from sr_train.tasks.pixel import PixelTask
from sr_train.training.callbacks import StepLog
from sr_train.training.preflight import preflight
from sr_train.training.stage import run_stage
from sr_train.training.warm_starts import check_warm_starts
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.warm_start import warm_start

pytestmark = pytest.mark.slow

SMALL = {"channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1, "frames": 3}
RECIPE = (
    "stages={align: {scale: 4, model.tsa: false}, "
    "tsa: {scale: 4, init.stage: align, init.skip: [fusion.*], task.trainable: [fusion.*]}, full: {scale: 4, init.stage: tsa}}"
)
DEEPER = (
    "stages={small: {scale: 4, model.back_blocks: 10}, "
    "large: {scale: 4, init.stage: small, init.grow: [reconstruction]}}"
)


def task(network, **more):
    loss, curve = CharbonnierLoss(reduction="sum"), CosineRestarts(periods=[5, 5])
    return PixelTask(model=network, loss=loss, optimizer=torch.optim.Adam, rate=1e-3, curve=curve, ema=0.9, **more)


def fit(module, steps, **options):
    generator = torch.Generator().manual_seed(1)
    film = torch.rand(6, 3, 16, 16, generator=generator)
    batch = {"lr": torch.stack([film[:3], film[3:]]), "hr": torch.rand(2, 3, 64, 64, generator=generator),
             "key": ["a", "b"], "scale": 4}  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=-1,
        enable_model_summary=False, max_steps=steps, **options,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(module, torch.utils.data.DataLoader([batch] * steps, batch_size=None))
    return [str(w.message) for w in said]


def test_the_three_stages_of_a_recipe():
    torch.manual_seed(0)
    first = task(EDVR(**SMALL, tsa=False))
    fit(first, 8)
    network = EDVR(**SMALL)
    decided = warm_start(network, first.averaged().state_dict(), ["fusion.*"], where="test")
    assert set(decided.unused) == {"fusion.weight", "fusion.bias"}
    assert all(k.startswith("fusion.") for k in decided.initialized)
    assert not decided.grown
    second = task(network, trainable=["fusion.*"])
    before = {k: v.clone() for k, v in network.state_dict().items()}
    fit(second, 3)
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith("fusion.")}
    third = task(EDVR(**SMALL))
    warm_start(third.model, second.averaged().state_dict(), [], where="test")
    before = {k: v.clone() for k, v in third.model.state_dict().items()}
    fit(third, 2)
    assert all(not torch.equal(v, before[k]) for k, v in third.model.state_dict().items())


@pytest.mark.parametrize("options", [{"recompute": True}, {"recompute": False}], ids=str)
def test_mean_offsets_reach_the_logs_in_bf16_too(options):
    torch.manual_seed(0)
    module = task(EDVR(**SMALL), **options)
    fit(module, 3, precision="bf16-mixed", accumulate_grad_batches=1)
    found = {k: float(v) for k, v in module.numbers.items() if "offset" in k}
    assert set(found) == {f"train/offset_{level}" for level in ("l1", "l2", "l3", "cascade")}
    assert all(0 < v < 1 for v in found.values())
    assert module.refused == 0


def test_exploding_offsets_are_reported_once_with_remedies(monkeypatch, tmp_path):
    monkeypatch.setattr(StepLog, "_log", lambda *_: None)  # it needs a data module
    module = task(EDVR(**SMALL))
    torch.nn.init.constant_(module.model.pcd_align.cas_dcnpack.conv_offset.bias, 40.0)
    said = [s for s in fit(module, 6, callbacks=[StepLog(every=2, folder=str(tmp_path))]) if "exploded" in s]
    assert len(said) == 1
    assert "step 2: the offsets of the alignment have exploded: 40.0 px on average at level cascade" in said[0]


@pytest.mark.parametrize("model", ["edvr_m", "edvr_l"])
def test_the_stages_of_a_recipe_fit_each_other(model, capsys):
    composed = plan([f"model={model}", RECIPE if model == "edvr_m" else DEEPER])
    check_warm_starts(composed)
    said = capsys.readouterr().out
    if model == "edvr_m":
        assert "unused     2 tensors  fusion.weight, fusion.bias" in said
    else:
        assert "grown    120 tensors  reconstruction.10 to reconstruction.39, as identity" in said


def test_growing_to_another_width_is_refused():
    composed = plan(["model=edvr_l", DEEPER, "small.model.channels=64"])
    with pytest.raises(WeightsError, match=r"conv_first\.weight: \[64, 3, 3, 3\] in the source, \[128, 3, 3, 3\]"):
        check_warm_starts(composed)


def test_a_network_of_single_frames_is_trained_and_continues_with_windows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stages = "stages={image: {model.frames: 1, data.frames: 1}, video: {init: {stage: image, grow: [frames]}}}"
    small = [f"model.{k}={v}" for k, v in SMALL.items() if k != "frames"]
    clips = ["data.train=[{hr: 'toy_clips:coffee'}]", "sets=[]", "data.workers=0", "data.batch=2", "data.lr_patch=16"]
    composed = plan(
        [
            "experiment=quickstart_video",
            stages,
            *small,
            *clips,
            "trainer.max_steps=2",
            "trainer.accelerator=cpu",
            "logger=none",
        ]
    )
    ready = preflight(composed)
    assert "grown      1 tensor   fusion.weight: weights of the new frames start at zero" in capsys.readouterr().out
    image, video = (load_weights(run_stage(composed, stage)) for stage in ready)
    assert image.state["fusion.weight"].shape == (8, 8, 1, 1)
    assert video.state["fusion.weight"].shape == (8, 24, 1, 1)
    added = torch.cat([video.state["fusion.weight"][:, :8], video.state["fusion.weight"][:, 16:]], dim=1)
    assert 0 < added.abs().max() < 0.01  # two steps away from nothing

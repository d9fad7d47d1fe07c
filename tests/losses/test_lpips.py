"""LPIPS as a loss: the metric's values, a finite gradient, and a file that is compared by content."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_train.config.plan import plan
from sr_train.evaluation.metrics import open_lpips
from sr_train.losses.lpips import LPIPSLoss
from sr_train.models.features import FeatureExtractor
from sr_train.runs.resume import describe, differences
from sr_train.training.outline import outline


def test_the_loss_is_the_mean_of_the_metric_and_has_a_finite_gradient(tiny_lpips):
    generator = torch.Generator().manual_seed(0)
    sr, hr = (torch.randint(0, 256, (2, 3, 40, 48), generator=generator) / 255 for _ in range(2))
    sr[0, :, :20] = 0  # black, where features are 0
    sr.requires_grad_()
    loss = LPIPSLoss(weights=str(tiny_lpips))
    found = loss(sr, hr)
    metric = open_lpips(str(tiny_lpips))
    assert float(found.detach()) == pytest.approx(
        sum(metric(a, b, 1) for a, b in zip(sr.detach(), hr, strict=True)) / 2, rel=1e-6
    )
    (gradient,) = torch.autograd.grad(found, sr)
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        step = 3e-3 * gradient / gradient.norm()
        change = float(loss(sr + step, hr) - loss(sr - step, hr)) / (2 * 3e-3)
    assert change == pytest.approx(float(gradient.norm()), rel=0.1)
    assert float(loss(hr, hr)) == 0
    assert loss.state_dict() == {}
    assert not any(p.requires_grad for p in loss.parameters())
    assert any(isinstance(m, FeatureExtractor) for m in loss.modules()), "check=true counts it"


def test_wrong_files_and_networks_are_refused(tiny_lpips, tmp_path):
    with pytest.raises(ValueError, match="network='squeeze': choose from alex, vgg"):
        LPIPSLoss(weights=str(tiny_lpips), network="squeeze")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"missing\.pth.*; give alex\.pth or vgg\.pth"):
        LPIPSLoss(weights=str(tmp_path / "missing.pth"))
    save_file({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="contains 1 of 5 lin layers"):
        LPIPSLoss(weights=str(tmp_path / "part.safetensors"))


def test_the_file_of_a_run_may_move_but_not_change(tmp_path, tiny_lpips):
    moved, other = (tmp_path / f"{name}.safetensors" for name in ("moved", "other"))
    shutil.copy(tiny_lpips, moved)
    save_file({k: v * 2 if k.startswith("lin3") else v for k, v in load_file(tiny_lpips).items()}, other)
    typed = "loss={_target_: sr_train.losses.lpips.LPIPSLoss, weights: FILE}"
    stage = plan(["experiment=quickstart_edsr", "stage=x2", "sets=[]", typed.replace("FILE", str(tiny_lpips))]).stages[
        0
    ]
    described = []
    for file in (tiny_lpips, moved, other):
        stage.config["loss"]["weights"] = str(file)
        problems = []
        found = outline(stage, problems)
        assert problems == []
        described.append(describe(stage.config, [], [], found.features))
    assert differences(described[0], described[1]) == []
    (line,) = differences(described[0], described[2])
    assert line.startswith('fingerprint.features[0]: "lpips ')

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sr_train.config.build import build
from sr_train.config.plan import plan
from sr_train.losses.adversarial import RelativisticAverage, StandardGAN
from sr_train.losses.gan import GANLoss
from sr_train.losses.weighted import Weighted
from sr_train.models.features import _layers_of


@pytest.fixture
def batch():
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 2, 3, 32, 32)
    return sr.requires_grad_(), hr, torch.randn(2, 1), torch.randn(2, 1)


def test_a_weighted_loss_is_the_sum_of_its_weighted_parts(batch):
    sr, hr, _, _ = batch
    loss = Weighted(
        terms={"l1": nn.L1Loss(), "mse": nn.MSELoss(), "off": None}, weights={"l1": 2, "mse": 0.5, "off": 1}
    )
    l1, mse = (sr - hr).abs().mean(), ((sr - hr) ** 2).mean()
    torch.testing.assert_close(loss(sr, hr), 2 * l1 + 0.5 * mse)
    parts = loss.parts(sr, hr)
    assert list(parts) == ["l1", "mse"]
    torch.testing.assert_close(parts["mse"], mse)


def test_weights_must_name_the_terms():
    with pytest.raises(ValueError, match="weights are given for l2; expected one for each of l1"):
        Weighted(terms={"l1": nn.L1Loss()}, weights={"l2": 1.0})
    with pytest.raises(ValueError, match="needs at least one"):
        Weighted(terms={"l1": None}, weights={"l1": 1.0})
    with pytest.raises(ValueError, match="expected one for each of adversarial, pixel"):
        GANLoss(adversarial=StandardGAN(), pixel=nn.L1Loss(), weights={"adversarial": 1e-3})
    with pytest.raises(ValueError, match="weights are given for adversarial, pixl"):
        GANLoss(adversarial=StandardGAN(), weights={"adversarial": 1e-3, "pixl": 1.0})
    GANLoss(adversarial=StandardGAN(), weights={"adversarial": 1e-3, "pixel": 1.0})  # weight of a term that is off


def test_the_generators_total_is_the_sum_of_weight_times_part(batch):
    sr, hr, real, fake = batch
    weights = {"adversarial": 5e-3, "perceptual": 2.0, "pixel": 1e-2}
    loss = GANLoss(adversarial=RelativisticAverage(), pixel=nn.L1Loss(), perceptual=nn.MSELoss(), weights=weights)
    assert loss.needs_real
    total, parts = loss.generator(sr, hr, real_logits=real, fake_logits=fake)
    assert set(parts) == set(weights)
    assert total.item() == pytest.approx(sum(weights[n] * parts[n].item() for n in parts), rel=1e-6)
    assert parts["adversarial"].item() == pytest.approx(RelativisticAverage().generator(real, fake).item())
    assert total.requires_grad
    assert not any(p.requires_grad for p in parts.values())


def test_the_discriminators_loss_comes_with_the_mean_logits(batch):
    _, _, real, fake = batch
    loss = GANLoss(adversarial=StandardGAN(), weights={"adversarial": 1e-3})
    assert not loss.needs_real
    total, parts = loss.discriminator(real, fake)
    assert total.item() == pytest.approx(StandardGAN().discriminator(real, fake).item())
    assert {n: v.item() for n, v in parts.items()} == pytest.approx(
        {
            "discriminator": total.item(),
            "real_logit": real.mean().item(),
            "fake_logit": fake.mean().item(),
            "accuracy": ((real > 0).sum().item() + (fake < 0).sum().item()) / 4,
        }
    )


PAPERS = {  # papers.md: weights, tapped layer, criterion
    "srgan": ({"perceptual": 6e-3, "adversarial": 1e-3}, "relu5_4", "l2", StandardGAN),
    "esrgan": ({"perceptual": 1.0, "adversarial": 5e-3, "pixel": 1e-2}, "conv5_4", "l1", RelativisticAverage),
}


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_negative_and_infinite_weights_are_refused(weight):
    with pytest.raises(ValueError, match=rf"weights: a={weight:g}: expected numbers of at least 0"):
        Weighted(terms={"a": nn.L1Loss()}, weights={"a": weight})


@pytest.mark.parametrize("name", PAPERS)
def test_the_yaml_builds_the_papers_loss(name, batch, tmp_path):
    weights, layer, criterion, adversarial = PAPERS[name]
    file = tmp_path / "vgg19.safetensors"
    shapes = {i: (la.outputs, la.inputs, 3, 3) for i, la in enumerate(_layers_of("vgg19")) if la.kind == "conv"}
    state = {f"features.{i}.weight": torch.randn(s) * (2 / (9 * s[1])) ** 0.5 for i, s in shapes.items()}
    save_file({**state, **{f"features.{i}.bias": torch.zeros(s[0]) for i, s in shapes.items()}}, file)
    arguments = [f"loss={name}", "task=gan", "data=toy", "sets=[toy]", f"loss.perceptual.extractor.weights={file}"]
    (stage,) = plan(arguments).stages
    loss = build(stage.config["loss"])
    assert isinstance(loss, GANLoss)
    assert loss.weights == weights
    assert isinstance(loss.adversarial, adversarial)
    assert (loss.perceptual.layers, loss.perceptual.criterion) == ({layer: 1.0}, criterion)
    assert loss.perceptual.extractor.layers == [layer]
    assert (loss.pixel is None) == (name == "srgan")
    assert not loss.state_dict()  # nothing of it goes into a checkpoint
    sr, hr, real, fake = batch
    total, parts = loss.generator(sr, hr, real_logits=real if loss.needs_real else None, fake_logits=fake)
    assert set(parts) == set(weights)
    total.backward()
    assert sr.grad is not None
    assert sr.grad.abs().max() > 0
    assert torch.isfinite(sr.grad).all()

"""Recipes on a GPU, rehearsed without one: a tensor that is made on the wrong device fails here and not at a user's."""

import pytest
import torch
from rehearsal import rehearse
from torch import nn

from sr_train.config.plan import plan
from sr_train.losses.adversarial import StandardGAN
from sr_train.models.edsr import EDSR
from sr_train.models.features import FeatureExtractor


def stage(*typed):
    return plan([*typed]).stages[-1].config


def test_content_terms_make_no_tensor_on_another_device():
    """test_experiments.py rehearses every stage of every experiment; none has these terms."""
    terms = "loss.weights={pixel: 1, ssim: 0.1, frequency: 0.1, gradient: 0.1}"
    rehearse(stage("experiment=edsr_baseline_x2", "model.blocks=1", "loss=content", terms))


@pytest.fixture
def small():
    return stage("experiment=edsr_baseline_x2", "model.blocks=1", "model.channels=8", "data.batch=2")


def wrong_device(config):
    with pytest.raises(
        (RuntimeError, AssertionError), match=r"found at least two devices|convert all Tensors to FakeTensors"
    ):
        rehearse(config)


def test_a_tensor_made_in_a_loss_is_found(small, monkeypatch):
    rehearse(small)
    monkeypatch.setattr(nn.L1Loss, "forward", lambda self, sr, hr: (sr - hr).abs().mean() + torch.zeros(1).sum(0, True))
    wrong_device(small)


def test_a_tensor_made_in_a_network_is_found(small, monkeypatch):
    forward = EDSR.forward
    monkeypatch.setattr(EDSR, "forward", lambda self, lr: forward(self, lr * torch.ones(3, 1, 1)))
    wrong_device(small)


def test_a_tensor_that_is_no_buffer_is_found(small, monkeypatch):
    """``to(device)`` does not move an attribute."""
    build, forward = EDSR.__init__, EDSR.forward

    def built(self, **options):
        build(self, **options)
        self.mean_color = torch.ones(3, 1, 1)

    monkeypatch.setattr(EDSR, "__init__", built)
    monkeypatch.setattr(EDSR, "forward", lambda self, lr: forward(self, lr - self.mean_color))
    wrong_device(small)


def test_a_tensor_made_for_an_adversarial_loss_is_found(monkeypatch):
    config = stage("experiment=srgan_x4", "stage=gan", "model.blocks=1", "loss.perceptual=null", "loss.pixel={_target_: "
                   "torch.nn.L1Loss}", "loss.weights={pixel: 1, adversarial: 1}")  # fmt: skip
    real = StandardGAN.generator
    monkeypatch.setattr(
        StandardGAN, "generator", lambda self, *logits, **more: real(self, *logits, **more) * torch.ones(1)
    )
    wrong_device(config)


def test_features_on_the_meta_device_read_no_file():
    with torch.device("meta"):
        extractor = FeatureExtractor(network="vgg19", layers=["conv5_4"], weights="no such file")
    assert sum(p.numel() for p in extractor.parameters()) == 20_024_384  # torchvision's vgg19().features

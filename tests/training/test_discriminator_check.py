import re

import pytest
import torch

from sr_train.config.plan import plan
from sr_train.console import UsageError
from sr_train.models.rrdbnet import RRDBNet
from sr_train.training.discriminator_check import check_discriminator
from sr_train.training.warm_starts import check_warm_starts, find_origin
from sr_train.weights.file import Weights, save_weights

pytestmark = pytest.mark.slow

GAN = ("task=gan", "loss=gan", "stages={gan: {}}")


@pytest.mark.parametrize(
    ("typed", "remedies"),
    [
        ("scale=3 data.lr_patch=32", "D=srgan D.size=96"),
        ("scale=3 data.lr_patch=33", "P=32 D=srgan D.size=96"),
        ("model=rrdbnet scale=1 data.lr_patch=96", "P=128 or D=srgan D.size=96"),
        ("scale=4 data.lr_patch=12 task.discriminator.size=48", "P=8 D.size=32 or D=srgan D.size=48"),
        ("scale=4 data.lr_patch=16", "P=32 or D.size=64"),
        ("scale=3 data.lr_patch=25 discriminator=srgan", "P=32"),
    ],
)
def test_advised_options_fit_the_discriminator(typed, remedies):
    with pytest.raises(UsageError, match=r"stage gan: .*: give ") as caught:
        check_discriminator("gan", plan([*GAN, *typed.split()]).stages[0].config)
    for short, key in {"D.": "gan.task.discriminator.", "D=": "gan.discriminator=", "P=": "gan.data.lr_patch="}.items():
        remedies = remedies.replace(short, key)
    assert str(caught.value).partition(": give ")[2] == remedies
    for remedy in remedies.split(" or "):
        check_discriminator("gan", plan([*GAN, *typed.split(), *remedy.split()]).stages[0].config)


def test_an_error_at_every_size_is_reported_as_the_error_of_the_constructor():
    with pytest.raises(UsageError, match=r"stage gan: discriminator channels=0 must be at least 1$"):
        check_discriminator("gan", plan([*GAN, "task.discriminator.channels=0"]).stages[0].config)
    spec = (
        "task.discriminator={_target_: torch.nn.Conv2d, in_channels: 3, out_channels: 1, kernel_size: 3}"  # of any size
    )
    check_discriminator("gan", plan([*GAN, spec, "scale=3"]).stages[0].config)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "task.discriminator={_target_: torch.nn.Identity}",
            r"Identity returns \[16, 3, 192, 192\] .*; expected logits \[16, 1\] or \[16, 1, h, w\]",
        ),
        (
            "task.discriminator={_target_:torch.nn.Linear,in_features:5,out_features:1}",
            r"Linear fails on 16 x 192x192 px: ",
        ),
        (
            "discriminator=srgan task.discriminator.size=16 data.lr_patch=4 data.batch=1",
            r"SRGANDiscriminator fails on 1 x 16x16 px: its BatchNorm has one value per channel .*: give data.batch=2 or more",
        ),
        (
            "discriminator=srgan task.discriminator.size=16 data.lr_patch=4 data.batch=2 trainer.accumulate_grad_batches=2",
            r"fails on 1 x 16x16 px: its BatchNorm has one value per channel",
        ),
        (
            "discriminator=unet_sn data.lr_patch=17",
            r"UNetDiscriminatorSN fails on 16 x 68x68 px: .*multiples of 8, .*: give gan.data.lr_patch=16$",
        ),
        (
            "discriminator=patch data.lr_patch=3",
            r"PatchDiscriminator fails on 16 x 12x12 px: .*at least 24 px, .*: give gan.data.lr_patch=6$",
        ),
    ],
)
def test_a_discriminator_that_cannot_be_run_is_refused(typed, message):
    with pytest.raises(UsageError, match=message):
        check_discriminator("gan", plan([*GAN, "scale=4", *re.split(r" (?=\w+[\w.]*=)", typed)]).stages[0].config)


@pytest.mark.parametrize(
    ("typed", "shape"),
    [
        ("discriminator=unet_sn", (2, 1, 96, 96)),
        ("discriminator=patch data.lr_patch=32", (2, 1, 14, 14)),
        ("discriminator=patch task.discriminator.norm=spectral channels=1", (2, 1, 10, 10)),
        ("discriminator=srgan", (2, 1)),
    ],
)
def test_the_shape_of_the_logits_is_found_without_running(typed, shape):
    arguments = ["scale=4", "data.batch=4", "trainer.accumulate_grad_batches=2", "data.lr_patch=24", *typed.split()]
    assert check_discriminator("gan", plan([*GAN, *arguments]).stages[0].config) == shape


def test_a_gan_stage_prints_that_its_discriminator_is_newly_initialized(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = RRDBNet(scale=4, channels=8, blocks=1, growth=4)
    model = {"_target_": "sr_train.models.rrdbnet.RRDBNet", "scale": 4, "channels": 8, "blocks": 1, "growth": 4}
    save_weights(tmp_path / "psnr.safetensors", Weights(model, network.state_dict()))
    small = ["model.channels=8", "model.blocks=1", "model.growth=4"]
    with torch.device("meta"):
        composed = plan(["experiment=quickstart", "stage=gan", "init.weights=psnr.safetensors", *small])
        opened = check_warm_starts(composed)["gan"]
    assert find_origin(composed, composed.stages[-1], opened) is opened  # it is read once
    out = capsys.readouterr().out
    assert "stage gan starts from psnr.safetensors" in out
    assert "  discriminator: newly initialized; only the generator is copied" in out

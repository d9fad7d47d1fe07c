"""Steps of task=gan with logits per pixel and region, all adversarial losses, and spectral normalization."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from sr_train.losses.adversarial import Hinge, LeastSquares, RelativisticAverage, StandardGAN, Wasserstein
from sr_train.losses.gan import GANLoss
from sr_train.models.discriminators import PatchDiscriminator, UNetDiscriminatorSN
from sr_train.models.rrdbnet import RRDBNet
from sr_train.tasks.curves import Constant
from sr_train.tasks.gan import GANTask


def own(norm):
    """Return a user's discriminator with torch's spectral normalization, as hook or as parametrization."""
    middle = norm(nn.Conv2d(4, 4, 4, 2, 1))
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), middle, nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, 1, 1)
    )


DISCRIMINATORS = {
    "unet_sn": lambda: UNetDiscriminatorSN(channels=2),
    "patch": lambda: PatchDiscriminator(channels=2),
    "patch_instance": lambda: PatchDiscriminator(channels=2, norm="instance"),
    "patch_spectral": lambda: PatchDiscriminator(channels=2, norm="spectral"),
    "own_hook": lambda: own(spectral_norm),
    "own": lambda: own(parametrizations.spectral_norm),
}
PAIRS = [
    ("unet_sn", StandardGAN), ("unet_sn", RelativisticAverage), ("unet_sn", Hinge), ("unet_sn", Wasserstein),
    ("patch", LeastSquares), ("patch_instance", LeastSquares), ("patch_spectral", Hinge), ("own_hook", Hinge),
    ("own", RelativisticAverage),
]  # fmt: skip


def task(discriminator, adversarial):
    torch.manual_seed(0)
    loss = GANLoss(adversarial=adversarial(), pixel=nn.L1Loss(), weights={"pixel": 0.1, "adversarial": 1.0})
    return GANTask(
        model=RRDBNet(scale=2, channels=4, growth=2, blocks=1), discriminator=DISCRIMINATORS[discriminator](), loss=loss,
        rate=1e-3, curve=Constant(), optimizer=torch.optim.Adam,
    )  # fmt: skip


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    sides = {"lr": 16, "hr": 32}
    return [
        {k: torch.rand(2, 3, side, side, generator=generator) for k, side in sides.items()}
        | {"key": [f"{step}/{i}" for i in range(2)], "scale": 2}
        for step in range(steps)
    ]


class Endless(torch.utils.data.IterableDataset):
    """Batches without a length, so that Lightning's epochs play no part."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield from self.data


def fit(module, data, steps, **options):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=-1,
        enable_model_summary=False, max_steps=steps, precision="32-true",
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(Endless(data), batch_size=None), weights_only=False, **options)
    return trainer


@pytest.mark.parametrize(("discriminator", "adversarial"), PAIRS)
def test_a_continued_training_is_the_undisturbed_one_bit_for_bit(discriminator, adversarial, tmp_path):
    data = batches(4)
    whole = task(discriminator, adversarial)
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    fit(whole, data, 4)
    still = [k for k, v in whole.state_dict().items() if torch.equal(v, before[k]) and not k.endswith(".bias")]
    assert still == []  # weights of G, its EMA and D, and D's buffers
    fit(task(discriminator, adversarial), data[:2], 2).save_checkpoint(tmp_path / "two.ckpt")
    second = task(discriminator, adversarial)
    resumed = fit(second, data[2:], 4, ckpt_path=tmp_path / "two.ckpt")
    assert resumed.global_step == 4
    assert [k for k, v in whole.state_dict().items() if not torch.equal(v, second.state_dict()[k])] == []


def test_micro_batches_of_a_discriminator_without_counted_calls_are_one_batch():
    """The mean over pixels of a batch is the mean of the means of its halves."""
    torch.manual_seed(0)
    network = PatchDiscriminator(channels=2, norm="instance").double()
    real, fake = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64)
    for loss in (StandardGAN(), LeastSquares(), Hinge(), Wasserstein()):
        whole = torch.autograd.grad(loss.discriminator(network(real), network(fake)), [*network.parameters()])
        halves = sum(
            loss.discriminator(network(real[part]), network(fake[part])) / 2 for part in (slice(2), slice(2, 4))
        )
        for a, b in zip(whole, torch.autograd.grad(halves, [*network.parameters()]), strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)

"""A batch with a sharpened target: content terms compare with it, the discriminator sees HR."""

from typing import Any

import pytest
import torch
from torch import nn

from sr_train.losses.adversarial import StandardGAN
from sr_train.losses.gan import GANLoss
from sr_train.tasks.curves import Constant
from sr_train.tasks.gan import GANTask
from sr_train.tasks.pixel import PixelTask


class Seen(nn.Module):
    """Identity that keeps what it gets."""

    def __init__(self):
        super().__init__()
        self.images = []
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        self.images.append(image.detach().clone())
        return self.layer(image).mean((1, 2, 3))[:, None]


def batch(**more) -> Any:
    torch.manual_seed(1)
    image = {name: torch.rand(2, 3, 8, 8) for name in ("lr", "hr", "target")}
    return {"key": ["a", "b"], "scale": 1, **{k: v for k, v in image.items() if k != "target" or more}}


def options():
    torch.manual_seed(0)
    return {"model": nn.Conv2d(3, 3, 1), "rate": 1e-3, "curve": Constant(), "optimizer": torch.optim.Adam}


@pytest.mark.parametrize("sharp", [False, True])
def test_a_pixel_loss_compares_with_the_target(sharp):
    task = PixelTask(loss=nn.L1Loss(), **options())
    given = batch(target=True) if sharp else batch()
    wanted = nn.L1Loss()(task.model(given["lr"]), given["target" if sharp else "hr"])
    assert torch.equal(task.training_step(given, 0), wanted)


@pytest.mark.parametrize("sharp", [False, True])
def test_content_terms_of_a_gan_compare_with_the_target_and_d_sees_hr(sharp, monkeypatch):
    d = Seen()
    loss = GANLoss(adversarial=StandardGAN(), pixel=nn.L1Loss(), weights={"pixel": 1.0, "adversarial": 0.0})
    task = GANTask(discriminator=d, loss=loss, **options())
    noted = {}
    monkeypatch.setattr(task, "note", lambda total, **parts: noted.update(parts) or total)
    monkeypatch.setattr(task, "_watch", lambda *_: torch.zeros(()))
    given = batch(target=True) if sharp else batch()
    task.training_step(given, 0)
    sr = task.model(given["lr"])
    assert torch.equal(noted["pixel"], nn.L1Loss()(sr, given["target" if sharp else "hr"]))
    assert any(torch.equal(image, given["hr"]) for image in d.images)
    assert not any("target" in given and torch.equal(image, given["target"]) for image in d.images)

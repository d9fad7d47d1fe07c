import pytest
import torch
from torch import nn

from sr_train.models.msrresnet import MSRResNet
from sr_train.tasks.curves import Constant
from sr_train.tasks.pixel import PixelTask


def test_a_loss_must_be_one_number_with_a_gradient():
    network = MSRResNet(scale=2, channels=4, blocks=1)
    module = PixelTask(
        model=network, loss=nn.L1Loss(), optimizer=torch.optim.Adam, rate=1e-3, curve=Constant(), ema=None
    )
    value = torch.ones((), requires_grad=True)
    assert module.note(value) is value
    with pytest.raises(ValueError, match=r"the loss has the shape \[2\]; expected one number"):
        module.note(torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match="the loss has no gradient; expected one number"):
        module.note(torch.ones(()))

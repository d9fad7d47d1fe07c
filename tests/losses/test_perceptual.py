import pytest
import torch
from torch import nn

from sr_train.losses.perceptual import PerceptualLoss


class Toy(nn.Module):
    """Extractor of two known features, which records if a graph was built."""

    def __init__(self):
        super().__init__()
        self.channels = {"plain": 3, "half": 3}
        self.graphs = []

    def forward(self, image):
        self.graphs.append(torch.is_grad_enabled())
        return {"plain": 2 * image, "half": image[..., ::2, ::2].to(torch.bfloat16)}


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_the_perceptual_loss_is_the_weighted_sum_of_mean_distances(criterion):
    sr, hr = torch.rand(2, 2, 3, 8, 6)
    loss = PerceptualLoss(extractor=Toy(), layers={"plain": 0.5, "half": 3.0}, criterion=criterion)
    a = 2 * (sr - hr)
    b = (sr.bfloat16().float() - hr.bfloat16().float())[:, :, ::2, ::2]
    expected = (
        0.5 * a.abs().mean() + 3 * b.abs().mean() if criterion == "l1" else 0.5 * (a**2).mean() + 3 * (b**2).mean()
    )
    assert loss(sr, hr).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(hr, hr).item() == 0


def test_hrs_features_have_no_graph():
    toy = Toy()
    sr = torch.rand(1, 3, 4, 4, requires_grad=True)
    hr = torch.rand(1, 3, 4, 4, requires_grad=True)
    PerceptualLoss(extractor=toy, layers={"plain": 1.0})(sr, hr).backward()
    assert toy.graphs == [False, True]
    assert hr.grad is None
    assert sr.grad is not None
    torch.testing.assert_close(sr.grad, 2 * torch.sign(sr.detach() - hr.detach()) / 48)


def test_layers_and_criteria_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="the extractor gives plain, half"):
        PerceptualLoss(extractor=Toy(), layers={"conv9": 1.0})
    with pytest.raises(ValueError, match="name layers among these"):
        PerceptualLoss(extractor=Toy(), layers={})
    with pytest.raises(ValueError, match="neither l1 nor l2"):
        PerceptualLoss(extractor=Toy(), layers={"plain": 1.0}, criterion="cosine")  # pyright: ignore[reportArgumentType]

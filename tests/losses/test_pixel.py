import pytest
import torch

from sr_train.losses.pixel import CharbonnierLoss


def test_charbonnier_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 5, 4, generator=generator)
    distance = ((a - b) ** 2 + 1e-6) ** 0.5
    assert CharbonnierLoss()(a, b).item() == pytest.approx(distance.mean().item(), rel=1e-6)


def test_the_summed_form_is_averaged_over_the_batch():
    a, b = torch.rand(2, 4, 3, 5, 5)
    loss = CharbonnierLoss(reduction="sum")
    single = torch.stack([loss(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert loss(a, b).item() == pytest.approx(single.mean().item(), rel=1e-6)
    assert loss(a, b).item() == pytest.approx(75 * CharbonnierLoss()(a, b).item(), rel=1e-5)


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match="expected mean or sum"):
        CharbonnierLoss(reduction="none")  # pyright: ignore[reportArgumentType]

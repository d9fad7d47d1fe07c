"""Muon against torch's Muon and Adam, its state in checkpoints, and its parameters."""

import copy

import pytest
import torch
from torch import nn

from sr_train.tasks.muon import Muon, orthogonalize


def test_singular_values_become_equal_and_directions_stay():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        matrices = torch.randn(3, *shape, dtype=torch.float64)
        found = orthogonalize(matrices)
        values = torch.linalg.svdvals(found)
        assert (values > 0.65).all()
        assert (values < 1.25).all()
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        exact = u @ v  # the nearest matrix with orthogonal rows or columns
        assert ((found * exact).sum((-2, -1)) / (found.norm(dim=(-2, -1)) * exact.norm(dim=(-2, -1))) > 0.98).all()
    assert not orthogonalize(torch.zeros(1, 4, 9)).any()
    if hasattr(torch.optim, "Muon"):
        theirs = torch.optim._muon._zeropower_via_newtonschulz(matrices[0].float(), (3.4445, -4.775, 2.0315), 5, 1e-7)
        assert (theirs - found[0]).norm() < 0.1 * theirs.norm()  # it computes in bfloat16


def _train(network, optimizer, x):
    for batch in x:
        optimizer.zero_grad()
        network(batch).square().mean().backward()
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 brings torch.optim.Muon")
@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_a_matrix_moves_as_with_torchs_muon(shape, monkeypatch):
    def whole(gradient, coefficients, steps, eps):  # torch's own version is in bfloat16, 5 % off
        return orthogonalize(gradient[None], steps)[0]

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", whole)
    torch.manual_seed(0)
    ours = nn.Linear(*shape, bias=False)
    theirs, start = copy.deepcopy(ours), ours.weight.detach().clone()
    x = torch.randn(5, 7, shape[0])
    _train(ours, Muon(ours.parameters(), lr=0.02, weight_decay=0.1), x)
    _train(theirs, torch.optim.Muon(theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="original"), x)
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert (theirs.weight - start).norm() > 0.1


def test_the_others_and_a_group_without_muon_move_as_with_adam():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3))  # first and last convolution, and biases
    theirs = copy.deepcopy(ours)
    x = torch.randn(4, 2, 3, 9, 9)
    _train(ours, Muon(ours.parameters(), lr=0.02, adam_scale=0.05), x)
    _train(theirs, torch.optim.Adam(theirs.parameters(), lr=1e-3), x)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    hidden = nn.Conv2d(8, 8, 3)
    adam = copy.deepcopy(hidden)
    x = torch.randn(4, 2, 8, 9, 9)
    _train(hidden, Muon([{"params": hidden.parameters(), "muon": False, "adam_scale": 1.0}], lr=1e-3), x)
    _train(adam, torch.optim.AdamW(adam.parameters(), lr=1e-3, weight_decay=0.0), x)
    torch.testing.assert_close(hidden.weight, adam.weight)


def test_a_kernel_is_a_matrix_of_outputs_and_only_hidden_kernels_use_muon():
    torch.manual_seed(0)
    kernel = nn.Conv2d(8, 16, 3, bias=False)
    matrix = nn.Linear(72, 16, bias=False)
    matrix.weight.data = kernel.weight.data.flatten(1).clone()
    gradient = torch.randn(16, 8, 3, 3)
    kernel.weight.grad, matrix.weight.grad = gradient, gradient.flatten(1).clone()
    for layer in (kernel, matrix):
        Muon(layer.parameters(), lr=0.02).step()
    assert torch.equal(kernel.weight.flatten(1), matrix.weight)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 3))
    network(torch.randn(1, 3, 9, 9)).mean().backward()
    optimizer = Muon(network.parameters())
    optimizer.step()
    squares = {n: optimizer.state[p]["exp_avg_sq"].numel() for n, p in network.named_parameters()}
    assert [n for n, count in squares.items() if count == 0] == ["1.weight"]


def test_a_restored_state_continues_bit_for_bit():
    torch.manual_seed(0)
    x = torch.randn(6, 2, 8, 9, 9)
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    whole = copy.deepcopy(network)
    _train(whole, Muon(whole.parameters()), x)
    first = Muon(network.parameters())
    _train(network, first, x[:3])
    second = Muon(network.parameters(), lr=5.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _train(network, second, x[3:])
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize(
    "wrong", [{"momentum": 1.0}, {"betas": (0.9, 1.5)}, {"lr": -1.0}, {"adam_scale": float("nan")}]
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a number from 0 on"):
        Muon([nn.Parameter(torch.zeros(1))], **wrong)

"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") for convolutional networks.

Muon replaces the momentum of a weight matrix by the nearest matrix with orthogonal rows or columns, so that all directions of
a layer learn equally fast. Small SR networks reach a given PSNR in a fraction of Adam's steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration that its authors give

_IMAGE_CHANNELS = 4  # kernels with so few inputs or outputs are the first and last convolutions, on images


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return matrices whose singular values are all near 1: [n, rows, columns] -> the same shape.

    The singular vectors of each matrix are kept. This is the Newton-Schulz iteration of Muon's authors, with a polynomial
    of degree 5: after five steps, singular values lie between 0.7 and 1.2 unless they were tiny. A matrix of zeros stays zero.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.transpose(-2, -1) if tall else matrices
    x = x / (x.square().sum((-2, -1), keepdim=True).sqrt() + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(-2, -1) if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of hidden convolutions and linear layers, Adam for all other parameters.

    Adam updates biases, other vectors, and kernels with at most four input or output channels, which are the first and last
    convolutions on images. A kernel [outputs, inputs, height, width] is the matrix [outputs, inputs * height * width]. Its
    step is ``lr * sqrt(max(1, rows / columns))`` times the orthogonalized momentum.

    Args:
        params: parameters, or parameter groups with options of their own. A group with ``muon=False`` is updated by Adam
            alone.
        lr: learning rate of Muon, e.g. 0.02; Adam's is ``lr * adam_scale``.
        momentum: decay of the running mean of gradients, with Nesterov's look-ahead.
        betas: decays of Adam's running means of gradients and squares.
        eps: Adam's term for numerical stability.
        weight_decay: decoupled weight decay; a step multiplies weights by 1 - rate * weight_decay.
        adam_scale: factor from ``lr`` to Adam's learning rate. A group with ``muon=False`` needs 1 if ``lr`` is its own rate.
        muon: false to update a group by Adam alone.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_scale: float = 0.05,
        muon: bool = True,
    ) -> None:
        for name, value, low, high in (
            ("lr", lr, 0.0, float("inf")), ("momentum", momentum, 0.0, 1.0), ("betas[0]", betas[0], 0.0, 1.0),
            ("betas[1]", betas[1], 0.0, 1.0), ("eps", eps, 0.0, float("inf")), ("adam_scale", adam_scale, 0.0, float("inf")),
            ("weight_decay", weight_decay, 0.0, float("inf")),
        ):  # fmt: skip
            if not low <= value < high:
                raise ValueError(f"{name}={value}: expected a number from {low:g} on, less than {high:g}")
        options = {
            "lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "adam_scale": adam_scale, "muon": muon,
        }  # fmt: skip
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have gradients. Return the value of ``closure``, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for parameter in trained:
                self._begin(parameter, group)
            kernels = [p for p in trained if _is_kernel(p, group)]
            self._muon(kernels, group)
            self._adam([p for p in trained if not _is_kernel(p, group)], group)
        return loss

    def _begin(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        """Create the state of a parameter at its first step.

        All parameters have the same names of state, because checkpoints are compared by these names. ``exp_avg_sq`` of a
        kernel that Muon updates is empty.
        """
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = (
                parameter.new_empty(0) if _is_kernel(parameter, group) else torch.zeros_like(parameter)
            )
        state["step"] += 1

    def _muon(self, kernels: list[torch.Tensor], group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for kernel in kernels:  # kernels of one shape are orthogonalized together
            shapes.setdefault(kernel.shape, []).append(kernel)
        for same in shapes.values():
            momenta = [self.state[p]["exp_avg"] for p in same]
            updates: list[torch.Tensor] = []
            for parameter, mean in zip(same, momenta, strict=True):
                gradient: torch.Tensor = parameter.grad  # pyright: ignore[reportAssignmentType]
                mean.lerp_(gradient, 1 - group["momentum"])
                updates.append(gradient.lerp(mean, group["momentum"]).flatten(1))
            found = orthogonalize(torch.stack(updates))
            rate = group["lr"] * max(1.0, found.shape[-2] / found.shape[-1]) ** 0.5
            for parameter, update in zip(same, found, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(parameter.shape), alpha=-rate)

    def _adam(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        rate = group["lr"] * group["adam_scale"]
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            state["exp_avg"].lerp_(gradient, 1 - first)
            state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
            steps = float(state["step"])  # on the host
            scale = (state["exp_avg_sq"] / (1 - second**steps)).sqrt_().add_(group["eps"])
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.addcdiv_(state["exp_avg"], scale, value=-rate / (1 - first**steps))


def _is_kernel(parameter: torch.Tensor, group: dict[str, Any]) -> bool:
    """Return true if Muon updates the parameter, false if Adam does."""
    return group["muon"] and parameter.ndim >= 2 and min(parameter.shape[:2]) > _IMAGE_CHANNELS

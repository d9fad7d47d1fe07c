"""Networks of a few tensors, each with one thing that a weights file, the EMA or training may not expect."""

import enum

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm


class Kind(enum.IntEnum):
    ONE = 1


class Plain(nn.Module):
    multiple_of = 1

    def __init__(self, *, scale: int, channels: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Conv2d(3, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.last(F.relu(self.body(lr))), self.scale)


class Detached(Plain):
    """A forward pass that no gradient comes back from."""

    @torch.no_grad()
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return super().forward(lr)


class Twice(Plain):
    """One module under two names, and a buffer that is part of another's memory."""

    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.again = self.body
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[:3])


class Mapping(Plain):
    def __init__(self, *, scale: int, options: dict[str, object]) -> None:
        super().__init__(scale=scale, channels=int(options["sizes"][0]))  # pyright: ignore[reportIndexIssue]


class Defaults(Plain):
    """Defaults that no file can hold, and a constructor that reads the values of tensors."""

    def __init__(self, *, scale: int, kernel=(3, 3), act=nn.ReLU, kind=Kind.ONE) -> None:
        super().__init__(scale=scale)
        assert isinstance(kernel, tuple)
        assert isinstance(kind, Kind)
        self.rates = [r.item() for r in torch.linspace(0, 0.1, 3)]


class NewNorm(Plain):
    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.body = parametrizations.weight_norm(self.body)


class OldNorm(Plain):
    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.body = weight_norm(self.body)


class OtherSize(Plain):
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return super().forward(lr)[..., ::2, ::2]


class Pair(Plain):
    def forward(self, lr: torch.Tensor):
        return super().forward(lr), lr


class Spare(Plain):
    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.spare = nn.Conv2d(3, 3, 1)


class RandomBuffer(Plain):
    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.register_buffer("noise", torch.randn(1), persistent=False)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return super().forward(lr) + self.noise


class Infinite(Plain):
    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.register_buffer("mask", torch.full((2,), float("-inf")))


class Complex(Plain):
    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        self.register_buffer("spectrum", torch.zeros(2, dtype=torch.complex128))


class Failing(Plain):
    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return super().forward(lr)[0, 0, 10**6]


class Locked(Plain):
    """A network that cannot be copied."""

    def __init__(self, *, scale: int) -> None:
        super().__init__(scale=scale)
        import threading

        self.lock = threading.Lock()


class Unstated(Plain):
    multiple_of = None


class Scales(nn.Module):
    """Branches of several scales, the second of another size."""

    multiple_of = 1

    def __init__(self, *, scales: list[int], wrong: bool = False) -> None:
        super().__init__()
        self.scales, self.wrong = scales, wrong
        self.branches = nn.ModuleDict({str(s): Plain(scale=s) for s in scales})

    def forward(self, lr: torch.Tensor, scale: int) -> torch.Tensor:
        return self.branches[str(2 if self.wrong else scale)](lr)

    def at(self, scale: int) -> nn.Module:
        return self.branches[str(scale)]


def make(*, scale: int) -> Plain:
    return Plain(scale=scale)

"""Contract of a network: required and optional members of its class, and the only functions that read these members.

A network is an ``nn.Module`` with the members of :class:`Upscaler` or :class:`MultiScale`. The other Protocols are
optional. Members may be attributes of the instance or of the class. Each function in this module reads one member and
defines the default of this member.

:mod:`sr_train.batch` explains the letters in shapes. Pixels are in [0, 1]. Outputs are float32 or autocast's type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

if TYPE_CHECKING:  # commands import this file for --help, which must not load torch
    import torch
    from torch import nn

    from sr_train.models import bicubic, edsr, edvr, layers, mdsr, msrresnet, rrdbnet, srresnet

Levels = Mapping[
    str, "torch.Tensor"
]  #: maps of features by name: [N, c, h', w'] for frames, [B, T, c, h', w'] for windows


class Upscaler(Protocol):
    """Protocol of a network for one scale."""

    scale: int  #: HR pixels per LR pixel along a side, 1 to 16
    multiple_of: int  #: h and w of every input must be multiples of this; the caller pads inputs and crops outputs

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale images [B, C, h, w], or for :class:`Windowed` windows [B, T, C, h, w] -> [B, C, H, W], not clamped."""
        ...


class MultiScale(Protocol):
    """Protocol of a network with one branch for each scale, for ``task=multiscale``.

    A network with a single branch also has an attribute ``scale``.
    """

    multiple_of: int  #: h and w of every input must be multiples of this, for all branches

    @property
    def scales(self) -> Sequence[int]:
        """Scales of the branches, from 1 to 16, each once."""
        ...

    def forward(self, lr: torch.Tensor, scale: int) -> torch.Tensor:
        """Upscale with one branch: [B, C, h, w] -> [B, C, scale * h, scale * w], not clamped.

        The parameters of other branches get no gradient.
        """
        ...

    def at(self, scale: int) -> nn.Module:
        """Return one branch as an :class:`Upscaler`. It shares its weights with this network."""
        ...


class Windowed(Upscaler, Protocol):
    """Protocol of a video network, which takes windows [B, T, C, h, w] and restores the center frame of each window."""

    frames: int  #: T, odd


@runtime_checkable
class PerFrame(Windowed, Protocol):
    """Protocol of a video network that computes features of a frame without the other frames of the window.

    So the features of a frame are computed once and used in all windows that contain the frame. ``forward(lr)`` must
    equal ``fuse(stacked features of all frames, lr[:, center])``.
    """

    center: int  #: index of the restored frame in its window: frames // 2

    def features(self, frames: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Compute features of N single frames [N, C, h, w]. Return {name: feature maps [N, c, h', w']}.

        Map number n may depend only on frame number n.
        """
        ...

    def fuse(self, levels: Levels, center: torch.Tensor) -> torch.Tensor:
        """Upscale the center frames of B windows -> [B, C, H, W].

        ``levels`` is {name: feature maps of all frames [B, T, c, h', w']}. ``center`` contains the center frames [B, C,
        h, w].
        """
        ...


class JoinsFrames(Windowed, Protocol):
    """Protocol of a video network whose initial weights can come from a network with fewer frames (``init.grow=[frames]``)."""

    @property
    def joins_frames(self) -> Sequence[str]:
        """Names of the convolutions whose input channels are the features of all frames, in the order of frames."""
        ...


class Colored(Protocol):
    """A network for images of another number of channels C than 3. Its constructor has an argument of the same name.

    A network without this member takes RGB images.
    """

    image_channels: int  #: C: 3 for RGB, 1 for gray


class Recolorable(Colored, Protocol):
    """A network that a warm start can initialize from one for gray images if it takes RGB images, and vice versa."""

    @property
    def image_convs(self) -> tuple[Sequence[str], Sequence[str]]:
        """Names of the convolutions whose input is the image, and of those whose output is the image.

        Their image channels may be folded: channel c is then the c-th group of equally many channels, as in
        ``pixel_shuffle``.
        """
        ...


class Shifted(Recolorable, Protocol):
    """A :class:`Recolorable` network that subtracts numbers from the image and adds them to the output."""

    @staticmethod
    def image_shift(channels: int) -> Sequence[float]:
        """Return these numbers for images of ``channels`` channels, in the range of the convolutions."""
        ...


class Unbounded(Protocol):
    """Protocol of a network in which an output pixel may depend on every input pixel, e.g. by deformable convolutions.

    In inference with tiles, adjacent tiles of such a network are blended.
    """

    reaches_anywhere: bool  #: True; if the attribute is missing, the receptive field is measured


@runtime_checkable
class Watched(Protocol):
    """Protocol of a network that reports numbers and problems during training."""

    def numbers(self) -> dict[str, torch.Tensor]:
        """Return {name: scalar} for the logs, computed in the newest training step. The scalars stay on the device."""
        ...

    def alarm(self) -> str | None:
        """Return a warning with remedies if training goes wrong, else ``None``.

        The method is called from time to time and may wait for the device. The warning is printed once in a run.
        """
        ...


class Recomputable(Protocol):
    """Protocol of a block whose class has the attribute ``checkpoint_unit = True``.

    With ``task.recompute=true``, only the block's input is kept in memory. The backward pass computes the block's other
    values again.
    """

    checkpoint_unit: bool  #: True


class Growable(Protocol):
    """Protocol of a residual block whose class has the attribute ``residual_end``.

    ``init.grow`` can add new blocks of this class to an ``nn.Sequential`` of such blocks.
    """

    residual_end: str  #: name of the block's layer that makes the block an identity if its weight and bias are zero


def _integer(network: nn.Module, name: str, where: str) -> int:
    found = getattr(network, name, None)
    if not isinstance(found, int):
        raise ValueError(f"{where} needs an attribute {name} that is an integer; see docs/extending.md")
    return found


def check(network: nn.Module, where: str) -> None:
    """Raise ValueError unless a network has all required members. Messages start with ``where``."""
    for name in ("multiple_of",) if branches(network) else ("scale", "multiple_of"):
        _integer(network, name, where)
    if branches(network) and not callable(getattr(network, "at", None)):
        raise ValueError(
            f"{where} has scales and needs a method at(scale) that returns one branch; see sr_train/models/mdsr.py"
        )


def scale(network: nn.Module) -> int:
    """Return the scale of a network with one scale. Raises ValueError for a network with several scales."""
    return _integer(network, "scale", type(network).__name__)


def branches(network: nn.Module) -> tuple[int, ...]:
    """Return the scales of a :class:`MultiScale` network; an empty tuple for other networks."""
    return tuple(getattr(network, "scales", ()))


def scales(network: nn.Module) -> tuple[int, ...]:
    """Return all scales of a network. Raises ValueError if the network has no attribute ``scale`` or ``scales``."""
    return branches(network) or (scale(network),)


def branch(network: nn.Module, scale: int) -> nn.Module:
    """Return the branch for ``scale`` of a :class:`MultiScale` network. Another network is returned unchanged."""
    return cast("MultiScale", network).at(scale) if branches(network) else network


def multiple_of(network: nn.Module) -> int:
    """Return the number of which height and width of inputs must be multiples.

    Return 1 for a network without the attribute ``multiple_of``; :func:`check` refuses such a network.
    """
    found = getattr(network, "multiple_of", 1)
    return found if isinstance(found, int) else 1


def frames(network: nn.Module) -> int | None:
    """Return the number of frames in a video network's window; ``None`` for networks that take images."""
    return getattr(network, "frames", None)


def input_shape(network: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Return the shape of one input: (1, C, height, width), or (1, T, C, height, width) for a video network."""
    count = frames(network)
    return (1, *(() if count is None else (count,)), channels(network), height, width)


def channels(network: nn.Module) -> int:
    """Return the number of channels of a network's images; 3 if it does not state one."""
    found = getattr(network, "image_channels", 3)
    return found if isinstance(found, int) else 3


def image_convs(network: nn.Module) -> tuple[Sequence[str], Sequence[str]] | None:
    """Return the convolutions of a :class:`Recolorable` network that take and give images; ``None`` for others."""
    return getattr(network, "image_convs", None)


def image_shift(network: nn.Module, channels: int) -> Sequence[float]:
    """Return the shift of a :class:`Shifted` network for images of ``channels`` channels; zeros for others."""
    shift = getattr(network, "image_shift", None)
    return [0.0] * channels if shift is None else shift(channels)


def per_frame(network: nn.Module) -> PerFrame | None:
    """Return the network if it is :class:`PerFrame`, else ``None``."""
    return network if isinstance(network, PerFrame) else None


def joins_frames(network: nn.Module) -> Sequence[str]:
    """Return the names of the convolutions whose input is the features of all frames.

    The result is empty for a network that is not :class:`JoinsFrames`.
    """
    return getattr(network, "joins_frames", ())


def reaches_anywhere(network: nn.Module) -> bool:
    """Return true for an :class:`Unbounded` network, in which an output pixel may depend on every input pixel."""
    return bool(getattr(network, "reaches_anywhere", False))


def checkpoint_units(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of a network that are :class:`Recomputable`."""
    return [module for module in network.modules() if getattr(module, "checkpoint_unit", False)]


def residual_end(block: nn.Module) -> str | None:
    """Return the name of the last layer of a :class:`Growable` block; ``None`` for other modules."""
    return getattr(block, "residual_end", None)


if TYPE_CHECKING:  # pyright compares the project's networks with the Protocols
    images: tuple[type[Upscaler], ...] = (
        bicubic.Bicubic, edsr.EDSR, mdsr.Branch, msrresnet.MSRResNet, rrdbnet.RRDBNet, srresnet.SRResNet
    )  # fmt: skip
    several: type[MultiScale] = mdsr.MDSR
    colored: tuple[type[Colored], ...] = (bicubic.Bicubic, mdsr.Branch)
    recolorable: tuple[type[Recolorable], ...] = (edvr.EDVR, msrresnet.MSRResNet, rrdbnet.RRDBNet, srresnet.SRResNet)
    shifted: tuple[type[Shifted], ...] = (edsr.EDSR, mdsr.MDSR)
    windowed: tuple[type[PerFrame], type[JoinsFrames]] = (edvr.EDVR, edvr.EDVR)
    reporting: tuple[type[Unbounded], type[Watched]] = (edvr.EDVR, edvr.EDVR)
    blocks: tuple[type[Growable], ...] = (layers.ResidualBlock, edsr.ResidualBlock, srresnet.ResidualBlock)

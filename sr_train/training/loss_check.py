"""Test of a stage's loss at every start: call it as the task does, on a small batch of random images.

Without this test, an error of a user's loss would be a traceback in the first step, after data and networks were opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sr_train.losses.gan import AdversarialLoss, GANLoss
from sr_train.losses.penalties import Penalty
from sr_train.losses.weighted import Weighted

_BATCH, _SIDE = 2, 32  # images, and their side in pixels if the loss accepts it

_ADVERSARIAL = ("generator", "discriminator", "accuracy")


class _Images:
    """Pairs of random images and logits, equal at every call with the same arguments.

    Args:
        side: side of the images in pixels.
        logits: shape of the discriminator's logits, [B, 1] or [B, 1, h, w]; B is replaced.
    """

    def __init__(self, side: int, logits: tuple[int, ...] = (1, 1)) -> None:
        generator = torch.Generator().manual_seed(0)
        self.hr = torch.rand(_BATCH, 3, side, side, generator=generator)
        self.sr = torch.rand(_BATCH, 3, side, side, generator=generator).requires_grad_()
        self.real = torch.randn(_BATCH, *logits[1:], generator=generator)
        self.fake = torch.randn(_BATCH, *logits[1:], generator=generator).requires_grad_()


def check_pixel_loss(loss: nn.Module, side: int) -> None:
    """Raise ValueError unless a loss, and each term of a weighted one, is (sr, hr) -> a number with a gradient.

    ``side`` is that of the HR patches of training.
    """
    if isinstance(loss, AdversarialLoss) and not _has_forward(loss):
        raise ValueError(
            f"{type(loss).__name__} is a loss for a generator and a discriminator (task=gan); a task with one network needs "
            "e.g. loss=l1"
        )
    terms = loss.terms.items() if isinstance(loss, Weighted) else [("", loss)]
    for name, term in terms:
        where = f"{f'terms.{name}: ' if name else ''}{type(term).__name__}"
        if not _has_forward(term):
            raise ValueError(f"{where} has no method forward(sr, hr); see docs/extending.md")
        _number(lambda images, term=term: term(images.sr, images.hr), where, "(sr, hr)", side)


def check_gan_loss(loss: nn.Module, side: int, logits: tuple[int, ...] = (1, 1)) -> None:
    """Raise ValueError unless a loss for two networks has the methods and results of ``AdversarialLoss``.

    ``logits`` is the shape of the discriminator's logits, [B, 1] or [B, 1, h, w].
    """
    name = type(loss).__name__
    if isinstance(loss, GANLoss):
        _check_parts(loss, side, logits)
    if not isinstance(loss, AdversarialLoss):
        raise ValueError(f"task=gan needs a loss for two networks, not {name}: loss=gan, srgan or esrgan")
    needs_real = loss.needs_real

    def generator(images: _Images) -> Any:
        real = images.real if needs_real else None
        return loss.generator(images.sr, images.hr, real_logits=real, fake_logits=images.fake)

    def discriminator(images: _Images) -> Any:
        return loss.discriminator(images.real.requires_grad_(), images.fake)

    for call, method in ((generator, "generator"), (discriminator, "discriminator")):
        found = _called(call, f"{name}.{method}", "images and logits", side, logits)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
            raise ValueError(f"{name}.{method} returns {_kind(found)}; expected (loss, parts by name)")
        _check_number(found[0], f"{name}.{method}")
    if "accuracy" not in found[1]:
        raise ValueError(f"{name}.discriminator returns no part 'accuracy', which the log and a warning need")


def check_penalty(penalty: Penalty) -> None:
    """Raise ValueError unless a penalty is one number with a gradient for the parameters of a small discriminator."""
    name, images = f"task.penalty: {type(penalty).__name__}", _Images(_SIDE)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 4, 4, generator=generator).requires_grad_()

    def discriminator(image: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(image, weight, stride=4).square().mean((1, 2, 3)).unsqueeze(1)

    try:
        with torch.enable_grad():
            found = penalty(discriminator, images.hr, images.sr.detach(), torch.tensor([0.25, 0.75]))
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        raise ValueError(
            f"{name} fails on (discriminator, real, fake, uniform) with {_BATCH} images: {reason}"
        ) from error
    _check_number(found, name)


def _check_parts(loss: GANLoss, side: int, logits: tuple[int, ...]) -> None:
    """Check the terms of a GANLoss one by one, so that the message names the wrong one."""
    _check_adversarial(loss.adversarial, side, logits)
    for term, module in loss.terms.items():
        where = f"{term}: {type(module).__name__}"
        _number(lambda images, module=module: module(images.sr, images.hr), where, "(sr, hr)", side)


def _check_adversarial(adversarial: Any, side: int, logits: tuple[int, ...]) -> None:
    """Raise ValueError unless an adversarial loss has the methods and results of ``Adversarial``."""
    name = f"adversarial: {type(adversarial).__name__}"
    missing = [m for m in _ADVERSARIAL if not callable(getattr(adversarial, m, None))]
    if missing:
        raise ValueError(f"{name} has no method {missing[0]}(real_logits, fake_logits); see docs/extending.md")
    try:
        real = adversarial.needs_real
    except AttributeError:
        real = None
    if not isinstance(real, bool):
        raise ValueError(f"{name} needs an attribute needs_real, true if G's term needs the logits of HR")
    calls: dict[str, Callable[[_Images], Any]] = {
        "generator": lambda i: adversarial.generator(i.real if real else None, i.fake),
        "discriminator": lambda i: adversarial.discriminator(i.real.requires_grad_(), i.fake),
    }
    for method, call in calls.items():
        _check_number(_called(call, f"{name}.{method}", "logits", side, logits), f"{name}.{method}")
    found = _called(lambda i: adversarial.accuracy(i.real, i.fake), f"{name}.accuracy", "logits", side, logits)
    _check_number(found, f"{name}.accuracy", gradient=False)
    if not 0 <= float(found) <= 1:
        raise ValueError(f"{name}.accuracy returns {float(found):.4g}; expected the share of correct logits, 0 to 1")
    _check_gradients(calls["discriminator"], f"{name}.discriminator", logits)


def _check_gradients(call: Callable[[_Images], Any], where: str, logits: tuple[int, ...]) -> None:
    """Raise ValueError unless a loss of D has gradients for the logits of real and of generated images."""
    images = _Images(_SIDE, logits)
    with torch.enable_grad():
        found = torch.autograd.grad(call(images), [images.real, images.fake], allow_unused=True)
    for kind, gradient in zip(("real", "generated"), found, strict=True):
        if gradient is None:
            raise ValueError(f"{where} does not depend on the logits of {kind} images, so D would not learn from them")


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _number(call: Callable[[_Images], Any], where: str, given: str, side: int) -> None:
    _check_number(_called(call, where, given, side), where)


def _called(call: Callable[[_Images], Any], where: str, given: str, side: int, logits: tuple[int, ...] = (1, 1)) -> Any:
    """Return the result for small images, or for those of training if the loss does not accept small ones."""
    for tried in (min(_SIDE, side), side):
        try:
            with torch.enable_grad():
                return call(_Images(tried, logits))
        except MemoryError:
            raise
        except Exception as error:
            if tried != side:
                continue
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
            what = f"{given} of {_BATCH} images of {side}x{side} pixels"
            if given == "logits":
                what = f"logits {[_BATCH, *logits[1:]]}"
            raise ValueError(f"{where} fails on {what}: {reason}") from error
    raise AssertionError


def _check_number(found: Any, where: str, *, gradient: bool = True) -> None:
    if not isinstance(found, torch.Tensor) or found.ndim:
        raise ValueError(f"{where} returns {_kind(found)}; expected one number, the mean over the batch")
    if gradient and not found.requires_grad:
        raise ValueError(f"{where} returns a number without a gradient; remove torch.no_grad() or detach()")
    if not torch.isfinite(found):
        raise ValueError(f"{where} returns {float(found.detach())} for images in [0, 1]")


def _kind(found: Any) -> str:
    return f"a tensor {list(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"

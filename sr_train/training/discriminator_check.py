"""Check that a discriminator has the size of its stage's HR patches. If not, find config values with which it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sr_train.config.build import build
from sr_train.config.compose import compose_config
from sr_train.config.folders import options_of
from sr_train.console import UsageError
from sr_train.models import contract

_SIDES = range(16, 513, 16)  # sides of HR patches; every discriminator accepts at least one of them


def check_discriminator(name: str, config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of the logits of a micro-batch, [B, 1] or [B, 1, h, w]; None if it cannot be found without running.

    Raise UsageError if the discriminator does not accept the HR patches of the stage. The message contains config values
    that fit.
    """
    spec, scale, patch = config["task"]["discriminator"], int(config["scale"]), int(config["data"]["lr_patch"])
    side, size = scale * patch, spec.get("size")
    wrong = f"task.discriminator.size={size}, but HR patches have {side} px (scale {scale} x data.lr_patch {patch})"
    if not isinstance(size, int) or size == side or not any(_fits(spec, s) for s in (size, *_SIDES)):
        try:
            network = _outline(spec)
        except ValueError as error:
            wrong = str(error)
        else:
            return _try_on_meta(name, config, network, side)
    if not isinstance(size, int) or not any(_fits(spec, s) for s in (size, *_SIDES)):
        raise UsageError(f"stage {name}: {wrong}")  # wrong at every size
    prefix = "" if name == "main" else f"{name}."
    typed = [" ".join(f"{prefix}{k}={v}" for k, v in r.items()) for r in remedies(config)]
    raise UsageError(f"stage {name}: {wrong}: give {' or '.join(typed) or 'another scale'}")


def _try_on_meta(name: str, config: Mapping[str, Any], network: nn.Module, side: int) -> tuple[int, ...] | None:
    """Run a discriminator on a micro-batch without memory, and return the shape of its logits.

    Raise UsageError if it fails or returns no logits.
    """
    batch = max(1, int(config["data"]["batch"]) // int(config["trainer"].get("accumulate_grad_batches") or 1))
    images = torch.empty((batch, int(config.get("channels") or 3), side, side), device="meta")
    kind = type(network).__name__
    try:
        logits = network.train()(images)
    except NotImplementedError:  # an operator without a version for meta tensors
        return None
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        hint = ""
        if "more than 1 value per channel" in reason:
            reason = "its BatchNorm has one value per channel in a micro-batch of 1 image, and so no variance"
            hint = ": give data.batch=2 or more, or larger patches (data.lr_patch, task.discriminator.size)"
        elif (patch := _accepted(config, network, batch)) is not None:
            hint = f": give {'' if name == 'main' else f'{name}.'}data.lr_patch={patch}"
        raise UsageError(
            f"stage {name}: discriminator: {kind} fails on {batch} x {side}x{side} px: {reason}{hint}"
        ) from None
    shape: Any = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(logits, torch.Tensor) or logits.ndim not in (2, 4) or list(logits.shape[:2]) != [batch, 1]:
        raise UsageError(
            f"stage {name}: discriminator: {kind} returns {shape} for {batch} images; expected logits [{batch}, 1] "
            f"or [{batch}, 1, h, w]"
        )
    return tuple(logits.shape)


def _accepted(config: Mapping[str, Any], network: nn.Module, batch: int) -> int | None:
    """Return the nearest ``data.lr_patch`` whose HR patches a discriminator accepts; None if there is none up to 256."""
    scale, patch = int(config["scale"]), int(config["data"]["lr_patch"])
    multiple = contract.multiple_of(_outline(config["model"]))
    for tried in sorted(range(multiple, 257, multiple), key=lambda p: abs(p - patch)):
        side = scale * tried
        try:
            network(torch.empty((batch, int(config.get("channels") or 3), side, side), device="meta"))
        except (ValueError, TypeError, RuntimeError):
            continue
        return tried
    return None


def _outline(spec: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return build(spec)


def _fits(spec: Mapping[str, Any], side: int) -> bool:
    try:
        _outline({**spec, "size": side})
    except (ValueError, TypeError):
        return False
    return True


def remedies(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return remedies for a discriminator whose size differs from the HR patches. A remedy is {config key: new value}.

    A remedy changes the patch size (data.lr_patch) or the discriminator's size (task.discriminator.size). If the
    discriminator's class cannot have the needed size, the remedy also chooses another discriminator.
    """
    spec, scale, patch = config["task"]["discriminator"], int(config["scale"]), int(config["data"]["lr_patch"])
    try:
        multiple = contract.multiple_of(_outline(config["model"]))
    except ValueError as error:
        raise UsageError(str(error)) from None
    sizes = [scale * p for p in sorted(range(multiple, 257, multiple), key=lambda p: abs(p - patch))]  # nearest first
    size = next((s for s in ([int(spec["size"])] if spec["size"] in sizes else []) + sizes if _fits(spec, s)), None)
    found: list[dict[str, Any]] = []
    if size is not None and size != scale * patch:
        found.append({"data.lr_patch": size // scale})
        found[0] |= {} if size == spec["size"] else {"task.discriminator.size": size}
    if _fits(spec, scale * patch):
        return [*found, {"task.discriminator.size": scale * patch}]
    for option, other in _discriminators().items():
        size = next((s for s in sizes if _fits(other, s)), None)
        if other["_target_"] != spec["_target_"] and size is not None and (size == scale * patch or not found):
            same = {} if size == scale * patch else {"data.lr_patch": size // scale}
            found.append({**same, "discriminator": option, "task.discriminator.size": size})
    return found


def _discriminators() -> dict[str, dict[str, Any]]:
    """Return {option of ``discriminator=``: config} for all discriminators that have a fixed size."""
    found = {}
    for option in options_of("discriminator"):
        node = compose_config("train", ["task=gan", f"discriminator@task.discriminator={option}"]).task.discriminator
        if "size" in node:
            found[option] = {str(key): value for key, value in node.items()}
    return found

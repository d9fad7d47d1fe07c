"""Key formats of discriminators: BasicSR's, which we use too. They are no networks that upscale."""

from __future__ import annotations

from typing import Any

from sr_train.weights.foreign.base import KeyFormat, Shapes, stated

_SIDES = {3: 32, 4: 64, 5: 128, 6: 256}  # stages -> pixels; BasicSR has 128 and 256


def infer_vgg(shapes: Shapes, _: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of a VGGStyleDiscriminator; None for other shapes."""
    first, linear = shapes.get("conv0_0.weight", ()), shapes.get("linear1.weight", ())
    stages = sum(f"conv{i}_1.weight" in shapes for i in range(max(_SIDES)))
    if len(first) != 4 or first[1:] != (3, 3, 3) or stages not in _SIDES or "linear2.weight" not in shapes:
        return None
    outputs = first[0] * min(2 ** (stages - 1), 8) * 16
    if len(linear) != 2 or linear[1] != outputs:
        return None
    model = {"size": _SIDES[stages], "channels": first[0]}
    return {"_target_": "sr_train.models.discriminators.VGGStyleDiscriminator", **model}


def infer_unet(shapes: Shapes, _: int | None = None) -> dict[str, Any] | None:
    """Return the arguments of a UNetDiscriminatorSN (Real-ESRGAN); None for other shapes.

    Spectral normalization keeps each weight as ``weight_orig``, ``weight_u`` and ``weight_v``. The shapes do not show
    ``skip_connection``, so its default is assumed.
    """
    first, last = shapes.get("conv0.weight", ()), shapes.get("conv9.weight", ())
    if len(first) != 4 or len(last) != 4 or any(f"conv{i}.weight_orig" not in shapes for i in range(1, 9)):
        return None
    channels = {"channels": first[0], **stated(first[1])}
    return {"_target_": "sr_train.models.discriminators.UNetDiscriminatorSN", **channels}


KEY_FORMATS = (
    KeyFormat(name="BasicSR's VGGStyleDiscriminator", match=infer_vgg),
    KeyFormat(name="BasicSR's UNetDiscriminatorSN", match=infer_unet, assumed="skip_connection true"),
)

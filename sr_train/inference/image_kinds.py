"""Images of NumPy, Pillow and torch as arrays [H, W, C], and results as images of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

ImageT = TypeVar("ImageT")

Array = np.ndarray[Any, Any]

_EXPECTED = (
    "expected a NumPy array [H, W, C] or [H, W], an image of Pillow, or a tensor [C, H, W] or [B, C, H, W]; "
    "C = 1, 3 (RGB) or 4 (RGBA)"
)

_MODES = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "LA": "RGBA", "La": "RGBA", "RGBa": "RGBA", "PA": "RGBA", "1": "L"}


@dataclass(frozen=True)
class Kind(Generic[ImageT]):
    """Images as arrays, and the function that makes an image of the caller's kind from results.

    Args:
        images: arrays [H, W, C], uint8, uint16 or float32 in [0, 1]; more than one for a batch.
        restore: function from results of the types of ``images`` to the caller's kind.
    """

    images: Sequence[Array]
    restore: Callable[[Sequence[Array]], ImageT]

    def stored(self, image: Array) -> Array:
        """Convert [H, W, 3] in [0, 1] to the type of the images, rounded half up."""
        dtype = self.images[0].dtype
        if dtype == np.float32:
            return image.astype(np.float32)
        return np.floor(image.astype(np.float64) * np.iinfo(dtype).max + 0.5).astype(dtype)


def kind_of(image: ImageT, *, colors: bool = False) -> Kind[ImageT]:
    """Return the arrays of an image. With ``colors`` they are RGB: gray is repeated and alpha is dropped.

    Raises TypeError for other objects, and ValueError for other shapes, types and values.
    """
    if isinstance(image, PIL.Image.Image):
        return _of_pillow(image, colors=colors)  # pyright: ignore[reportReturnType]
    if isinstance(image, torch.Tensor):
        return _of_tensor(image, colors=colors)  # pyright: ignore[reportReturnType]
    if isinstance(image, np.ndarray):
        return _of_array(image, colors=colors)  # pyright: ignore[reportReturnType]
    hint = (
        "; open the file first: PIL.Image.open(FILE)" if isinstance(image, str) or hasattr(image, "__fspath__") else ""
    )
    raise TypeError(f"{type(image).__name__} is not an image: {_EXPECTED}{hint}")


def _checked(image: Array, what: str) -> Array:
    """Return [H, W, C] in uint8, uint16 or float32. Raises ValueError for other types, channels and values."""
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or min(image.shape) < 1:
        raise ValueError(f"{what} has the shape {list(image.shape)}; {_EXPECTED}")
    if image.dtype in (np.uint8, np.uint16):
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{what} has the type {image.dtype}; expected uint8, uint16 or floating point in [0, 1]")
    low, high = float(image.min()), float(image.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also false for NaN
        raise ValueError(f"{what} has values from {low:g} to {high:g}; floating-point images must lie in [0, 1]")
    return image.astype(np.float32).clip(0, 1)


def _colored(image: Array, *, colors: bool) -> Array:
    if not colors:
        return image
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _of_array(image: Array, *, colors: bool) -> Kind[Array]:
    flat, dtype = image.ndim == 2, image.dtype
    pixels = _checked(image[..., None] if flat else image, "the array")

    def restore(results: Sequence[Array]) -> Array:
        result = results[0].astype(dtype, copy=False)
        return result[..., 0] if flat and result.shape[2] == 1 else result

    return Kind([_colored(pixels, colors=colors)], restore)


def _of_tensor(image: torch.Tensor, *, colors: bool) -> Kind[torch.Tensor]:
    batch = image if image.ndim == 4 else image[None]
    if batch.ndim != 4 or not len(batch) or batch.shape[1] not in (1, 3, 4):
        hint = "; give tensor.permute(2, 0, 1)" if image.ndim == 3 and image.shape[2] in (1, 3, 4) else ""
        raise ValueError(f"the tensor has the shape {list(image.shape)}; {_EXPECTED}{hint}")
    dtype = image.dtype
    real = batch.detach().cpu()
    real = real.float() if dtype in (torch.bfloat16, torch.float16) else real
    images = [_checked(one.permute(1, 2, 0).numpy(), "the tensor") for one in real]

    def restore(results: Sequence[Array]) -> torch.Tensor:
        stacked = torch.stack([torch.from_numpy(np.ascontiguousarray(r)).permute(2, 0, 1) for r in results])
        stacked = stacked.to(image.device, dtype).contiguous()
        return stacked if image.ndim == 4 else stacked[0]

    return Kind([_colored(one, colors=colors) for one in images], restore)


def _of_pillow(image: PIL.Image.Image, *, colors: bool) -> Kind[PIL.Image.Image]:
    profile = image.info.get("icc_profile")
    mode = image.mode
    upright = PIL.ImageOps.exif_transpose(image)
    if mode in ("I;16", "I;16L", "I;16B"):
        pixels = np.asarray(upright).astype(np.uint16)
    elif mode == "P":
        pixels = np.asarray(upright.convert("RGBA" if "transparency" in image.info else "RGB"))
    elif mode in _MODES:
        pixels = np.asarray(upright.convert(_MODES[mode]))
    elif mode in ("CMYK", "YCbCr"):
        pixels, profile = np.asarray(upright.convert("RGB")), None  # a profile of CMYK does not describe RGB
    else:
        raise ValueError(f"Pillow's mode {mode} is not supported; convert the image first: image.convert('RGB')")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels

    def restore(results: Sequence[Array]) -> PIL.Image.Image:
        result = results[0]
        made = PIL.Image.fromarray(np.ascontiguousarray(result[..., 0] if result.shape[2] == 1 else result))
        made = made.convert("LA") if mode in ("LA", "La") and not colors else made
        if profile is not None:
            made.info["icc_profile"] = profile
        return made

    return Kind([_colored(_checked(pixels, "the image"), colors=colors)], restore)

"""Errors of validation with the name of the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sr_train.data.dataset import EvalImage
from sr_train.devices import memory_is_full
from sr_train.inference.tiling import MemoryFullError


@contextmanager
def naming_the_image(image: EvalImage) -> Iterator[None]:
    """Add an image's name to errors in the ``with`` block, and remedies if the image does not fit into memory."""
    try:
        yield
    except MemoryFullError as error:
        raise ValueError(
            f"validation: {image.set}: {image.key}: {error}; remove the image from the set or split the image"
        ) from None
    except ValueError as error:
        raise ValueError(f"validation: {image.set}: {image.key}: {error}") from None
    except (MemoryError, RuntimeError) as error:
        if not memory_is_full(error):
            raise
        size = "x".join(map(str, image.size[::-1]))
        raise ValueError(
            f"validation: {image.set}: {image.key}: scoring {size} pixels does not fit into memory; remove lpips from "
            "validate.metrics or the image from the set"
        ) from None

"""Build objects from their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate


def build(node: Mapping[str, Any], **given: Any) -> Any:
    """Build the object of a config with Hydra's ``instantiate``. Raise the constructor's error, not Hydra's error."""
    try:
        return instantiate(dict(node), **given, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise ValueError(f"{node.get('_target_')}: {error}") from None

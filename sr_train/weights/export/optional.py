"""Packages that only some targets of an export need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sr_train.console import UsageError


def optional(package: str, needed: str) -> Any:
    """Import a package. Raise UsageError with the text ``needed`` if it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(f"{needed} ({error})") from None

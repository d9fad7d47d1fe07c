"""Whether a plain value fits a type annotation: enough of typing for constructors whose arguments come from YAML."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union


def fits(value: object, hint: Any) -> bool:
    """Whether ``value`` (None, bool, int, float, str, list, dict) may be passed where ``hint`` is asked for.

    Whole numbers fit float, also when written 1e3; what is not understood fits.
    """
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return True
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, h) for h in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if value is None:
        return hint is object
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    kind = origin or hint
    if kind in (list, Sequence, tuple, typing.Sequence):
        items = [h for h in typing.get_args(hint) if h is not Ellipsis]
        return isinstance(value, list) and (len(items) != 1 or all(fits(v, items[0]) for v in value))
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    return True


def name_of(hint: Any) -> str:
    """An annotation as a user would say it."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(name_of(h) for h in typing.get_args(hint)))
    if origin is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if origin in (list, Sequence, tuple):
        items = [name_of(h) for h in typing.get_args(hint) if h is not Ellipsis]
        return f"a list of {items[0]}" if items else "a list"
    plain = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
        None: "null",
    }
    if hint in plain:
        return plain[hint]
    return "a mapping" if (origin or hint) in (dict, Mapping) else str(getattr(hint, "__name__", hint))


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a callable's or constructor's parameters; empty where they cannot be resolved."""
    function = target.__init__ if isinstance(target, type) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}

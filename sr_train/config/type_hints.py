"""Check plain values from YAML against type hints, and format type hints for messages."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, Literal, Union

_LISTS = (list, tuple, Sequence, MutableSequence, Collection, Iterable)

_MAPPINGS = (dict, Mapping, MutableMapping)

_SCALARS = {  # type -> one, many
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    bool: ("true or false", "values of true or false"),
    type(None): ("null", "nulls"),
}


def fits(value: object, hint: Any) -> bool:
    """Return true if ``value`` (None, bool, int, float, str, list, dict) fits the type hint.

    An integer fits float, but a float such as 1e3 does not fit int. A mapping with ``_target_`` becomes an object and
    fits. A hint that this function does not know, such as a class, fits every value. Only the hint torch.Tensor fits no
    value.
    """
    hint = _plain(hint)
    if hint is Any or hint is object or isinstance(hint, (str, typing.TypeVar)):
        return True
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, h) for h in typing.get_args(hint))
    if origin is Literal:  # 1 == True == 1.0
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint))
    if isinstance(value, dict) and "_target_" in value:
        return True
    if hint is None or value is None:
        return hint in (None, type(None)) and value is None
    if hint in _SCALARS:
        kinds = (int, float) if hint is float else hint
        return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    kind = origin or hint
    if kind in _LISTS:
        return isinstance(value, list) and _items_fit(value, kind, typing.get_args(hint))
    if kind in _MAPPINGS:
        of_keys, of_values = typing.get_args(hint) or (Any, Any)
        return isinstance(value, dict) and all(fits(k, of_keys) and fits(v, of_values) for k, v in value.items())
    return not _is_tensor(hint)


def _items_fit(values: Sequence[object], kind: Any, hints: tuple[Any, ...]) -> bool:
    """Return true if the items of a list fit the type hints of items.

    ``tuple[X, Y]`` also fixes the number of items.
    """
    if kind is tuple and hints and hints[-1] is not Ellipsis:
        return len(values) == len(hints) and all(map(fits, values, hints))
    return not hints or all(fits(v, hints[0]) for v in values)


def _plain(hint: Any) -> Any:
    """Return the type inside Annotated, NewType or a ``type`` statement."""
    while True:
        behind = next((getattr(hint, n) for n in ("__supertype__", "__value__") if hasattr(hint, n)), None)
        if typing.get_origin(hint) is typing.Annotated:
            behind = typing.get_args(hint)[0]
        if behind is None:
            return hint
        hint = behind


def _is_tensor(hint: Any) -> bool:
    """Return true for the type hint torch.Tensor, without an import of torch."""
    return (getattr(hint, "__module__", None), getattr(hint, "__name__", None)) == ("torch", "Tensor")


def name_of(hint: Any) -> str:
    """Format a type hint for a message: "an integer or null"."""
    hint = _plain(hint)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(name_of(h) for h in typing.get_args(hint) if not _is_tensor(h)))
    if origin is Literal:
        return " or ".join(map(_choice, typing.get_args(hint)))
    if hint in (None, Any, object):
        return "null" if hint is None else "any value"
    if hint in _SCALARS:
        return _SCALARS[hint][0]
    kind, inner = origin or hint, typing.get_args(hint)
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        same = len(set(inner)) == 1
        return f"a list of {len(inner)} " + (_many(inner[0]) if same else f"values: {', '.join(map(name_of, inner))}")
    if kind in _LISTS:
        return f"a list of {_many(inner[0])}" if inner else "a list"
    if kind in _MAPPINGS:
        return f"a mapping to {_many(inner[1])}" if inner and inner[1] is not Any else "a mapping"
    return str(getattr(hint, "__name__", hint))


def _choice(value: object) -> str:
    """Format a value of a Literal as in YAML."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _many(hint: Any) -> str:
    """Format a type hint for a message, in the plural, e.g. "numbers" for float."""
    hint = _plain(hint)
    parts = [h for h in typing.get_args(hint) if not _is_tensor(h)]
    if typing.get_origin(hint) in (Union, types.UnionType) and len(parts) == 1:
        return _many(parts[0])
    if hint in _SCALARS:
        return _SCALARS[hint][1]
    if hint is Any or hint is object:
        return "values"
    name = name_of(hint)
    for one, many in {"a list of ": "lists of ", "a mapping": "mappings"}.items():
        if name.startswith(one) and " or " not in name:
            return many + name.removeprefix(one)
    return f"values, each {name}"


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type hints of a callable's or constructor's parameters; an empty dict if they cannot be resolved."""
    function = target.__init__ if isinstance(target, type) else target
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        hints = {}
    stated = getattr(target, "__signature__", None)  # set by classes that take ``**options``
    if isinstance(stated, inspect.Signature):
        known = {n: p.annotation for n, p in stated.parameters.items() if p.annotation is not p.empty}
        hints |= {n: hint for n, hint in known.items() if not isinstance(hint, str)}
    return hints

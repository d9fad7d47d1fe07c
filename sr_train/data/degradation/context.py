"""Interface of operators, of which degradations are composed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from sr_train.batch import Image
from sr_train.data.degradation.words import Words


@dataclass(kw_only=True)
class Context:
    """Facts about the sample that is degraded, and the record of what was drawn for it."""

    lr_size: tuple[int, int]  #: (h, w) of the LR patch
    scale: int  #: HR pixels per LR pixel that remain to be reduced; an operator that halves the image halves it
    drawn: dict[str, float | str] = field(default_factory=dict[str, "float | str"])
    name: str = ""  #: name of the operator that runs now, with the names of the groups around it: ``last.jpeg``

    def note(self, **values: float | str) -> None:
        """Record what an operator has drawn, as NAME.KEY."""
        for key, value in values.items():
            self.drawn[f"{self.name}.{key}"] = value


class Operator(Protocol):
    """Protocol of an operator: one step of a degradation, such as a blur."""

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Return the changed image, as a new array.

        Args:
            image: float32 [H, W, C], C = 1 or 3, in [0, 1]; values a little outside may occur. It is not changed.
            words: random numbers for this operator and this sample.
            context: sizes, and the record of draws.
        """
        ...


Operators = Mapping[str, Operator | None]  #: operators by name, in order; null: switched off


def check_operators(operators: Operators) -> dict[str, Operator | None]:
    """Return a copy of ``operators``; raise a ValueError if a value cannot be called."""
    if not isinstance(cast("object", operators), Mapping):
        raise ValueError(f"operators={operators}: expected a mapping of names to operators")
    for name, operator in operators.items():
        if operator is not None and not callable(operator):
            raise ValueError(f"operators.{name}={operator!r}: expected an operator (a mapping with _target_) or null")
    return dict(operators)


def apply(name: str, operator: Operator | None, image: Image, words: Words, context: Context) -> Image:
    """Apply one operator of a group, with random numbers that depend on the names of the operator and its groups only."""
    if operator is None:
        return image
    outer = context.name
    context.name = f"{outer}.{name}" if outer else name
    try:
        return operator(image, words.child(name), context)
    finally:
        context.name = outer

"""Operators that apply other operators: all in order, all in random order, or one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sr_train.batch import Image
from sr_train.data.degradation.arguments import weights as check_weights
from sr_train.data.degradation.context import Context, Operators, apply, check_operators
from sr_train.data.degradation.words import Words


class Chain:
    """Apply operators in their order.

    Args:
        operators: operators by name; null switches one off.
    """

    def __init__(self, *, operators: Operators) -> None:
        self.operators = check_operators(operators)

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Return the changed [H, W, C]."""
        for name, operator in self.operators.items():
            image = apply(name, operator, image, words, context)
        return image


class Shuffled:
    """Apply operators in a random order; all orders are equally likely.

    Args:
        operators: operators by name; null switches one off.
        keep_order: names of operators that take places in this order among each other.
    """

    def __init__(self, *, operators: Operators, keep_order: Sequence[str] = ()) -> None:
        self.operators = check_operators(operators)
        unknown = [name for name in keep_order if name not in self.operators]
        if unknown:
            raise ValueError(f"keep_order: {unknown[0]!r} is unknown; choose from {', '.join(self.operators)}")
        self.keep_order = list(keep_order)

    def order(self, words: Words) -> list[str]:
        """Draw the order of the names."""
        every = list(self.operators)
        order = [every[i] for i in words.permutation(len(every))]
        kept = iter(self.keep_order)
        return [next(kept) if name in self.keep_order else name for name in order]

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Return the changed [H, W, C]."""
        order = [name for name in self.order(words) if self.operators[name] is not None]
        context.note(order=" ".join(order))
        for name in order:
            image = apply(name, self.operators[name], image, words, context)
        return image


class OneOf:
    """Apply one of several operators.

    Args:
        operators: operators by name; where null is drawn, nothing is done.
        weights: relative frequency of each operator.
    """

    def __init__(self, *, operators: Operators, weights: Mapping[str, float]) -> None:
        self.operators = check_operators(operators)
        self.weights = check_weights("weights", weights, list(self.operators))

    def __call__(self, image: Image, words: Words, context: Context) -> Image:
        """Return the changed [H, W, C]."""
        name = words.choice(list(self.weights), list(self.weights.values()))
        context.note(kind=name)
        return apply(name, self.operators[name], image, words, context)

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Optional

import pytest
import torch

from sr_train.config.type_hints import fits, hints_of, name_of


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, True), (3.0, int, False), (True, int, False), ("3", int, False), (None, int, False),
        (3, float, True), (3.5, float, True), (True, float, False), ("low", float, False),
        (True, bool, True), (1, bool, False), ("x", str, True), (1, str, False),
        (None, int | None, True), (None, Optional[float], True), ("x", int | None, False),  # noqa: UP045
        ([1, 2], Sequence[int], True), ([1, "2"], Sequence[int], False), ("12", Sequence[str], False), ([], list, True),
        ({"a": 1}, Mapping[str, int], True), ([1], Mapping[str, int], False),
        ("sum", Literal["mean", "sum"], True), ("max", Literal["mean", "sum"], False),
        ([1, 2], tuple[float, ...], True), (object, Any, True), ("anything", torch.nn.Module, True),
    ],
)  # fmt: skip
def test_values_fit_or_do_not(value, hint, expected):
    assert fits(value, hint) is expected


def test_type_hints_are_formatted_for_messages():
    assert name_of(int | None) == "an integer or null"
    assert name_of(Sequence[float]) == "a list of numbers"
    assert name_of(Literal["a", "b"]) == "'a' or 'b'"


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ([0.9, 1], tuple[float, float], True), (["a"], tuple[float, float], False), ([True], tuple[float, float], False),
        ([1, 2, 3], tuple[float, float], False), ([1, True], tuple[float, float], False), ([], tuple[float, float], False),
        (0.9, tuple[float, float], False), ([1, "a"], tuple[int, str], True), (["a", 1], tuple[int, str], False),
        ([], tuple[int, ...], True), ([1, 2, 3], tuple[int, ...], True), ([1, 2.5], tuple[int, ...], False),
        ([0.9, "b"], tuple[float | torch.Tensor, float | torch.Tensor], False),
        ([0.9, 0.99], tuple[float | torch.Tensor, float | torch.Tensor], True), ("low", float | torch.Tensor, False),
        ({"a": 1, "b": 0.5}, dict[str, float], True), ({"a": "1"}, dict[str, float], False),
        ({"a": True}, Mapping[str, float], False), ({"a": None}, Mapping[str, float], False),
        ({"a": None}, Mapping[str, float | None], True), ({1: 2}, dict[str, int], False), ({1: 2}, dict[int, int], True),
        ({"a": [1, 2]}, dict[str, tuple[int, int]], True), ({"a": [1]}, dict[str, tuple[int, int]], False),
        ({"a": {"b": "c"}}, dict[str, dict[str, int]], False), ({}, dict[str, float], True), ({"a": object}, dict, True),
        ([[1, 2], [3]], list[list[int]], True), ([[1, "2"]], list[list[int]], False), ([1, None], list[int | None], True),
        ([[1], "a"], list[list[int] | str], True), ([[1], 2], list[list[int] | str], False),
        (["a"], Iterable[str], True), ([1], Iterable[str], False), ("ab", Iterable[str], False),
        (True, Literal[1, "auto"], False), (1, Literal[True, "auto"], False), (1.0, Literal[1], False),
        (True, Literal[True, "auto"], True), (1, Literal[1], True), (True, Literal["a"] | bool, True),
        ({"_target_": "a.B"}, Mapping[str, float], True), ([{"_target_": "a.B"}], list[int], True),
        (3, Annotated[int, "pixels"], True), ("3", Annotated[int, "pixels"], False), (3, NewType("Side", int), True),
        ("3", NewType("Side", int), False), (None, object, True), (1e3, int, False), (1000, float, True),
        (True, int | float, False),
    ],
)  # fmt: skip
def test_items_of_lists_mappings_and_choices_are_compared(value, hint, expected):
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (tuple[float, float], "a list of 2 numbers"), (tuple[int, ...], "a list of integers"),
        (tuple[float | torch.Tensor, float | torch.Tensor], "a list of 2 numbers"), (float | torch.Tensor, "a number"),
        (tuple[int, str], "a list of 2 values: an integer, a string"), (list[Mapping[str, Any]], "a list of mappings"),
        (dict[str, float], "a mapping to numbers"), (dict[str, list[int]], "a mapping to lists of integers"),
        (list[int | None], "a list of values, each an integer or null"),
        (list[int] | None, "a list of integers or null"),
        (Literal[True, "auto"], "true or 'auto'"), (list, "a list"), (dict, "a mapping"), (list[Any], "a list of values"),
    ],
)  # fmt: skip
def test_lists_and_mappings_are_named_with_their_items(hint, expected):
    assert name_of(hint) == expected


def test_an_optimizers_pair_of_numbers_is_checked():
    from sr_train.config.plan import plan
    from sr_train.console import ConfigError

    short = ["experiment=quickstart_edsr", "stage=x2"]
    for typed in ("[a,b]", "[true,0.9]", "[0.9]", "[0.9,0.99,0.999]", "0.9"):
        with pytest.raises(ConfigError, match=r"task\.optimizer\.betas=.*: expected a list of 2 numbers"):
            plan([*short, f"task.optimizer.betas={typed}"])
    assert plan([*short, "task.optimizer.betas=[0,0.99]"]).stages
    with pytest.raises(ConfigError, match=r"loss\.weights=.*: expected a mapping to values, each a number or null"):
        plan(["experiment=quickstart", "gan.loss.weights.adversarial=high"])


def test_type_hints_of_constructors_are_found():
    from sr_train.models.edsr import EDSR

    assert hints_of(EDSR)["channels"] is int

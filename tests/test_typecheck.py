from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional

import pytest
import torch

from sr_train.typecheck import fits, hints_of, name_of


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


def test_annotations_are_said_as_a_user_would():
    assert name_of(int | None) == "a whole number or null"
    assert name_of(Sequence[float]) == "a list of a number"
    assert name_of(Literal["a", "b"]) == "'a' or 'b'"


def test_hints_of_constructors_are_found():
    from sr_train.models.edsr import EDSR

    assert hints_of(EDSR)["channels"] is int

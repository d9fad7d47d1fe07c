"""Sizes of results: ``size=``, ``longest=`` and ``outscale=``."""

import pytest

from sr_train.console import UsageError
from sr_train.inference.output_size import OutputSize, output_size


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"outscale": 4}, None),  # what the network makes
        ({"outscale": 2}, (60, 80)),
        ({"outscale": 1.5}, (45, 60)),
        ({"longest": 100}, (75, 100)),
        ({"longest": 1}, (1, 1)),
        ({"size": "80x60"}, (60, 80)),
        ({"size": (100, 75)}, (75, 100)),
        ({"size": "160X120"}, None),
        ({"size": "101x75"}, (75, 101)),  # the rounding of a side
    ],
)
def test_the_size_of_a_result(given, expected):
    assert output_size(**given).of(30, 40, 4) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": "80"}, r"size='80': expected WIDTHxHEIGHT"),
        ({"size": "0x60"}, r"expected WIDTHxHEIGHT"),
        ({"size": (80, True)}, r"expected WIDTHxHEIGHT"),
        ({"size": 80}, r"size=80: expected WIDTHxHEIGHT"),
        ({"longest": 0}, r"longest=0: expected an integer of at least 1"),
        ({"longest": 1.5}, r"longest=1.5: expected an integer"),
        ({"outscale": 0}, r"outscale=0: expected a positive number of at most 64"),
        ({"outscale": 65}, r"at most 64"),
        ({"outscale": float("nan")}, r"at most 64"),
        ({"outscale": "2"}, r"outscale='2': expected a positive number"),
        ({"size": "80x60", "longest": 80}, r"size=80x60 and longest=80: give only one of them"),
    ],
)
def test_wrong_sizes_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        output_size(**given)


def test_another_shape_is_refused_with_sizes_that_keep_it():
    with pytest.raises(ValueError, match=r"image of 40x30 pixels; give size=90x68, size=80x60 or longest=90"):
        OutputSize(size=(90, 60)).of(30, 40, 4)

"""Bad pairs: refused by name, with a remedy."""

import pytest
from spoil import TRAIN, Case, check, nothing, picture, remove

CASES = [
    Case(
        "hr and lr swapped",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=lr", "lr=hr"),
        nothing,
        1,
        "are HR and LR swapped?",
    ),
    Case(
        "lr is hr",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=hr"),
        nothing,
        1,
        "LR is as large as HR; leave lr out",
    ),
    Case(
        "lr off by one",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=lr"),
        picture("lr/0001.png", 40, 47),
        1,
        "0001: HR 96x80 does not fit LR 47x40 at scale 2",
    ),
    Case(
        "lr larger by one",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=lr"),
        picture("lr/0001.png", 40, 49),
        1,
        "0001: HR 96x80 does not fit LR 49x40",
    ),
    Case(
        "lr missing",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=lr"),
        remove("lr/0001.png"),
        1,
        "0001: no 0001, 0001x2, 0001_x2, 0001_LR, 0001_LRBI_x2 or 0001_SRF_2_LR",
    ),
    Case(
        "lr of another scale",
        ("sr-eval", "weights=bicubic", "scale=3", "hr=hr", "lr=lr"),
        nothing,
        1,
        "is scale=3 right?",
    ),
    Case(
        "finished images of another size",
        ("sr-eval", "sr=lr", "hr=hr", "scale=2"),
        nothing,
        1,
        "the result is 48x40, the HR image 96x80",
    ),
    Case(
        "finished images missing",
        ("sr-eval", "sr=lr", "hr=hr", "scale=2"),
        remove("lr/0002.png"),
        1,
        "0002: no image is named 0002 or 0002x2 or 0002_SRF_2_SR, and no name begins with 0002_",
    ),
    Case(
        "patch larger than images",
        (*TRAIN, "data.lr_patch=41", "name=n"),
        nothing,
        1,
        "smaller than the patch of 41x41",
    ),
    Case(
        "patch of nothing",
        (*TRAIN, "data.lr_patch=0", "name=n"),
        nothing,
        2,
        "data.lr_patch=0: expected an integer of at least 1",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)

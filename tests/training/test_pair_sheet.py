"""The picture of check=true sheet=FILE."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sr_train.config.plan import plan
from sr_train.console import UsageError
from sr_train.data.degradation.base import Degraded
from sr_train.data.images import read_image
from sr_train.data.module import SRData
from sr_train.training.pair_sheet import check_sheet, pair_sheet, write_sheet


class Every:
    margin = 0

    def __call__(self, hr, scale, words):
        return Degraded(
            np.ascontiguousarray(hr[::scale, ::scale]), {"quality": words.integer(90), "sigma": words.uniform()}
        )


def data(**options):
    return SRData(**{"train": [{"hr": "toy:coffee"}], "scale": 2, "lr_patch": 32, "workers": 0, **options})


@pytest.mark.parametrize("usm", [False, True])
def test_the_first_eight_pairs_are_shown_unturned_with_lr_pixels_repeated(usm):
    one = data(degrade=Every(), usm=usm)
    sheet = pair_sheet("main", one)
    width = 256 * (3 if usm else 2) + (4 if usm else 2)
    assert sheet.shape[1] == 2 * width + 16
    top, rows = 20, []
    for position in range(8):
        sample = one.dataset.sample(position)
        if position % 2 == 0 and position:  # below the text of the row before
            top += 256
            while not np.array_equal(sheet[top, :256], sample.lr.repeat(8, axis=1)[0]):
                top += 1
        left = (position % 2) * (width + 16)
        cell = sheet[top : top + 256, left : left + width]
        assert np.array_equal(cell[:, :256], sample.lr.repeat(8, axis=0).repeat(8, axis=1))
        assert np.array_equal(cell[:, 258 : 258 + 256], sample.hr.repeat(4, axis=0).repeat(4, axis=1))
        if usm:
            assert np.array_equal(cell[:, -256:], sample.target.repeat(4, axis=0).repeat(4, axis=1))
        rows.append(top)
    assert sorted(set(rows)) == rows[::2]
    text = sheet[rows[0] + 256 : rows[2]]
    assert len(text) >= 2 * 20
    assert (text < 128).any()


def test_data_of_every_kind_is_shown(tmp_path):
    kinds = {
        "16": data(channels=1),
        "several": SRData(train=[{"hr": "toy:coffee"}], scales=[2, 4], lr_patch=12, workers=0, batch=2),
    }
    stages: Any = [SimpleNamespace(stage=SimpleNamespace(name=name), data=one) for name, one in kinds.items()]
    composed = plan(["check=true", f"sheet={tmp_path / 'x.png'}", "scale=2"])
    assert write_sheet(composed, stages) == f"only {tmp_path / 'x.png'} was written"
    pictures = [pair_sheet(name, one) for name, one in kinds.items()]
    assert read_image(tmp_path / "x.png").shape[:2] == (sum(map(len, pictures)), max(p.shape[1] for p in pictures))
    assert write_sheet(plan(["check=true", "scale=2"]), stages) == "nothing was changed"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["sheet=x.png"], "sheet=x.png: is written by check=true; add check=true"),
        (["sheet=x.pdf", "check=true"], r"sheet=x.pdf: expected an image file, e\.g\. sheet=x\.png"),
        (["sheet=nowhere/x.png", "check=true"], "there is no folder .*nowhere"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_refused_at_the_start(typed, message):
    with pytest.raises(UsageError, match=message):
        check_sheet(plan(["scale=2", *typed]))

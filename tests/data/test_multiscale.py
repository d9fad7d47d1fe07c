"""Batches of several scales: each global step has one, and its samples are those of a loader of that scale alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from sr_train.data.degrade import reduce_image
from sr_train.data.draws import PositionSampler
from sr_train.data.images import list_images, read_image, write_image
from sr_train.data.module import SRData
from sr_train.data.store.builder import StoreBuilder


def data(train, scales=(2, 3, 4), **options):
    return SRData(train=train, scales=list(scales), lr_patch=8, batch=8, workers=0, **options)


def same(a, b):
    return a["key"] == b["key"] and a["scale"] == b["scale"] and all(torch.equal(a[k], b[k]) for k in ("lr", "hr"))


@pytest.fixture
def sources(photographs, tmp_path):
    """The same images as HR alone, as a store with LR of three scales, and with a folder or a store of LR for each scale."""
    StoreBuilder(photographs, tmp_path / "all.lmdb", scales=[2, 3, 4]).build()
    for scale in (2, 3, 4):
        folder = tmp_path / f"X{scale}"
        folder.mkdir()
        for key, path in list_images(photographs).items():
            write_image(folder / f"{key}x{scale}.png", reduce_image(read_image(path), scale))
    StoreBuilder(tmp_path / "X4", tmp_path / "X4.lmdb").build()
    return {
        "hr alone": [{"hr": str(photographs)}],
        "store": [{"hr": str(tmp_path / "all.lmdb"), "lr": str(tmp_path / "all.lmdb")}],
        "folder by name": [{"hr": str(photographs), "lr": f"{tmp_path}/X{{scale}}"}],
        "mapping": [
            {
                "hr": str(photographs),
                "lr": {2: str(tmp_path / "X2"), 3: str(tmp_path / "X3"), 4: str(tmp_path / "X4.lmdb")},
            }
        ],
    }


@pytest.mark.parametrize("kind", ["hr alone", "store", "folder by name", "mapping"])
def test_a_step_has_one_scale_and_the_samples_of_a_loader_of_that_scale(sources, kind):
    several = data(sources[kind])
    alone = {s: SRData(train=sources["hr alone"], scale=s, lr_patch=8, batch=8, workers=0) for s in (2, 3, 4)}
    seen = set()
    for step in range(12):
        positions = list(range(step * 8, step * 8 + 8))
        batch = several.dataset.__getitems__(positions)
        assert several.step_scales is not None
        assert batch["scale"] == several.step_scales(step)
        assert batch["hr"].shape[-1] == 8 * batch["scale"]
        assert same(batch, alone[batch["scale"]].dataset.__getitems__(positions))
        seen.add(batch["scale"])
    assert seen == {2, 3, 4}


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 4), (4, 2)])
def test_micro_batches_and_ranks_share_the_steps_scale_and_its_samples(sources, world, accumulate):
    several = data(sources["hr alone"], accumulate=accumulate)
    whole = data(sources["hr alone"])
    size = several.per_device(world)
    loaders = [
        iter(several.loader(PositionSampler(size, first_step=5, rank=r, world=world, accumulate=accumulate)))
        for r in range(world)
    ]
    for step in range(5, 9):
        parts = [next(loader) for _ in range(accumulate) for loader in loaders]
        expected = whole.dataset.__getitems__(list(range(step * 8, step * 8 + 8)))
        assert {p["scale"] for p in parts} == {expected["scale"]}
        assert [k for p in parts for k in p["key"]] == expected["key"]
        assert torch.equal(torch.cat([p["hr"] for p in parts]), expected["hr"])


def test_workers_change_nothing(sources):
    one = data(sources["store"])
    several = SRData(train=sources["store"], scales=[2, 3, 4], lr_patch=8, batch=8, workers=2)
    a, b = (iter(d.loader(PositionSampler(8, first_step=3))) for d in (one, several))
    assert all(same(next(a), next(b)) for _ in range(6))


def test_hr_that_does_not_depend_on_the_scale_is_opened_once(sources):
    several = data(sources["hr alone"], val={"a": {"hr": sources["hr alone"][0]["hr"]}}, cache=True)
    assert len({id(p.hr) for pairs in several.by_scale.values() for p in pairs}) == 1
    assert list(several.val) == ["a_x2", "a_x3", "a_x4"]
    assert several.means == {"a_mean": ["a_x2", "a_x3", "a_x4"]}


def test_mistakes_are_named(sources, photographs, tmp_path):
    hr = str(photographs)
    for options, message in (
        ({"scale": 2, "scales": [2, 3]}, r"data\.scale=2, data\.scales=\[2, 3\]: give exactly one of the two keys"),
        ({}, r"data\.scale=None, data\.scales=None: give exactly one"),
        ({"scales": [2, 2]}, "contains a scale twice"),
        ({"scale": 2, "scale_weights": [1]}, r"data\.scale_weights=\[1\] needs data\.scales"),
        ({"scales": [2, 3], "scale_weights": [1]}, "1 numbers for scales"),
    ):
        with pytest.raises(ValueError, match=message):
            SRData(train=[{"hr": hr}], lr_patch=8, workers=0, **options)
    with pytest.raises(ValueError, match=r"lr= contains sources for scales \[2\], not for 3"):
        data([{"hr": hr, "lr": {2: str(tmp_path / "X2")}}])
    with pytest.raises(ValueError, match="expected a folder or a store for each scale"):
        data([{"hr": hr, "lr": {"x2": str(tmp_path / "X2")}}])
    (tmp_path / "HR3").mkdir()
    (tmp_path / "HR2").mkdir()
    for name in ("0000", "0001"):
        write_image(tmp_path / "HR2" / f"{name}.png", read_image(photographs / f"{name}.png"))
    write_image(tmp_path / "HR3" / "0000.png", read_image(photographs / "0000.png"))
    with pytest.raises(ValueError, match=r"contain different images \(2 and 1; 0001\)"):
        data([{"hr": f"{tmp_path}/HR{{scale}}"}], scales=(2, 3))
    with pytest.raises(ValueError, match="smaller than the patch"):
        SRData(train=[{"hr": hr}], scales=[2, 4], lr_patch=24, workers=0)


@pytest.mark.slow
def test_what_is_drawn_is_the_same_in_another_process(sources):
    program = (
        "import sys, json; from sr_train.data.module import SRData\n"
        f"d = SRData(train={sources['hr alone']!r}, scales=[2, 3, 4], lr_patch=8, batch=8, workers=0)\n"
        "print(json.dumps([(b['scale'], b['key'], int(b['hr'].sum())) for b in"
        " (d.dataset.__getitems__(list(range(8 * t, 8 * t + 8))) for t in range(4))]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = [data(sources["hr alone"]).dataset.__getitems__(list(range(8 * t, 8 * t + 8))) for t in range(4)]
    assert json.loads(done.stdout) == [[b["scale"], b["key"], int(b["hr"].sum())] for b in here]
    assert np.unique([b["scale"] for b in here]).size > 1

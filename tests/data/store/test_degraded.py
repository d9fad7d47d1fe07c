"""Stores whose LR is made by a degradation, with a table of what was drawn."""

import csv
import os

import numpy as np
import pytest
from stores import Kill, assert_same_store, interrupt, picture, prepare

from sr_train.data.degradation.base import Degraded
from sr_train.data.degradation.maker import quantize
from sr_train.data.degradation.whole import WholeMaker, workers_for
from sr_train.data.degrade import modcrop
from sr_train.data.images import Header, ImageError, list_images, read_image, to_channels, to_real, write_image
from sr_train.data.pairs import Pairs
from sr_train.data.store import builder, lr_folder
from sr_train.data.store.drawn import DrawnTable
from sr_train.data.store.lr_folder import LRFolder
from sr_train.data.store.partial import Partial
from sr_train.data.store.reader import Store


class Speckle:
    margin = 0

    def __call__(self, hr, scale, words):
        strength, low = words.uniform(0, 0.2), hr[::scale, ::scale]
        lr = np.clip(low + strength * words.normal(low.shape), 0, 1).astype(np.float32)
        return Degraded(lr, {"kind": "speckle", "noise.strength": np.float32(strength)})


def maker(seed=0):
    return WholeMaker(Speckle(), {"_target_": "Speckle"}, seed=seed)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_has_lr_by_its_number_and_a_row(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb", scales=[3], maker=maker())
    store = Store(tmp_path / "x.lmdb")
    table = rows(tmp_path / "x.lmdb" / "degradation.csv")
    assert [row["name"] for row in table] == sorted(store.keys(3))
    assert list(table[0]) == ["number", "name", "scale", "kind", "noise.strength"]
    for number, row in enumerate(table):
        image = store.read(1, row["name"])
        opaque = to_channels(image, 3) if image.shape[2] == 4 else image
        made = Speckle()(to_real(modcrop(opaque, 3)), 3, maker().words(number))
        assert np.array_equal(store.read(3, row["name"]), quantize(made.lr, image.dtype))
        assert float(row["noise.strength"]) == made.drawn["noise.strength"]
        assert (row["number"], row["scale"], row["kind"]) == (str(number), "3", "speckle")
    assert store.summary["degrade"] == {"_target_": "Speckle"}
    pairs = Pairs(str(tmp_path / "x.lmdb"), lr=str(tmp_path / "x.lmdb"), scale=3)
    assert np.array_equal(pairs.whole(0)[0], store.read(3, pairs.keys[0]))


@pytest.mark.parametrize(
    ("where", "name", "calls", "kept"),
    [(Partial, "commit", 0, 0), (Partial, "commit", 7, 7), (DrawnTable, "add", 5, 5), (DrawnTable, "finish", 0, 12),
     (os, "replace", 2, 0)],
)  # fmt: skip
def test_an_interrupted_build_ends_with_equal_images_and_rows(folder, tmp_path, monkeypatch, where, name, calls, kept):
    prepare(folder, tmp_path / "calm.lmdb", scales=[2], maker=maker())
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    with monkeypatch.context() as patch:
        interrupt(patch, where, name, calls)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb", scales=[2], maker=maker())
    lines = tmp_path / "x.lmdb.partial" / "degradation.jsonl"
    if lines.exists():
        lines.write_bytes(lines.read_bytes() + b'[99, "0001", 2, {"ki')  # cut by a kill
    report = prepare(folder, tmp_path / "x.lmdb", scales=[2], maker=maker())
    assert report.kept == kept
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")
    files = {p.name: p.read_bytes() for p in (tmp_path / "x.lmdb").iterdir()}
    assert files.keys() == {"data.mdb", "index", "degradation.csv"}
    assert files["degradation.csv"] == (tmp_path / "calm.lmdb" / "degradation.csv").read_bytes()


def test_an_image_that_is_added_after_an_interruption_changes_the_numbers_behind_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "_COMMIT_BYTES", 1)
    with monkeypatch.context() as patch:
        interrupt(patch, Partial, "commit", 7)
        with pytest.raises(Kill):
            prepare(folder, tmp_path / "x.lmdb", scales=[2], maker=maker())
    write_image(folder / "0002b.png", picture(50))
    assert prepare(folder, tmp_path / "x.lmdb", scales=[2], maker=maker()).kept == 3
    prepare(folder, tmp_path / "calm.lmdb", scales=[2], maker=maker())
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")


def test_a_finished_store_gets_degraded_lr_of_another_scale_and_no_other_lr_of_the_same(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb", scales=[2])
    prepare(folder, tmp_path / "x.lmdb", scales=[3], maker=maker())
    assert len(rows(tmp_path / "x.lmdb" / "lr_x3" / "degradation.csv")) == 12
    assert Store(tmp_path / "x.lmdb").made[2] == "float"
    assert prepare(folder, tmp_path / "x.lmdb", scales=[3], maker=maker()) is None
    for other, message in (
        (
            {"maker": maker(seed=1)},
            r"its LR of x3 was made by degrade Speckle \w+ seed=0, but degrade Speckle \w+ seed=1 is",
        ),
        ({}, "made by degrade Speckle .* but arithmetic=float is requested; leave x3 out, or give another store="),
    ):
        with pytest.raises(FileExistsError, match=message):
            prepare(folder, tmp_path / "x.lmdb", scales=[3], **other)


# -- folders of LR images --------------------------------------------------------------------------------------------


def fill(folder, out, **options):
    given = {"scale": 2, "maker": maker(), "workers": 2, "skip_bad": False, "listed": None, **options}
    writer = LRFolder(str(folder), str(out), **given)
    if writer.complete():
        return None
    writer.estimate(lambda n: None)
    return writer.build(lambda n: None)


def test_a_folder_has_the_lr_and_the_table_of_a_store(folder, tmp_path):
    (folder / "more" / "deep.tiff").unlink()
    prepare(folder, tmp_path / "x.lmdb", scales=[2], maker=maker())
    assert fill(folder, tmp_path / "LR") == f"{tmp_path}/LR: 11 LR images of x2; drawn numbers: {tmp_path}/LR.csv"
    assert (tmp_path / "LR.csv").read_bytes() == (tmp_path / "x.lmdb" / "degradation.csv").read_bytes()
    store = Store(tmp_path / "x.lmdb")
    assert list_images(tmp_path / "LR").keys() == store.records[2].keys()
    for key, file in list_images(tmp_path / "LR").items():
        assert np.array_equal(read_image(file), store.read(2, key))
    assert fill(folder, tmp_path / "LR") is None
    assert Pairs(str(folder), lr=str(tmp_path / "LR"), scale=2).lr_whole(3).shape == store.read(2, "0003").shape


def test_a_killed_folder_is_continued_and_foreign_ones_are_refused(folder, tmp_path, monkeypatch):
    fill(folder, tmp_path / "calm")
    with monkeypatch.context() as patch:
        interrupt(patch, lr_folder, "write_image", 5)
        with pytest.raises(Kill):
            fill(folder, tmp_path / "LR")
    written = {path: path.stat().st_mtime_ns for path in list_images(tmp_path / "LR").values()}
    assert len(written) == 5
    (tmp_path / "LR" / ".0007.png.x.part").touch()
    fill(folder, tmp_path / "LR")
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    one, other = ({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
                  for name in ("calm", "LR"))  # fmt: skip
    assert one == other
    assert (tmp_path / "calm.csv").read_bytes() == (tmp_path / "LR.csv").read_bytes()
    for given, message in (
        (
            {"maker": maker(1)},
            r"LR: was made from other images or in another way \(made: degrade .*seed=0, requested .*seed=1\)",
        ),
        ({"scale": 3}, "scale: 2, requested 3"),
    ):
        with pytest.raises(FileExistsError, match=message):
            fill(folder, tmp_path / "LR", **given)
    with pytest.raises(
        FileExistsError, match=r"images: exists and was not made by sr-prepare degrade=; give another out="
    ):
        fill(folder, folder)
    (folder / "0001.png").unlink()
    with pytest.raises(FileExistsError, match="images: "):
        fill(folder, tmp_path / "LR")


def test_large_images_are_degraded_by_fewer_threads_or_refused(monkeypatch):
    monkeypatch.setattr("sr_train.data.degradation.whole.free_memory", lambda device: 10**9)
    small, large = Header(1000, 1000, 3, np.dtype(np.uint8)), Header(9000, 9000, 3, np.dtype(np.uint8))
    assert workers_for({"a": small}, 8) == 3
    assert workers_for({"a": small}, 2) == 2
    with pytest.raises(ImageError, match=r"b: 9000x9000 pixels need about 24\.3 GB .* 1\.0 GB are free"):
        workers_for({"a": small, "b": large}, 2)

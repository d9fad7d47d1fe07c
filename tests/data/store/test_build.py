"""A store holds what its files decode to, and is made once."""

import shutil

import numpy as np
import pytest
from stores import SCALES, add, assert_same_store, change, change_keeping_size, dump, picture, prepare, remove, stamps

from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, encode_image, read_image, write_image
from sr_train.data.store import partial
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import Record, StoreError
from sr_train.data.store.index_file import Index
from sr_train.data.store.reader import Store
from sr_train.resampling import ARITHMETICS

# -- what goes in comes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_the_store_holds_what_the_files_decode_to_and_their_reductions(folder, tmp_path, arithmetic):
    report = prepare(folder, tmp_path / "x.lmdb", arithmetic=arithmetic)
    store = Store(tmp_path / "x.lmdb")
    assert (report.written, report.kept, report.skipped) == (12, 0, [])
    assert report.size == (tmp_path / "x.lmdb" / "data.mdb").stat().st_size
    assert store.scales == [1, 2, 3]
    for scale in store.scales:
        assert store.keys(scale) == [
            *(f"{k:04d}" for k in range(8)),
            "more/alpha",
            "more/deep",
            "more/dot",
            "more/grey",
        ]
    for path in (p for p in folder.rglob("*") if p.is_file()):
        key, image = path.relative_to(folder).with_suffix("").as_posix(), read_image(path)
        assert store.records[1][key].shape == image.shape
        assert store.view(1, key).dtype == image.dtype
        assert np.array_equal(store.view(1, key), image)
        assert np.array_equal(store.read(1, key), image)
        for scale in SCALES:
            assert np.array_equal(store.view(scale, key), reduce_image(image, scale, arithmetic))
        assert all(store.verify(scale, key) is None for scale in store.scales)
    assert {k for k in dump(tmp_path / "x.lmdb") if not k.startswith((b"p/", b"m/"))} == {b"store"}


def test_every_crop_is_that_window_of_the_image(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    store = Store(tmp_path / "x.lmdb")
    for key in ("0003", "more/deep", "more/grey"):
        image = store.view(1, key)
        height, width = image.shape[:2]
        for top, left, h, w in [(0, 0, 1, 1), (0, 0, height, width), (height - 7, width - 5, 7, 5), (11, 3, 20, 30)]:
            assert np.array_equal(store.crop(1, key, top, left, h, w), image[top : top + h, left : left + w])
    assert np.array_equal(store.crop(3, "0003", 2, 1, 5, 6), store.view(3, "0003")[2:7, 1:7])


def test_views_cannot_be_written(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    with pytest.raises(ValueError, match="read-only"):
        Store(tmp_path / "x.lmdb").view(1, "0000")[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        Store(tmp_path / "x.lmdb").crop(1, "0000", 0, 0, 4, 4)[0, 0, 0] = 1


def test_the_estimate_is_what_the_pixels_take(folder, tmp_path):
    builder = StoreBuilder(folder, tmp_path / "x.lmdb", scales=SCALES)
    estimate = builder.estimate()
    builder.build()
    records = [r for of_scale in Store(tmp_path / "x.lmdb").records.values() for r in of_scale.values()]
    assert estimate.images == 12
    assert estimate.pixels == pytest.approx(sum(r.nbytes for r in records), rel=0.03)  # rows that modcrop cuts
    assert estimate.free > 0


def test_progress_counts_every_image_once_in_both_passes(folder, tmp_path):
    builder = StoreBuilder(folder, tmp_path / "x.lmdb")
    for work in (builder.estimate, builder.build):
        steps = []
        work(steps.append)
        assert sum(steps) == 12


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_workers_changes_nothing(folder, tmp_path, workers):
    prepare(folder, tmp_path / "two.lmdb")
    prepare(folder, tmp_path / "other.lmdb", workers=workers)
    assert_same_store(tmp_path / "two.lmdb", tmp_path / "other.lmdb")


def test_the_map_grows_as_often_as_it_must(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "roomy.lmdb")
    sizes = []
    transact = partial._transact
    monkeypatch.setattr(partial, "_MAP_START", 1 << 16)
    monkeypatch.setattr(partial, "_transact", lambda e, w: (transact(e, w), sizes.append(e.info()["map_size"]))[0])
    prepare(folder, tmp_path / "grown.lmdb")
    assert sizes[0] == 1 << 16
    assert sizes[-1] >= 1 << 18
    assert_same_store(tmp_path / "roomy.lmdb", tmp_path / "grown.lmdb")


def test_records_are_packed_without_loss():
    record = Record(2**32 - 1, 7, 3, 2, 2**32 - 1, 2**40, 2**62, 5)
    index = Index(2**40, 1, 2, 3, 4, b"17/a/b", record.pack(), (12).to_bytes(8, "little"))
    assert list(index.images()) == [(17, "a/b", record, 12)]
    assert Index.unpack(index.pack()) == index
    assert Record(5, 7, 3, 2, 0, 0, 0, 0).nbytes == 210
    with pytest.raises(StoreError, match="a record contains 3 bytes per sample"):
        _ = Record(1, 1, 1, 3, 0, 0, 0, 0).dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": b"abc"}, "records of 3 bytes; expected a multiple of 36"),
        (
            {"records": Record(9, 9, 3, 1, 0, 0, 0, 0).pack()},
            r"'1/a' of shape \(9, 9, 3\) does not fit at position 8 of 250 bytes",
        ),
        ({"records": Record(0, 9, 3, 1, 0, 0, 0, 0).pack()}, r"'1/a' of shape \(0, 9, 3\)"),
        ({"records": Record(1, 9, 3, 3, 0, 0, 0, 0).pack()}, "a record contains 3 bytes per sample"),
        ({"offsets": (2**63).to_bytes(8, "little")}, rf"at position {2**63} of 250 bytes"),
        ({"offsets": bytes(16)}, "longer"),
        ({"names": b"1/a\0001/b"}, "shorter"),
        ({"names": b"one/a"}, "invalid literal"),
        ({"names": b"\xff"}, "decode"),
    ],
)
def test_impossible_records_are_refused_even_with_a_right_checksum(change, message):
    index = Index(250, 0, 0, 0, 0, b"1/a", Record(9, 9, 3, 1, 0, 0, 0, 0).pack(), bytes(8))
    assert list(index.images()) == [(1, "a", Record(9, 9, 3, 1, 0, 0, 0, 0), 0)]
    change.setdefault("offsets", (8).to_bytes(8, "little") if "records" in change else bytes(8))
    with pytest.raises(ValueError, match=message):
        list(Index.unpack(index._replace(**change).pack()).images())


# -- the same command again -------------------------------------------------------------------------------------------


def test_the_same_command_again_touches_nothing(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    assert prepare(folder, tmp_path / "x.lmdb") is None
    assert stamps(tmp_path / "x.lmdb") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "x.lmdb"]
    assert not list(tmp_path.rglob("lock.mdb"))


def test_a_copied_folder_is_the_same_folder(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert (tmp_path / "copy" / "0000.png").stat().st_mtime_ns != (folder / "0000.png").stat().st_mtime_ns
    assert prepare(tmp_path / "copy", tmp_path / "x.lmdb") is None


@pytest.mark.parametrize("act", [add, remove, change, change_keeping_size])
def test_a_changed_folder_is_refused_and_the_store_unchanged(folder, tmp_path, act):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    key = act(folder)
    match = (
        rf"x\.lmdb: exists, but .* has changed since: 1 image added, removed or changed \({key}\); give another store="
    )
    with pytest.raises(FileExistsError, match=match):
        prepare(folder, tmp_path / "x.lmdb")
    assert stamps(tmp_path / "x.lmdb") == before


def test_lr_of_another_arithmetic_is_refused_and_the_store_unchanged(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    match = r"its LR of x2 was made with arithmetic=float, but arithmetic=uint8 is requested; give arithmetic=float, leave x2"
    with pytest.raises(FileExistsError, match=match):
        prepare(folder, tmp_path / "x.lmdb", arithmetic="uint8")
    assert stamps(tmp_path / "x.lmdb") == before


@pytest.mark.parametrize("scales", [[2], [3], []])
def test_fewer_scales_are_there_already(folder, tmp_path, scales):
    prepare(folder, tmp_path / "x.lmdb")
    before = stamps(tmp_path / "x.lmdb")
    assert prepare(folder, tmp_path / "x.lmdb", scales=scales) is None
    assert stamps(tmp_path / "x.lmdb") == before


def test_the_order_of_scales_does_not_matter(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb", scales=[3, 2])
    assert prepare(folder, tmp_path / "x.lmdb", scales=[2, 3]) is None


def test_an_image_that_comes_while_the_store_is_built_is_noticed_the_next_time(folder, tmp_path):
    builder = StoreBuilder(folder, tmp_path / "x.lmdb")
    builder.build(lambda n: add(folder))
    assert len(Store(tmp_path / "x.lmdb").keys()) == 12
    with pytest.raises(FileExistsError, match=r"added, removed or changed \(new\)"):
        prepare(folder, tmp_path / "x.lmdb", scales=[])


# -- bad files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(folder):
    """The folder with six files that cannot be used: four by their header, two by their pixels."""
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "more" / "folder.png").mkdir()
    write_image(folder / "tiny.png", picture(0, 2, 40))
    (folder / "away.png").symlink_to(folder / "nowhere.png")
    (folder / "cut.png").write_bytes(encode_image(picture(1), ".png")[:-300])
    (folder / "more" / "cut.jpg").write_bytes(encode_image(picture(2), ".jpg")[:-300])
    return folder


def test_all_bad_files_are_named_in_one_message_and_the_good_ones_kept(spoilt, tmp_path):
    with pytest.raises(
        BadFilesError, match="6 bad files; repair or remove the listed files and run the same command again"
    ) as error:
        prepare(spoilt, tmp_path / "x.lmdb")
    reasons = [
        "empty.png: the file is empty",
        "text.jpg: not a readable image",
        "tiny.png: 40x2 pixels are too few to reduce by 3",
        "away.png: cannot be read: No such file",
        "cut.png: corrupt or truncated",
        "more/cut.jpg: corrupt or truncated",
    ]
    assert all(reason in str(error.value) for reason in reasons)
    assert len(error.value.problems) == 6
    assert not (tmp_path / "x.lmdb.partial").exists()
    for name in ("empty.png", "text.jpg", "tiny.png", "away.png"):
        (spoilt / name).unlink()
    with pytest.raises(BadFilesError, match="2 bad files; repair or remove the listed files") as error:
        prepare(spoilt, tmp_path / "x.lmdb")
    assert "cut.png: corrupt or truncated" in str(error.value)
    assert "more/cut.jpg: corrupt or truncated" in str(error.value)
    write_image(spoilt / "cut.png", picture(1))
    (spoilt / "more" / "cut.jpg").unlink()
    report = prepare(spoilt, tmp_path / "x.lmdb")
    assert (report.written, report.kept) == (1, 12)
    prepare(spoilt, tmp_path / "calm.lmdb")
    assert_same_store(tmp_path / "calm.lmdb", tmp_path / "x.lmdb")


def test_bad_files_can_be_left_out(spoilt, tmp_path):
    report = prepare(spoilt, tmp_path / "x.lmdb", skip_bad=True)
    assert report.written == 12
    assert len(report.skipped) == 6
    store = Store(tmp_path / "x.lmdb")
    assert len(store.keys()) == 12
    assert store.summary["skipped"] == ["away", "cut", "empty", "more/cut", "text", "tiny"]
    assert prepare(spoilt, tmp_path / "x.lmdb", skip_bad=True) is None


def test_a_folder_of_nothing_but_bad_files_makes_no_store(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "text.png").write_text("not an image")
    with pytest.raises(BadFilesError, match=r"none of the images can be used:\n.*text\.png"):
        prepare(tmp_path / "images", tmp_path / "x.lmdb", skip_bad=True)
    (tmp_path / "images" / "text.png").write_bytes(encode_image(picture(1), ".png")[:-300])
    with pytest.raises(BadFilesError, match=r"none of the images can be used:\n.*text\.png"):
        prepare(tmp_path / "images", tmp_path / "x.lmdb", skip_bad=True)
    assert not (tmp_path / "x.lmdb").exists()


@pytest.mark.parametrize(
    ("store", "options", "message"),
    [
        ("x", {}, r"give a name that ends in \.lmdb, e\.g\. store=.*x\.lmdb"),
        ("x.lmdb", {"scales": [1]}, r"scales=\[1\]: give integers of at least 2, each once, e\.g\. scales=\[2,3,4\]"),
        ("x.lmdb", {"scales": [2, 3, 2]}, "each once"),
        ("x.lmdb", {"arithmetic": "exact"}, "arithmetic='exact' is not one of float, uint8, uint8_replicate"),
    ],
)
def test_stores_that_cannot_be_made_are_refused(folder, tmp_path, store, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / store, **options)


@pytest.mark.parametrize(("name", "fits"), [("c" * 78, True), ("c" * 79, False), ("c" * 77 + "\u00e9", False)])
def test_names_of_more_than_480_bytes_are_refused(folder, tmp_path, name, fits):
    path = folder / ("a" * 200) / ("b" * 200) / f"{name}.png"
    path.parent.mkdir(parents=True)
    write_image(path, picture(0))
    if fits:
        prepare(folder, tmp_path / "x.lmdb")
        assert np.array_equal(Store(tmp_path / "x.lmdb").view(1, f"{'a' * 200}/{'b' * 200}/{name}"), picture(0))
    else:
        with pytest.raises(
            BadFilesError, match=r"names too long for a store:\n.*\.png: its path is longer than 480 bytes"
        ):
            StoreBuilder(folder, tmp_path / "x.lmdb")

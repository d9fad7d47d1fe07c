"""Validation images are read before a run starts."""

from pathlib import Path

import pytest
from helpers import photograph, write_all

from sr_train.data.images import BadFilesError, read_image, write_image
from sr_train.data.pairs import Pairs
from sr_train.data.readable import check_readable
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.video.sets import open_set


@pytest.fixture
def folder(tmp_path):
    images = {f"{k}": photograph()[9 * k :, 11 * k :][: 40 + 2 * k, :60] for k in range(5)}
    folder = Path(write_all(tmp_path / "hr", {f"p{k}": v for k, v in images.items()}))
    for k, image in images.items():
        write_image(folder / f"{k}.jpg", image)
    return folder


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_every_file_that_cannot_be_read_is_listed_and_good_ones_pass(folder):
    sets = {"a": Pairs(str(folder), scale=2), "b": Pairs(str(folder), scale=4)}
    check_readable(sets)
    halve(folder / "2.jpg")
    halve(folder / "p4.png")
    (folder / "p0.png").unlink()
    with pytest.raises(BadFilesError, match=r"data\.val: 3 validation images cannot be read") as error:
        check_readable(sets)
    assert [p.partition(": ")[0] for p in error.value.problems] == [
        f"{folder}/{n}" for n in ("2.jpg", "p0.png", "p4.png")
    ]


def test_beyond_the_limit_the_largest_files_are_checked_for_their_end_only(folder):
    sets = {"a": Pairs(str(folder), scale=2)}
    halve(folder / "4.jpg")
    check_readable(sets, files=0)
    with pytest.raises(BadFilesError, match=r"1 validation image cannot"):
        check_readable(sets, files=10**6)
    halve(folder / "p4.png")
    with pytest.raises(BadFilesError, match=r"p4\.png: corrupt or truncated image \(its end is missing\)"):
        check_readable(sets, files=0)
    with pytest.raises(BadFilesError, match=r"1 validation image cannot"):
        check_readable(sets, files=sum(2 * 60 * (40 + 2 * k) for k in range(4)))  # all but the two largest


def test_the_checksums_of_a_store_are_compared(folder, tmp_path):
    StoreBuilder(folder, tmp_path / "x.lmdb", scales=[2]).build()
    sets = {"a": Pairs(str(tmp_path / "x.lmdb"), lr=str(tmp_path / "x.lmdb"), scale=2)}
    check_readable(sets)
    path = tmp_path / "x.lmdb" / "data.mdb"
    data = bytearray(path.read_bytes())
    at = data.find(read_image(folder / "p3.png").tobytes()[:200])
    data[at + 50] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadFilesError, match=r"x\.lmdb: image 'p3' \(scale 1\): checksum differs"):
        check_readable(sets)
    check_readable(sets, stores=0)


def test_all_frames_of_clips_are_read(tmp_path, write_clips):
    hr = write_clips(tmp_path / "clips")
    sets = {"a": open_set("sets.a", {"hr": hr, "clips": "all"}, frames=3, options={"scale": 2})}
    check_readable(sets)
    halve(tmp_path / "clips" / "001" / "00000005.png")
    with pytest.raises(BadFilesError, match=r"001/00000005\.png: corrupt or truncated"):
        check_readable(sets)

"""Given LR images are stored as they are, if they fit their HR images."""

import shutil
import zipfile

import numpy as np
import pytest
from stores import dump, picture, prepare

from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, read_image, write_image
from sr_train.data.sources import input_files
from sr_train.data.store.given import given_lr
from sr_train.data.store.reader import Store


@pytest.fixture
def hr(tmp_path):
    folder = tmp_path / "hr"
    folder.mkdir()
    for k in range(4):
        write_image(folder / f"{k:04d}.png", picture(k, 41, 50))
    return folder


@pytest.fixture
def lr(tmp_path, hr):
    """LR files that no arithmetic makes, under DIV2K's names."""
    for scale in (2, 3):
        folder = tmp_path / "lr" / f"X{scale}"
        folder.mkdir(parents=True)
        for k in range(4):
            write_image(folder / f"{k:04d}x{scale}.png", 255 - reduce_image(read_image(hr / f"{k:04d}.png"), scale))
    return f"{tmp_path}/lr/X{{scale}}"


def give(hr, lr, store, scales=(2, 3), of=(2, 3), **options):
    files = input_files(hr)
    return prepare(hr, store, list(scales), files=files, lr=given_lr(files, lr, of), **options)


def test_given_images_are_stored_and_the_summary_says_so(hr, lr, tmp_path):
    assert give(hr, lr, tmp_path / "x.lmdb", scales=(2, 3, 4)).written == 4
    store = Store(tmp_path / "x.lmdb")
    for scale in (2, 3):
        for k in range(4):
            image = read_image(tmp_path / "lr" / f"X{scale}" / f"{k:04d}x{scale}.png")
            assert np.array_equal(store.read(scale, f"{k:04d}"), image)
    assert np.array_equal(store.read(4, "0002"), reduce_image(store.read(1, "0002"), 4))
    assert store.summary["lr"] == {"2": "given", "3": "given", "4": "float"}
    assert store.made == {2: "given", 3: "given", 4: "float"}
    assert give(hr, lr, tmp_path / "x.lmdb", scales=(2, 3, 4)) is None


def test_a_finished_store_gets_given_images_too(hr, lr, tmp_path):
    prepare(hr, tmp_path / "x.lmdb", [4])
    assert give(hr, lr, tmp_path / "x.lmdb", scales=(2, 3, 4)).written == 4
    give(hr, lr, tmp_path / "new.lmdb", scales=(2, 3, 4))
    store, new = Store(tmp_path / "x.lmdb"), Store(tmp_path / "new.lmdb")
    assert store.made == new.made
    assert store.records == new.records


def test_images_made_and_given_are_not_mixed_up(hr, lr, tmp_path):
    give(hr, lr, tmp_path / "x.lmdb")
    with pytest.raises(FileExistsError, match=r"x2 is that of given files, but arithmetic=float .* \(scales=\[4\]\)"):
        prepare(hr, tmp_path / "x.lmdb", [2, 4])
    prepare(hr, tmp_path / "y.lmdb", [2, 3])
    with pytest.raises(FileExistsError, match=r"x2 was made with arithmetic=float, but lr= is given now"):
        give(hr, lr, tmp_path / "y.lmdb")


def test_changed_given_images_are_noticed(hr, lr, tmp_path):
    give(hr, lr, tmp_path / "x.lmdb")
    write_image(tmp_path / "lr" / "X3" / "0001x3.png", picture(7, 13, 16))
    with pytest.raises(FileExistsError, match=r"1 image added, removed or changed \(0001\)"):
        give(hr, lr, tmp_path / "x.lmdb")


def test_archives_are_paired_as_folders_are(hr, lr, tmp_path):
    give(hr, lr, tmp_path / "x.lmdb")
    for scale in (2, 3):
        shutil.make_archive(str(tmp_path / f"LR_X{scale}"), "gztar", tmp_path / "lr", f"X{scale}")
    with zipfile.ZipFile(tmp_path / "HR.zip", "w") as archive:
        for path in sorted(hr.iterdir()):
            archive.write(path, f"DIV/HR/{path.name}")
    files = input_files(tmp_path / "HR.zip")
    low = given_lr(files, f"{tmp_path}/LR_X{{scale}}.tar.gz", [2, 3], copies=tmp_path)
    assert prepare(tmp_path / "HR.zip", tmp_path / "y.lmdb", [2, 3], files=files, lr=low).written == 4
    assert not list(tmp_path.glob(".*"))  # the decompressed copies are deleted
    a, b = dump(tmp_path / "x.lmdb"), dump(tmp_path / "y.lmdb")
    assert {k: v for k, v in a.items() if k.startswith(b"p/")} == {k: v for k, v in b.items() if k.startswith(b"p/")}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((21, 25), "LR 25x21 does not fit HR 50x41 at scale 2; LR is rounded up: crop HR to a multiple of 2"),
        ((20, 24), "LR 24x20 does not fit HR 50x41 at scale 2; x2 of 50x41 is 25x20"),
        ((41, 50), "LR 50x41 does not fit"),
        ((82, 100), "are HR and LR swapped"),
    ],
)
def test_images_of_a_wrong_size_are_named(hr, lr, tmp_path, size, message):
    write_image(tmp_path / "lr" / "X2" / "0001x2.png", picture(1, *size))
    with pytest.raises(BadFilesError, match=rf"1 bad file; .*\n.*0001x2\.png: .*{message}"):
        give(hr, lr, tmp_path / "x.lmdb")


def test_images_that_miss_or_are_in_excess_are_named(hr, lr, tmp_path):
    (tmp_path / "lr" / "X3" / "0001x3.png").rename(tmp_path / "lr" / "X3" / "0007x3.png")
    with pytest.raises(BadFilesError, match=r"X3: 1 of 4 HR images have no LR of x3.*\n.*0001: no 0001"):
        give(hr, lr, tmp_path / "x.lmdb")
    with pytest.raises(ValueError, match=r"is one source for scales \[2, 3\]; write \{scale\} into it"):
        give(hr, f"{tmp_path}/lr/X2", tmp_path / "x.lmdb")
    files = input_files(hr)
    with pytest.raises(BadFilesError, match=r"1 image without LR:\n.*0001: no LR of x2"):
        prepare(hr, tmp_path / "x.lmdb", [2], files=files, lr={2: {k: p for k, p in files.items() if k != "0001"}})
    with pytest.raises(ValueError, match=r"scales=\[3\].*LR is given for \[2\]"):
        prepare(hr, tmp_path / "x.lmdb", [3], lr={2: input_files(hr)})


def test_an_outdated_given_image_in_an_unfinished_store_is_replaced(hr, lr, tmp_path):
    (tmp_path / "lr" / "X3" / "0003x3.png").write_bytes((tmp_path / "lr" / "X3" / "0003x3.png").read_bytes()[:-400])
    with pytest.raises(BadFilesError, match=r"0003x3\.png: corrupt or truncated"):
        give(hr, lr, tmp_path / "x.lmdb")
    write_image(tmp_path / "lr" / "X3" / "0003x3.png", picture(3, 13, 16))
    write_image(tmp_path / "lr" / "X2" / "0000x2.png", picture(4, 20, 25))
    give(hr, lr, tmp_path / "x.lmdb")
    give(hr, lr, tmp_path / "calm.lmdb")
    assert dump(tmp_path / "x.lmdb") == dump(tmp_path / "calm.lmdb")

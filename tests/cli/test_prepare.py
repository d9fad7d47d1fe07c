import shutil

import numpy as np
import pytest

from sr_train.data.degrade import reduce_image
from sr_train.data.images import read_image, write_image
from sr_train.data.store.reader import Store


def test_a_folder_becomes_a_store_and_a_second_run_does_nothing(command, invoke, photographs, tmp_path):
    arguments = ("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2,4]")
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    assert "4 images, about" in first.stdout
    assert "GB are free" in first.stdout
    assert "x.lmdb: 4 images, LR x2, LR x4" in first.stdout
    changed = (tmp_path / "x.lmdb" / "data.mdb").stat().st_mtime_ns
    again = invoke(*arguments, "verify=true")
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stdout
    assert "all checksums agree" in again.stdout
    assert (tmp_path / "x.lmdb" / "data.mdb").stat().st_mtime_ns == changed
    assert sorted(p.name for p in (tmp_path / "x.lmdb").iterdir()) == ["data.mdb", "index"]
    store, image = Store(tmp_path / "x.lmdb"), read_image(photographs / "0002.png")
    assert np.array_equal(store.view(1, "0002"), image)
    assert np.array_equal(store.view(4, "0002"), reduce_image(image, 4))


def test_all_bad_files_are_reported_at_once_and_good_ones_are_kept(invoke, photographs):
    (photographs / "empty.png").touch()
    (photographs / "text.jpg").write_text("not an image")
    good = (photographs / "0000.png").read_bytes()
    (photographs / "cut.png").write_bytes(good[: len(good) // 2])
    write_image(photographs / "dot.png", np.zeros((1, 1, 3), np.uint8))
    failed = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2]")
    assert failed.returncode == 1
    for name in ("empty.png", "text.jpg", "dot.png", "cut.png: corrupt or truncated"):
        assert name in failed.stderr
    for name in ("empty.png", "text.jpg", "dot.png"):
        (photographs / name).unlink()
    failed = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2]")
    assert failed.returncode == 1
    assert "cut.png: corrupt or truncated" in failed.stderr
    (photographs / "cut.png").unlink()
    done = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2]")
    assert done.returncode == 0, done.stderr
    assert "(4 were already there)" in done.stdout


def test_bad_files_can_be_left_out(invoke, photographs):
    (photographs / "text.jpg").write_text("not an image")
    done = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "skip_bad=true")
    assert done.returncode == 0, done.stderr
    assert "left out: photographs/text.jpg" in done.stderr
    again = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "skip_bad=true")
    assert "already complete" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["store=x.lmdb"], 2, "give images=DIR"),
        (["images=photographs"], 2, "store has no value"),
        (["images=photographs", "store=x.lmdb", "kind=bd"], 2, "kind= needs dataset=NAME"),
        (["dataset=set6", "root=photographs"], 2, "dataset=set6: expected one of div2k, flickr2k, "),
        (["images=missing", "store=x.lmdb"], 1, "missing: there is no such folder"),
        (["images=photographs/0000.png", "store=x.lmdb"], 1, "is not a folder"),
        (["images=photographs", "store=x"], 1, "ends in .lmdb"),
        (["images=photographs", "store=x.lmdb", "scales=2"], 2, "expected a list"),
        (["images=photographs", "store=x.lmdb", "scales=[1]"], 2, "of at least 2"),
        (["images=photographs", "store=x.lmdb", "scales=[2.5]"], 2, "integers"),
        (["images=photographs", "store=x.lmdb", "arithmetic=cubic"], 2, "float, uint8, uint8_replicate"),
        (["images=photographs", "store=x.lmdb", "workers=0"], 2, "workers=0"),
        (["images=photographs", "store=x.lmdb", "verify=perhaps"], 2, "true or false"),
        (["images=photographs", "store=x.lmdb", "scale=[2]"], 2, "did you mean scales"),
        (["store=x.lmdb", "verify=true"], 1, "there is no such store"),
        (["images=empty", "store=x.lmdb"], 1, "no images in this folder"),
    ],
)
def test_errors_of_users_are_one_paragraph(invoke, photographs, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    done = invoke("sr-prepare", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_store_is_found_by_verify(invoke, photographs, tmp_path):
    assert invoke("sr-prepare", "images=photographs", "store=x.lmdb").returncode == 0
    data = tmp_path / "x.lmdb" / "data.mdb"
    raw = bytearray(data.read_bytes())
    at = bytes(raw).index(read_image(photographs / "0001.png").tobytes()[:64])
    raw[at + 30] ^= 1
    data.write_bytes(raw)
    done = invoke("sr-prepare", "store=x.lmdb", "verify=true")
    assert done.returncode == 1
    assert "image '0001' (scale 1): checksum differs" in done.stderr


def test_the_same_command_with_more_scales_adds_them(invoke, photographs, tmp_path):
    assert invoke("sr-prepare", "images=photographs", "store=x.lmdb").returncode == 0
    before = (tmp_path / "x.lmdb" / "data.mdb").stat()
    done = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2]", "verify=true")
    assert done.returncode == 0, done.stderr
    assert "LR x2 is added, the store can be read meanwhile" in done.stdout
    assert "x.lmdb: 4 images, LR x2" in done.stdout
    assert "all checksums agree" in done.stdout
    after = (tmp_path / "x.lmdb" / "data.mdb").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    fewer = invoke("sr-prepare", "images=photographs", "store=x.lmdb")
    assert "4 images, LR x2, " in fewer.stdout
    assert "nothing to do" in fewer.stdout


def test_a_store_with_another_arithmetic_is_not_overwritten(invoke, photographs, tmp_path):
    assert invoke("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2]").returncode == 0
    done = invoke("sr-prepare", "images=photographs", "store=x.lmdb", "scales=[2]", "arithmetic=uint8")
    assert done.returncode == 1
    assert "x2 was made with arithmetic=float, but arithmetic=uint8 is requested; give arithmetic=float" in done.stderr
    assert Store(tmp_path / "x.lmdb").summary["arithmetic"] == "float"


def test_archives_and_given_lr_become_a_store(invoke, photographs, tmp_path):
    for scale in (2, 3):
        (tmp_path / "LR" / f"X{scale}").mkdir(parents=True)
        for path in sorted(photographs.iterdir()):
            image = 255 - reduce_image(read_image(path), scale)
            write_image(tmp_path / "LR" / f"X{scale}" / f"{path.stem}x{scale}.png", image)
        shutil.make_archive(str(tmp_path / f"X{scale}"), "zip", tmp_path, f"LR/X{scale}")
    shutil.make_archive(str(tmp_path / "HR"), "gztar", tmp_path, "photographs")
    done = invoke("sr-prepare", "images=HR.tar.gz", "lr=X{scale}.zip", "store=x.lmdb", "scales=[2,3]")
    assert done.returncode == 0, done.stderr
    assert "HR.tar.gz: is decompressed to" in done.stdout
    store = Store(tmp_path / "x.lmdb")
    assert store.keys() == ["0000", "0001", "0002", "0003"]
    assert np.array_equal(store.view(3, "0002"), read_image(tmp_path / "LR" / "X3" / "0002x3.png"))
    assert not list(tmp_path.glob(".HR*"))
    again = invoke("sr-prepare", "images=photographs", "lr=LR/X{scale}", "store=x.lmdb", "scales=[2,3]")
    assert "nothing to do" in again.stdout
    assert invoke("sr-prepare", "images=photographs", "lr=LR/X2", "store=y.lmdb").returncode == 2

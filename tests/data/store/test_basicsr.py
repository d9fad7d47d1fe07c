"""LMDBs in BasicSR's format, written by the lmdb package: sources of images and clips, conversion, errors by file and key."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
import torch
from helpers import SPAWN, write_all
from stores import files_below, picture

from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, ImageError, list_images, read_image
from sr_train.data.module import SRData
from sr_train.data.pairs import Pairs
from sr_train.data.sources import PngSource, open_source
from sr_train.data.store.basicsr import PngLmdb
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import StoreError
from sr_train.data.store.reader import Store
from sr_train.data.video.clips import Clips, clip_files
from sr_train.data.video.sets import open_set, open_training


def write_lmdb(path, images, *, level=1, separator=","):
    """Write images [H, W, C] in RGB order as BasicSR's lmdb_util does: PNG files, and a line for each in meta_info.txt."""
    path.mkdir(parents=True)
    lines = []
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, image in sorted(images.items()):
            bgr = image[..., ::-1] if image.shape[2] == 3 else image
            done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, level])
            assert done
            transaction.put(key.encode("ascii"), data.tobytes())
            lines.append(f"{key}.png ({separator.join(map(str, image.shape))}) {level}\n")
    (path / "meta_info.txt").write_text("".join(lines))
    return str(path)


def put(path, **values):
    """Write values into an LMDB; None deletes a key."""
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.delete(key.encode()) if value is None else transaction.put(key.encode(), value)


IMAGES = {
    "0001_s001": picture(1, 40, 52),
    "0001_s002": picture(2, 44, 48, 1),  # gray
    "0002_s001": picture(3, 48, 40).astype(np.uint16) * 257,
    "0003_s001": picture(4, 5, 6),  # as small as the pages of LMDB hold next to each other
}


@pytest.fixture
def images(tmp_path):
    return Path(write_lmdb(tmp_path / "HR_sub.lmdb", IMAGES))


def test_images_and_sizes_are_those_of_the_folder_and_no_file_is_written(images, tmp_path, monkeypatch):
    before = files_below(images)
    folder = open_source(write_all(tmp_path / "HR_sub", IMAGES))
    with monkeypatch.context() as context:
        context.setattr("sr_train.data.store.basicsr.decode_image", lambda *_: pytest.fail("decoded"))
        source = open_source(images)
        shapes = [source.shape(k) for k in range(4)]
    assert source.keys == folder.keys == sorted(IMAGES)
    assert shapes == [folder.shape(k) for k in range(4)] == [IMAGES[key].shape for key in source.keys]
    for k, key in enumerate(source.keys):
        assert source.read(k).dtype == IMAGES[key].dtype
        assert np.array_equal(source.read(k), IMAGES[key])
    assert np.array_equal(source.crop(0, 3, 4, 20, 30), IMAGES["0001_s001"][3:23, 4:34])
    assert files_below(images) == before


def test_images_are_read_while_another_process_of_lmdb_has_the_file_open(images):
    with lmdb.open(str(images)) as environment, environment.begin():
        assert np.array_equal(open_source(images).read(0), IMAGES["0001_s001"])
    (images / "lock.mdb").unlink()
    images.chmod(0o555)
    assert np.array_equal(open_source(images).read(0), IMAGES["0001_s001"])
    assert files_below(images) == ["data.mdb", "meta_info.txt"]


def _sums(source, pipe):
    pipe.send([int(source.read(k).sum()) for k in range(len(source.keys))])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=SPAWN.marks)])
def test_a_source_is_pickled_and_read_in_other_processes(images, method):
    source = open_source(images)
    assert isinstance(source, PngSource)
    expected = [int(source.read(k).sum()) for k in range(4)]
    assert [int(pickle.loads(pickle.dumps(source)).read(k).sum()) for k in range(4)] == expected
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    processes = [context.Process(target=_sums, args=(source, send)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [receive.recv() for _ in processes] == [expected] * 2
    for process in processes:
        process.join()


def test_hr_and_lr_are_paired_by_key_and_train_as_files_do(tmp_path):
    hr = {f"{n:04d}_s001": picture(n, 48, 56) for n in range(4)}
    lr = {key: reduce_image(image, 2) for key, image in hr.items()}
    stores = {"hr": write_lmdb(tmp_path / "HR.lmdb", hr), "lr": write_lmdb(tmp_path / "LR.lmdb", lr)}
    folders = {"hr": write_all(tmp_path / "HR", hr), "lr": write_all(tmp_path / "LR", lr)}
    options: dict[str, Any] = {"scale": 2, "lr_patch": 12, "batch": 4, "workers": 0}
    batches = [
        SRData(train=[source], val={"mine": source}, **options).dataset.__getitems__([3, 4, 5, 6])
        for source in (stores, folders)
    ]
    assert torch.equal(batches[0]["lr"], batches[1]["lr"])
    assert torch.equal(batches[0]["hr"], batches[1]["hr"])
    assert batches[0]["key"] == batches[1]["key"]


def test_lr_names_in_an_lmdb_may_follow_a_template(tmp_path):
    hr, lr = {"a": picture(1)}, {"a_at2": reduce_image(picture(1), 2)}
    write_lmdb(tmp_path / "LR.lmdb", lr)
    pairs = Pairs(write_lmdb(tmp_path / "HR.lmdb", hr), scale=2, lr=str(tmp_path / "LR.lmdb" / "{stem}_at{scale}"))
    assert np.array_equal(pairs.whole(0)[0], lr["a_at2"])


# -- clips -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reds(tmp_path, write_clips):
    """Clips as folders and as LMDBs, HR and LR."""
    made = {}
    for name, lr in (("HR", 0), ("LR", 2)):
        made[name] = write_clips(tmp_path / name, lr=lr)
        frames = {key: read_image(path) for key, path in list_images(made[name]).items()}
        made[f"{name}.lmdb"] = write_lmdb(tmp_path / f"{name}.lmdb", frames)
    return made


def test_clips_of_reds_are_found_by_the_beginning_of_the_key(reds):
    stored = Clips(reds["HR.lmdb"], scale=2, lr=reds["LR.lmdb"], without=["001"])
    folder = Clips(reds["HR"], scale=2, lr=reds["LR"], without=["001"])
    assert stored.names == ["000", "011"]
    assert (stored.frames, stored.spans) == (folder.frames, folder.spans)
    for i in (0, 7, 8, 16):
        for a, b in zip(stored.pairs.whole(i), folder.pairs.whole(i), strict=True):
            assert np.array_equal(a, b)


def test_clips_in_lmdbs_train_and_are_scored_as_sets(reds, tmp_path):
    listed = tmp_path / "meta_info_REDS_GT.txt"
    listed.write_text("000 8 (40,48,3) 00000000\n011 9 (40,48,3) 00000000\n")
    spec = {"hr": reds["HR.lmdb"], "lr": reds["LR.lmdb"], "clips": str(listed)}
    options: dict[str, Any] = {"frames": 3, "options": {"scale": 2}}
    windows = open_training("data.train[0]", spec, intervals=[1], reverse=False, **options)
    assert len(windows) == 6 + 7
    frames, hr, key, *_ = windows.cut(0, [0, 0, 0, 0, 0, 0], 8)
    assert (len(frames), frames[0].shape, hr.shape, key) == (3, (8, 8, 3), (16, 16, 3), "000/00000001")
    scored = open_set("data.val.mine", spec, **options)
    assert len(scored) == 8 + 9
    assert np.array_equal(scored.whole(9)[1], read_image(Path(reds["HR"]) / "011" / "00000001.png"))


@pytest.mark.parametrize(
    ("stored", "key"), [("{:05d}/{:04d}/im{}", "00003/0002/im5"), ("{:05d}_{:04d}_{}", "00003/0002/im5")]
)
def test_keys_of_vimeo_are_clips_also_in_mmagics_form(tmp_path, stored, key):
    frames = {stored.format(3, clip, n): picture(10 * clip + n, 40, 52) for clip in (1, 2) for n in range(1, 8)}
    clips = Clips(write_lmdb(tmp_path / "x.lmdb", frames, separator=", "), scale=2, clips=["00003/0002"])
    assert clips.spans == [(0, 7)]
    assert clips.pairs.keys[4] == key
    assert np.array_equal(clips.pairs.whole(4)[1], picture(25, 40, 52))
    assert np.array_equal(Pairs(str(tmp_path / "x.lmdb"), scale=2).whole(0)[1], picture(11, 40, 52))


def test_lr_of_reds_made_from_the_folder_above_x4_is_paired(tmp_path, write_clips):
    frames = {key: read_image(path) for key, path in list_images(write_clips(tmp_path / "LR", lr=2)).items()}
    low = write_lmdb(tmp_path / "LR.lmdb", {f"X2/{key}": image for key, image in frames.items()})
    clips = Clips(write_clips(tmp_path / "HR"), scale=2, lr=low)
    assert np.array_equal(clips.pairs.whole(9)[0], frames["001/00000001"])


def test_hr_of_center_frames_only_is_refused_with_the_reason(tmp_path):
    lr = {f"00001/0001/im{n}": picture(n, 20, 26) for n in range(1, 8)}
    hr = write_lmdb(tmp_path / "GT_only4th.lmdb", {"00001/0001/im4": picture(4, 40, 52)})
    with pytest.raises(
        BadFilesError, match=r"HR has only one frame of each clip \(GT_only4th\?\), all frames are needed"
    ):
        Clips(hr, scale=2, lr=write_lmdb(tmp_path / "LR.lmdb", lr))


# -- sr-prepare ------------------------------------------------------------------------------------------------------


def test_an_lmdb_becomes_the_store_that_its_folder_becomes(images, tmp_path):
    chosen = {key: image for key, image in IMAGES.items() if key != "0003_s001"}
    listed = tmp_path / "meta_info_mine.txt"
    listed.write_text("".join(f"{key}.png ({i.shape[0]}, 1, 3)\n" for key, i in chosen.items()))
    write_all(tmp_path / "HR_sub", chosen)
    for given, store in ((images, "a.lmdb"), (tmp_path / "HR_sub", "b.lmdb")):
        builder = StoreBuilder(given, tmp_path / store, scales=[2], listed=str(listed))
        assert builder.estimate().images == 3
        assert builder.build().written == 3
        assert StoreBuilder(given, tmp_path / store, scales=[2], listed=str(listed)).complete()
    a, b = Store(tmp_path / "a.lmdb"), Store(tmp_path / "b.lmdb")
    assert a.keys(2) == b.keys(2) == sorted(chosen)
    assert all(np.array_equal(a.view(s, k), b.view(s, k)) for s in (1, 2) for k in chosen)
    put(images, **{"0001_s001": cv2.imencode(".png", picture(9, 40, 52))[1].tobytes()})
    with pytest.raises(FileExistsError, match=r"1 image added, removed or changed \(0001_s001\)"):
        StoreBuilder(images, tmp_path / "a.lmdb", scales=[2], listed=str(listed)).complete()


def test_clips_of_an_lmdb_become_a_store_by_the_command(invoke, reds, tmp_path):
    (tmp_path / "list.txt").write_bytes(
        b"\xef\xbb\xbf# REDS\r\n000/00000000.png (40, 48, 3)\r\n000/00000001.png (40, 48, 3)\r\n"
    )
    done = invoke("sr-prepare", "clips=HR.lmdb", "list=list.txt", "store=y.lmdb", "scales=[2]")
    assert done.returncode == 0, done.stderr
    assert "HR.lmdb: 1 clip, 8 frames, no frame is missing" in done.stdout
    store = Store(tmp_path / "y.lmdb")
    assert store.keys(2) == list(clip_files(reds["HR.lmdb"], ["000"]))
    assert np.array_equal(store.view(1, "000/00000003"), read_image(Path(reds["HR"]) / "000" / "00000003.png"))


def test_sr_eval_scores_an_lmdb_and_a_list(invoke, tmp_path):
    write_lmdb(tmp_path / "GT.lmdb", {f"{n:04d}": picture(n) for n in range(3)})
    (tmp_path / "mine.txt").write_text("0002.png\n0000\n")
    done = invoke("sr-eval", "weights=bicubic", "scale=2", "hr=GT.lmdb", "list=mine.txt", "protocols=[rgb]", "out=out")
    assert done.returncode == 0, done.stderr
    scored = (tmp_path / "out" / "metrics.csv").read_text()
    assert "0000" in scored
    assert "0002" in scored
    assert "0001" not in scored
    (tmp_path / "mine.txt").write_text("0002.png\n7777.png\n")
    failed = invoke("sr-eval", "weights=bicubic", "scale=2", "hr=GT.lmdb", "list=mine.txt")
    assert failed.returncode == 1
    assert "mine.txt: 1 of 2 listed images are not in GT.lmdb" in failed.stderr
    assert "7777: there is no such image" in failed.stderr


# -- damage ----------------------------------------------------------------------------------------------------------


def spoil_meta(path):
    (path / "meta_info.txt").unlink()


def spoil_data(path):
    (path / "data.mdb").unlink()


def spoil_cut(path):
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[: len(data) // 2])


def spoil_no_lmdb(path):
    (path / "data.mdb").write_bytes(b"not an LMDB" * 1000)


def spoil_key(path):
    put(path, **{"0001_s002": None})


def line(text):
    def spoil(path):
        with (path / "meta_info.txt").open("a") as file:
            file.write(text + "\n")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            spoil_meta,
            r"HR_sub\.lmdb: an LMDB, but not a store of sr-train; .*copy its meta_info\.txt to this folder, next to data\.mdb",
        ),
        (spoil_data, r"HR_sub\.lmdb/data\.mdb: there is no such file"),
        (spoil_cut, r"HR_sub\.lmdb/data\.mdb: truncated or damaged"),
        (spoil_no_lmdb, r"HR_sub\.lmdb/data\.mdb: truncated or damaged \(no header of LMDB"),
        (spoil_key, r"HR_sub\.lmdb/meta_info\.txt: 1 of 4 images missing(.|\n)*0001_s002: is not in data\.mdb"),
        (line("0004.png (0,4,3) 1"), r"line 5: 0004: impossible size"),
        (line("0004.png (4,99999999999999999999,3) 1"), r"line 5: 0004: impossible size"),
        (line("0004.png (4,4,77) 1"), r"line 5: 0004: impossible size"),
        (line("0004.png 4x4"), r"line 5: '0004\.png 4x4'; expected KEY\.png \(height,width,channels\) LEVEL"),
        (line("0001_s001.png (40,52,3) 1"), r"line 5: 0001_s001 is listed twice"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_a_damaged_lmdb_is_refused_with_file_and_key(images, spoil, message):
    spoil(images)
    with pytest.raises((StoreError, BadFilesError), match=message):
        open_source(images)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"text that is long enough for a header", r"image '0001_s001': its value is not a PNG file"),
        (b"", r"image '0001_s001': its value is not a PNG file"),
        (cv2.imencode(".png", picture(1, 52, 40))[1].tobytes(), r"the PNG is 40x52, but meta_info\.txt gives 52x40"),
        (cv2.imencode(".png", picture(1, 40, 52))[1].tobytes()[:-900], r"0001_s001: corrupt or truncated image"),
    ],
)
def test_a_value_that_is_no_image_is_named_by_its_key(images, value, message):
    put(images, **{"0001_s001": value})
    source = open_source(images)
    with pytest.raises(ImageError, match=message) as error:
        source.read(0)
    assert "HR_sub.lmdb" in str(error.value)
    assert np.array_equal(source.read(1), IMAGES["0001_s002"])


def test_images_that_meta_info_does_not_list_are_reported(images, capsys):
    put(images, **{"9999": b"x"})
    assert len(PngLmdb(images).shapes) == 4
    assert "HR_sub.lmdb: 1 image not listed in meta_info.txt, not used: 9999" in capsys.readouterr().err


def test_every_truncation_is_refused_or_read_and_kills_no_process(images):
    whole = (images / "data.mdb").read_bytes()
    for size in range(0, len(whole), 3001):
        (images / "data.mdb").write_bytes(whole[:size])
        try:
            source = open_source(images)
        except StoreError:
            continue
        assert all(np.array_equal(source.read(k), IMAGES[key]) for k, key in enumerate(source.keys))


def test_a_file_that_is_cut_after_it_was_opened_raises_an_error(images, monkeypatch):
    monkeypatch.setattr("sr_train.files.PAUSES", [])
    source = open_source(images)
    (images / "data.mdb").write_bytes(b"")
    with pytest.raises(ImageError, match=r"HR_sub\.lmdb: image '0001_s001': cannot be read"):
        source.read(0)

"""Check of data sets: every kind of damage is found, named with its file, and a clean set gives no finding."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import planted as planting
import pytest
import yaml
from helpers import photograph, write_all

from sr_train.data.degrade import reduce_image
from sr_train.data.doctor import check, jpeg_warnings
from sr_train.data.doctor.check import Doctor
from sr_train.data.doctor.file_damage import damage_of
from sr_train.data.doctor.findings import KINDS, Report, finding
from sr_train.data.doctor.jpeg_warnings import JpegWarnings
from sr_train.data.doctor.likeness import ALIKE, NEAR, distances, fingerprint, likeness
from sr_train.data.doctor.roots import mixed_folder
from sr_train.data.doctor.specs import spec_of_path, specs_of_data
from sr_train.data.images import encode_image, read_image, write_image
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.toy import toy_files


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The damaged sets, what must be found, and the report of one check."""
    folder = tmp_path_factory.mktemp("planted")
    expected = planting.plant(folder)
    data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    return folder, expected, Doctor(specs_of_data(data), workers=2).run()


def checked(*specs, workers=2):
    return Doctor(specs, workers=workers).run()


def _of(folder, expected, report):
    return [
        f for f in report.findings
        if f.file == f"{folder}/{expected.file}" and f.kind == expected.kind and f.severity == expected.severity
        and expected.text in f.message
    ]  # fmt: skip


def test_each_of_more_than_40_kinds_of_damage_is_found_and_named_with_its_file(planted):
    folder, expected, report = planted
    assert len({p.id for p in expected}) == len(expected) >= 60
    assert {p.kind for p in expected} == set(KINDS) - {"decoder"}  # it has a test of its own
    assert [p for p in expected if not _of(folder, p, report)] == []


def test_nothing_else_is_reported(planted):
    folder, expected, report = planted
    wanted = [f for p in expected for f in _of(folder, p, report)]
    assert [f for f in report.findings if f not in wanted] == []
    assert any("good00" not in r and "MATLAB bicubic, arithmetic=float" in r for r in report.remarks)


def test_one_command_lists_everything_in_order_and_writes_it_to_a_file(invoke, planted, tmp_path):
    folder, _, report = planted
    done = invoke("sr-prepare", f"check={folder}/config.yaml", "out=all.json", "workers=2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["complete"]
    assert written["errors"] == report.errors > 40
    assert [(f["kind"], f["file"], f["message"]) for f in written["findings"]] == [f[1:] for f in report.findings]
    kinds = [f["kind"] for f in written["findings"]]
    assert kinds == sorted(kinds, key=list(KINDS).index)
    out = done.stdout
    assert "error: damaged or truncated files" in out
    assert "more: see all.json" in out  # long lists are shortened
    assert out.index("there is no such folder") < out.index("about ")  # before anything is decoded
    assert invoke("sr-prepare", f"check={folder}/config.yaml", "out=all.csv").returncode == 1
    rows = list(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    assert [r["message"] for r in rows] == [f.message for f in report.findings]


# -- clean sets -----------------------------------------------------------------------------------------------------


def _write_photographs(folder):
    for name in ("astronaut", "coffee", "chelsea", "rocket", "motorcycle_left", "ihc", "color", "retina"):
        write_image(folder / f"{name}.png", read_image(toy_files(name)[name]))


def test_a_clean_set_gives_no_finding(tmp_path, invoke):
    hr = tmp_path / "HR"
    hr.mkdir()
    _write_photographs(hr)
    (tmp_path / "LR").mkdir()
    for path in hr.iterdir():
        write_image(tmp_path / "LR" / f"{path.stem}x3.png", reduce_image(read_image(path), 3))
    done = invoke("sr-prepare", f"check={hr}", f"lr={tmp_path}/LR", "scales=[3]")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("no findings")
    assert "arithmetic=float" in done.stdout
    StoreBuilder(hr, tmp_path / "x.lmdb", scales=[2, 4]).build()
    done = invoke("sr-prepare", f"check={tmp_path}/x.lmdb")
    assert done.returncode == 0, done.stdout
    assert "8 images, LR x2: 8, LR x4: 8" in done.stdout
    assert "24 images read" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("no findings")


def test_toy_data_has_no_finding_and_needs_no_files(invoke):
    for option in ("data/toy", "experiment/quickstart_edsr", "sets/toy"):
        path = damage_free_conf(option)
        done = invoke("sr-prepare", f"check={path}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "no findings" in done.stdout


def damage_free_conf(option):
    from sr_train.config.folders import conf_folder

    return conf_folder() / f"{option}.yaml"


def test_clips_in_a_folder_are_recognized_and_equal_frames_of_a_clip_are_no_duplicates(tmp_path, write_clips):
    write_clips(tmp_path / "GT")
    write_clips(tmp_path / "LR", lr=2)
    for name in ("00000003", "00000004"):
        shutil.copy(tmp_path / "GT" / "000" / "00000002.png", tmp_path / "GT" / "000" / f"{name}.png")
        shutil.copy(tmp_path / "LR" / "000" / "00000002.png", tmp_path / "LR" / "000" / f"{name}.png")
    report = checked(spec_of_path(str(tmp_path / "GT"), lr=str(tmp_path / "LR"), scales=[2]))
    assert report.findings == []
    (tmp_path / "GT" / "011" / "00000004.png").unlink()
    report = checked(spec_of_path(str(tmp_path / "GT")))
    assert [(f.kind, f.file) for f in report.findings] == [("clip", str(tmp_path / "GT" / "011"))]


# -- copies ---------------------------------------------------------------------------------------------------------


def _jpeg(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def _resize(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


COPIES = {
    "half": lambda i: _resize(i, 0.5),
    "three_quarters": lambda i: cv2.resize(i, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_CUBIC),
    "quarter": lambda i: _resize(i, 0.25),
    "jpeg": lambda i: _jpeg(i, 80),
    "modcrop": lambda i: i[: i.shape[0] // 12 * 12, : i.shape[1] // 12 * 12],
    "gray": lambda i: cv2.cvtColor(i, cv2.COLOR_RGB2GRAY)[..., None],
    "all": lambda i: _jpeg(_resize(i[: i.shape[0] // 12 * 12, : i.shape[1] // 12 * 12], 0.5), 80),
    "deep": lambda i: i.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_copies_are_recognized(change):
    for image in (*planting.scored_images().values(), photograph("astronaut"), photograph("motorcycle_left")):
        image = np.ascontiguousarray(image)
        copy = np.ascontiguousarray(change(image))
        prints = np.array([fingerprint(copy)], np.uint64)
        assert distances(fingerprint(image), prints)[0] <= NEAR
        assert likeness(image, copy) > ALIKE
        assert likeness(copy, image) > ALIKE


def test_different_photographs_are_not_alike():
    names = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle_left", "ihc", "color", "retina", "moon", "grass")
    images = [photograph(n) for n in names] + list(planting.tiles())[:60]
    pairs = [(i, k) for i in range(len(images)) for k in range(i)]
    assert max(likeness(images[i], images[k]) for i, k in pairs) < ALIKE
    prints = [fingerprint(image) for image in images]
    assert min((prints[i] ^ prints[k]).bit_count() for i, k in pairs) > NEAR
    flat = np.full((64, 64, 3), 7, np.uint8)
    assert likeness(flat, flat) == 0  # says nothing


def test_distances_count_the_bits_that_differ():
    values = [0, 1, 0xFF, 2**64 - 1, 0x123456789ABCDEF0]
    assert distances(5, np.array(values, np.uint64)).tolist() == [(5 ^ v).bit_count() for v in values]


def test_a_frame_of_a_training_clip_that_is_scored_is_found(tmp_path, write_clips):
    write_clips(tmp_path / "train")
    write_clips(tmp_path / "scored", sizes={"000": 8})
    data = {"train": [{"hr": f"{tmp_path}/train"}], "val": {"held": {"hr": f"{tmp_path}/scored", "clips": "all"}},
            "scale": 2, "frames": 5, "lr_patch": 8}  # fmt: skip
    report = checked(*specs_of_data(data))
    leaks = [f for f in report.findings if f.kind == "leak"]
    assert leaks
    assert all("/train/000/" in f.file and "the same pixels" in f.message for f in leaks)
    data["train"][0]["without"] = ["000"]
    assert checked(*specs_of_data(data)).findings == []


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "one", "other"),
    [
        (["train_sharp/000/00000000", "train_sharp_bicubic/X4/000/00000000"], "train_sharp", "train_sharp_bicubic/X4"),
        (["DIV2K_train_HR/0001", "DIV2K_train_LR_bicubic/X2/0001x2"], "DIV2K_train_HR", "DIV2K_train_LR_bicubic/X2"),
        (["HR/baby", "LR_bicubic/X2/babyx2", "LR_bicubic/X3/babyx3"], "HR", "LR_bicubic/X2"),
        (["archpeople/truth/0001", "archpeople/blur4/0001"], "archpeople/truth", "archpeople/blur4"),
        (["GTmod12/baby", "LRbicx2/baby"], "GTmod12", "LRbicx2"),
        (["GT/calendar/00000000", "BIx4/calendar/00000000"], "GT", "BIx4"),
        (["HR/Set5/x2/baby_HR_x2", "LR/LRBI/Set5/x2/baby_LRBI_x2"], "HR", "LR/LRBI"),
        (["hr_01/0001", "lr_01/0001"], "hr_01", "lr_01"),
        (["X2/0001x2", "X3/0001x3"], "X2", "X3"),
    ],
    ids=["reds", "div2k", "benchmark", "udm10", "basicsr", "vid4", "rcan", "spmcs", "two_scales"],
)
def test_a_folder_that_mixes_hr_and_lr_is_recognized_by_names(keys, one, other):
    found = mixed_folder("ROOT", keys)
    assert found is not None
    assert f"{one}" in found.message.split("hr: ")[1]
    assert f"ROOT/{one}" in found.message
    assert f"ROOT/{other}" in found.message


@pytest.mark.parametrize(
    "keys",
    [
        ["0001", "0002"], ["000/00000000", "001/00000000"], ["blur/a1", "forest/a1", "x2/b"], ["00001/0001/im1"],
        ["animals/0001", "buildings/0001"], ["HR/0001", "HR/0002"], ["X2/0001x2", "X2/0002x2"],
    ],
)  # fmt: skip
def test_other_folders_are_not_taken_for_mixed(keys):
    assert mixed_folder("ROOT", keys) is None


def test_test_clips_of_vimeo_are_found_by_its_list(tmp_path):
    root = tmp_path / "vimeo_septuplet"
    for clip in ("00001/0001", "00001/0002"):
        image = photograph()[: 40 + int(clip[-1]), :60]
        write_all(root / "sequences", {f"{clip}/im{k}": np.roll(image, 9 * k, 1) for k in range(1, 8)})
    (root / "sep_testlist.txt").write_text("00001/0002\r\n")
    (root / "sep_trainlist.txt").write_text("00001/0001\n")
    source = {"hr": str(root / "sequences")}
    data = {"train": [source], "scale": 2, "frames": 7, "lr_patch": 8}
    (found,) = checked(*specs_of_data(data)).findings
    assert (found.kind, found.file) == ("leak by name", source["hr"])
    assert "1 clip (e.g. 00001/0002)" in found.message
    source["clips"] = str(root / "sep_trainlist.txt")
    assert checked(*specs_of_data(data)).findings == []


# -- files ----------------------------------------------------------------------------------------------------------


def test_every_cut_of_a_file_is_damage(tmp_path):
    image = photograph()[:64, :80]
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        data = encode_image(image, suffix)
        for part in np.linspace(0, len(data) - 1, 25).astype(int):
            (tmp_path / f"{part:06d}{suffix}").write_bytes(data[:part])
    report = checked(spec_of_path(str(tmp_path)))
    assert {f.file for f in report.findings if f.severity == "error"} == {str(p) for p in tmp_path.iterdir()}


def test_whole_files_are_not_damaged():
    image = photograph()[:64, :80]
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        data = encode_image(image, suffix)
        assert damage_of(data) is None
        assert damage_of(data + b"more") is None  # behind the end


def test_warnings_of_libjpeg_are_returned_and_a_crash_ends_only_its_process(monkeypatch, tmp_path):
    data = encode_image(photograph(), ".jpg")
    with JpegWarnings() as warnings:
        assert warnings.of(data) == ""
        assert "premature end" in warnings.of(data[: len(data) // 2] + b"\xff\xd9")
        assert warnings.of(data) == ""
        extra = warnings.of(data[:-2] + b"aaaa\xff\xd9")
    assert "1 extraneous bytes" in extra
    assert not jpeg_warnings.is_damage(extra)
    assert jpeg_warnings.is_damage("Corrupt JPEG data: 110 extraneous bytes before marker 0xd9")
    child = tmp_path / "child.py"
    child.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(jpeg_warnings, "_CHILD", child)
    with JpegWarnings() as warnings:
        assert jpeg_warnings.is_damage(warnings.of(data))


def test_harmless_warnings_are_notes(tmp_path):
    data = encode_image(photograph(), ".jpg")
    (tmp_path / "a.jpg").write_bytes(data[:-2] + b"aaaa\xff\xd9")
    assert [(f.severity, f.kind) for f in checked(spec_of_path(str(tmp_path))).findings] == [("note", "decoder")]


def test_a_nan_in_a_store_is_found(tmp_path, monkeypatch):
    write_all(tmp_path / "hr", {"a": photograph()[:40, :40]})
    StoreBuilder(tmp_path / "hr", tmp_path / "x.lmdb", scales=[]).build()
    image = np.full((40, 40, 3), np.nan, np.float32)
    monkeypatch.setattr("sr_train.data.sources.StoreSource.read", lambda *_: image)
    (found,) = checked(spec_of_path(str(tmp_path / "x.lmdb"))).findings
    assert (found.kind, found.message) == ("damaged", "contains values that are not finite (NaN)")


# -- command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check=hr", "lr=hr"), "give e.g. scales=[2]"),
        (("check=c.yaml", "lr=hr"), "leave them out"),
        (("check=bad.yaml",), "contains no data.train"),
        (("check=hr", "out=x.txt"), "expected FILE.json or FILE.csv"),
        (("check=hr", "out=no/x.json"), "there is no folder"),
        (("out=x.json", "images=hr"), "out= needs check=PATH"),
    ],
)
def test_wrong_commands_are_explained(invoke, tmp_path, arguments, message):
    write_all(tmp_path / "hr", {"a": photograph()[:40, :40]})
    (tmp_path / "bad.yaml").write_text("model: {}\n")
    (tmp_path / "c.yaml").write_text("data: {train: [{hr: hr}], scale: 2}\n")
    done = invoke("sr-prepare", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr


def test_full_check_of_a_run_reads_all_images_of_all_stages_first(invoke, tmp_path):
    small = ("experiment=quickstart_edsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
             "data.lr_patch=12", "trainer.accelerator=cpu", "stage=x2", "sets=[]")  # fmt: skip
    tile = planting.tiles()
    write_all(tmp_path / "hr", {f"{k}": next(tile) for k in range(4)})
    done = invoke("sr-train", *small, "data.train=[{hr: hr}]", "check=full")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("4 images read") < done.stdout.index("check passed")
    data = (tmp_path / "hr" / "2.png").read_bytes()
    (tmp_path / "hr" / "2.png").write_bytes(planting.changed(data, len(data) // 2, b"\0\xff\0\xff"))
    assert invoke("sr-train", *small, "data.train=[{hr: hr}]", "check=true").returncode == 0  # it reads a few only
    done = invoke("sr-train", *small, "data.train=[{hr: hr}]", "check=full")
    assert done.returncode == 1
    assert "hr/2.png: CRC error" in done.stdout
    assert "check=full: 1 error in the data" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = invoke("sr-train", *small, "check=some")
    assert done.returncode == 2
    assert "check" in done.stderr
    assert "'full'" in done.stderr


def test_after_ctrl_c_the_report_contains_what_was_found_so_far(planted, monkeypatch):
    folder, _, whole = planted
    data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    doctor, seen = Doctor(specs_of_data(data), workers=1), []

    def stop(count):
        seen.append(count)
        if sum(seen) > 60:
            raise KeyboardInterrupt

    report = doctor.run(stop)
    assert report.code == 130
    assert 60 < report.read < report.images
    assert f"interrupted after {report.read} of" in report.text()
    assert 5 < len(report.findings) < len(whole.findings)
    assert set(report.findings) <= set(whole.findings)


@pytest.mark.kill
def test_ctrl_c_ends_the_command_with_130(tmp_path):
    image = photograph("hubble_deep_field")
    (tmp_path / "hr").mkdir()
    for number in range(40):
        write_image(tmp_path / "hr" / f"{number}.png", np.roll(image, 20 * number, 1))
        for more in range(4):  # so many that the check takes seconds
            shutil.copy(tmp_path / "hr" / f"{number}.png", tmp_path / "hr" / f"{number}_{more}.png")
    program = [str(Path(sys.executable).with_name("sr-prepare")), "check=hr", "workers=1", "out=found.json"]
    (tmp_path / "hr" / "0.png").write_bytes(b"")
    pipe = subprocess.PIPE
    with subprocess.Popen(program, cwd=tmp_path, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "about " in line:
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out = process.stdout.read()
    assert process.returncode == 130
    assert "interrupted after" in out
    assert "the file is empty" in out
    assert not json.loads((tmp_path / "found.json").read_text())["complete"]


def test_a_report_shortens_long_lists_only_on_the_terminal(tmp_path):
    report = Report(30)
    report.add(finding("damaged", f"{k:02d}.png", "cut\nhere") for k in reversed(range(30)))
    text = report.text()
    assert "damaged or truncated files (30)" in text
    assert "  09.png: cut here" in text
    assert "10.png" not in text
    assert "... and 20 more: out=FILE.json lists all" in text
    report.write(str(tmp_path / "a.json"))
    assert len(json.loads((tmp_path / "a.json").read_text())["findings"]) == 30


def test_each_image_is_read_once_although_several_sources_use_it(tmp_path, monkeypatch):
    write_all(tmp_path / "hr", {f"{k}": tile for k, tile in zip(range(5), planting.tiles(), strict=False)})
    write_all(
        tmp_path / "lr", {f"{k}": reduce_image(tile, 2) for k, tile in zip(range(5), planting.tiles(), strict=False)}
    )
    count = []
    real = check.examine
    monkeypatch.setattr(check, "examine", lambda item, *a, **o: (count.append(item.name), real(item, *a, **o))[1])
    pair = {"hr": f"{tmp_path}/hr", "lr": f"{tmp_path}/lr"}
    specs = [
        *specs_of_data({"train": [pair], "scale": 2}), *specs_of_data({"train": [{"hr": pair["hr"]}], "scale": 4}),
    ]  # fmt: skip
    doctor = Doctor(specs, workers=2)
    doctor.estimate()
    assert doctor.run().findings == []
    assert len(count) == len(set(count)) == 10

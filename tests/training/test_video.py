"""Video by the real commands: prepared, trained, killed, resumed, validated, scored; with a tiny network of EDVR's contract."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio

from sr_train.cli.evaluate import evaluate
from sr_train.config.compose import compose_config
from sr_train.data.images import read_image, write_image
from sr_train.data.store.reader import Store
from sr_train.inference.frame_features import FrameFeatures
from sr_train.inference.images import super_resolve
from sr_train.inference.tiling import Tiling, bytes_per_pixel, receptive_radius
from sr_train.metrics.meter import Meter
from sr_train.models.edvr import EDVR
from sr_train.resampling import imresize
from sr_train.runs.checkpoints import list_checkpoints
from sr_train.runs.metrics import read_rows
from sr_train.weights.file import Weights, load_weights, save_weights

pytestmark = pytest.mark.slow

SMALL = (
    "name=v", "scale=2", "data.batch=4", "data.lr_patch=8", "data.workers=0", "trainer.accelerator=cpu", "trainer.precision=32",
    "validate.protocols=[rgb_full]", "logger=csv",
)  # fmt: skip


@pytest.fixture
def folders(tmp_path, write_clips):
    write_clips(tmp_path / "HR")
    write_clips(tmp_path / "LR", lr=2)
    return tmp_path


def own(tiny_video, *more):
    """Training on a store, validation on the clips it was made of."""
    return (
        *SMALL, *tiny_video, "data=base_clips", "sets=[]", "data.train=[{hr: x.lmdb, lr: x.lmdb, without: ['011']}]",
        "+sets.held={hr: HR, lr: LR, clips: ['011']}", *more,
    )  # fmt: skip


# -- training --------------------------------------------------------------------------------------------------------


def test_toy_clips_train_and_are_scored(invoke, tmp_path, tiny_video):
    arguments = (
        *SMALL,
        *tiny_video,
        "data=toy_clips",
        "sets=[toy_clips]",
        "data.batch=2",
        "trainer.max_steps=3",
        "sets.toy_clips.clips=[chelsea-0,chelsea-3]",
    )
    done = invoke("sr-train", *arguments, "data.train=[{hr: 'toy_clips:coffee'}]", "validate.pictures=2")
    assert done.returncode == 0, done.stderr
    assert "TinyVideo x2" in done.stdout
    assert "192 windows" in done.stdout
    folder = tmp_path / "runs" / "v" / "main"
    assert "toy_clips/rgb_full/psnr" in load_weights(folder / "weights.safetensors", allow=["tiny_video"]).scores
    pictures = sorted(p.parent.name for p in (folder / "images").rglob("*.png"))
    assert pictures == ["toy_clips-chelsea-0-00000006", "toy_clips-chelsea-3-00000006"]


@pytest.mark.kill
def test_a_run_killed_with_two_workers_and_resumed_with_none_equals_an_uninterrupted_run(invoke, folders, tiny_video):
    prepared = invoke("sr-prepare", "clips=HR", "store=x.lmdb", "scales=[2]")
    assert prepared.returncode == 0, prepared.stderr
    long = ("checkpoint.every=5", "validate.every=50", "data.intervals=[1]", "data.reverse=true")
    arguments = own(tiny_video, *long, "trainer.max_steps=100")
    done = invoke("sr-train", *arguments, "name=calm")
    assert done.returncode == 0, done.stderr
    command = [str(Path(sys.executable).with_name("sr-train")), *arguments, "data.workers=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=folders, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    saved = folders / "runs" / "v" / "main" / "checkpoints"
    end = time.monotonic() + 60
    while len(list_checkpoints(saved)) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)
    process.kill()
    process.communicate()
    step = list_checkpoints(saved)[0][0]
    resumed = invoke("sr-train", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert step < 100
    assert f"from step {step}" in resumed.stdout
    calm, folder = folders / "runs" / "calm" / "main", saved.parent
    one, two = load_file(calm / "weights.safetensors"), load_file(folder / "weights.safetensors")
    assert all(torch.equal(one[k], two[k]) for k in one)
    rows = [[r for r in read_rows(f / "metrics.csv") if not r[1].startswith("speed/")] for f in (calm, folder)]
    assert rows[0] == rows[1]


def test_frames_of_one_size_are_deblurred(invoke, folders, write_clips, tiny_video):
    write_clips(folders / "blur")
    arguments = (
        *SMALL,
        *tiny_video,
        "data=base_clips",
        "sets=[]",
        "scale=1",
        "data.lr_patch=16",
        "trainer.max_steps=2",
    )
    sources = ("data.train=[{hr: HR, lr: blur, clips: ['000']}]", "+sets.held={hr: HR, lr: blur, clips: ['011']}")
    done = invoke("sr-train", *arguments, *sources)
    assert done.returncode == 0, done.stderr
    scores = load_weights(folders / "runs" / "v" / "main" / "weights.safetensors", allow=["tiny_video"]).scores
    assert scores["held/rgb_full/psnr"] > 5


def test_check_tests_video_and_writes_nothing(invoke, folders, tiny_video):
    arguments = (
        *SMALL,
        *tiny_video,
        "data=base_clips",
        "sets=[]",
        "data.train=[{hr: HR, lr: LR}]",
        "trainer.max_steps=2",
    )
    done = invoke("sr-train", *arguments, "+sets.held={hr: HR, lr: LR, clips: ['011']}", "check=true")
    assert done.returncode == 0, done.stderr
    assert "11 windows for training" in done.stdout
    assert "image     held/011/00000000 48x40" in done.stdout
    assert not (folders / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["data=toy"],
            2,
            "needs windows of 5 frames, but the data contains images: choose video data, e.g. data=toy_clips",
        ),
        (
            ["data.frames=3"],
            2,
            "needs windows of 5 frames, but the data contains windows of 3 frames: give model.frames=3, "
            "or data.frames=5",
        ),
        (["data.frames=4"], 2, "data.frames=4: expected an odd number"),
        (["data.intervals=[0]"], 2, "data.intervals=[0]: expected integers of at least 1"),
        (["data.intervals=2"], 2, "data.intervals=2: expected a list of integers"),
        (["data.lr_patch=9"], 2, "data.lr_patch=9: TinyVideo needs a multiple of 4"),
        (["data.train=[{hr: HR, clips: [11]}]"], 1, 'a list of names in quotes (["000","011"])'),
        (["data.train=[{hr: HR, clips: ['7']}]"], 1, "7: there is no such clip"),
        (["data.train=[{hr: HR, clips: list.txt}]"], 1, "list.txt: there is no such list of clips"),
    ],
)
def test_video_that_does_not_fit_is_refused_in_one_paragraph(invoke, folders, tiny_video, arguments, code, message):
    base = (*SMALL, *tiny_video, "data=base_clips", "sets=[]", "data.train=[{hr: HR, lr: LR}]", "trainer.max_steps=1")
    kept = [a for a in base if not (a.startswith("data") and arguments == ["data=toy"] and a != "data.lr_patch=8")]
    done = invoke("sr-train", *kept, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((folders / "runs").rglob("*.ckpt"))


def test_an_image_network_refuses_clips(invoke, folders):
    done = invoke("sr-train", *SMALL, "data=base_clips", "data.train=[{hr: HR, lr: LR}]", "trainer.max_steps=1")
    assert done.returncode == 2
    assert "EDSR needs images, but the data contains windows of 5 frames: choose image data" in done.stderr


def test_a_bad_clip_stops_a_run_before_it_begins(invoke, folders, tiny_video):
    (folders / "HR" / "001" / "00000002.png").unlink()
    base = (*SMALL, *tiny_video, "data=base_clips", "sets=[]", "data.train=[{hr: HR, lr: LR}]", "trainer.max_steps=1")
    done = invoke("sr-train", *base)
    assert done.returncode == 1
    assert "001: frame number 2 is missing, after 00000001" in done.stderr
    assert not list((folders / "runs").rglob("*.ckpt"))


# -- scoring ---------------------------------------------------------------------------------------------------------


def test_a_sets_score_is_the_mean_over_clips_of_the_means_over_frames():
    meter = Meter()
    for clip, values in (("a", [1.0, 2.0, 3.0]), ("b", [10.0])):
        for t, value in enumerate(values):
            meter.add("s", f"{clip}/{t}", "y", {"psnr": value}, clip)
    meter.add("images", "one", "y", {"psnr": 1.0})
    meter.add("images", "two", "y", {"psnr": 2.0})
    assert meter.summary()["s"]["y"] == {"psnr": 6.0, "n": 4}
    assert meter.summary()["images"]["y"] == {"psnr": 1.5, "n": 2}
    assert {c: v["n"] for c, v in meter.by_clip()["s"]["y"].items()} == {"a": 3, "b": 1}


def test_an_image_network_is_scored_on_clips_frame_by_frame(invoke, folders, moving):
    done = invoke(
        "sr-eval", "weights=bicubic", "scale=2", "hr=HR", "lr=LR", "clips=all", "protocols=[rgb_full]", "out=scores"
    )
    assert done.returncode == 0, done.stderr
    assert "3 clips of 23 frames, the mean over each clip's frames, then over clips" in done.stdout
    (scores,) = json.loads((folders / "scores" / "metrics.json").read_text()).values()
    means = []
    for clip, (name, frames) in enumerate((("000", 8), ("001", 6), ("011", 9))):
        sr = [imresize(read_image(folders / "LR" / name / f"{t:08d}.png"), 2) for t in range(frames)]
        hr = moving(clip, frames)
        means.append(np.mean([peak_signal_noise_ratio(h, s, data_range=255) for h, s in zip(hr, sr, strict=True)]))
    assert abs(scores["rgb_full"]["psnr"] - np.mean(means)) < 0.01  # bicubic of real numbers against that of bytes
    assert scores["rgb_full"]["n"] == 23


def test_sr_eval_scores_a_video_network_as_validation_does(invoke, folders, tiny_video):
    sources = ("data.train=[{hr: HR, lr: LR, without: ['011']}]", "+sets.held={hr: HR, lr: LR, clips: ['000', '011']}")
    done = invoke("sr-train", *SMALL, *tiny_video, "data=base_clips", "sets=[]", *sources, "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    weights = folders / "runs" / "v" / "main" / "weights.safetensors"
    asked = ("hr=HR", "lr=LR", "clips=['000','011']", "protocols=[rgb_full]", "device=cpu", "allow=[tiny_video]")
    scored = invoke("sr-eval", f"weights=[bicubic,{weights}]", *asked, "out=scores")
    assert scored.returncode == 0, scored.stderr
    (found,) = json.loads((folders / "scores" / "metrics.json").read_text())["main"].values()
    expected = load_weights(weights, allow=["tiny_video"]).scores["held/rgb_full/psnr"]
    assert abs(found["rgb_full"]["psnr"] - expected) < 1e-4


def test_the_protocols_of_the_papers_score_clips(invoke, folders):
    asked = ("scale=2", "hr=HR", "lr=LR", "clips=true", "out=scores")
    done = invoke("sr-eval", "weights=bicubic", *asked, "protocols=[reds4,rgb_full,vid4,y_full,vimeo90k]")
    assert done.returncode == 0, done.stderr
    (scores,) = json.loads((folders / "scores" / "metrics.json").read_text()).values()
    assert scores["reds4"] == scores["rgb_full"]
    assert scores["vid4"] == scores["y_full"]
    assert {c: v["n"] for c, v in scores["reds4"]["clips"].items()} == {"000": 8, "001": 6, "011": 9}
    assert scores["reds4"]["psnr"] == pytest.approx(np.mean([v["psnr"] for v in scores["reds4"]["clips"].values()]))
    centers = {"000": 4, "001": 3, "011": 4}
    rows = list(csv.DictReader((folders / "scores" / "metrics.csv").open()))
    frames = {r["image"]: float(r["psnr"]) for r in rows if r["protocol"] == "vid4"}
    assert scores["vimeo90k"]["n"] == 3
    for clip, center in centers.items():
        found = scores["vimeo90k"]["clips"][clip]["psnr"]
        assert found == pytest.approx(frames[f"{clip}/{center:08d}"], abs=1e-6)
    assert "rgb_full, vid4, y_full: 3 clips of 23 frames" in done.stdout
    assert "vimeo90k: 3 clips of 3 frames" in done.stdout
    assert any(line.split()[:3] == ["001", "6", "vid4"] for line in done.stdout.splitlines())
    alone = invoke("sr-eval", "weights=bicubic", *asked, "protocols=[vimeo90k]")
    (again,) = json.loads((folders / "scores" / "metrics.json").read_text()).values()
    assert alone.returncode == 0
    assert again == {"vimeo90k": scores["vimeo90k"]}


def test_finished_frames_are_scored_by_clip(folders, monkeypatch):
    monkeypatch.chdir(folders)
    asked = ["hr=HR", "scale=2", "protocols=[reds4,vimeo90k]"]
    assert evaluate(["weights=bicubic", "lr=LR", *asked, "clips=true", "out=a", "save=true", "device=cpu"]) == 0
    (saved,) = Path("a", "images").iterdir()
    for clips, names in (("true", {"000", "001", "011"}), ("['000','011']", {"000", "011"})):
        assert evaluate([f"sr={saved}", *asked, f"clips={clips}", "out=b"]) == 0
        found, expected = (json.loads(Path(f, "metrics.json").read_text())[folders.name] for f in "ba")
        for protocol in ("reds4", "vimeo90k"):
            assert found[protocol]["clips"] == {c: expected[protocol]["clips"][c] for c in names}
            means = [expected[protocol]["clips"][c]["psnr"] for c in names]
            assert found[protocol]["psnr"] == pytest.approx(np.mean(means))
    for more in ([], ["clips=false"]):  # images
        assert evaluate([f"sr={saved}", *asked, *more, "out=b"]) == 0
        assert "clips" not in json.loads(Path("b", "metrics.json").read_text())[folders.name]["reds4"]
    assert evaluate([f"sr={saved}/001", "hr=HR/001", "scale=2", "clips=true", "protocols=[reds4]", "out=b"]) == 0
    ((found,),) = [v["reds4"]["clips"].values() for v in json.loads(Path("b", "metrics.json").read_text()).values()]
    assert found == expected["reds4"]["clips"]["001"]
    (saved / "001" / "00000002.png").unlink()
    with pytest.raises(ValueError, match="001/00000002: no image is named 001/00000002 or 001/00000002x2"):
        evaluate([f"sr={saved}", *asked, "clips=true"])


def test_edvr_scores_clips_like_windows_and_computes_each_frame_once(folders, monkeypatch):
    monkeypatch.chdir(folders)
    torch.manual_seed(0)
    options = {"scale": 4, "channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1, "tsa": False}
    network = EDVR(**options)
    save_weights("e.safetensors", Weights({"_target_": "sr_train.models.edvr.EDVR", **options}, network.state_dict()))
    asked = ["weights=e.safetensors", "hr=HR", "device=cpu", "protocols=[reds4]"]
    seen = []
    original = EDVR.features
    monkeypatch.setattr(EDVR, "features", lambda self, x: seen.append(len(x)) or original(self, x))
    assert evaluate([*asked, "out=once"]) == 0
    assert seen == [1] * 23
    monkeypatch.setattr(FrameFeatures, "serve", lambda model: False)
    assert evaluate([*asked, "out=windows"]) == 0
    assert seen[23:] == [5] * 23
    once, windows = (
        json.loads(Path(f, "metrics.json").read_text())[folders.name]["reds4"] for f in ("once", "windows")
    )
    assert abs(once["psnr"] - windows["psnr"]) < 1e-3
    assert once["clips"].keys() == windows["clips"].keys()
    assert evaluate([*asked, "out=turned", "ensemble=true"]) == 0
    assert seen[46:] == [5] * 92  # identity, W, H, both


def test_networks_with_different_windows_score_the_same_in_one_table_and_alone(folders, monkeypatch):
    monkeypatch.chdir(folders)
    torch.manual_seed(0)
    files = [f"f{frames}.safetensors" for frames in (1, 3, 5, 7)]
    for frames, file in zip((1, 3, 5, 7), files, strict=True):
        options = {"scale": 4, "channels": 8, "groups": 2, "front_blocks": 1, "back_blocks": 1, "frames": frames}
        network = EDVR(**options, tsa=False)
        save_weights(
            file, Weights({"_target_": "sr_train.models.edvr.EDVR", **options, "tsa": False}, network.state_dict())
        )
    asked = ["hr=HR", "clips=['000','011']", "device=cpu", "protocols=[reds4]", "metrics=[psnr]"]
    assert evaluate([f"weights=[bicubic,{','.join(files)}]", *asked, "out=all"]) == 0
    together = json.loads(Path("all", "metrics.json").read_text())
    for file in files:
        assert evaluate([f"weights={file}", *asked, "out=one"]) == 0
        assert together[file.removesuffix(".safetensors")] == json.loads(Path("one", "metrics.json").read_text())
    assert len({json.dumps(scores) for scores in together.values()}) == 5
    with pytest.raises(ValueError, match=r"001: has 6 of the 7 frames"):
        evaluate([f"weights=[{files[0]},{files[3]}]", "hr=HR", "device=cpu", "protocols=[reds4]"])


# -- running a network on windows ------------------------------------------------------------------------------------


@pytest.fixture
def network(tiny_video):
    from tiny_video import TinyVideo  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    return TinyVideo(scale=2, frames=3).eval()


def test_windows_are_padded_tiled_and_rotated_like_images(network):
    lr = torch.randint(0, 256, (3, 3, 37, 50), dtype=torch.uint8)
    whole = super_resolve(network, lr)
    assert whole.shape == (3, 74, 100)
    padded = torch.nn.functional.pad(lr / 255, (0, 2, 0, 3), mode="reflect")
    with torch.inference_mode():
        plain = network(padded[None])[0, :, :74, :100].clamp(0, 1)
    assert torch.allclose(whole, plain, atol=1e-6)
    radius = receptive_radius(network)
    assert radius is not None
    assert 3 <= radius <= 8
    assert torch.allclose(super_resolve(network, lr, tiling=Tiling(12, radius, 0, True)), whole, atol=1e-5)
    turned = super_resolve(network, lr.flip(-1), ensemble=True).flip(-1)
    assert torch.allclose(super_resolve(network, lr, ensemble=True), turned, atol=1e-5)
    assert bytes_per_pixel(network) > 3 * 3 * 4


def test_a_video_network_refuses_images_and_other_windows(network):
    for lr, given in ((torch.zeros(3, 8, 8), "one image"), (torch.zeros(5, 3, 8, 8), "5 frames")):
        with pytest.raises(ValueError, match=f"TinyVideo takes windows of 3 frames, but was given {given}"):
            super_resolve(network, lr)


# -- stores and the sets that come with the project ------------------------------------------------------------------


def test_a_store_of_clips_is_made_resumed_and_refused_by_the_command(invoke, folders):
    (folders / "list.txt").write_text("000\n011\n")
    made = invoke("sr-prepare", "clips=HR", "list=list.txt", "store=x.lmdb", "scales=[2]")
    assert made.returncode == 0, made.stderr
    assert "HR: 2 clips, 17 frames, no frame is missing" in made.stdout
    assert "x.lmdb: 17 images, LR x2" in made.stdout
    assert len(Store(folders / "x.lmdb").keys(2)) == 17
    again = invoke("sr-prepare", "clips=HR", "list=list.txt", "store=x.lmdb", "scales=[2]", "verify=true")
    assert "already complete" in again.stdout
    assert "all checksums agree" in again.stdout
    write_image(folders / "HR" / "011" / "00000004.png", np.zeros((40, 50, 3), np.uint8))
    bad = invoke("sr-prepare", "clips=HR", "store=y.lmdb")
    assert bad.returncode == 1
    assert "011/00000004: is 50x40, but the first frame of the clip is 48x40" in bad.stderr
    (folders / "HR" / "001" / "00000004.png").unlink()
    bad = invoke("sr-prepare", "clips=HR", "store=y.lmdb")
    assert bad.returncode == 1
    assert "001: frame number 4 is missing, after 00000003" in bad.stderr
    assert not (folders / "y.lmdb").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clips=HR", "images=HR"], "give images=DIR or clips=DIR, not both"),
        (["list=list.txt"], "list= needs images=DIR or clips=DIR"),
        (["clips=HR", "skip_bad=true"], "leave out whole clips with list="),
    ],
)
def test_invalid_options_for_clips_are_usage_errors(invoke, folders, arguments, message):
    done = invoke("sr-prepare", "store=x.lmdb", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("name", ["reds", "reds_blur", "reds_blur_comp", "reds_blur_bicubic"])
def test_reds4_is_never_trained_on(name):
    data = compose_config("train", [f"data={name}"]).data
    held = compose_config("train", [f"sets=[{name.replace('reds', 'reds4')}]"]).sets
    (spec,) = held.values()
    assert list(spec.clips) == ["000", "011", "015", "020"]
    assert [list(source.without) for source in data.train] == [["000", "011", "015", "020"]]
    assert spec.padding == ("reflection_circle" if name == "reds" else "replicate")
    assert data.frames == 5
    assert data.lr_patch == (256 if name in ("reds_blur", "reds_blur_comp") else 64)


def test_video_sets_are_prepared_and_opened_by_name(invoke, tmp_path, write_clips):
    write_clips(tmp_path / "dl" / "train" / "train_sharp", sizes={"000": 5, "001": 2, "011": 5, "015": 5, "020": 5})
    for where, scale in (("Vid4/GT", 0), ("Vid4/BIx2", 2)):
        write_clips(tmp_path / "dl" / where, lr=scale, sizes={"city": 5, "walk": 6}, template="Frame {:03d}")
    vimeo = tmp_path / "dl" / "vimeo_septuplet"
    write_clips(vimeo / "sequences", sizes={"00001/0001": 8, "00001/0002": 8}, template="im{}")
    (vimeo / "sep_trainlist.txt").write_text("00001/0001\n")
    (vimeo / "sep_testlist.txt").write_text("00001/0002\n")
    for name in ("reds4", "vid4", "vimeo90k"):
        done = invoke("sr-prepare", f"dataset={name}", "root=dl", "scales=[2,4]", "partial=true", "verify=true")
        assert done.returncode == 0, done.stderr
        assert "all checksums agree" in done.stdout
    sets = "sets=[reds4,vid4,vimeo90k_t]"
    done = invoke("sr-eval", "weights=bicubic", "scale=2", sets, "protocols=[y_full]", "metrics=[psnr]")
    assert done.returncode == 0, done.stderr
    for line in ("reds4: 4 clips of 20 frames", "vid4: 2 clips of 11 frames", "vimeo90k_t: 1 clips of 1 frames"):
        assert line in done.stdout
    done = invoke(
        "sr-train", "data=vimeo90k", "model=edvr_m", "scale=4", "sets=[]", "name=x", "data.lr_patch=8",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        "EDVR needs windows of 5 frames, but the data contains windows of 7 frames: give model.frames=7" in done.stderr
    )

import csv
import json

import numpy as np
import pytest
import torch

from sr_train.data.degrade import reduce_image
from sr_train.data.images import read_image, write_image
from sr_train.data.toy import toy_files
from sr_train.metrics.functional import psnr
from sr_train.models.edsr import EDSR
from sr_train.resampling import imresize
from sr_train.weights.file import Weights, save_weights


@pytest.fixture
def pairs(photographs, tmp_path):
    low = tmp_path / "low"
    low.mkdir()
    for path in photographs.glob("*.png"):
        write_image(low / f"{path.stem}x2.png", reduce_image(read_image(path), 2))
    return photographs, low


def test_bicubic_scores_are_printed_and_written(command, invoke, pairs, tmp_path):
    done = command("sr-eval", "weights=bicubic", "hr=photographs", "lr=low", "scale=2", "out=scores", "save=true")
    assert done.returncode == 0, done.stderr
    assert "rgb: RGB, 8-bit images, border scale px ignored" in done.stdout
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert scores["photographs"].keys() == {"y", "rgb"}
    assert scores["photographs"]["rgb"].keys() == {"psnr", "ssim", "n"}
    expected = []
    for path in sorted(pairs[0].glob("*.png")):
        hr, low = read_image(path), read_image(pairs[1] / f"{path.stem}x2.png")
        sr = imresize(low, 2)
        saved = read_image(tmp_path / "scores" / "images" / "photographs" / path.name)
        assert (saved != sr).mean() < 1e-4
        a, b = (torch.from_numpy(i[2:-2, 2:-2].astype(np.float64)) for i in (sr, hr))
        expected.append(psnr(a, b))
    assert scores["photographs"]["rgb"]["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    rows = list(csv.DictReader((tmp_path / "scores" / "metrics.csv").open()))
    assert len(rows) == 4 * 2
    assert {r["image"] for r in rows} == {"0000", "0001", "0002", "0003"}
    # The saved images, scored as finished images, give the same numbers.
    finished = invoke("sr-eval", "sr=scores/images/photographs", "hr=photographs", "scale=2", "out=again")
    assert finished.returncode == 0, finished.stderr
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == scores


def test_lr_made_from_hr_equals_the_lr_files(invoke, pairs, tmp_path):
    for name, lr in (("a", ["lr=low"]), ("b", [])):
        assert invoke("sr-eval", "weights=bicubic", "hr=photographs", "scale=2", f"out={name}", *lr).returncode == 0
    assert (tmp_path / "a" / "metrics.json").read_text() == (tmp_path / "b" / "metrics.json").read_text()


def test_the_scale_comes_from_the_weights_file(invoke, photographs, tmp_path):
    network = EDSR(scale=2, channels=4, blocks=1)
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1}
    save_weights(tmp_path / "net.safetensors", Weights(model, network.state_dict()))
    done = invoke("sr-eval", "weights=net.safetensors", "hr=photographs", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert "net.safetensors (x2)" in done.stdout
    done = invoke("sr-eval", "weights=net.safetensors", "hr=photographs", "scale=3")
    assert done.returncode == 1
    assert "is a network for x2" in done.stderr


def test_scores_before_an_error_are_written(invoke, photographs, tmp_path):
    write_image(photographs / "9999.png", np.zeros((12, 12, 3), np.uint8))
    done = invoke("sr-eval", "weights=bicubic", "hr=photographs", "scale=2", "out=scores", "protocols=[rgb]")
    assert done.returncode == 1
    assert "photographs: 9999: SSIM needs an image of at least 11x11" in done.stderr
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["photographs"]["rgb"]["n"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hr=photographs", "scale=2"], 2, "give one of weights=FILE.safetensors"),
        (["weights=bicubic", "scale=2"], 2, "nothing to score"),
        (["weights=bicubic", "hr=photographs"], 2, "give scale=2"),
        (["weights=bicubic", "hr=photographs", "scale=0"], 2, "scale=0"),
        (["weights=bicubic", "hr=photographs", "scale=two"], 2, "scale='two'"),
        (["weights=bicubic", "hr=photographs", "scale=2", "protocols=[Y]"], 2, "choose from y, y_matlab"),
        (["weights=bicubic", "hr=photographs", "scale=2", "protocols=y"], 2, "protocols='y': expected a list"),
        (["weights=bicubic", "hr=missing", "scale=2"], 1, "missing: there is no such folder"),
        (["weights=missing.safetensors", "hr=photographs"], 1, "missing.safetensors: there is no such file"),
        (["weights=bicubic", "hr=photographs", "lr=photographs", "scale=2"], 1, "does not fit LR 96x80 at scale 2"),
        (["weights=bicubic", "hr=low", "lr=photographs", "scale=2"], 1, "photographs: LR is missing for"),
        (["weights=bicubic", "hr=photographs", "scale=2", "save=true"], 2, "give out=DIR"),
        (["weights=bicubic", "lr=low", "clips=true", "scale=2"], 2, "clips= was given without hr="),
        (["weights=bicubic", "sets=[set6]", "scale=2"], 2, "set6"),
        (
            ["weights=bicubic", "sets=[set5]", "scale=2"],
            1,
            "make the store with sr-prepare dataset=set5 root=DIR scales=[2]",
        ),
        (["weights=bicubic", "hr=photographs", "scale=2", "device=cuda:99"], 1, "try device=cpu"),
        (["weigths=bicubic"], 2, "did you mean weights"),
        (
            ["weights=bicubic", "hr=photographs", "scale=2", "overlap=1.5"],
            2,
            "overlap=1.5: expected auto or an integer",
        ),
        (
            ["weights=bicubic", "hr=photographs", "scale=2", "tile=64.5"],
            2,
            "tile=64.5: expected auto, null for the whole",
        ),
        (
            ["weights=bicubic", "hr=photographs", "scale=2", "tile=16", "overlap=true"],
            2,
            "overlap=true: expected auto or an",
        ),
        (["sr=low", "hr=photographs", "scale=2"], 1, "the result is 48x40, the HR image 96x80"),
    ],
)
def test_wrong_options_fail_with_a_short_message(invoke, pairs, arguments, code, message):
    done = invoke("sr-eval", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_several_networks_are_columns_of_one_table(invoke, photographs, tmp_path):
    torch.manual_seed(0)
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
    for run in ("a", "b"):
        (tmp_path / run / "x2").mkdir(parents=True)
        network = EDSR(scale=2, channels=4, blocks=1, res_scale=1.0)
        save_weights(tmp_path / run / "x2" / "weights.safetensors", Weights(model, network.state_dict()))
    call = ("sr-eval", "hr=photographs", "device=cpu", "out=scores")
    done = invoke(*call, "weights=[bicubic,a/x2,b/x2/weights.safetensors]", "save=true")
    assert done.returncode == 0, done.stderr
    head = next(line for line in done.stdout.splitlines() if line.startswith("set "))
    assert head.split() == ["set", "images", "protocol", "bicubic", "a/x2", "b/x2"]
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    rows = list(csv.DictReader((tmp_path / "scores" / "metrics.csv").open()))
    assert len(rows) == 3 * 4 * 2
    assert (tmp_path / "scores" / "images" / "b" / "x2" / "photographs" / "0001.png").exists()
    for source, name in (("bicubic", "bicubic"), ("a/x2", "a/x2"), ("b/x2", "b/x2")):
        alone = invoke("sr-eval", f"weights={source}", "hr=photographs", "device=cpu", "scale=2", "out=alone")
        assert alone.returncode == 0, alone.stderr
        assert json.loads((tmp_path / "alone" / "metrics.json").read_text()) == scores[name]


def test_the_ensemble_and_tiles_are_scored(invoke, photographs, tmp_path):
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
    save_weights(
        tmp_path / "net.safetensors", Weights(model, EDSR(scale=2, channels=4, blocks=1, res_scale=1.0).state_dict())
    )
    found = {}
    for name, more in {"plain": [], "tiled": ["tile=24"], "ensemble": ["ensemble=true"]}.items():
        call = ("sr-eval", "weights=net.safetensors", "hr=photographs", "device=cpu", f"out={name}", "protocols=[rgb]")
        assert invoke(*call, *more).returncode == 0
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())["photographs"]["rgb"]["psnr"]
    assert found["tiled"] == pytest.approx(found["plain"], abs=1e-4)
    assert found["ensemble"] > found["plain"] + 0.01  # of a network with random weights: its errors average out


def test_networks_that_cannot_be_compared_are_refused(invoke, photographs, tmp_path):
    for scale in (2, 3):
        model = {"_target_": "sr_train.models.edsr.EDSR", "scale": scale, "channels": 4, "blocks": 1}
        network = EDSR(scale=scale, channels=4, blocks=1)
        save_weights(tmp_path / f"x{scale}.safetensors", Weights(model, network.state_dict()))
    done = invoke("sr-eval", "weights=[x2.safetensors,x3.safetensors]", "hr=photographs", "device=cpu")
    assert done.returncode == 1
    assert "x2.safetensors x2, x3.safetensors x3" in done.stderr
    assert "twice" in invoke("sr-eval", "weights=[bicubic,bicubic]", "hr=photographs", "scale=2").stderr
    assert "or a list of them" in invoke("sr-eval", "weights=[]", "hr=photographs", "scale=2").stderr


def test_lpips_is_scored_in_addition_to_psnr(invoke, photographs, tmp_path, tiny_lpips):
    call = ("sr-eval", "weights=bicubic", "hr=photographs", "scale=2", "device=cpu")
    done = invoke(*call, "metrics=[psnr,ssim,lpips]", f"lpips={tiny_lpips}", "out=scores")
    assert done.returncode == 0, done.stderr
    assert (
        "perceptual: RGB, 8-bit images, no border, mean over images; LPIPS v0.1 with the lin layers of alex.safetensors "
        "(lower is better)"
    ) in done.stdout
    warning = (
        f"warning: lpips={tiny_lpips}: these lin layers are not from a released version of LPIPS; they are used as"
    )
    assert done.stderr.count(warning) == 1
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())["photographs"]
    assert scores["perceptual"].keys() == {"lpips", "n"}
    assert scores["perceptual"]["lpips"] > 0.01
    assert scores["rgb"].keys() == {"psnr", "ssim", "n"}
    rows = list(csv.DictReader((tmp_path / "scores" / "metrics.csv").open()))
    assert len(rows) == 4 * 3
    assert {(r["protocol"], r["psnr"] == "", r["lpips"] == "") for r in rows} == {
        ("y", False, True), ("rgb", False, True), ("perceptual", True, False),
    }  # fmt: skip
    alone = invoke(*call, "metrics=[lpips]", f"lpips={tiny_lpips}")
    assert alone.returncode == 0, alone.stderr
    assert "PSNR" not in alone.stdout
    model = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1}
    save_weights(tmp_path / "net.safetensors", Weights(model, EDSR(scale=2, channels=4, blocks=1).state_dict()))
    two = invoke("sr-eval", "weights=[bicubic,net.safetensors]", "hr=photographs", "device=cpu", "metrics=[psnr,lpips]",
                 f"lpips={tiny_lpips}")  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert "LPIPS" in two.stdout
    assert "SSIM  " not in two.stdout


def test_unavailable_metrics_fail_with_a_remedy(invoke, photographs, monkeypatch):
    monkeypatch.setattr("sr_train.evaluation.metrics.find_lpips", lambda _: None)
    call = ("sr-eval", "weights=bicubic", "hr=photographs", "scale=2", "device=cpu")
    for metrics, message in {
        "[niqe,pi]": "metrics=[pi]: PI is not computed, because it needs Ma's score",
        "[lpips]": "run pip install lpips, or give lpips=FILE",
        "[psnr,lpisp]": "choose from psnr, ssim, lpips",
        "[]": "choose from",
    }.items():
        done = invoke(*call, f"metrics={metrics}")
        assert done.returncode == 2
        assert message in done.stderr
    missing = invoke(*call, "metrics=[lpips]", "lpips=none.pth")
    assert missing.returncode == 1
    assert "there is no such file" in missing.stderr


def test_errors_of_lpips_contain_options_and_files_of_sr_eval(invoke, photographs, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)

    def lins(name, *sizes):
        torch.save({f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate(sizes)}, tmp_path / name)

    lins("alex.pth", 64, 192, 384, 256, 256)
    lins("squeeze.pth", 64, 128, 256, 384, 384, 512, 512)
    lins("other.pth", 64, 128)
    torch.save({"features.0.weight": torch.rand(2, 2)}, tmp_path / "alexnet-owt-7be5be79.pth")
    for name, message in {
        "alex.pth": f"=alex.pth contains only LPIPS's lin layers; torchvision's file alexnet-owt-7be5be79.pth is also needed. "
        f"alexnet: the ImageNet weights are not in torch's cache and cannot be downloaded (no network). Download https://download."
        f"pytorch.org/models/alexnet-owt-7be5be79.pth on another machine and copy it to {tmp_path / 'cache' / 'checkpoints'}",
        "squeeze.pth": "lpips=squeeze.pth: contains the lin layers of SqueezeNet, which is not supported; give alex.pth or",
        "other.pth": "contains lin layers of [64, 128] weights; expected [64, 192, 384, 256, 256] or [64, 128, 256, 512, 512]",
        "alexnet-owt-7be5be79.pth": "contains no lin layers (lin0.model.1.weight, ...), but the weights of an ImageNet network",
    }.items():
        done = invoke(
            "sr-eval", "weights=bicubic", "hr=photographs", "scale=2", "device=cpu", "metrics=[lpips]", f"lpips={name}"
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert "extractor" not in done.stderr


@pytest.mark.parametrize(
    ("hr", "sr", "typed"),
    [
        ("{}_HR_x2", "{}_x2_SR", "sr=results"),
        ("{}_HR_x2", "{}_RCAN_x2", "sr=results"),
        ("{}", "{}_EDSR_Lx2_official", "sr=results"),
        ("{}_HR", "EDSR-{}-2", "sr=results/EDSR-{stem}-{scale}.png"),
    ],
)
def test_finished_images_are_found_by_the_names_that_programs_write(invoke, photographs, tmp_path, hr, sr, typed):
    for folder, name in (("originals", hr), ("results", sr)):
        (tmp_path / folder).mkdir()
        for path in photographs.glob("*.png"):
            image = read_image(path) // (2 if folder == "results" else 1)
            write_image(tmp_path / folder / f"{name.format(path.stem)}.png", image)
    done = invoke("sr-eval", typed, "hr=originals", "scale=2", "protocols=[rgb]", "metrics=[psnr]", "out=scores")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "scores" / "metrics.csv").open()))
    assert len(rows) == 4
    for row in rows:
        image = read_image(tmp_path / "originals" / f"{row['image']}.png").transpose(2, 0, 1)
        a, b = (torch.from_numpy(i[:, 2:-2, 2:-2].astype(np.float64)) for i in (image // 2, image))
        assert float(row["psnr"]) == pytest.approx(psnr(a, b), abs=1e-4)
    assert ("names continue with" in done.stdout) == (typed == "sr=results")


def test_the_error_for_unpaired_results_lists_the_names_tried(invoke, photographs, tmp_path):
    (tmp_path / "results").mkdir()
    for path in photographs.glob("*.png"):
        for name in ("EDSR", "RCAN"):
            write_image(tmp_path / "results" / f"{path.stem}_{name}.png", read_image(path))
    call = ("sr-eval", "hr=photographs", "scale=2", "protocols=[rgb]", "metrics=[psnr]")
    done = invoke(*call, "sr=results")
    assert done.returncode == 1
    assert "results contains 0000_EDSR, 0000_RCAN, 0001_EDSR, ...; these cannot be paired with" in done.stderr
    assert "e.g. 'sr=results/{stem}_x{scale}_SR'" in done.stderr
    assert "0003: more than one name begins with this name: 0003_EDSR, 0003_RCAN" in done.stderr
    assert invoke(*call, "sr=results/{stem}_RCAN").returncode == 0
    (tmp_path / "other").mkdir()
    write_image(tmp_path / "other" / "x.png", np.zeros((80, 96, 3), np.uint8))
    done = invoke(*call, "sr=other")
    assert "0000: no image is named 0000 or 0000x2 or 0000_SRF_2_SR, and no name begins with 0000_" in done.stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("lr=LR/X{scale}", "LR/X{scale}"),
        ("sr={stem}_SR", "{stem}_SR"),
        ("sr='R/{stem} (1)'", "R/{stem} (1)"),
        ("lr={2: 'LR/X{scale}'}", {2: "LR/X{scale}"}),
        ("sets=[set5]", ["set5"]),
    ],
)
def test_templates_need_no_quotes_for_hydra(typed, expected):
    from sr_train.config.compose import parse

    assert parse([typed], command="evaluate")[0].value() == expected


def test_finished_images_of_rcan_are_paired_with_hr_and_those_without_hr_reported(invoke, photographs, tmp_path):
    for folder, kind in (("HR", "HR"), ("SR", "RCAN")):
        (tmp_path / folder).mkdir()
        for path in sorted(photographs.glob("*.png")):
            write_image(tmp_path / folder / f"{path.stem}_{kind}_x2.png", read_image(path))
    (tmp_path / "HR" / "0003_HR_x2.png").unlink()
    done = invoke("sr-eval", "sr=SR", "hr=HR", "scale=2", "protocols=[rgb]", "out=out")
    assert done.returncode == 0, done.stderr
    assert "SR: 1 image not scored, because there is no HR image in HR: 0003_RCAN_x2" in done.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()).popitem()[1]["rgb"]["n"] == 3
    write_image(tmp_path / "SR" / "0001x2.png", read_image(photographs / "0001.png"))
    write_image(tmp_path / "SR" / "0001.png", read_image(photographs / "0001.png"))
    failed = invoke("sr-eval", "sr=SR", "hr=HR", "scale=2")
    assert failed.returncode == 1
    assert "0001_HR_x2: 0001 and 0001x2 both match" in failed.stderr


def test_niqe_is_scored_with_and_without_hr(invoke, tmp_path):
    photograph = read_image(toy_files("coffee")["coffee"])
    for folder, image in (("ref", photograph[:200, :200]), ("sr/a", photograph[:200, :200] // 2)):
        (tmp_path / folder).mkdir(parents=True)
        write_image(tmp_path / folder / "a.png", image)
    both = invoke("sr-eval", "sr=sr/a", "hr=ref", "scale=2", "metrics=[psnr,niqe]", "protocols=[y]", "out=both")
    alone = invoke("sr-eval", "sr=sr/a", "scale=2", "out=alone")
    assert (both.returncode, alone.returncode) == (0, 0), both.stderr + alone.stderr
    assert "perceptual: Y of BT.601 rounded to 8 bits, gray images by their own values, border scale px" in alone.stdout
    found = {n: json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("both", "alone")}
    assert found["both"]["ref"]["perceptual"] == found["alone"]["a"]["perceptual"]
    assert found["both"]["ref"]["y"].keys() == {"psnr", "n"}
    refused = invoke("sr-eval", "sr=sr/a", "scale=2", "list=names.txt")
    assert "{stem}, clips= and list= need hr=DIR" in refused.stderr

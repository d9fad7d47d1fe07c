from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from sr_train.data.dataset import EvalImages
from sr_train.data.images import read_image
from sr_train.data.pairs import Pairs
from sr_train.resampling import imresize
from sr_train.training.validation import Validate, comparison

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=4",
    "data.lr_patch=12", "trainer.accelerator=cpu", "trainer.precision=32",
)  # fmt: skip


def test_the_picture_shows_lr_bicubic_sr_and_hr_side_by_side():
    image = EvalImages({"toy": Pairs("toy:chelsea", scale=2)})[0]
    picture = comparison(image, torch.ones_like(image.target).float(), 96)
    assert picture.shape == (96, 4 * 96 + 3 * 4, 3)
    hr = read_image(Pairs("toy:chelsea", scale=2).hr.path(0))  # pyright: ignore[reportAttributeAccessIssue]
    top, left = (300 - 96) // 2, (451 - 1 - 96) // 2 // 2 * 2
    np.testing.assert_array_equal(picture[:, 3 * 100 :], hr[top : top + 96, left : left + 96])
    assert (picture[:, 200:296] == 255).all()
    lr = image.lr.permute(1, 2, 0).numpy()
    bicubic = imresize(lr, 2)[top : top + 96, left : left + 96]
    assert (picture[:, 100:196] != bicubic).mean() < 1e-3
    np.testing.assert_array_equal(picture[::2, :96:2], lr[top // 2 : top // 2 + 48, left // 2 : left // 2 + 48])


def test_the_picture_of_a_window_shows_the_center_frame():
    image = EvalImages({"toy": Pairs("toy:chelsea", scale=2)})[0]
    around = torch.stack([255 - image.lr, image.lr, image.lr // 2])
    sr = torch.zeros_like(image.target).float()
    window = comparison(image._replace(lr=around, clip="a"), sr, 96)
    np.testing.assert_array_equal(window, comparison(image, sr, 96))


def test_the_best_is_kept_by_the_metric_that_was_asked_for(invoke, tmp_path):
    from sr_train.runs.metrics import read_rows
    from sr_train.weights.file import load_weights

    done = invoke(
        "sr-train", *SMALL, "trainer.max_steps=12", "validate.every=3", "validate.best=toy/rgb/ssim", "validate.pictures=1",
        "task.rate=0.05", "task.ema=null", "curve=constant",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "quickstart_edsr" / "x2"
    rows = {step: float(v) for step, name, v in read_rows(folder / "metrics.csv") if name == "toy/rgb/ssim"}
    assert sorted(rows) == [3, 6, 9, 12]
    best = max(rows, key=lambda s: rows[s])
    weights = load_weights(folder / "best.safetensors")
    assert weights.origin["step"] == best
    assert weights.scores["toy/rgb/ssim"] == rows[best]
    assert len(list((folder / "images" / "toy-chelsea").glob("step_*.png"))) == 4


def test_a_metric_that_is_not_measured_is_refused_before_anything_is_trained(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, "trainer.max_steps=2", "validate.best=set5/y/psnr")
    assert done.returncode == 2
    assert "validate.best=set5/y/psnr is not measured; choose from toy/y/psnr, toy/y/ssim" in done.stderr
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_validation_runs_in_fp32_and_equals_sr_eval(invoke, tmp_path):
    import json

    done = invoke("sr-train", *SMALL[:-1], "trainer.precision=bf16-mixed", "trainer.max_steps=6", "checkpoint.every=3")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "quickstart_edsr" / "x2"
    (folder / "weights.safetensors").unlink()  # as if in progress: the newest checkpoint is scored
    scored = invoke("sr-eval", f"weights={folder}", "hr=toy:chelsea", "out=scores", "save=true", "device=cpu")
    assert scored.returncode == 0, scored.stderr
    assert "step_00000006.ckpt (x2)" in scored.stdout
    ours = json.loads((tmp_path / "scores" / "metrics.json").read_text())["toy:chelsea"]["rgb"]["psnr"]
    from sr_train.weights.file import load_weights

    assert abs(ours - load_weights(folder / "best.safetensors").scores["toy/rgb/psnr"]) < 1e-4
    (saved,) = (tmp_path / "scores" / "images").rglob("*.png")
    sr, hr = read_image(saved)[2:-2, 2:-2], None
    pairs = Pairs("toy:chelsea", scale=2)
    hr = pairs.whole(0)[1][2:-2, 2:-2]
    assert abs(peak_signal_noise_ratio(hr, sr, data_range=255) - ours) < 1e-6


def test_lpips_is_validated_and_lower_is_better(invoke, tmp_path, tiny_lpips, monkeypatch):
    from sr_train.runs.metrics import read_rows
    from sr_train.weights.file import load_weights

    more = ("trainer.max_steps=8", "validate.every=2", "validate.pictures=0", "validate.metrics=[psnr,lpips]", "task.rate=0.01",
            "task.ema=null", "curve=constant", "validate.best=toy/perceptual/lpips")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("sr_train.evaluation.metrics.find_lpips", lambda _: None)
        missing = invoke("sr-train", *SMALL, *more)
    assert missing.returncode == 2
    assert "validate.metrics=[lpips] needs a file of weights, and neither an installed lpips package" in missing.stderr
    assert "run pip install lpips, or give validate.lpips=FILE" in missing.stderr
    without_ma = invoke("sr-train", *SMALL, "validate.metrics=[psnr,pi]")
    assert without_ma.returncode == 2
    assert "validate.metrics=[pi]: PI is not computed, because it needs Ma's score" in without_ma.stderr
    done = invoke("sr-train", *SMALL, *more, f"validate.lpips={tiny_lpips}")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "quickstart_edsr" / "x2"
    rows = {step: float(v) for step, name, v in read_rows(folder / "metrics.csv") if name == "toy/perceptual/lpips"}
    assert sorted(rows) == [2, 4, 6, 8]
    assert not any(name.endswith("/ssim") for _, name, _ in read_rows(folder / "metrics.csv"))
    assert load_weights(folder / "best.safetensors").origin["step"] == min(rows, key=lambda s: rows[s])


def test_the_best_score_is_reset_for_another_metric_with_a_message(invoke, tmp_path):
    from sr_train.runs.metrics import read_rows
    from sr_train.weights.file import load_weights

    folder = tmp_path / "runs" / "quickstart_edsr" / "x2"
    more = ("validate.every=2", "validate.pictures=0", "checkpoint.every=2", "curve=constant")
    assert invoke("sr-train", *SMALL, *more, "trainer.max_steps=4").returncode == 0
    assert load_weights(folder / "best.safetensors").scores["toy/y/psnr"] > 10
    done = invoke("sr-train", *SMALL, *more, "trainer.max_steps=8", "validate.best=toy/rgb/ssim")
    assert done.returncode == 0, done.stderr
    assert "best.safetensors is chosen by toy/rgb/ssim from now on; the best network by toy/y/psnr" in done.stderr
    rows = {
        step: float(v) for step, name, v in read_rows(folder / "metrics.csv") if name == "toy/rgb/ssim" and step > 4
    }
    assert load_weights(folder / "best.safetensors").origin["step"] == max(rows, key=lambda s: rows[s])
    done = invoke(
        "sr-train", *SMALL, *more, "trainer.max_steps=10", "validate.best=toy/rgb/ssim", "sets.toy={hr: toy:coffee}"
    )
    assert done.returncode == 0, done.stderr
    assert "the best network by toy/rgb/ssim on other images or with another network" in done.stderr
    done = invoke(
        "sr-train", *SMALL, *more, "trainer.max_steps=12", "validate.protocols=[rgb]", "sets.toy={hr: toy:coffee}"
    )
    assert "is chosen by toy/rgb/psnr from now on; the best network by toy/rgb/ssim" in done.stderr


def test_the_best_of_a_checkpoint_that_does_not_name_its_metric_is_kept():
    validate = Validate(images=EvalImages({"toy": Pairs("toy:chelsea", scale=2)}), every=1, last=9, best=None,
                        export=lambda *_: None, folder="unused")  # fmt: skip
    validate.load_state_dict({"best": 99.0, "best_step": 3, "scores": {}})
    validate.scores = {"toy/y/psnr": 30.0}
    validate._keep_best(SimpleNamespace(is_global_zero=True), None, 6)  # pyright: ignore[reportArgumentType]
    assert (validate.best, validate.best_step) == (99.0, 3)
    assert validate.state_dict()["best_by"][0] == "toy/y/psnr"
    validate.scores = {"toy/y/psnr": 99.5}
    validate._keep_best(SimpleNamespace(is_global_zero=True), None, 9)  # pyright: ignore[reportArgumentType]
    assert (validate.best, validate.best_step) == (99.5, 9)


def _validated(tmp_path, upscale):
    """Run one validation of a task whose ``upscale`` is replaced."""
    images = EvalImages({"toy": Pairs("toy:chelsea", scale=2)})
    validate = Validate(
        images=images, every=1, last=1, best=None, export=lambda *a: None, folder=str(tmp_path), pictures=0
    )
    task = SimpleNamespace(upscale=upscale, score=lambda image, sr: {"y": {"psnr": 1.0}}, averaged=lambda: None)
    for hook in ("start", "epoch_start", "epoch_end", "end"):
        setattr(task, f"on_validation_{hook}", lambda: None)
    trainer = SimpleNamespace(
        world_size=1, global_rank=0, is_global_zero=True, callbacks=[], loggers=[], callback_metrics={}
    )
    validate.on_step_end(trainer, task, 1)


def test_validation_is_without_tf32_and_benchmark_which_come_back_even_after_an_error(tmp_path):
    cudnn, seen = torch.backends.cudnn, []

    def flags():
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            cudnn.allow_tf32,
            cudnn.benchmark,
        )

    def upscale(image):
        seen.append(flags())
        return image.hr.float()

    def fails(image):
        raise ZeroDivisionError

    before = flags()
    try:
        torch.set_float32_matmul_precision("high")
        cudnn.benchmark = True
        _validated(tmp_path, upscale)
        assert seen == [("highest", False, False, False)]
        assert flags() == ("high", True, True, True)
        with pytest.raises(ZeroDivisionError):
            _validated(tmp_path, fails)
        assert flags() == ("high", True, True, True)
    finally:
        torch.set_float32_matmul_precision("highest")
        cudnn.benchmark = False
    assert flags() == before


def test_a_set_of_lr_alone_is_shown_and_chooses_the_best_by_niqe(invoke, tmp_path):
    from sr_train.data.images import write_image
    from sr_train.data.toy import toy_files
    from sr_train.runs.metrics import read_rows
    from sr_train.weights.file import load_weights

    photograph = read_image(toy_files("coffee")["coffee"])
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", photograph[:112, :160])
    write_image(tmp_path / "photos" / "small.png", photograph[:50, :50])
    call = (*SMALL, "sets=[]", "sets.real={lr: photos}", "validate.pictures=1", "task.rate=0.02", "curve=constant")
    done = invoke("sr-train", *call, "trainer.max_steps=6", "validate.every=2", "task.ema=null")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no NIQE for 1 validation image with fewer than two blocks") == 1
    assert "real/small" in done.stderr
    folder = tmp_path / "runs" / "quickstart_edsr" / "x2"
    rows = [(step, name, float(v)) for step, name, v in read_rows(folder / "metrics.csv") if name.startswith("real")]
    assert [(step, name) for step, name, _ in rows] == [(step, "real/perceptual/niqe") for step in (2, 4, 6)]
    best = load_weights(folder / "best.safetensors")
    assert best.scores == {"real/perceptual/niqe": min(v for *_, v in rows)}
    picture = read_image(next((folder / "images" / "real-a").glob("*.png")))
    assert picture.shape == (192, 3 * 192 + 2 * 4, 3)
    scored = invoke("sr-eval", f"weights={folder / 'best.safetensors'}", "lr=photos", "device=cpu", "out=scores")
    assert scored.returncode == 0, scored.stderr
    assert "no NIQE for 1 image with fewer than two blocks of 96x96 pixels with texture: photos/small" in scored.stdout
    assert not any(word in scored.stdout for word in ("PSNR", "SSIM", "nan"))
    header, first, second = (tmp_path / "scores" / "metrics.csv").read_text().splitlines()
    assert (header, second) == ("set,image,protocol,niqe", "photos,small,perceptual,")
    assert float(first.split(",")[-1]) == pytest.approx(best.scores["real/perceptual/niqe"], rel=1e-4)


def test_a_set_of_lr_alone_has_no_psnr_beside_sets_with_hr(invoke, tmp_path):
    from sr_train.data.images import write_image
    from sr_train.data.toy import toy_files

    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", read_image(toy_files("coffee")["coffee"])[:112, :160])
    real = (*SMALL, "sets.real={lr: photos}", "trainer.max_steps=2")
    wrong = invoke("sr-train", *real, "validate.best=real/psnr")
    assert "validate.best=real/psnr is not measured; choose from toy/y/psnr" in wrong.stderr
    assert "real/perceptual/niqe" in wrong.stderr
    assert "toy/perceptual" not in wrong.stderr
    checked = invoke("sr-train", *real, "validate.best=real/niqe", "sets=[]", "check=true")
    assert checked.returncode == 0, checked.stderr
    assert "real/a 320x224: " in checked.stdout
    assert "; niqe " in checked.stdout
    write_image(tmp_path / "photos" / "a.png", read_image(toy_files("coffee")["coffee"])[:50, :50])
    small = invoke("sr-train", *real)
    assert small.returncode == 1
    assert (
        "needs two blocks of 96x96 pixels without a border of 2 in the result; all 1 images are smaller" in small.stderr
    )

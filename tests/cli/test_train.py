import json

import pytest
import torch

from sr_train.training.stage import stage_seed
from sr_train.weights.file import load_weights
from sr_train.weights.open import full_arguments

SMALL = (
    "model.blocks=1",
    "model.channels=8",
    "data.workers=0",
    "data.batch=4",
    "data.lr_patch=12",
    "trainer.accelerator=cpu",
)


def test_a_stage_trains_writes_its_weights_and_is_then_finished(command, invoke, tmp_path):
    arguments = (
        "sr-train",
        "experiment=quickstart_edsr",
        "stage=x2",
        "trainer.max_steps=30",
        "validate.every=20",
        *SMALL,
    )
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "EDSR x2" in done.stdout
    assert "step 20: toy/y/psnr" in done.stderr
    file = tmp_path / "runs" / "quickstart_edsr" / "x2" / "weights.safetensors"
    weights = load_weights(file)
    assert weights.model == {
        "_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 8, "blocks": 1, "res_scale": 1.0, "image_channels": 3
    }  # fmt: skip
    assert weights.origin["step"] == 30
    again = invoke(*arguments)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    scored = invoke("sr-eval", f"weights={file}", "sets=[toy]", "out=scores")
    assert scored.returncode == 0, scored.stderr
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert scores["toy"]["y"]["psnr"] == pytest.approx(weights.scores["toy/y/psnr"], abs=1e-4)


def test_a_stage_continues_from_its_checkpoint_to_the_same_weights(invoke, tmp_path):
    short = ("checkpoint.every=5", "trainer.precision=32-true", "curve=constant", *SMALL)
    whole = invoke("sr-train", "experiment=quickstart_edsr", "stage=x2", "name=whole", "trainer.max_steps=12", *short)
    assert whole.returncode == 0, whole.stderr
    half = invoke("sr-train", "experiment=quickstart_edsr", "stage=x2", "name=half", "trainer.max_steps=5", *short)
    assert half.returncode == 0, half.stderr
    (tmp_path / "runs" / "half" / "x2" / "weights.safetensors").unlink()
    rest = invoke("sr-train", "experiment=quickstart_edsr", "stage=x2", "name=half", "trainer.max_steps=12", *short)
    assert rest.returncode == 0, rest.stderr
    a, b = (load_weights(tmp_path / "runs" / n / "x2" / "weights.safetensors").state for n in ("whole", "half"))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["experiment=quickstart_edsr", "stage=x2", "trainer.max_stesp=1"], 2, "did you mean max_steps"),
        (["experiment=nothing"], 2, "nothing"),
        (["experiment=quickstart_edsr", "stage=x2", "data.lr_patch=400"], 1, "smaller than the patch of 400x400"),
        (
            ["experiment=quickstart_edsr", "stage=x2", "data.batch=3", "trainer.accumulate_grad_batches=2"],
            2,
            "set it to a multiple of 2",
        ),
        (
            ["experiment=quickstart_edsr", "stage=x2", "data.train=[{hr: missing}]"],
            1,
            "missing: there is no such folder",
        ),
        (["experiment=quickstart_edsr", "stage=x2", "data.train=[{hr: 'toy:nobody'}]"], 1, "no photograph"),
        (["experiment=quickstart_edsr", "stage=x2", "scale=7"], 2, "scale=7 is not supported"),
        (
            ["experiment=quickstart_edsr", "stage=x2", "trainer.max_steps=-1", "curve=constant"],
            2,
            "trainer.max_steps=-1: expected",
        ),
        (
            ["experiment=quickstart_edsr", "stage=x2", "trainer.gradient_clip_val=-1"],
            2,
            "gradient_clip_val=-1: expected a positive",
        ),
        (["experiment=quickstart_edsr", "stage=x2", "validate.crop=0"], 2, "validate.crop=0"),
        (["experiment=quickstart_edsr", "stage=x2", "data.batch=0"], 2, "data.batch=0"),
        (["experiment=quickstart_edsr", "stage=x2", "name=../esc"], 2, "expected the name of a folder below runs"),
        (["experiment=quikstart"], 2, "did you mean quickstart"),
        (
            ["experiment=quickstart_edsr", "stage=x2", "model=edsrr", "loss=l3", "sets=[tpy]"],
            2,
            "there is no such set; did you mean toy",
        ),
        (["experiment=quickstart_edsr", "stage=x2", "data.train=[{hr: 5}]"], 1, "hr and lr must be folders, stores"),
        (
            ["experiment=quickstart_edsr", "stage=x2", "data.train=[{hr: toy, weight: abc}]"],
            1,
            "weight='abc': expected a positive number",
        ),
        (["experiment=quickstart_edsr", "stage=x2", "trainer.precision=16-mixed"], 1, "needs a GPU"),
        (
            ["experiment=quickstart_edsr", "stage=x2", "trainer.precision=fp8"],
            2,
            "choose from auto, 32, bf16-mixed, 16-mixed",
        ),
        (["experiment=quickstart_edsr", "stage=x2", "task.ema=2"], 2, "task.ema=2"),
        (["experiment=quickstart_edsr", "stage=x2", "task.rate=0"], 2, "task.rate=0"),
        (["experiment=quickstart_edsr", "stage=x2", "validate.protocols=[Y]"], 2, "choose from y, y_matlab"),
    ],
)
def test_errors_of_users_are_one_paragraph(invoke, arguments, code, message):
    done = invoke("sr-train", *arguments, "trainer.accelerator=cpu", "data.workers=0")
    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stages_seed_depends_on_its_name_and_the_runs_seed_alone():
    assert stage_seed(0, "x2") == 68758407  # in each process and in each version, or no run could be repeated
    assert len({stage_seed(0, "x2"), stage_seed(1, "x2"), stage_seed(0, "x4")}) == 3


def test_a_models_arguments_are_completed_by_its_defaults():
    assert full_arguments({"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "blocks": 3}) == {
        "_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 256, "blocks": 3, "res_scale": 0.1, "image_channels": 3
    }  # fmt: skip


def test_validation_is_turned_off_by_an_empty_list_of_sets(invoke, tmp_path):
    done = invoke(
        "sr-train", "experiment=quickstart_edsr", "stage=x2", *SMALL, "sets=[]", "trainer.max_steps=2", "logger=csv"
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs" / "quickstart_edsr" / "x2" / "best.safetensors").exists()

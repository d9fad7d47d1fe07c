"""Weights & Biases, the real package, offline."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sr_train.training.wandb_logger import WandB, _rows_of

pytest.importorskip("wandb")
RUN = Path("runs") / "quickstart_edsr"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def sent(folder):
    """(id, the rows of all sittings without W&B's own numbers)."""
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    rows = [(number, row) for file in files for number, row in _rows_of(file)]
    return {file.stem for file in files}, rows


def losses(folder):
    return [(row["trainer/global_step"], row["train/loss"]) for _, row in sent(folder)[1] if "train/loss" in row]


def test_each_stage_is_a_run_with_pictures_and_hyperparameters_that_the_next_process_resumes(
    invoke, tmp_path, photographs
):
    mine = (
        "experiment=quickstart_edsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2", "data.lr_patch=8",
        "trainer.accelerator=cpu", "trainer.precision=32", "curve=constant", "sets=[]", "sets.tiny={hr: photographs}",
        "validate.metrics=[psnr]", "validate.pictures=1", "validate.every=4", "checkpoint.every=4", "record.every=2",
        "logger=[csv,wandb]",
    )  # fmt: skip
    done = invoke("sr-train", *mine, "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    ids = {}
    for stage in ("x2", "x4"):
        folder = tmp_path / RUN / stage
        ids[stage], rows = sent(folder)
        assert [row["trainer/global_step"] for _, row in rows] == [2, 4]
        assert rows[1][1]["tiny/y/psnr"] > 5
        assert any(name.startswith("lr_bicubic_sr_hr/tiny-0000") for name in rows[1][1])
        assert list(folder.glob("wandb/offline-run-*/files/media/images/lr_bicubic_sr_hr/*.png"))
        assert json.loads((folder / "wandb.json").read_text())["id"] in next(iter(ids[stage]))
        assert not (folder / "wandb" / "pending.csv").exists()
        assert b"lr_patch" in next(iter(folder.glob("wandb/offline-run-*/*.wandb"))).read_bytes()
    assert len(ids["x2"] | ids["x4"]) == 2
    done = invoke("sr-train", *mine, "stage=x2", "trainer.max_steps=8", "validate.pictures=0")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / RUN / "x2" / "wandb").glob("offline-run-*"))) == 2
    again, rows = sent(tmp_path / RUN / "x2")
    assert again == ids["x2"]
    assert [row["trainer/global_step"] for _, row in rows] == [2, 4, 6, 8]
    numbers = [number for number, _ in rows]
    assert numbers == sorted(set(numbers))


def log(logger, *steps):
    for step in steps:
        logger.log_metrics({"train/loss": 1 / step}, step)


def test_a_log_entry_is_sent_once_even_if_the_process_is_killed(tmp_path):
    first = WandB(save_dir=str(tmp_path / "a"))
    first.resume(0)
    log(first, 10, 20)
    first.checkpointed(20)
    log(first, 20, 30)  # what arrives after its checkpoint, and what no checkpoint covers
    early, late = tmp_path / "early", tmp_path / "late"
    shutil.copytree(tmp_path / "a", early, symlinks=True)  # killed: wandb has written nothing yet
    shutil.copytree(tmp_path / "a", late, symlinks=True)
    first.finalize("failed")
    for file in (tmp_path / "a").glob("wandb/offline-run-*/*.wandb"):  # killed: it has
        shutil.copy(file, late / file.relative_to(tmp_path / "a"))
    assert [step for step, _ in losses(tmp_path / "a")] == [10, 20, 20]
    refused = WandB(save_dir=str(early))
    assert refused.experiment.id in next(iter(sent(tmp_path / "a")[0]))
    refused.finalize("failed")  # the checkpoint could not be read
    for folder in (early, late):
        before = len(sent(folder)[1])
        assert before == (0 if folder == early else 3)
        second = WandB(save_dir=str(folder))
        second.resume(20)
        log(second, 30)
        second.log_image("picture", [np.zeros((8, 8, 3), np.uint8)], 30)
        second.checkpointed(30)
        second.finalize("success")
        found = losses(folder)
        assert sorted(set(found)) == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
        assert [step for step, _ in found].count(30) == [step for step, _ in found].count(10) == 1
        assert any(name.startswith("picture") for name in sent(folder)[1][-1][1])
        assert len(sent(folder)[0]) == 1  # id
    third = WandB(save_dir=str(late))
    third.resume(20)  # the newest checkpoint was damaged
    log(third, 30, 40)
    third.checkpointed(40)
    third.finalize("success")
    assert [step for step, _ in losses(late)].count(30) == 1
    assert losses(late)[-1] == (40, 1 / 40)


def test_a_logger_that_is_not_used_starts_no_run(tmp_path):
    logger = WandB(save_dir=str(tmp_path / "a"))
    logger.finalize("success")
    assert not (tmp_path / "a").exists()

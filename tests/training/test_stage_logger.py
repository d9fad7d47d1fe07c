"""Every logger of conf/logger: entries and pictures once after a kill, and loggers of others that have only a part."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sr_train.config.build import build
from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.runs.metrics import read_rows
from sr_train.training.loggers import StageLogger, log_picture, method
from sr_train.training.wandb_logger import _rows_of

NAMES = sorted(p.stem for p in (Path(str(conf_folder())) / "logger").glob("*.yaml") if p.stem != "none")
METHODS = ("resume", "checkpointed", "log_picture")


def _entries(name, folder):
    """{step: loss} and the number of pictures that a logger has written; a step that was written twice fails."""
    if name == "csv":
        rows, pictures = [(r[0], float(r[2])) for r in read_rows(folder / "metrics.csv")], None
    elif name == "tensorboard":
        events = EventAccumulator(str(folder)).Reload()
        rows, pictures = [(e.step, e.value) for e in events.Scalars("train/loss")], len(events.Images("pictures/a"))
    else:
        assert name == "wandb", f"{name}: say here how its entries are read"
        found = [row for file in folder.glob("wandb/offline-run-*/*.wandb") for _, row in _rows_of(file)]
        rows = [(row["trainer/global_step"], row["train/loss"]) for row in found if "train/loss" in row]
        pictures = sum("pictures/a" in key for row in found for key in row if key.endswith(("_type", "/a")))
    assert len({step for step, _ in rows}) == len(rows)
    return dict(rows), pictures


@pytest.mark.parametrize("name", NAMES)
def test_a_logger_of_ours_keeps_the_protocol(name, tmp_path, monkeypatch, request):
    if name == "wandb":
        request.addfinalizer(pytest.importorskip("wandb").teardown)  # its service would keep this test's settings
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
    config = plan(["experiment=quickstart_edsr", "stage=x2", f"logger=[{name}]", f"paths.runs={tmp_path}"]).stages[0]
    folder = Path(config.config["folder"])
    folder.mkdir(parents=True)
    for start, steps in (
        (0, (1, 2, 3)),
        (2, (3, 4)),
    ):  # the first process is killed after step 3, its checkpoint has step 2
        (logger,) = [build(node) for node in config.config["logger"].values()]
        assert all(method(logger, m) is not None for m in METHODS)
        logger.log_hyperparams({"task": {"rate": 1e-3}})
        logger.resume(start)
        for step in steps:
            logger.log_metrics({"train/loss": step / 2}, step)
            trainer = SimpleNamespace(is_global_zero=True, loggers=[logger])
            log_picture(trainer, "pictures/a", np.zeros((8, 8, 3), np.uint8), step)  # pyright: ignore[reportArgumentType]
            if step in (2, 4):
                logger.checkpointed(step)
        logger.finalize("failed" if start == 0 else "success")
    losses, pictures = _entries(name, folder)
    assert losses == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}
    assert pictures is None or pictures >= 4


class OnlyPictures(Logger):
    """A user's logger with a part of the protocol."""

    def __init__(self):
        super().__init__()
        self.shown = []

    @property
    def name(self):
        return "mine"

    @property
    def version(self):
        return "0"

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        pass

    def log_picture(self, name, picture, step):
        self.shown.append((name, picture.shape, step))


def test_loggers_of_others_may_have_a_part_or_nothing(tmp_path):
    mine, theirs = OnlyPictures(), CSVLogger(tmp_path)
    assert [method(mine, m) is not None for m in METHODS] == [False, False, True]
    assert [method(theirs, m) for m in METHODS] == [None] * 3
    trainer = SimpleNamespace(is_global_zero=True, loggers=[mine, theirs])
    log_picture(trainer, "a", np.zeros((8, 9, 3), np.uint8), 7)  # pyright: ignore[reportArgumentType]
    assert mine.shown == [("a", (8, 9, 3), 7)]
    assert {m for m in vars(StageLogger) if not m.startswith("_")} == set(METHODS)

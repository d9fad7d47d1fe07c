import time
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sr_train.runs.metrics import read_rows
from sr_train.training.loggers import MetricsCsv, TensorBoard, log_picture


def test_rows_after_the_checkpoint_and_an_incomplete_line_are_removed(tmp_path):
    logger = MetricsCsv(folder=str(tmp_path))
    for step in (10, 20, 30):
        logger.log_metrics({"train/loss": 1 / step, "train/rate": 1e-4}, step)
    with logger.path.open("a") as file:
        file.write("40,train/lo")  # killed while it wrote
    assert [r[0] for r in read_rows(logger.path)] == [10, 10, 20, 20, 30, 30]
    logger.resume(20)
    logger.log_metrics({"train/loss": 0.5}, 30)
    rows = read_rows(logger.path)
    assert rows[-1] == (30, "train/loss", "0.5")
    assert [r[0] for r in rows] == [10, 10, 20, 20, 30]
    assert float(rows[0][2]) == 1 / 10
    assert logger.path.read_text().startswith("step,name,value\n")


def test_tensorboard_purges_steps_after_the_checkpoint(tmp_path):
    first = TensorBoard(folder=str(tmp_path))
    for step in (10, 20, 30):
        first.log_metrics({"train/loss": float(step)}, step)
    first.finalize("")
    # Files are read in the order of their names, which hold the second and, within it, a number without zeros.
    time.sleep(1.01)
    second = TensorBoard(folder=str(tmp_path))
    second.resume(20)
    second.log_metrics({"train/loss": 300.0}, 30)
    second.log_picture("picture", np.zeros((8, 8, 3), np.uint8), 30)
    second.save()
    second.finalize("")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 10.0), (20, 20.0), (30, 300.0)]
    assert len(events.Images("picture")) == 1


class Old(Logger):
    """A logger whose pictures have a signature of its own."""

    name, version = "old", ""

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, *args, **kwargs): ...

    def log_image(self, tag, picture):
        raise AssertionError("is not called")


class Lightnings(Old):
    """A logger with the signature of Lightning's."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def log_image(self, key, images, step=None, **kwargs):
        assert isinstance(images, list)
        self.shown.append((key, len(images), step))


def test_pictures_go_to_any_logger_with_the_signature_of_lightning(tmp_path):
    lightnings, ours, board = Lightnings(), TensorBoard(folder=str(tmp_path)), TensorBoardLogger(tmp_path / "lightning")
    trainer = SimpleNamespace(
        is_global_zero=True, loggers=[lightnings, ours, board, MetricsCsv(folder=str(tmp_path)), Old()]
    )
    with pytest.warns(UserWarning, match=r"Old\.log_image does not accept \(key, images, step\)"):
        log_picture(trainer, "a", np.zeros((8, 8, 3), np.uint8), 7)  # pyright: ignore[reportArgumentType]
    assert lightnings.shown == [("a", 1, 7)]
    ours.finalize("success")
    board.finalize("success")
    for folder in (tmp_path, board.log_dir):
        assert len(EventAccumulator(str(folder)).Reload().Images("a")) == 1


def test_tensorboard_has_the_config_with_the_final_scores(tmp_path):
    logger = TensorBoard(folder=str(tmp_path))
    logger.log_hyperparams({"task": {"rate": 1e-3, "trainable": ["*"]}, "folder": "runs/a", "seed": 1})
    logger.log_metrics({"set5/y/psnr": 28.0, "train/loss": 1.0}, 10)
    logger.log_metrics({"set5/y/psnr": 29.0}, 20)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("final/set5/y/psnr")] == [(0, 29.0)]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"task.rate" in content
    assert b"folder" not in content

"""Signals that end a run: in a step, in a validation, before the training, and on one of two ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sr_train.runs.checkpoints import list_checkpoints
from sr_train.tasks.base import SRTask
from sr_train.training import signals as module
from sr_train.training.signals import HANDLED, Signals, StoppedError

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
    "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32", "validate.pictures=0", "logger=csv",
    "curve=constant", "checkpoint.every=100", "record.every=2", "sets.tiny={hr: photographs}", "validate.metrics=[psnr]",
    "validate.protocols=[rgb]",
)  # fmt: skip
FOLDER = Path("runs") / "quickstart_edsr" / "x2"


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_is_noted_while_training_and_ends_the_run_at_once_otherwise(number, capsys):
    before = signal.getsignal(number)
    with Signals() as signals:
        signals.training = True
        os.kill(os.getpid(), number)
        assert signals.received == number
        assert f"{signal.Signals(number).name}: stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    with Signals(), pytest.raises(KeyboardInterrupt if number == signal.SIGINT else StoppedError):
        os.kill(os.getpid(), number)


def test_a_process_that_cannot_react_is_ended_before_the_cluster_kills_it(monkeypatch, capsys):
    """Here, the byte that Python writes for a signal comes without the handler, as if the main thread were in native code."""
    ended = []
    monkeypatch.setattr(module, "_STUCK", 0.2)
    monkeypatch.setattr(module.os, "_exit", ended.append)
    with Signals() as signals:
        assert signals._pipe is not None
        os.write(signals._pipe[1], bytes([signal.SIGTERM]))
        deadline = time.monotonic() + 5
        while not ended and time.monotonic() < deadline:
            time.sleep(0.02)
    assert ended == [75]
    assert "SIGTERM: training does not react" in capsys.readouterr().err


def test_exit_codes_tell_an_interruption_from_a_stop_that_can_be_called_again():
    assert StoppedError("SIGINT", 5, signal.SIGINT).code == 130
    assert StoppedError("SIGTERM", 5, signal.SIGTERM).code == 75
    assert StoppedError("trainer.max_time=1", 5).code == 75


@pytest.mark.parametrize("steps", [8, 4])  # 4: the validation after the last step
def test_a_validation_ends_at_the_next_image_and_is_repeated_when_the_run_continues(
    steps, invoke, tmp_path, photographs, monkeypatch
):
    arguments = (*SMALL, f"trainer.max_steps={steps}", "validate.every=4")
    assert invoke("sr-train", *arguments, "name=whole").returncode == 0
    seen = []
    upscale = SRTask.upscale

    def stopping(task, image):
        seen.append(image.key)
        os.kill(os.getpid(), signal.SIGUSR1)
        return upscale(task, image)

    with monkeypatch.context() as patch:
        patch.setattr(SRTask, "upscale", stopping)
        stopped = invoke("sr-train", *arguments)
    assert stopped.returncode == 75, stopped.stderr
    assert len(seen) == 1, "the first of several images"
    assert "stopped by SIGUSR1 at step 4; continue with: sr-train" in stopped.stderr
    assert [step for step, _ in list_checkpoints(tmp_path / FOLDER / "checkpoints")] == [4]
    assert not (tmp_path / FOLDER / "weights.safetensors").exists()
    assert "psnr" not in (tmp_path / FOLDER / "metrics.csv").read_text()
    again = invoke("sr-train", *arguments)
    assert again.returncode == 0, again.stderr
    whole = tmp_path / "runs" / "whole" / "x2"
    a, b = (load_file(folder / "weights.safetensors") for folder in (whole, tmp_path / FOLDER))
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    rows = [
        [r for r in (folder / "metrics.csv").read_text().splitlines() if "speed/" not in r]
        for folder in (whole, tmp_path / FOLDER)
    ]
    assert rows[0] == rows[1]
    assert any("tiny/rgb/psnr" in row and row.startswith("4,") for row in rows[0])


TWO = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=2000", "sets=[]", "checkpoint.every=50")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 75), (signal.SIGKILL, 1)])
def test_a_signal_to_one_of_two_processes_ends_both(number, code, tmp_path, photographs, monkeypatch):
    """SIGKILL: one line names the rank; the run's folder is free again, and nothing but the steps since step 50 is lost."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    program = [str(Path(sys.executable).with_name("sr-train")), *SMALL, *TWO]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(program, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 100
        while not list_checkpoints(tmp_path / FOLDER / "checkpoints"):
            assert run.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[0]), number)
        assert run.wait(60) == code, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    if number == signal.SIGKILL:
        assert text.count("error:") == 1
        assert "rank 1 " in text
        assert "killed" in text
    else:
        assert "stopped by SIGUSR2 at step" in text
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)

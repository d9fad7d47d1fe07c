"""The lines of SR_PROGRESS=json, and the peak memory in the logs."""

import json

import pytest
import torch

from sr_train.devices import peak_memory
from sr_train.runs.metrics import read_rows

TINY = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "trainer.max_steps=6", "sets=[]",
    "data.lr_patch=8", "data.batch=2", "data.workers=0", "record.every=2", "logger=csv", "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.mark.slow
def test_progress_is_json_for_programs(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("SR_PROGRESS", "json")
    monkeypatch.setattr("sr_train.training.progress._JSON_EVERY", 0.0)
    done = invoke("sr-train", *TINY, "name=run")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines[-1]["step"] == lines[-1]["steps"] == 6
    assert (lines[-1]["run"], lines[-1]["stage"], lines[-1]["seconds_left"]) == ("run", "x2", 0)
    assert lines[-1]["loss"] > 0
    assert "step 6/6" not in done.stderr
    rows = read_rows(tmp_path / "runs" / "run" / "x2" / "metrics.csv")
    memory = [float(value) for _, name, value in rows if name == "speed/peak_memory_gb"]
    assert len(memory) == 3
    assert 0.05 < memory[0] <= memory[-1] == pytest.approx(lines[-1]["peak_memory_gb"], rel=0.2)


def test_peak_memory_grows_with_a_tensor():
    before = peak_memory(torch.device("cpu"))
    kept = torch.ones(60_000_000)
    assert peak_memory(torch.device("cpu")) - before >= 0
    assert peak_memory(torch.device("cpu")) >= kept.numel() * 4

"""scripts/bench/gpu.py and dispatch.py, tried on the CPU with tiny networks."""

import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "bench"


@pytest.fixture
def gpu(monkeypatch):
    """The script with one recipe, and the module that measures."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu
    import gpu_steps

    monkeypatch.setattr(gpu_steps, "TASKS", {"pixel": "edsr_baseline_x2"})
    return gpu, gpu_steps


def run(module, monkeypatch, capsys, *arguments):
    """Run the script. Return its exit code, and the lines of rows that it measured."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", *map(str, arguments)])
    code = module.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("loader: ") for line in lines) == ("loader" in arguments)
    return code, [line for line in lines if line.split(" ")[0] in module.SECTIONS]


def test_the_script_measures_each_row_once_and_goes_on_after_one_without_memory(gpu, monkeypatch, capsys, tmp_path):
    script, steps = gpu
    file, real = tmp_path / "gpu.json", steps.speed

    def full(config, mode, *rest, **more):
        if mode == "fp32":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(config, mode, *rest, **more)

    monkeypatch.setattr(steps, "speed", full)
    more = ("--out", file, "--only", "correctness", "speed", "loader")
    code, rows = run(script, monkeypatch, capsys, *more)
    assert code == 0
    assert len(rows) == 4
    found = json.loads(file.read_text())["rows"]
    assert found["speed: edsr_baseline_x2, fp32, channels-last"] == {"error": "OOM"}
    assert found["speed: edsr_baseline_x2, bf16, channels-last"]["steps_per_s"] > 0
    assert found["correctness: edsr_baseline_x2"] == {"forward": 0, "loss": 0, "gradient": 0, "equal": True}
    assert run(script, monkeypatch, capsys, *more) == (0, []), "all rows are in the file"
    del found["speed: edsr_baseline_x2, fp32, channels-last"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "rows": found}))
    assert run(script, monkeypatch, capsys, *more, "--minutes", 0) == (0, [])
    monkeypatch.setattr(steps, "speed", real)
    assert len(run(script, monkeypatch, capsys, *more)[1]) == 1
    file.write_text(json.dumps({"about": {"torch": "1.0"}, "rows": {}}))
    with pytest.raises(SystemExit, match="measured with other torch"):
        run(script, monkeypatch, capsys, *more)


def test_a_device_that_computes_something_else_is_an_error(gpu, monkeypatch, capsys):
    script, steps = gpu
    real = steps.moved
    calls = []

    def other(batch, device, layout):
        calls.append(device)
        batch = real(batch, device, layout)
        return {**batch, "lr": batch["lr"] + 1} if len(calls) == 2 else batch  # the device, not the CPU

    monkeypatch.setattr(steps, "moved", other)
    code, (row,) = run(script, monkeypatch, capsys, "--only", "correctness")
    assert code == 1
    assert "equal False" in row


def test_nothing_waits_in_the_counted_steps(gpu):
    """On the CPU nothing can: this tries the loop, which fails if it does not reach its end."""
    _, steps = gpu
    (recipe,) = steps.recipes(steps.TINY, Path("unused"))
    assert steps.waits(recipe.config, torch.device("cpu")) == []


@pytest.mark.slow
def test_other_tasks_are_measured(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu
    import gpu_steps

    monkeypatch.setattr(gpu_steps, "TASKS", {"gan": "esrgan_x4", "multiscale": "mdsr_baseline"})
    code, rows = run(gpu, monkeypatch, capsys, "--only", "correctness")
    assert code == 0
    assert len(rows) == 2


@pytest.mark.parametrize("task", ["pixel", "gan"])
def test_optimizer_ema_and_guard_need_few_operators(monkeypatch, tmp_path, task):
    """Their number does not grow with the network. At the real depth they are 6 % (EDSR baseline), 1 % (ESRGAN) of a step."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import dispatch

    small = {"pixel": ["model.blocks=2"], "gan": ["model.blocks=1", "loss.perceptual=null"]}[task]
    found = dispatch.count_ours([*dispatch.TASKS[task], *small], tmp_path)
    assert found["optimizer"] <= {"pixel": 3, "gan": 6}[task]
    assert found["EMA"] == 1
    assert found["guard"] <= {"pixel": 7, "gan": 23}[task]
    assert "reads" not in found
    assert found["step"] > 20

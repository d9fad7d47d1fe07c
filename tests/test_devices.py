"""Names of precisions, and a warning where bf16 is emulated."""

import pytest

from sr_train import console, devices


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(devices, "native_bf16", lambda accelerator: False)
    console.warned.clear()


def test_emulated_bf16_gives_one_warning(without_bf16, capsys):
    for _ in range(2):
        assert devices.resolve_precision("bf16-mixed", "cpu") == "bf16-mixed"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: trainer.precision=bf16-mixed: this machine has no bf16 instructions")
    assert "180 times (343 s instead of 1.9 s); give trainer.precision=auto or 32" in warning
    assert warning.count("\n") == 1
    assert devices.resolve_precision("auto", "cpu") == devices.resolve_precision(32, "cpu") == "32-true"
    assert not capsys.readouterr().err


def test_native_bf16_gives_no_warning(monkeypatch, capsys):
    monkeypatch.setattr(devices, "native_bf16", lambda accelerator: True)
    console.warned.clear()
    assert devices.resolve_precision("bf16-mixed", "cpu") == devices.resolve_precision("auto", "cpu") == "bf16-mixed"
    assert not capsys.readouterr().err


def test_upscaling_in_emulated_bf16_gives_a_warning(without_bf16, invoke, photographs):
    for given, warned in {"bf16": 1, "auto": 0, "32": 0}.items():
        done = invoke(
            "sr-upscale",
            "weights=bicubic",
            "scale=2",
            "input=photographs/0000.png",
            f"output={given}",
            "device=cpu",
            f"precision={given}",
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("warning: precision=bf16: this machine has no bf16 instructions") == warned


def test_training_in_emulated_bf16_gives_one_warning(without_bf16, invoke):
    done = invoke(
        "sr-train", "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0",
        "data.batch=2", "data.lr_patch=8", "trainer.max_steps=1", "sets=[]", "trainer.accelerator=cpu",
        "trainer.precision=bf16-mixed",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: trainer.precision=bf16-mixed: this machine has no bf16 instructions") == 1

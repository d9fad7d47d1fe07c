"""Names of precisions, a warning where bf16 is emulated, and the hardware that ``--version`` prints."""

from types import SimpleNamespace

import pytest
import torch

from sr_train import console, devices


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(devices, "native_bf16", lambda accelerator: False)
    console.forget_warnings()


def test_emulated_bf16_gives_one_warning(without_bf16, capsys):
    for _ in range(2):
        assert devices.resolve_precision("bf16-mixed", "cpu") == "bf16-mixed"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: trainer.precision=bf16-mixed: this machine has no bf16 instructions")
    assert "180 times: 343 s instead of 1.9 s); give trainer.precision=auto or 32" in warning
    assert warning.count("\n") == 1
    assert devices.resolve_precision("auto", "cpu") == devices.resolve_precision(32, "cpu") == "32-true"
    assert not capsys.readouterr().err


def test_native_bf16_gives_no_warning(monkeypatch, capsys):
    monkeypatch.setattr(devices, "native_bf16", lambda accelerator: True)
    console.forget_warnings()
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


FILES = {
    "/proc/cpuinfo": "processor : 0\nmodel name\t: Xeon 8481C\nflags\t\t: avx2 avx512f amx_bf16\n\nflags\t\t: avx2\n",
    "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n",
    "/proc/meminfo": "MemAvailable: 4194304 kB\n",
}


def _unusable():
    raise RuntimeError("no kernels for SM 7.0. Install another")


def test_hardware_is_one_line_for_torch_the_cpu_and_each_gpu(monkeypatch):
    gpus = [SimpleNamespace(name=n, total_memory=16 << 30, major=m, minor=0) for n, m in (("A100", 8), ("V100", 7))]
    monkeypatch.setattr(devices, "_text", lambda path: FILES.get(path, ""))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cudnn, "version", _unusable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpus[index])
    build, cpu, *rest = devices.hardware()
    assert build == "torch is built for CUDA 13.0, cuDNN does not work: no kernels for SM 7.0, driver 580.65.06"
    assert cpu.startswith("CPU Xeon 8481C, ")
    assert " cores, AVX2 yes, AVX-512 yes, bf16 yes; torch uses " in cpu
    assert cpu.endswith("; 4.0 GiB of memory free")
    assert rest == ["GPU 0 A100, 16.0 GiB, capability 8.0, bf16 yes", "GPU 1 V100, 16.0 GiB, capability 7.0, bf16 no"]


def test_hardware_of_a_system_without_proc(monkeypatch):
    monkeypatch.setattr(devices, "_text", lambda path: "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    _, cpu, gpu = devices.hardware()
    assert "AVX2 yes" not in cpu
    assert gpu == "GPU Apple (MPS)"


FLAGS = {  # settings that a user's code may have made
    "default": lambda: None,
    "TF32": lambda: torch.set_float32_matmul_precision("high"),
    "bf16 on a CPU": lambda: torch.set_float32_matmul_precision("medium"),
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "no TF32 in cuDNN": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
}


def _flags():
    cudnn = torch.backends.cudnn
    units = [unit.fp32_precision for unit in devices._fp32_units()]
    matmul = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    return [*matmul, cudnn.allow_tf32, cudnn.benchmark, *units]


@pytest.mark.parametrize("name", FLAGS)
def test_fp32_is_fp32_inside_and_all_settings_are_restored_after_an_error(name):
    first = _flags()
    with devices.full_fp32():  # whose end restores what the test sets
        pass
    assert _flags() == first
    try:
        FLAGS[name]()
        before = _flags()
        with devices.full_fp32():
            assert _flags() == ["highest", False, False, False, *["ieee"] * len(devices._fp32_units())]
        assert _flags() == before
        with pytest.raises(ZeroDivisionError), devices.full_fp32():
            _ = 1 / 0
        assert _flags() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = False, True
    assert _flags()[:4] == first[:4]


def test_settings_of_the_newer_kind_alone_are_restored():
    units = devices._fp32_units()
    if not units:
        pytest.skip("torch before 2.9")
    before = [unit.fp32_precision for unit in units]
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with devices.full_fp32():
            assert {unit.fp32_precision for unit in units} == {"ieee"}
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        for unit, precision in zip(units, before, strict=True):
            unit.fp32_precision = precision

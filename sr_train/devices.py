"""Devices: free memory, number formats that the hardware supports, and the lines on hardware in ``--version``."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sr_train.console import UsageError, warn


def peak_memory(device: torch.device) -> int:
    """Return the largest memory used so far in bytes: by torch on a GPU, else by this process. The device does not wait.

    0 on systems that do not tell it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"^VmHWM:\s+(\d+) kB", _text("/proc/self/status"), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def memory_is_full(error: BaseException) -> bool:
    """Return true for an out-of-memory error of any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> int:
    """Return the free memory in bytes: of the GPU, or of this machine and its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = []
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free.append(max(int(limit) - int(used), 0))
    return min(free, default=4 << 30)  # no /proc: 4 GB, a safe guess


def return_freed_memory() -> None:
    """Give freed memory back to the operating system.

    Without this, glibc keeps the memory that a checkpoint used while a run was resumed.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def device_of(name: str) -> torch.device:
    """Return the device of a name or ``auto``. Raise ValueError if no tensor can be allocated on it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name}: cannot be used here ({str(error).splitlines()[0]}); try device=cpu") from None
    return device


_PRECISIONS = {"32": "32-true", "32-true": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}


def native_bf16(accelerator: str) -> bool:
    """Return true if the hardware has bf16 instructions. Emulated bf16 is slower than fp32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator not in ("auto", "cpu") or os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in ("default", "avx2"):
        return False  # another device, or a user who limits torch to older instructions
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_flags())


def _cpu_flags() -> list[str]:
    """Return the names of the CPU's instruction sets, as Linux spells them; an empty list on other systems."""
    found = re.search(r"^(?:flags|Features)\s*: (.*)", _text("/proc/cpuinfo"), re.MULTILINE)
    return found[1].split() if found else []


def warn_of_emulation(given: str, accelerator: str) -> None:
    """Warn if bf16 is emulated, which is slower than fp32. ``given`` is the argument as typed, e.g. ``precision=bf16``."""
    if not native_bf16(accelerator):
        warn(
            f"{given}: this machine has no bf16 instructions; emulated bf16 is slower than fp32 (on one CPU 180 times: "
            f"343 s instead of 1.9 s); give {given.partition('=')[0]}=auto or 32"
        )


def resolve_precision(precision: object, accelerator: str) -> str:
    """Convert the value of ``trainer.precision`` (auto, 32, bf16-mixed or 16-mixed) to Lightning's name of the precision.

    Raise UsageError for other names. Raise ValueError for 16-mixed on a CPU, because Lightning would change it to
    bf16-mixed. Warn if the hardware must emulate bf16-mixed.
    """
    if precision == "auto":
        return "bf16-mixed" if native_bf16(accelerator) else "32-true"
    if str(precision) not in _PRECISIONS:
        raise UsageError(f"trainer.precision={precision}: choose from auto, 32, bf16-mixed, 16-mixed")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if str(precision) == "16-mixed" and on_cpu:
        raise ValueError("trainer.precision=16-mixed needs a GPU; on a CPU give bf16-mixed, 32 or auto")
    if str(precision) == "bf16-mixed":
        warn_of_emulation(f"trainer.precision={precision}", accelerator)
    return _PRECISIONS[str(precision)]


def inference_precision(precision: str, accelerator: str) -> str:
    """Convert the value of ``precision=`` (32, bf16 or auto) of inference to ``32`` or ``bf16``.

    Raise UsageError for other names. Warn if bf16 was given and the hardware must emulate it.
    """
    if precision not in ("32", "bf16", "auto"):
        raise UsageError(f"precision={precision}: choose from 32, bf16, auto")
    if precision == "auto":
        return "bf16" if native_bf16(accelerator) else "32"
    if precision == "bf16":
        warn_of_emulation("precision=bf16", accelerator)
    return precision


@contextmanager
def full_fp32() -> Iterator[None]:
    """Compute float32 operations in full float32 inside the ``with`` block: without TF32 on CUDA, without bf16 on a CPU.

    Scores need this. cuDNN's search for the fastest kernel (``trainer.benchmark``) is off as well, because every image
    has another size. All settings are restored at the end, also after an error.
    """
    cudnn: Any = torch.backends.cudnn
    units = _fp32_units()
    matmul, convolution = _unless_mixed(torch.get_float32_matmul_precision), _unless_mixed(lambda: cudnn.allow_tf32)
    benchmark, precisions = cudnn.benchmark, [unit.fp32_precision for unit in units]
    try:
        if matmul is not None:
            torch.set_float32_matmul_precision("highest")
        if convolution is not None:
            cudnn.allow_tf32 = False
        cudnn.benchmark = False
        for unit in units:
            unit.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            cudnn.allow_tf32 = convolution
        cudnn.benchmark = benchmark
        for unit, precision in zip(units, precisions, strict=True):
            unit.fp32_precision = precision


def _unless_mixed(setting: Callable[[], Any]) -> Any:
    """Read one of torch's settings for TF32. Return None if torch refuses to read the setting.

    torch refuses to read the older settings after a program has set the newer setting ``fp32_precision``.
    """
    try:
        return setting()
    except RuntimeError:
        return None


def _fp32_units() -> list[Any]:
    """Return the parts of torch that have a setting ``fp32_precision``; an empty list before torch 2.9."""
    cudnn: Any = torch.backends.cudnn
    mkldnn = torch.backends.mkldnn
    names = ((cudnn, "conv"), (cudnn, "rnn"), (mkldnn, "conv"), (mkldnn, "matmul"), (mkldnn, "rnn"))
    units = [torch.backends.cuda.matmul, *(getattr(backend, name, None) for backend, name in names)]
    return [unit for unit in units if unit is not None and getattr(torch.backends, "fp32_precision", None) is not None]


_OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # variables of torch's threads


def hardware() -> list[str]:
    """Return lines that describe torch's build, the CPU and the GPUs for a bug report."""
    build = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    driver = re.search(r"Module.*?\s(\d+\.[\d.]+)", _text("/proc/driver/nvidia/version"))
    parts = [build or "CPU", _cudnn(), f"driver {driver[1]}" if driver else ""]
    return [f"torch is built for {', '.join(filter(None, parts))}", _cpu(), *_gpus()]


def _cudnn() -> str:
    try:
        found = torch.backends.cudnn.version()
    except RuntimeError as error:  # a release that lacks kernels for a GPU of this machine
        return f"cuDNN does not work: {str(error).partition('. ')[0]}"
    return f"cuDNN {found}" if found else ""


def cpu_name() -> str:
    """Return the name of this machine's CPU, as Linux gives it, or its architecture."""
    name = re.search(r"^model name\s*: (.*)", _text("/proc/cpuinfo"), re.MULTILINE)
    return name[1].strip() if name else platform.machine()


def _cpu() -> str:
    name = re.search(r"^model name\s*: (.*)", _text("/proc/cpuinfo"), re.MULTILINE)
    flags = _cpu_flags()
    known = {"AVX2": "avx2" in flags, "AVX-512": "avx512f" in flags, "bf16": native_bf16("cpu") or "bf16" in flags}
    sets = "".join(f", {key} {_yes(there)}" for key, there in known.items()) if flags else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    used = f"torch uses {torch.backends.cpu.get_cpu_capability()} and {torch.get_num_threads()} threads"
    waits = {k: v for k in _OPENMP if (v := os.environ.get(k)) is not None}
    used += f" ({', '.join(f'{k}={v}' for k, v in waits.items())})" if waits else ""
    memory = f"{free_memory(torch.device('cpu')) / 2**30:.1f} GiB of memory free"
    return f"CPU {name[1] if name else platform.machine()}, {cores} cores{sets}; {used}; {memory}"


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return ["GPU Apple (MPS)" if torch.backends.mps.is_available() else "GPU none"]
    lines = []
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        bf16 = "" if torch.version.hip else f", bf16 {_yes(gpu.major >= 8)}"
        lines.append(
            f"GPU {index} {gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, capability {gpu.major}.{gpu.minor}{bf16}"
        )
    return lines


def _yes(there: bool) -> str:
    return "yes" if there else "no"

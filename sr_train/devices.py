"""Devices: free memory, and precisions that the hardware supports natively."""

from __future__ import annotations

from pathlib import Path

import torch

from sr_train.console import UsageError, warn


def memory_is_full(error: BaseException) -> bool:
    """Return true for an out-of-memory error of any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> int:
    """Free memory in bytes: of the GPU, or of this machine and its container."""
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


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
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
    if accelerator not in ("auto", "cpu"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def warn_of_emulation(given: str, accelerator: str) -> None:
    """Warn if bf16 is emulated, which is slower than fp32. ``given`` is the argument as typed, e.g. ``precision=bf16``."""
    if not native_bf16(accelerator):
        warn(
            f"{given}: this machine has no bf16 instructions; emulated bf16 is slower than fp32, on one CPU 180 times "
            f"(343 s instead of 1.9 s); give {given.partition('=')[0]}=auto or 32"
        )


def resolve_precision(precision: object, accelerator: str) -> str:
    """Return Lightning's name for ``trainer.precision``: ``auto`` or a short name.

    Raise UsageError for other names, ValueError for 16-mixed on a CPU, which Lightning would change to bf16-mixed. Warn if
    bf16-mixed is emulated.
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
    """Return ``32`` or ``bf16`` for the ``precision=`` of inference. Raise UsageError for other names.

    Warn if bf16 was given and is emulated.
    """
    if precision not in ("32", "bf16", "auto"):
        raise UsageError(f"precision={precision}: choose from 32, bf16, auto")
    if precision == "auto":
        return "bf16" if native_bf16(accelerator) else "32"
    if precision == "bf16":
        warn_of_emulation("precision=bf16", accelerator)
    return precision

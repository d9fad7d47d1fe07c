"""``precision``: what the hardware computes itself, and names that mean what they say."""

from __future__ import annotations

from pathlib import Path

from sr_train.cli.common import UsageError, warn

_PRECISIONS = {"32": "32-true", "32-true": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}


def native_bf16(accelerator: str) -> bool:
    """Whether the hardware computes in bf16 itself; emulated bf16 is slower than fp32."""
    import torch

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
    """Warn where bf16, which the user typed as ``given`` (``precision=bf16``), is computed by slower fp32 instructions."""
    if not native_bf16(accelerator):
        warn(
            f"{given}: no instructions for bf16 were found on this machine; without them it is slower than fp32, on one such "
            f"CPU 180 times (343 s instead of 1.9 s): give {given.partition('=')[0]}=auto or 32"
        )


def resolve_precision(precision: object, accelerator: str) -> str:
    """``auto`` and the short names to Lightning's; raises ValueError for what would silently become something else.

    Warns where bf16 was asked for and the hardware emulates it.
    """
    import torch

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

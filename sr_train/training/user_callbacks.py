"""User's callbacks and ``trainer.max_time``, which may end a stage before its last step."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, Timer

from sr_train.config.build import build
from sr_train.console import UsageError
from sr_train.training.stopping import still_finished
from sr_train.weights.file import origin_of

_clock = {"began": time.monotonic()}  # start of the run in this process


def start_clock() -> None:
    """Start the clock of ``trainer.max_time``, which all stages of a run share."""
    _clock["began"] = time.monotonic()


def callback_specs(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the configs of the user's callbacks."""
    return [spec for spec in (config["callbacks"] or {}).values() if spec]


def own_callbacks(config: Mapping[str, Any], scores: Sequence[str]) -> list[L.Callback]:
    """Build the user's callbacks in the order of :func:`callback_specs`, then a Timer if ``trainer.max_time`` is set.

    Raises UsageError for an EarlyStopping or Timer that cannot work, e.g. one that monitors a score not in ``scores``.

    Args:
        config: config of the stage.
        scores: names of the scores of the stage's validation.
    """
    built = {name: build(spec) for name, spec in (config["callbacks"] or {}).items() if spec}
    return checked_callbacks(config, built, scores)


def checked_callbacks(
    config: Mapping[str, Any], built: Mapping[str, L.Callback], scores: Sequence[str]
) -> list[L.Callback]:
    """Check the user's callbacks, and add a Timer if ``trainer.max_time`` is set; see :func:`own_callbacks`.

    ``built`` is {name: callback}.
    """
    own = list(built.values())
    for name, callback in built.items():
        if isinstance(callback, Timer):
            _check_timer(f"callbacks.{name}", callback)
        if isinstance(callback, EarlyStopping):
            ours = str(config["task"]["_target_"]).startswith("sr_train.")
            alone = ours and all(isinstance(c, EarlyStopping | Timer) for c in own)
            _check_early_stopping(f"callbacks.{name}", callback, scores, alone=alone)
    limit = config["trainer"].get("max_time")
    if limit is not None:
        if any(isinstance(c, Timer) for c in own):
            raise UsageError(
                f"trainer.max_time={limit}: the callbacks contain a Timer already; give trainer.max_time or a Timer, not both"
            )
        try:
            timer = Timer(limit)
        except (MisconfigurationException, TypeError, AttributeError):
            timer = None
        if timer is None or timer._duration is None or timer._duration <= 0:
            raise UsageError(f"trainer.max_time={limit}: expected DD:HH:MM:SS above zero, e.g. 00:11:50:00")
        timer._duration = max(timer._duration - (time.monotonic() - _clock["began"]), 0.0)
        own.append(timer)
    return own


def name_of(callback: L.Callback | None, config: Mapping[str, Any]) -> str:
    """Return the name of the callback that stopped a run, as the user knows it: a class, or ``trainer.max_time=...``.

    If ``callback`` is None, the task stopped the run, and the name of its class is returned.
    """
    if callback is None:
        return str(config["task"]["_target_"]).rpartition(".")[2]
    if isinstance(callback, Timer) and config["trainer"].get("max_time") is not None:
        return f"trainer.max_time={config['trainer']['max_time']}"
    return type(callback).__name__


def _check_timer(key: str, timer: Timer) -> None:
    if timer._interval != "step":
        raise UsageError(f"{key}: interval={timer._interval}: training is one endless epoch; leave interval out")


def _check_early_stopping(key: str, callback: EarlyStopping, scores: Sequence[str], *, alone: bool) -> None:
    """Raise UsageError if EarlyStopping cannot read its metric (``monitor``) after a validation.

    ``alone`` is true if no user code can log other metrics. Then ``monitor`` must be one of ``scores``, or a number
    that sr-train logs.
    """
    monitor = callback.monitor
    if callback._check_on_train_epoch_end:
        raise UsageError(f"{key}: check_on_train_epoch_end=true: training is one endless epoch; leave this key out")
    if not scores:
        raise UsageError(
            f"{key}: monitor={monitor}: there is no validation, so this metric would never be read; give sets=[...]"
        )
    known = monitor in scores or monitor.startswith(("train/", "speed/"))
    if alone and callback.strict and not known:
        raise UsageError(f"{key}: monitor={monitor} is not measured; choose from {', '.join(scores)}")
    higher = monitor.endswith(("/psnr", "/ssim"))
    lower = monitor.startswith("train/loss") or (monitor in scores and not higher)
    if (higher and callback.mode == "min") or (lower and callback.mode == "max"):
        better = "higher" if higher else "lower"
        warnings.warn(
            f"{key}: mode={callback.mode}, but {better} is better for {monitor}: training would stop while the metric "
            f"improves; give mode={'max' if higher else 'min'}",
            stacklevel=2,
        )


def finished_early(weights: Path, config: Mapping[str, Any]) -> str | None:
    """Return a text with the callback and the step that finished a stage early, read from the stage's weights.

    Return None if the stage was not finished early, or does not count as finished for this config
    (:func:`sr_train.training.stopping.still_finished`).
    """
    finished = origin_of(weights).get("finished")
    if not isinstance(finished, dict):
        return None
    if not still_finished(finished, int(config["trainer"]["max_steps"]), callback_specs(config)):
        return None
    return f"{finished['by']} at step {finished['step']}"

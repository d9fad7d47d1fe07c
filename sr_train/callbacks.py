"""Lightning callbacks for what Lightning does not have."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from tqdm import tqdm


class Progress(L.Callback):
    """One line that says how far a stage is: step, loss, rate, speed, time left; plain lines without a terminal.

    Args:
        lines_every: seconds between lines where there is no terminal.
    """

    def __init__(self, *, lines_every: float = 15.0) -> None:
        self.lines_every = lines_every
        self._bar: Any = None
        self._said = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that the run continues from."""
        if trainer.is_global_zero:
            plain = not sys.stderr.isatty()
            self._bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                desc="train",
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=self.lines_every if plain else 0.2,
                maxinterval=self.lines_every if plain else 10.0,
                ascii=plain or None,
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        if self._bar is None or trainer.global_step == self._bar.n:
            return
        now = time.monotonic()
        if now - self._said > 1:  # reading the loss waits for the device
            self._said = now
            shown = {k.removeprefix("train/"): f"{float(v):.4g}" for k, v in trainer.progress_bar_metrics.items()}
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._bar.set_postfix({**shown, "rate": f"{rate:.2e}"}, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say the scores above the bar."""
        if self._bar is not None and not trainer.sanity_checking:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.endswith("/psnr")}
            self._bar.write(
                f"step {trainer.global_step}: " + "  ".join(f"{k} {v:.3f}" for k, v in values.items()), sys.stderr
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

"""Callbacks as a user would write them, by Lightning's rules alone."""

from typing import ClassVar

import lightning as L


class Logs(L.Callback):
    """Logs the number of the step by ``self.log``."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("own/steps", float(trainer.global_step))


class Sees(L.Callback):
    """Keeps the hooks of validation that it was called for, with a score that it could read."""

    seen: ClassVar[list] = []

    def _see(self, hook, trainer):
        score = trainer.callback_metrics.get("tiny/rgb/psnr")
        self.seen.append((trainer.global_step, hook, None if score is None else float(score)))

    def on_validation_start(self, trainer, pl_module):
        self._see("start", trainer)

    def on_validation_epoch_end(self, trainer, pl_module):
        self._see("epoch_end", trainer)

    def on_validation_end(self, trainer, pl_module):
        self._see("end", trainer)


class Stops(L.Callback):
    """Stops the training after some steps of a sitting, in the middle of one where gradients are accumulated."""

    def __init__(self, batches=3):
        self.batches = batches
        self.count = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count += 1
        if self.count == self.batches:
            trainer.should_stop = True

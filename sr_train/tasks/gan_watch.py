"""Watch over a GAN's training: a discriminator that has won or that has learned nothing, and colors that drift.

The numbers of the newest steps are kept on the device. The host reads their mean from time to time, when it has arrived, and
does not wait for it. Checkpoints contain them, so a continued run warns at the step of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sr_train.tasks.host_copy import HostCopy

WINDOW = 200  #: steps over which numbers are averaged

_EVERY = 20  # steps between two looks at the means

_WON = 0.99  # share of images that the discriminator is right about

_CHANCE = 0.05  # largest distance of that share from one half, and of the loss from that of equal logits, if D is dead

_LEVELS = 21  # logits from -1 to 1 that are tried to find the loss of guessing

_NO_LEVEL = 1e-6  # largest loss of equal logits of a loss that is a difference of means

_DRIFT = 3.0  # largest difference of mean colors, of 255

_WON_ADVICE = (
    "Its gradient is of little use to the generator now. Try a lower task.discriminator_rate (a tenth of task.rate), a larger "
    "loss.weights.adversarial, more varied data, or a generator that was pretrained longer (init.stage)"
)

_DEAD_ADVICE = (
    "The generator learns nothing from it. Try a higher task.discriminator_rate, another task.discriminator, or "
    "task.discriminator_curve if its rate has fallen too far; check that HR and LR are what they should be (check=true)"
)

_DRIFT_ADVICE = (
    "Try a larger loss.weights.pixel, or look for LR images whose colors differ from those of HR (sr-prepare check=DIR)"
)


class Watch:
    """Sliding means of the discriminator's accuracy and loss, and of the difference of the colors of SR and HR.

    Args:
        loss: function that returns D's loss if the logits of all images, real or generated, are the given ones. Its
            smallest value for equal logits is the loss of a D that has learned nothing. It is at 0 for a loss with
            sigmoids, at 0.5 for least squares. A loss that is a difference of means (WGAN) is 0 for all equal logits: it
            has no such level, and it does not saturate if D has won. Then only the accuracy shows a dead D.
        first: number of steps at the start that are not watched, because they do not update the generator.
        judged: false for a discriminator that is not trained; then only colors are watched.
    """

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor], first: int = 0, *, judged: bool = True) -> None:
        self._loss = loss
        self._first = first
        self._judged = judged
        self._chance: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None  # [WINDOW, 5]: accuracy, loss, differences of R, G and B (or of gray)
        self._filled = 0
        self._means: tuple[int, HostCopy] | None = None
        self._said: set[str] = set()

    def add(self, step: int, share: float, accuracy: torch.Tensor, loss: torch.Tensor, shift: torch.Tensor) -> None:
        """Add the numbers of a micro-batch.

        Args:
            step: number of the step, from 1.
            share: share of the micro-batch in its step.
            accuracy: share of the images that D is right about.
            loss: D's loss.
            shift: mean of SR minus HR of each channel, in [0, 1].
        """
        new = torch.cat(
            [accuracy.detach().reshape(1).float(), loss.detach().reshape(1).float(), shift.detach().float()]
        )
        if self._rows is None or self._rows.device != new.device:
            rows = new.new_zeros((WINDOW, len(new)))
            self._rows = rows if self._rows is None else self._rows.to(new.device)
        if self._chance is None:  # on the device: the loss may average over all processes
            levels = torch.linspace(-1, 1, _LEVELS, device=new.device)
            self._chance = torch.stack([self._loss(c.expand(2, 1)).detach() for c in levels]).min()
        row = self._rows[(step - 1) % WINDOW]
        if step > self._filled:  # the first micro-batch of the step
            row.zero_()
            self._filled = step
        row.add_(new * share)

    def look(self, step: int) -> str | None:
        """Return a warning if the means have arrived and are outside of their limits, each kind once; else None."""
        ready = self._filled >= self._first + WINDOW and step % _EVERY == 0 and self._means is None
        if ready and self._rows is not None and self._chance is not None:
            self._means = step, HostCopy([self._chance, *self._rows.mean(0)])
        if self._means is None or not self._means[1].arrived:
            return None
        at, (chance, accuracy, loss, *shift) = self._means[0], self._means[1].read()
        self._means = None
        for kind, text in _problems(chance, accuracy, loss, shift).items():
            if kind not in self._said and (self._judged or kind == "drift"):
                self._said.add(kind)
                return f"step {at}: {text}"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of the window and the kinds of warnings that were given."""
        rows = None if self._rows is None else self._rows.detach().cpu().clone()
        return {"rows": rows, "filled": self._filled, "said": sorted(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`. The window of a version with other numbers starts empty."""
        rows = state.get("rows")
        fits = isinstance(rows, torch.Tensor) and rows.ndim == 2 and len(rows) == WINDOW
        self._rows = rows.clone() if fits else None  # pyright: ignore[reportOptionalMemberAccess]
        self._filled = int(state.get("filled", 0)) if fits else 0
        self._said = set(state.get("said", ()))
        self._means = None


def _problems(chance: float, accuracy: float, loss: float, shift: Sequence[float]) -> dict[str, str]:
    """Return the warnings that sliding means call for, by kind.

    Args:
        chance: D's loss if it guesses; 0 if the loss has no such level.
        accuracy: share of the images that D is right about.
        loss: D's loss.
        shift: mean of SR minus HR of each channel, in [0, 1].
    """
    found: dict[str, str] = {}
    over = f"over the last {WINDOW} steps"
    right = f"{over} it was right for {accuracy:.1%} of the images"
    level = abs(chance) > _NO_LEVEL
    if accuracy > _WON and level:
        found["won"] = f"the discriminator has won: {right} (loss {loss:.3g}). {_WON_ADVICE}"
    elif abs(accuracy - 0.5) < _CHANCE and (not level or abs(loss - chance) < _CHANCE * abs(chance)):
        of = f", and its loss of {loss:.3g} is that of guessing ({chance:.3g})" if level else f" (loss {loss:.3g})"
        found["dead"] = f"the discriminator has learned nothing: {right}{of}. {_DEAD_ADVICE}"
    if max(map(abs, shift)) * 255 > _DRIFT:
        shown = ", ".join(f"{255 * s:+.1f}" for s in shift)
        found["drift"] = f"colors drift: {over} the mean of SR minus HR is {shown} of 255. {_DRIFT_ADVICE}"
    return found

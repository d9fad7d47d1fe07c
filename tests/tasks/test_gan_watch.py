"""Warnings about a GAN: sliding means, kept in checkpoints, one warning of each kind."""

import math
import re

import pytest
import torch

from sr_train.losses.adversarial import Hinge, LeastSquares, RelativisticAverage, StandardGAN, Wasserstein
from sr_train.tasks.gan_watch import WINDOW, Watch

CHANCE = math.log(2)


def watch():
    return Watch(lambda logits: RelativisticAverage().discriminator(logits, logits))


def feed(watched, steps, *, accuracy=0.8, loss=0.4, shift=(0.0, 0.0, 0.0), start=0):
    """Feed equal numbers and return the warnings by step."""
    found = {}
    for step in range(start + 1, start + steps + 1):
        watched.add(step, 1.0, torch.tensor(accuracy), torch.tensor(loss), torch.tensor(shift))
        text = watched.look(step)
        if text is not None:
            found[step] = text
    return found


def test_a_healthy_training_is_not_reported():
    assert feed(watch(), 3 * WINDOW) == {}


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (
            {"accuracy": 0.994, "loss": 0.02},
            "the discriminator has won: over the last 200 steps it was right for 99.4%",
        ),
        (
            {"accuracy": 0.5, "loss": 0.69},
            r"the discriminator has learned nothing: .* 50.0% .* its loss of 0.69 is that of guessing",
        ),
        ({"shift": (0.0, -0.02, 0.001)}, r"colors drift: .* the mean of SR minus HR is \+0.0, -5.1, \+0.3 of 255"),
    ],
)
def test_each_trouble_is_reported_once_with_a_remedy(numbers, text):
    found = feed(watch(), 3 * WINDOW, **numbers)
    assert list(found) == [WINDOW]
    assert re.search(text, found[WINDOW])
    assert "Try " in found[WINDOW]


def test_half_right_with_another_loss_is_no_dead_discriminator():
    assert feed(watch(), WINDOW, accuracy=0.5, loss=0.5) == {}


def test_the_window_slides():
    watched = watch()
    assert feed(watched, WINDOW + 30, accuracy=0.9) == {}
    found = feed(watched, WINDOW, accuracy=1.0, start=WINDOW + 30)
    assert list(found) == [2 * WINDOW + 20]  # the mean over steps 221 to 420 is 0.995; at step 400 it is 0.985


def test_a_mean_over_micro_batches_counts_as_one_step():
    watched = watch()
    for step in range(1, WINDOW + 1):
        for accuracy in (1.0, 0.9):
            watched.add(step, 0.5, torch.tensor(accuracy), torch.tensor(0.1), torch.zeros(3))
    rows = watched.state_dict()["rows"]
    torch.testing.assert_close(rows[:, 0], torch.full((WINDOW,), 0.95))
    torch.testing.assert_close(rows[:, 1], torch.full((WINDOW,), 0.1))


def test_a_continued_run_warns_at_the_same_step():
    whole, first, second = watch(), watch(), watch()
    found = feed(whole, 250, accuracy=1.0)
    assert feed(first, 130, accuracy=1.0) == {}
    second.load_state_dict(first.state_dict())
    assert feed(second, 120, accuracy=1.0, start=130) == found
    third = watch()
    third.load_state_dict(second.state_dict())
    assert feed(third, 200, accuracy=1.0, start=250) == {}  # reported already


def watch_of(loss):
    return Watch(lambda logits: loss.discriminator(logits, logits))


def entropy(share):
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


@pytest.mark.parametrize(
    ("loss", "chance"),
    [
        (StandardGAN(), 2 * CHANCE),
        (StandardGAN(real_label=0.9), 2 * entropy(0.45)),  # the best answer for all images is 0.9 / 2
        (RelativisticAverage(), CHANCE),
        (LeastSquares(), 0.5),  # all logits are 0.5
        (LeastSquares(real_label=0.9), 2 * 0.45**2),
        (Hinge(), 2.0),
    ],
)
def test_guessing_has_the_smallest_loss_of_equal_logits(loss, chance):
    found = feed(watch_of(loss), WINDOW, accuracy=0.5, loss=chance)
    said = re.search(r"guessing \(([\d.]+)\)", found[WINDOW])
    assert float(said[1]) == pytest.approx(chance, rel=0.02)
    assert feed(watch_of(loss), WINDOW, accuracy=0.5, loss=0.8 * chance) == {}


def test_a_wasserstein_loss_has_no_level_of_guessing_and_no_winner():
    assert feed(watch_of(Wasserstein()), WINDOW, accuracy=1.0, loss=-7.0) == {}
    found = feed(watch_of(Wasserstein()), WINDOW, accuracy=0.51, loss=-0.3)
    assert re.search(
        r"has learned nothing: over the last 200 steps it was right for 51.0% .* \(loss -0.3\)", found[WINDOW]
    )

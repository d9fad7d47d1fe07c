"""One row per event, with the images of all ranks."""

from sr_train.tasks.guard import Event
from sr_train.training.rank_events import gathered, merged


def test_one_rank_keeps_its_events():
    assert gathered([Event(7, "refused: loss not finite", "a b")], 1) == [Event(7, "refused: loss not finite", "a b")]
    assert gathered([], 8) == []


def test_the_images_of_all_ranks_are_in_one_row():
    same = [Event(7, "refused: gradient not finite", "a b"), Event(7, "refused: gradient not finite", "c")]
    assert merged(same) == Event(7, "refused: gradient not finite", "a b c")


def test_only_the_images_of_the_rank_whose_loss_is_not_finite_are_listed():
    same = [Event(7, "refused: gradient not finite", "a b"), Event(7, "refused: loss not finite", "c c")]
    assert merged(same) == Event(7, "refused: loss not finite", "c")

"""Events of all ranks of a run as one row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import distributed

from sr_train.tasks.guard import Event


def gathered(events: Sequence[Event], world: int) -> list[Event]:
    """Return the events of all ranks, merged; all ranks call this with as many events.

    Args:
        events: those of this rank.
        world: number of ranks.
    """
    if world == 1 or not events:
        return list(events)
    found: list[list[Event]] = [[] for _ in range(world)]
    distributed.all_gather_object(found, list(events))
    return [merged(same) for same in zip(*found, strict=True)]


def merged(same: Iterable[Event]) -> Event:
    """Return one event for the events of one step: the first rank's, with the images of all ranks.

    If only some ranks have found the loss not finite, their images caused it, and only these are listed.
    """
    events = list(same)
    causes = [e for e in events if "loss" in e.what] or events
    images = " ".join(dict.fromkeys(key for e in causes for key in e.images.split()))
    return causes[0]._replace(images=images)

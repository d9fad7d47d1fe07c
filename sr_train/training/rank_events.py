"""Merging of the ranks' events: one row of ``events.csv`` for each refused step, with the images of all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import distributed

from sr_train.tasks.guard import Event


def gathered(events: Sequence[Event], world: int) -> list[Event]:
    """Return one merged event for each refused step.

    All ranks must call this function, each with the same number of events.

    Args:
        events: events of this rank, one for each refused step.
        world: number of ranks.
    """
    if world == 1 or not events:
        return list(events)
    found: list[list[Event]] = [[] for _ in range(world)]
    distributed.all_gather_object(found, list(events))
    return [merged(same) for same in zip(*found, strict=True)]


def merged(same: Iterable[Event]) -> Event:
    """Merge the events of all ranks for one refused step: return the first rank's event, with the images of all ranks.

    If only some ranks report that the loss is not finite, their images are the cause. Then only the images of these
    ranks are listed.
    """
    events = list(same)
    causes = [e for e in events if "loss" in e.what] or events
    images = " ".join(dict.fromkeys(key for e in causes for key in e.images.split()))
    return causes[0]._replace(images=images)

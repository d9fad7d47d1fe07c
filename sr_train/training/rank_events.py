"""Events of all ranks of a run as one row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import distributed


def gathered(events: Sequence[tuple[str, ...]], world: int) -> list[tuple[str, ...]]:
    """Return the events of all ranks, merged; all ranks call this with as many events.

    Args:
        events: those of this rank, of which the last field contains its images, separated by spaces.
        world: number of ranks.
    """
    if world == 1 or not events:
        return list(events)
    found: list[list[tuple[str, ...]]] = [[] for _ in range(world)]
    distributed.all_gather_object(found, [tuple(e) for e in events])
    return [merged(same) for same in zip(*found, strict=True)]


def merged(same: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return one event for the events of one step: the first rank's, with the images of all ranks.

    If only some ranks have found the loss not finite, their images caused it, and only these are listed.
    """
    events = list(same)
    causes = [e for e in events if any("loss" in str(part) for part in e[:-1])] or events
    images = " ".join(dict.fromkeys(key for e in causes for key in e[-1].split()))
    return (*causes[0][:-1], images)

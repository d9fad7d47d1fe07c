"""Command that makes a store of a known set, for messages about missing stores and scales."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_train.data.known.images import IMAGE_SETS
from sr_train.data.known.table import StorePlan
from sr_train.data.known.videos import VIDEO_SETS

_JOINED = ("df2k",)  # sets whose stores are those of other sets


def _plans() -> Iterator[tuple[str, str | None, StorePlan]]:
    """Yield (name of the set, kind if it is not the one by default, store) of all stores."""
    for name, known in {**IMAGE_SETS, **VIDEO_SETS}.items():
        if name in _JOINED:
            continue
        yield from ((name, None if known.kind == "bicubic" else "bicubic", plan) for plan in known.stores)
        for kind, plans in known.kinds.items():
            yield from ((name, None if kind == known.kind else kind, plan) for plan in plans)


def known_command(store: str | os.PathLike[str], scales: Sequence[int] = ()) -> str | None:
    """Return the command that makes a store, None if it belongs to no known set.

    Args:
        store: path of the store.
        scales: scales of the LR images that the store must contain.
    """
    stem = Path(store).name.removesuffix(".lmdb")
    for name, kind, plan in _plans():
        own = {plan.name.format(scale=s): s for s in plan.scales or (1,)}
        if stem not in own:
            continue
        if plan.lr_only:
            scales = [own[stem]] if "{scale}" in plan.name else []
        elif not scales:
            kind = None  # any kind makes the HR images
        chosen = f" kind={kind}" if kind else ""
        lr = f" scales=[{','.join(map(str, sorted(scales)))}]" if scales else ""
        return f"sr-prepare dataset={name}{chosen} root=DIR{lr}"
    return None

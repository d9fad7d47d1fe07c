"""Values of ``sr-prepare dataset=NAME``, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from sr_train.console import UsageError, expect
from sr_train.data.known.images import IMAGE_SETS
from sr_train.data.known.table import KnownSet, StorePlan
from sr_train.data.known.videos import VIDEO_SETS
from sr_train.resampling import Arithmetic

SETS: dict[str, KnownSet] = {**IMAGE_SETS, **VIDEO_SETS}  #: all known sets by the name that is typed

_BICUBIC = "bicubic"


class Request(NamedTuple):
    """Values of the command."""

    name: str
    known: KnownSet
    roots: tuple[Path, ...]  #: folders or archives with the files of the set
    folder: Path  #: folder of the stores
    kinds: tuple[str, ...]
    scales: tuple[int, ...] | None  #: scales of LR; None for those of the set
    arithmetic: Arithmetic | None  #: arithmetic of LR that is made; None for that of the set
    workers: int
    partial: bool
    verify: bool

    def plans(self) -> list[StorePlan]:
        """Return the stores to make: HR images, then LR images of each kind."""
        plans = list(self.known.stores)
        return plans + [plan for kind in self.kinds if kind != _BICUBIC for plan in self.known.kinds[kind]]

    def scales_of(self, plan: StorePlan) -> tuple[int, ...]:
        """Return the scales of a store's LR images. Of LR images alone, one store is made for each scale."""
        if plan.lr_only:
            held = plan.scales or (1,)
            return held if self.scales is None else tuple(s for s in held if s in self.scales or held == (1,))
        if _BICUBIC not in self.kinds:
            return ()
        return plan.scales if self.scales is None else self.scales


def read_request(
    config: Mapping[str, Any], *, arithmetic: Arithmetic | None, workers: int, scales: Sequence[int] | None
) -> Request:
    """Return the checked values of ``dataset=``, ``root=``, ``kind=``, ``partial=`` and ``verify=``. Raises UsageError."""
    name = config["dataset"]
    known = SETS.get(name) if isinstance(name, str) else None
    if known is None:
        raise UsageError(f"dataset={name}: expected one of {', '.join(SETS)}; other images: images=DIR or clips=DIR")
    for key in ("images", "clips", "list", "lr", "store"):
        if config[key] is not None:
            raise UsageError(
                f"{key}= cannot be used with dataset={name}: the files and stores of a known data set have fixed names"
            )
    if config["skip_bad"]:
        raise UsageError(f"skip_bad=true cannot be used with dataset={name}; partial=true accepts a part of the set")
    if config["root"] is None:
        raise UsageError(
            f"dataset={name} needs root=DIR, the folder with the archives or the unpacked folders of the set"
        )
    roots = cast("list[object]", config["root"]) if isinstance(config["root"], list) else [config["root"]]
    return Request(
        str(name),
        known,
        tuple(Path(str(root)) for root in roots),
        Path(str(config["paths"]["data"])),
        _kinds(str(name), known, config["kind"], scales),
        None if scales is None else tuple(scales),
        arithmetic,
        workers,
        expect(config, "partial", bool, "true or false"),
        expect(config, "verify", bool, "true or false"),
    )


def _kinds(name: str, known: KnownSet, given: object, scales: Sequence[int] | None) -> tuple[str, ...]:
    kinds = [known.kind] if given is None else cast("list[object]", given) if isinstance(given, list) else [given]
    known_kinds = (_BICUBIC, *known.kinds)
    for kind in kinds:
        if kind not in known_kinds:
            raise UsageError(f"kind={kind}: {known.title} has the kinds of LR {', '.join(known_kinds)}")
        for plan in known.kinds.get(str(kind), ()) if scales else ():
            if len(plan.scales) and not set(plan.scales) & set(scales or ()):
                held = f"scales={list(plan.scales)}"
                raise UsageError(f"scales={list(scales or ())}: dataset={name} kind={kind} has LR of {held}")
    return tuple(str(kind) for kind in kinds)

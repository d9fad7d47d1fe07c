"""Sources to check: a path that a user has typed, or the data part of a stage's config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from sr_train.console import UsageError
from sr_train.data.lone import is_lone
from sr_train.data.pairing import split_template
from sr_train.data.sources import at_scale
from sr_train.data.store.basicsr import is_basicsr
from sr_train.data.store.format import StoreError, is_store
from sr_train.data.store.reader import Store
from sr_train.data.video.sets import is_clip_set

TRAIN, SCORED = "train", "scored"


class Low(NamedTuple):
    """Source of LR images."""

    scale: int
    where: str
    pattern: str | None = None  #: of the names, see :func:`.pairing.split_template`


class Spec(NamedTuple):
    """Source of HR images with its sources of LR images."""

    where: str  #: key in the config, or the path that was typed; for messages
    hr: str
    lows: tuple[Low, ...] = ()
    scales: tuple[int, ...] = ()  #: scales at which the images are used
    role: str = ""  #: ``train``, ``scored`` or unknown
    listed: str | None = None  #: file with the names of the images to use
    clips: str | tuple[str, ...] | None = None  #: names of the clips to use, or a file of them
    without: str | tuple[str, ...] | None = None
    video: bool | None = None  #: None if the names decide it
    patch: int = 0  #: side of a training patch in LR pixels
    least: int = 1  #: frames that a clip needs
    lone: bool = False  #: ``hr`` are LR images without HR; names such as ``a_LR`` count too


def spec_of_path(
    path: str, *, lr: str | None = None, scales: Sequence[int] = (), listed: str | None = None, clips: bool = False
) -> Spec:
    """Return the source at a path: a folder, a store, an LMDB of BasicSR. A store is checked with all of its LR images."""
    if lr is not None and not scales:
        raise UsageError("lr= needs the scale of the LR images: give e.g. scales=[2]")
    if lr is None and is_store(path) and not is_basicsr(path):
        try:
            store = Store(path)
        except StoreError:
            return Spec(path, path)  # the check reports why
        scales = [s for s in store.scales if s != 1]
        lr = path if scales else None
    return Spec(
        path, path, _lows(lr, scales), tuple(scales), listed=listed, video=True if clips else None
    )  # fmt: skip


def _lows(lr: str | Mapping[Any, str] | None, scales: Sequence[int]) -> tuple[Low, ...]:
    lows: list[Low] = []
    for scale in scales:
        own = {int(s): where for s, where in lr.items()}.get(scale) if isinstance(lr, Mapping) else lr
        if own is not None:
            where, pattern = split_template(own)
            lows.append(Low(scale, at_scale(where, scale), pattern))
    return tuple(lows)


def specs_of_data(data: Mapping[str, Any]) -> list[Spec]:
    """Return the sources of the data part of a config, those of ``train`` and then the scored sets of ``val``."""
    scales = [int(s) for s in data.get("scales") or [data.get("scale") or 1]]
    frames, intervals = data.get("frames"), data.get("intervals") or [1]
    common: dict[str, Any] = {"scales": tuple(scales)}
    specs: list[Spec] = []
    for number, spec in enumerate(cast("Sequence[object]", data.get("train") or [])):
        least = (int(frames) - 1) * max(intervals) + 1 if frames else 1
        options = {**common, "role": TRAIN, "patch": int(data.get("lr_patch") or 0), "least": least}
        specs += _specs(f"data.train[{number}]", spec, options, video=frames is not None)
    for name, spec in cast("Mapping[str, object]", data.get("val") or {}).items():
        video = frames is not None or is_clip_set(spec)
        specs += _specs(f"data.val.{name}", spec, {**common, "role": SCORED}, video=video)
    return specs


def _specs(where: str, spec: object, options: dict[str, Any], *, video: bool) -> list[Spec]:
    """Return the spec of a source at all scales; one for each scale if the path of HR depends on it."""
    if not isinstance(spec, Mapping):
        return []
    given = cast("Mapping[str, Any]", spec)
    if is_lone(given):  # its images are read; there are no pairs to compare
        return [
            Spec(
                where,
                at_scale(low.where, low.scale),
                role=options["role"],
                listed=given.get("list"),
                video=False,
                lone=True,
            )
            for low in _lows(given["lr"], options["scales"])
        ]
    hr = given.get("hr")
    if not isinstance(hr, str):
        return []
    options = {**options, **{key: _hashable(given.get(key)) for key in ("clips", "without")}}
    options |= {"listed": given.get("list"), "video": video}
    found: dict[str, list[int]] = {}
    for scale in options["scales"]:
        found.setdefault(at_scale(hr, scale), []).append(scale)
    specs: list[Spec] = []
    for path, own in found.items():
        options |= {"scales": tuple(own), "lows": _lows(given.get("lr"), own)}
        specs.append(Spec(where, path, **options))
    return specs


def _hashable(names: Any) -> str | tuple[str, ...] | None:
    """Return the value of ``clips`` or ``without``: None for all, a file, or names."""
    if names is None or names is True or names == "all":
        return None
    return names if isinstance(names, str) else tuple(map(str, names))


def is_folder_of(path: str) -> bool:
    """Return True for a plain folder, which is neither a store nor an LMDB."""
    return Path(path).is_dir() and not is_store(path)

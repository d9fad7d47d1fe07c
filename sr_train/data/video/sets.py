"""Opening of clips that are described in YAML: ``{hr, lr, clips, without, weight}`` or ``{..., padding, score}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sr_train.data.lists import read_clip_list
from sr_train.data.sources import check_source
from sr_train.data.store.format import MissingStoreError
from sr_train.data.video.clips import Clips
from sr_train.data.video.dataset import EvalWindows, TrainWindows

_SOURCE = {"hr", "lr", "clips", "without"}

_TRAIN, _SET = _SOURCE | {"weight"}, _SOURCE | {"padding", "score"}

CLIP_KEYS = ("clips", "without", "padding", "score")


def is_clip_set(spec: object) -> bool:
    """Return True if a validation set has a key that only sets of clips have, e.g. ``clips: all``."""
    return isinstance(spec, Mapping) and any(key in spec for key in CLIP_KEYS)


def _check_spec(where: str, spec: object, keys: set[str]) -> dict[str, Any]:
    places = "folders of clips, stores, LMDBs of BasicSR or toy_clips:NAMES"
    return check_source(where, spec, keys, what="a source of clips", places=places)


def clip_names(where: str, value: object) -> list[str] | None:
    """Convert the value of ``clips=`` or ``without=`` to a list of names; None stands for all clips.

    The value is ``all`` (or true), a list of names, or the path of a text file with names.
    """
    if value is None or value is True or value == "all":
        return None
    if isinstance(value, str):
        return read_clip_list(value)
    names = list(cast("Sequence[object]", value)) if isinstance(value, Sequence) else [value]
    if all(isinstance(v, str) for v in names):
        return cast("list[str]", names)
    raise ValueError(
        f'{where}={value!r}: expected all, a list of names in quotes (["000","011"]) or the path of a text file'
    )


def _open(where: str, spec: Mapping[str, Any], least: int, options: Mapping[str, Any]) -> Clips:
    clips = clip_names(f"{where}.clips", spec.get("clips"))
    without = clip_names(f"{where}.without", spec.get("without")) or []
    known = {key: options[key] for key in ("scale", "arithmetic", "cache", "channels") if key in options}
    try:
        return Clips(spec["hr"], lr=spec.get("lr"), clips=clips, without=without, least=least, **known)
    except MissingStoreError as error:
        raise error.of_clips() from None


def open_training(
    where: str,
    spec: object,
    *,
    frames: int,
    intervals: Sequence[int],
    reverse: bool,
    options: Mapping[str, Any],
) -> TrainWindows:
    """Open a source of training windows.

    ``where`` is the config key of the source, for messages. ``options`` contains scale, arithmetic, cache and channels.
    """
    clips = _open(where, _check_spec(where, spec, _TRAIN), (frames - 1) * max(intervals) + 1, options)
    return TrainWindows(clips, frames=frames, intervals=intervals, reverse=reverse)


def open_set(where: str, spec: object, *, frames: int, options: Mapping[str, Any]) -> EvalWindows:
    """Open a validation set of clips. Each frame is scored from a window of ``frames`` frames around it.

    ``frames`` is 1 for networks that take single images.
    """
    spec = _check_spec(where, spec, _SET)
    padding, score = str(spec.get("padding", "reflection_circle")), spec.get("score", "all")
    try:
        return EvalWindows(_open(where, spec, frames, options), frames=frames, padding=padding, score=score)
    except ValueError as error:
        if str(error).startswith(("padding=", "score=")):
            raise ValueError(f"{where}.{error}") from None
        raise

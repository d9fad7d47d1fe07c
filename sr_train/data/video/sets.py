"""Clips as YAML names them: ``{hr: ..., lr: ..., clips: ..., without: ..., padding: ..., score: ..., weight: ...}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sr_train.data.store.format import MissingStoreError
from sr_train.data.video.clips import Clips, read_list
from sr_train.data.video.dataset import EvalWindows, TrainWindows

_SOURCE = {"hr", "lr", "clips", "without"}

_TRAIN, _SET = _SOURCE | {"weight"}, _SOURCE | {"padding", "score"}

CLIP_KEYS = ("clips", "without", "padding", "score")


def is_clip_set(spec: object) -> bool:
    """Whether a validation set says of itself that it holds clips, e.g. by ``clips: all``."""
    return isinstance(spec, Mapping) and any(key in spec for key in CLIP_KEYS)


def _check_spec(where: str, spec: object, keys: set[str]) -> Mapping[str, Any]:
    shown = ", ".join(f"{key}: ..." for key in ("hr", "lr", *sorted(keys - {"hr", "lr"})))
    if not isinstance(spec, Mapping) or set(spec) - keys or "hr" not in spec:
        given = dict(spec) if isinstance(spec, Mapping) else spec
        raise ValueError(f"{where}: a source of clips is {{{shown}}}; got {given!r}")
    if not isinstance(spec["hr"], str) or not isinstance(spec.get("lr"), str | Mapping | None):
        raise ValueError(
            f"{where}: hr and lr are folders of clips, stores or toy_clips:NAMES (lr: null makes LR from HR); "
            f"got {dict(spec)}"
        )
    weight = spec.get("weight")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0):
        raise ValueError(f"{where}: weight={weight!r}: expected a positive number")
    return spec


def clip_names(where: str, value: object) -> list[str] | None:
    """``all`` (or true), a list of clips or a text file of them; None for all."""
    if value is None or value is True or value == "all":
        return None
    if isinstance(value, str):
        return read_list(value)
    if isinstance(value, Sequence) and all(isinstance(v, str) for v in value):
        return list(value)
    raise ValueError(f'{where}={value!r}: expected all, a list of names in quotes (["000","011"]) or a text file')


def _open(where: str, spec: Mapping[str, Any], least: int, options: Mapping[str, Any]) -> Clips:
    clips = clip_names(f"{where}.clips", spec.get("clips"))
    without = clip_names(f"{where}.without", spec.get("without")) or []
    known = {key: options[key] for key in ("scale", "arithmetic", "cache") if key in options}
    try:
        return Clips(spec["hr"], lr=spec.get("lr"), clips=clips, without=without, least=least, **known)
    except MissingStoreError as error:
        raise MissingStoreError(error.path, "clips") from None


def open_training(
    where: str,
    spec: object,
    *,
    frames: int,
    intervals: Sequence[int],
    reverse: bool,
    options: Mapping[str, Any],
) -> TrainWindows:
    """A source of windows to train on; ``where`` it stands in the config, ``options`` say scale, arithmetic and cache."""
    spec = _check_spec(where, spec, _TRAIN)
    clips = _open(where, spec, (frames - 1) * max(intervals) + 1, options)
    return TrainWindows(clips, frames=frames, intervals=intervals, reverse=reverse)


def open_set(where: str, spec: object, *, frames: int, options: Mapping[str, Any]) -> EvalWindows:
    """A set of clips to be scored, in windows of ``frames``; 1 for networks that take images."""
    spec = _check_spec(where, spec, _SET)
    padding, score = str(spec.get("padding", "reflection_circle")), spec.get("score", "all")
    try:
        return EvalWindows(
            _open(where, spec, frames, options), frames=frames, padding=padding, score=cast("Any", score)
        )
    except ValueError as error:
        if str(error).startswith(("padding=", "score=")):
            raise ValueError(f"{where}.{error}") from None
        raise

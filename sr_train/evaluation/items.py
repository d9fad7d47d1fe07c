"""Images to score: outputs of networks, or finished images, each with its HR image."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from sr_train.config.paths import matching
from sr_train.console import UsageError, counted, expect, for_shell, say, warn
from sr_train.data.dataset import EvalImages, EvalSet
from sr_train.data.images import BadFilesError, check_channels, to_channels, to_uint8
from sr_train.data.lists import listed_images
from sr_train.data.lone import is_lone, open_lone
from sr_train.data.pairing import Paired, hr_names, pair_names, shown_names, split_template
from sr_train.data.pairs import Pairs, converted
from sr_train.data.sources import Source, at_scale, open_source
from sr_train.data.video.clips import select, shown_clip, split_key
from sr_train.data.video.sets import clip_names, is_clip_set, open_set
from sr_train.evaluation.scores import Scores, short_names
from sr_train.inference.network import Network, open_network, scale_of


class Computed(NamedTuple):
    """Results of all networks for one image, with the HR image."""

    results: list[torch.Tensor]  #: one for each column
    hr: torch.Tensor | None  #: None for an image without HR
    from_gray: bool  #: the HR file has one channel


class Item(NamedTuple):
    """One image to be scored."""

    set: str
    key: str
    compute: Callable[[], Computed]
    clip: str = ""  #: the clip whose scores are averaged first
    centered: bool = True  #: an image, or the center frame of its clip; some protocols score only these


class Outputs(NamedTuple):
    """Images to be scored. An image has one result for each column of the score table, i.e. for each network."""

    columns: list[str]  #: short names, each once
    titles: list[str]  #: full name of each column
    scale: int
    items: list[Item]


def _set_name(folder: str) -> str:
    """Return the name of a set of images: the name of its folder.

    For a folder such as ``HR`` or ``GTmod12``, return the name of the parent folder.
    """
    path = Path(folder).absolute()
    if path.name.lower().startswith(("hr", "gt")) and path.parent.name:
        path = path.parent
    return path.name.removesuffix(".lmdb") or "images"


def has_lone(config: Mapping[str, Any]) -> bool:
    """Return true if the command scores images without HR: ``lr=`` or ``sr=`` without ``hr=``, or a set ``{lr: DIR}``."""
    typed = config["hr"] is None and (config["lr"] is not None or config["sr"] is not None)
    return typed or any(is_lone(spec) for spec in (config.get("sets") or {}).values())


def _channels(config: Mapping[str, Any]) -> int | None:
    """Return ``channels=`` of the command; raise UsageError for a wrong value."""
    channels = expect(config, "channels", (int, type(None)), "1, 3 or 4, or null for those of the networks")
    try:
        check_channels(3 if channels is None else channels)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return channels


def _sets(config: Mapping[str, Any], networks: Sequence[Network], frames: int | None) -> dict[str, EvalSet]:
    """Open the sets in ``hr=``, ``lr=`` and ``sets=``. For a video network, they return windows of ``frames`` frames.

    ``frames`` is None if no network takes windows.
    """
    scale, channels = networks[0].scale, networks[0].channels
    named = dict(config.get("sets") or {})
    if config["hr"] is not None:
        name = _set_name(str(config["hr"]))
        if name in named:
            name = f"{name} (hr)"
        if config.get("list") is not None and (config["clips"] is not None or frames is not None):
            raise UsageError("list= chooses images; choose clips with clips=FILE")
        clips = {k: config[k] for k in ("clips", "padding") if config["clips"] is not None or frames is not None}
        listed = {} if config.get("list") is None else {"list": str(config["list"])}
        named = {name: {"hr": str(config["hr"]), "lr": config["lr"], **listed, **clips}, **named}
    elif config["lr"] is not None:
        if config["clips"] is not None:
            raise UsageError("clips= was given without hr=; give hr= as well")
        listed = {} if config.get("list") is None else {"list": str(config["list"])}
        named = {_set_name(str(config["lr"])): {"lr": config["lr"], **listed}, **named}
    elif config.get("list") is not None:
        raise UsageError("list= was given without hr=; give hr= as well")
    if not named:
        raise UsageError("nothing to score: give hr=DIR or sets=[NAME], or lr=DIR for images without HR (NIQE)")
    if frames is not None and any(is_lone(spec) for spec in named.values()):
        raise UsageError("sets of LR alone are for networks that take single images; give clips with hr=")
    options: dict[str, Any] = {"scale": scale, "arithmetic": str(config["arithmetic"]), "channels": channels}

    def opened(name: str, spec: Mapping[str, Any]) -> EvalSet:
        if is_clip_set(spec) or frames is not None:
            return open_set(f"sets.{name}", spec, frames=frames or 1, options=options)
        if is_lone(spec):
            return open_lone(f"sets.{name}", spec, options)
        return Pairs(spec["hr"], lr=spec.get("lr"), listed=spec.get("list"), **options)

    return {name: opened(name, spec) for name, spec in named.items()}


def _pair(config: Mapping[str, Any], scale: int, hr: Source, sr: Source, wanted: Mapping[str, int]) -> Paired:
    """Pair each HR image with the finished image that has the same name or a similar name.

    Raises BadFilesError if an HR image has no finished image, or if several finished images match it.
    """

    def usual(stem: str) -> list[str]:
        own = [hr.keys[wanted[stem]]] if stem in wanted else []
        return [*own, stem, f"{stem}x{scale}", f"{stem}_SRF_{scale}_SR"]

    where, pattern = split_template(str(config["sr"]))
    paired = pair_names(wanted, sr.keys, scale=scale, usual=usual, pattern=pattern)
    if paired.problems:
        held = f"{', '.join(sr.keys[:3])}{', ...' if len(sr.keys) > 3 else ''}"
        raise BadFilesError(
            f"{where} contains {held}; these cannot be paired with the images of {hr.name}. If all names follow one pattern, "
            f"give the pattern, e.g. {for_shell(f'sr={where}/{{stem}}_x{{scale}}_SR')}",
            paired.problems,
        )
    return paired


def _finished(config: Mapping[str, Any]) -> Outputs:
    """Open finished images (``sr=DIR``) and pair them with HR images (``hr=DIR``) by name.

    With ``clips=``, the images are frames of clips.
    """
    scale, channels = scale_of(config, (), "sr"), _channels(config) or 3
    if config["lr"] is not None or config.get("sets"):
        raise UsageError("sr=DIR is scored against hr=DIR, or without hr= by NIQE; give neither lr= nor sets=")
    if config["hr"] is None:
        return _finished_alone(config, scale, channels)
    where, _ = split_template(str(config["sr"]))
    hr, sr = open_source(str(config["hr"])), open_source(where if Path(where).exists() else at_scale(where, scale))
    results = {key: i for i, key in enumerate(sr.keys)}
    wanted, name = hr_names(hr.keys), _set_name(str(config["hr"]))
    of_clip: dict[str, tuple[str, bool]] = {}
    if config["clips"] is not None:
        for clip, keys in select(wanted, hr.name, clip_names("clips", config["clips"])).items():
            of_clip |= {key: (shown_clip(clip, hr.name), n == len(keys) // 2) for n, key in enumerate(keys)}
        wanted = {key: wanted[key] for key in of_clip}
    elif config.get("list") is not None:
        wanted = {key: wanted[key] for key in listed_images(str(config["list"]), wanted, hr.name)}
    paired = _pair(config, scale, hr, sr, wanted)
    extra = sorted(set(paired.extra) - set(hr.keys if sr.name == hr.name else ()))
    if extra and len(wanted) == len(hr_names(hr.keys)):
        warn(
            f"{sr.name}: {counted(len(extra), 'image')} not scored, because there is no HR image in {hr.name}: "
            f"{shown_names(extra)}"
        )
    items, problems = [], []
    for stem, i in wanted.items():
        found = results[paired.names[stem]]
        (h, w), (a, b) = hr.shape(i)[:2], sr.shape(found)[:2]
        if not (0 <= h - a < scale and 0 <= w - b < scale):
            problems.append(f"{stem}: the result is {b}x{a}, the HR image {w}x{h} (scale {scale})")
            continue
        clip, centered = of_clip.get(stem, ("", True))
        key = f"{clip}/{split_key(stem)[1]}" if clip else stem
        items.append(Item(name, key, partial(_read, sr, found, hr, i, channels), clip, centered))
    if problems:
        count = "1 image" if len(problems) == 1 else f"{len(problems)} images"
        raise BadFilesError(f"{config['sr']}: {count} cannot be scored against {config['hr']}", problems)
    ending = f" (names continue with {paired.ending})" if paired.ending else ""
    return Outputs([str(config["sr"])], [f"{config['sr']}{ending}"], scale, items)


def _finished_alone(config: Mapping[str, Any], scale: int, channels: int) -> Outputs:
    """Open finished images that have no HR images."""
    where, pattern = split_template(str(config["sr"]))
    if pattern is not None or config["clips"] is not None or config.get("list") is not None:
        raise UsageError("sr= without hr=: all images of the folder are scored; {stem}, clips= and list= need hr=DIR")
    sr = open_source(where if Path(where).exists() else at_scale(where, scale))

    def read(index: int) -> Computed:
        return Computed([_tensor(sr, index, channels)], None, sr.shape(index)[2] == 1)

    items = [Item(_set_name(where), key, partial(read, i)) for i, key in enumerate(sr.keys)]
    return Outputs([str(config["sr"])], [str(config["sr"])], scale, items)


def _tensor(source: Source, index: int, channels: int) -> torch.Tensor:
    return torch.from_numpy(to_uint8(to_channels(source.read(index), channels)).copy()).permute(2, 0, 1)


def _read(sr: Source, result: int, hr: Source, index: int, channels: int) -> Computed:
    return Computed([_tensor(sr, result, channels)], _tensor(hr, index, channels), hr.shape(index)[2] == 1)


def _networks(config: Mapping[str, Any]) -> dict[str, Network]:
    """Open each network in ``weights=``.

    Raise ValueError unless all networks have the same scale and the same number of channels.
    """
    given = config["weights"]
    sources = given if isinstance(given, list) else [given]
    if not sources or not all(isinstance(s, str) for s in sources):
        raise UsageError(
            f"weights={given}: expected a file, a run's stage or bicubic, or a list of them: weights=[A,B]"
        )
    sources = [path for source in sources for path in matching("weights", source)]
    if len(set(sources)) < len(sources):
        raise UsageError(f"weights={given}: one network is given twice")
    known = [s for s in sources if s != "bicubic"]
    networks = {s: open_network(config, s) for s in known}
    scales = {n.scale for n in networks.values()}
    if len(scales) > 1:
        listed = ", ".join(f"{s} x{n.scale}" for s, n in networks.items())
        raise ValueError(f"weights: only networks with the same scale can be compared; these are {listed}")
    channels, typed = {n.channels for n in networks.values()}, _channels(config)
    if len(channels) > 1 or (channels and typed is not None and typed not in channels):
        listed = ", ".join(f"{s}: {n.channels}" for s, n in networks.items())
        given = "" if typed is None else f"channels={typed}, but "
        raise ValueError(f"{given}weights: networks for one number of channels can be compared; these have {listed}")
    own = {**config, "scale": next(iter(scales), config["scale"]), "channels": next(iter(channels), typed)}
    return {s: networks[s] if s in networks else open_network(own, s) for s in sources}


def _computed(config: Mapping[str, Any]) -> Outputs:
    """Prepare the outputs of ``weights=`` for the images of ``hr=`` and ``sets=``."""
    opened = _networks(config)
    networks = list(opened.values())
    scale = networks[0].scale
    # Each video network needs windows of its own length; an image network takes the center frame of any window. The widest
    # comes first, so the error for a clip that is too short is about it. A window is not cut out of a wider one, because
    # the padding at a clip's ends depends on the length.
    lengths = sorted({n.frames for n in networks if n.frames is not None}, reverse=True) or [None]
    seen = {length: EvalImages(_sets(config, networks, length)) for length in lengths}
    widest = seen[lengths[0]]
    for text in converted(widest.sets.values()):
        say(text)

    def compute(index: int) -> Computed:
        given = {length: images[index] for length, images in seen.items()}
        own = [(n, given[n.frames if n.frames in given else lengths[0]]) for n in networks]
        image = given[lengths[0]]
        return Computed([network.image(i.lr, i.window) for network, i in own], image.hr, image.from_gray)

    named = zip(widest.names(), widest.clips(), widest.centered(), strict=True)
    items = [Item(*name, partial(compute, i), clip, centered) for i, (name, clip, centered) in enumerate(named)]
    return Outputs(short_names(list(opened)), [n.name for n in networks], scale, items)


def open_outputs(config: Mapping[str, Any], *, centers_only: bool) -> Outputs:
    """Open the finished images of ``sr=``, or the networks of ``weights=`` and their input images.

    Nothing is computed yet. If ``centers_only`` is true, only the center frames of clips are scored.
    """
    outputs = _finished(config) if config["sr"] is not None else _computed(config)
    return outputs._replace(items=[item for item in outputs.items if item.centered or not centers_only])


def score_all(outputs: Outputs, scores: Scores) -> None:
    """Compute and score every image. After an error or Ctrl-C, write the scores that were computed before."""
    shown = tqdm(
        outputs.items,
        desc="score",
        unit="frame" if any(item.clip for item in outputs.items) else "image",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    try:
        for item in shown:
            results, hr, from_gray = item.compute()
            for column, sr in zip(outputs.columns, results, strict=True):
                cut = (sr, hr)
                if hr is not None:
                    cut = sr[..., : hr.shape[-2], : hr.shape[-1]], hr[..., : sr.shape[-2], : sr.shape[-1]]
                scores.add(
                    column, item.set, item.key, *cut, clip=item.clip, centered=item.centered, from_gray=from_gray
                )
    finally:
        scores.write()

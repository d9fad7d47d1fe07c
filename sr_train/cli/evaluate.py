"""``sr-eval``: PSNR and SSIM of networks, of bicubic or of finished images, by named protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sr_train.cli.common import UsageError, arithmetic_of, compose_command, expect, run
from sr_train.cli.networks import scale_of
from sr_train.cli.scores import Scores, short_names

if TYPE_CHECKING:
    import torch

    from sr_train.cli.networks import Network
    from sr_train.data.dataset import EvalSet
    from sr_train.data.index import Source
    from sr_train.data.pairing import Paired


class Item(NamedTuple):
    """One image to be scored."""

    set: str
    key: str
    compute: Callable[[], tuple[list[torch.Tensor], torch.Tensor]]  #: the results, one a column, and HR
    clip: str = ""  #: the clip whose scores are averaged first
    centred: bool = True  #: whether protocols take it that score the centre frames of clips alone


def _set_name(folder: str) -> str:
    """A set is called after its folder, or after the folder above where that is only ``HR`` or ``GTmod12``."""
    path = Path(folder).absolute()
    if path.name.lower().startswith(("hr", "gt")) and path.parent.name:
        path = path.parent
    return path.name.removesuffix(".lmdb") or "images"


def _sets(config: Mapping[str, Any], scale: int, frames: int | None) -> dict[str, EvalSet]:
    """The sets to score: ``hr=``, or those named in ``sets=``; of clips in windows of ``frames`` for a video network."""
    from sr_train.data.clip_sets import is_clip_set, open_set
    from sr_train.data.index import Pairs

    named = dict(config.get("sets") or {})
    if config["hr"] is not None:
        name = _set_name(str(config["hr"]))
        if name in named:
            name = f"{name} (hr)"
        clips = {k: config[k] for k in ("clips", "padding") if config["clips"] is not None or frames is not None}
        named = {name: {"hr": str(config["hr"]), "lr": config["lr"], **clips}, **named}
    elif config["lr"] is not None:
        raise UsageError("lr= alone cannot be scored: give hr= as well")
    if not named:
        raise UsageError("nothing to score: give hr=DIR or sets=[NAME]")
    options = {"scale": scale, "arithmetic": str(config["arithmetic"])}
    return {
        name: open_set(f"sets.{name}", spec, frames=frames or 1, options=options)
        if is_clip_set(spec) or frames is not None
        else Pairs(spec["hr"], lr=spec.get("lr"), **options)
        for name, spec in named.items()
    }


def _pair(config: Mapping[str, Any], scale: int, hr: Source, sr: Source, wanted: Mapping[str, int]) -> Paired:
    """The finished image of each HR image, by name. Raises BadFilesError with what was looked for and what is there."""
    from sr_train.data.images import BadFilesError
    from sr_train.data.pairing import pair_names, split_template

    def usual(stem: str) -> list[str]:
        own = [hr.keys[wanted[stem]]] if stem in wanted else []
        return [*own, stem, f"{stem}x{scale}", f"{stem}_SRF_{scale}_SR"]

    where, pattern = split_template(str(config["sr"]))
    paired = pair_names(wanted, sr.keys, scale=scale, usual=usual, pattern=pattern)
    if paired.problems:
        held = f"{', '.join(sr.keys[:3])}{', ...' if len(sr.keys) > 3 else ''}"
        raise BadFilesError(
            f"{where} holds {held}: these cannot be paired with the images of {hr.name}; if all names are made alike, say how, "
            f"e.g. sr='{where}/{{stem}}_x{{scale}}_SR'",
            paired.problems,
        )
    return paired


def _finished(config: Mapping[str, Any], scale: int) -> tuple[str, list[Item]]:
    """Finished images and their HR, paired by name: ``sr=DIR hr=DIR``; with ``clips=`` frames of clips.

    Returns what stands for them in the table, and the images.
    """
    from sr_train.data.clip_sets import clip_names
    from sr_train.data.clips import select, shown_clip, split_key
    from sr_train.data.images import BadFilesError
    from sr_train.data.index import at_scale, hr_names, open_source
    from sr_train.data.pairing import split_template

    if config["hr"] is None or config["lr"] is not None or config.get("sets"):
        raise UsageError("sr=DIR is scored against hr=DIR, without lr= and sets=")
    where, _ = split_template(str(config["sr"]))
    hr, sr = open_source(str(config["hr"])), open_source(where if Path(where).exists() else at_scale(where, scale))
    results = {key: i for i, key in enumerate(sr.keys)}
    wanted, name = hr_names(hr.keys), _set_name(str(config["hr"]))
    of_clip: dict[str, tuple[str, bool]] = {}
    if config["clips"] is not None:
        for clip, keys in select(wanted, hr.name, clip_names("clips", config["clips"])).items():
            of_clip |= {key: (shown_clip(clip, hr.name), n == len(keys) // 2) for n, key in enumerate(keys)}
        wanted = {key: wanted[key] for key in of_clip}
    paired = _pair(config, scale, hr, sr, wanted)
    items, problems = [], []
    for stem, i in wanted.items():
        found = results[paired.names[stem]]
        (h, w), (a, b) = hr.shape(i)[:2], sr.shape(found)[:2]
        if not (0 <= h - a < scale and 0 <= w - b < scale):
            problems.append(f"{stem}: the result is {b}x{a}, the HR image {w}x{h} (scale {scale})")
            continue
        clip, centred = of_clip.get(stem, ("", True))
        key = f"{clip}/{split_key(stem)[1]}" if clip else stem
        items.append(Item(name, key, lambda n=found, i=i: ([_tensor(sr, n)], _tensor(hr, i)), clip, centred))
    if problems:
        raise BadFilesError(f"{config['sr']}: {len(problems)} images cannot be scored against {config['hr']}", problems)
    return f"{config['sr']}{f' (names continue with {paired.ending})' if paired.ending else ''}", items


def _tensor(source: Any, index: int) -> torch.Tensor:
    import torch

    from sr_train.data.images import to_rgb, to_uint8

    return torch.from_numpy(to_uint8(to_rgb(source.read(index))).copy()).permute(2, 0, 1)


def _networks(config: Mapping[str, Any]) -> list[Network]:
    """One network for each of ``weights=``; all of one scale."""
    from sr_train.cli.networks import open_network

    given = config["weights"]
    sources = given if isinstance(given, list) else [given]
    if not sources or not all(isinstance(s, str) for s in sources):
        raise UsageError(
            f"weights={given}: expected a file, a run's stage or bicubic, or a list of them: weights=[A,B]"
        )
    if len(set(sources)) < len(sources):
        raise UsageError(f"weights={given}: names one of them twice")
    known = [s for s in sources if s != "bicubic"]
    networks = {s: open_network(config, s) for s in known}
    scales = {n.scale for n in networks.values()}
    if len(scales) > 1:
        listed = ", ".join(f"{s} x{n.scale}" for s, n in networks.items())
        raise ValueError(f"weights: networks of one scale can be compared, these are {listed}")
    own = {**config, "scale": next(iter(scales), config["scale"])}
    return [networks[s] if s in networks else open_network(own, s) for s in sources]


def _outputs(config: Mapping[str, Any], *, centres: bool) -> tuple[list[str], list[str], int, list[Item]]:
    """Names of the columns, what they stand for, the scale, and what computes each image; of clips only ``centres``?"""
    if config["sr"] is not None:
        scale = scale_of(config, (), "sr")
        title, items = _finished(config, scale)
        return [str(config["sr"])], [title], scale, [item for item in items if item.centred or not centres]
    from sr_train.data.dataset import EvalImages

    networks = _networks(config)
    scale = networks[0].scale
    # Windows of one length for each video network; an image network takes the centre frame of any. Widest first: where a
    # clip is too short for it, the error says so. Padding at a clip's ends depends on the length, so that none is cut out.
    lengths = sorted({n.frames for n in networks if n.frames is not None}, reverse=True) or [None]
    seen = {length: EvalImages(_sets(config, scale, length)) for length in lengths}
    images = seen[lengths[0]]

    def scored(index: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        each = {length: of_length[index] for length, of_length in seen.items()}
        widest = each[lengths[0]]
        given = [each.get(network.frames, widest) for network in networks]
        return [network(i.lr, i.window) for network, i in zip(networks, given, strict=True)], widest.hr

    sources = config["weights"] if isinstance(config["weights"], list) else [config["weights"]]
    return (
        short_names(sources),
        [network.name for network in networks],
        scale,
        [
            Item(s, k, lambda i=i: scored(i), clip, centred)
            for i, ((s, k), clip, centred) in enumerate(
                zip(images.names(), images.clips(), images.centred(), strict=True)
            )
            if centred or not centres
        ],
    )


def evaluate(arguments: list[str]) -> int:
    """Score and print."""
    config = compose_command("evaluate", arguments)
    if (config["weights"] is None) == (config["sr"] is None):
        raise UsageError("give weights=FILE.safetensors, weights=bicubic, or sr=DIR with finished images")
    if config["clips"] is False:
        config = {**config, "clips": None}
    arithmetic_of(config)
    names = expect(config, "protocols", list, "a list, e.g. protocols=[y,rgb]")
    from tqdm import tqdm

    from sr_train.cli.measures import open_measures
    from sr_train.metrics.protocol import get_protocols

    try:
        protocols = get_protocols(names)
    except ValueError as error:
        raise UsageError(str(error)) from None
    metrics = expect(config, "metrics", list, "a list, e.g. metrics=[psnr,ssim,lpips]")
    measures = open_measures(metrics, config["lpips"])
    out = None if config["out"] is None else Path(str(config["out"]))
    save = expect(config, "save", bool, "true or false")
    if save and out is None:
        raise UsageError("save=true needs a folder: give out=DIR")
    columns, titles, scale, items = _outputs(config, centres=all(p.centre for p in protocols))
    scores = Scores(columns, titles, protocols, scale, out, save=save, metrics=metrics, measures=measures)
    shown = tqdm(
        items,
        desc="score",
        unit="frame" if any(item.clip for item in items) else "image",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    try:
        for item in shown:
            results, hr = item.compute()
            for column, sr in zip(columns, results, strict=True):
                cut = sr[..., : hr.shape[-2], : hr.shape[-1]], hr[..., : sr.shape[-2], : sr.shape[-1]]
                scores.add(column, item.set, item.key, *cut, clip=item.clip, centred=item.centred)
    finally:
        scores.write()  # what was scored before an error or Ctrl-C is kept
    print(scores.table())
    return 0


def main() -> None:
    """Entry point of ``sr-eval``."""
    run("sr-eval", "evaluate", evaluate, show_groups=("sets",))


if __name__ == "__main__":
    main()

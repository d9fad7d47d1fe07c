"""``sr-upscale``: a network on the user's own images, films and clips, however large or long."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import UsageError, compose_command, run
from sr_train.cli.compare import beside_bicubic, compare_name
from sr_train.cli.jobs import Job, list_jobs
from sr_train.cli.room import memory_is_full, take_less
from sr_train.cli.upscale_clip import Settings, settings_of, upscale_clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sr_train.cli.networks import Network

    Image = NDArray[Any]


def upscale_image(image: Image, network: Network, done: Callable[[int], object] = lambda pixels: None) -> Image:
    """[h, w, C] uint8 or uint16, C = 1, 3 or 4 -> [scale h, scale w, C] of the same type.

    Grey goes through as RGB and comes back as its mean; alpha is enlarged by bicubic interpolation.
    """
    import numpy as np
    import torch

    from sr_train.data.images import to_rgb
    from sr_train.imresize import imresize
    from sr_train.inference import super_resolve_bands
    from sr_train.tiling import whole_if_small

    height, width, channels = image.shape
    top = float(np.iinfo(image.dtype).max)
    pixels = torch.from_numpy(np.array(to_rgb(image), order="C"))  # a copy: a decoded JPEG is read-only
    lr = pixels.permute(2, 0, 1) if image.dtype == np.uint8 else pixels.permute(2, 0, 1).float() / top
    out = np.empty((height * network.scale, width * network.scale, channels), image.dtype)
    bands = super_resolve_bands(
        network.model,
        lr,
        tiling=whole_if_small(network.tiling, height, width),
        ensemble=network.ensemble,
        precision=network.precision,
        done=done,
    )
    for first, band in bands:
        rows = torch.floor(band.cpu().permute(1, 2, 0).double() * top + 0.5).numpy()
        if not np.isfinite(rows).all():
            raise ValueError("the network's output holds NaN or infinity")
        if channels == 1:
            rows = np.floor(rows.mean(axis=2, keepdims=True) + 0.5)
        out[first : first + len(rows), :, : min(channels, 3)] = rows
    if channels == 4:
        alpha = imresize(image[..., 3:].astype(np.float64) / top, network.scale)
        out[..., 3:] = np.floor(alpha.clip(0, 1) * top + 0.5)
    return out


def _with_room(image: Image, network: Network, *, shrink: bool, bar: Any) -> Image:
    """Upscale; where the memory is full, in tiles of half the side, if the side was ours to choose."""
    start = bar.n
    while True:
        try:
            return upscale_image(image, network, lambda pixels: bar.update(pixels / 1e6))
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            take_less(network, *image.shape[:2], shrink=shrink, bar=bar)
            bar.n = start


def _megapixels(jobs: list[Job]) -> float:
    """Of all images whose headers can be read; the others are reported when their turn comes."""
    from sr_train.data.images import ImageError, read_header

    total = 0.0
    for job in (j for j in jobs if j.kind == "image"):
        try:
            header = read_header(job.source)
        except ImageError:
            continue
        total += header.height * header.width / 1e6
    return total


def _introduce(network: Network) -> str:
    tiling = network.tiling
    how = "whole images"
    if tiling.tile is not None:
        same = "as without tiles" if tiling.exact else f"blended over {2 * tiling.blend}: not exactly as without tiles"
        how = f"tiles of {tiling.tile} LR pixels that overlap by {tiling.overlap} ({same})"
    ensemble = f", ensemble of {8 if network.frames is None else 4}" if network.ensemble else ""
    precision = "fp32" if network.precision == "32" else network.precision
    return f"{network.name}: {how}, {precision}{ensemble}"


def _prepare(config: Mapping[str, Any]) -> tuple[list[Job], Network, Settings]:
    """Everything that can be checked before the work."""
    from sr_train.cli.networks import open_network

    settings = settings_of(config)
    if not Path(str(config["input"])).exists():
        raise FileNotFoundError(f"{config['input']}: there is no such file or folder")
    if not Path(str(config["input"])).is_dir():
        list_jobs(config, None)  # a network takes a while to open
    network = open_network(config, str(config["weights"]))
    jobs = list_jobs(config, network.frames)
    if settings.suffix is None and any(job.kind == "film" for job in jobs):
        from sr_train.films.writer import check_options

        try:
            check_options(settings.options)
        except ValueError as error:
            raise UsageError(str(error)) from None
        except ImportError:  # said of every film: images can be made without
            pass
    return jobs, network, settings


def _is_there(job: Job, settings: Settings) -> bool:
    """Whether it is finished: folders of frames are looked at frame by frame."""
    return job.target.exists() and not (job.kind == "clip" or (job.kind == "film" and settings.suffix is not None))


def upscale(arguments: list[str]) -> int:
    """Upscale every image, film and clip; those that fail are reported, and the exit code says that there are some."""
    config = compose_command("upscale", arguments)
    jobs, network, settings = _prepare(config)
    print(_introduce(network), flush=True)
    from tqdm import tqdm

    problems: list[str] = []
    made = 0
    if settings.skip:
        there = [job for job in jobs if _is_there(job, settings)]
        jobs = [job for job in jobs if not _is_there(job, settings)]
        if there:
            print(f"{len(there)} {_noun(there)} are there already, and left as they are")
    total = round(_megapixels(jobs), 6)
    quiet = not sys.stderr.isatty() or not total
    layout = "{percentage:3.0f}% {bar} {n:.2f}/{total:.2f} MP [{elapsed}<{remaining}] {postfix}"
    with tqdm(total=total, file=sys.stderr, disable=quiet, bar_format=layout) as bar:
        for job in jobs:
            bar.set_postfix_str(job.source.name)
            try:
                if job.kind == "image":
                    done = _one(job, network, settings, bar=bar)
                else:
                    done = upscale_clip(job, network, settings, bar)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                problems.append(f"{error.filename or job.source}: {error.strerror or error}")
            except (ValueError, RuntimeError, ImportError) as error:
                text = str(error).splitlines()[0]
                known = str(job.source) in text or str(job.target) in text
                problems.append(text if known else f"{job.source}: {text}")
            else:
                made += 1
                bar.write(done, sys.stdout)
                continue
            bar.write(f"sr-upscale: {problems[-1]}", sys.stderr)
    if problems:
        shown = "\n  ".join(problems)
        print(f"sr-upscale: error: {len(problems)} of {len(jobs)} {_noun(jobs)} failed:\n  {shown}", file=sys.stderr)
        return 1
    print(f"{made} {_noun(jobs)} in {config['output']}")
    return 0


def _noun(jobs: Sequence[Job]) -> str:
    kinds = {job.kind for job in jobs}
    return f"{kinds.pop()}s" if len(kinds) == 1 else "files" if kinds else "images"


def _one(job: Job, network: Network, settings: Settings, *, bar: Any) -> str:
    from sr_train.data.images import encode_image, read_upright, write_image
    from sr_train.files import write_bytes

    start = time.monotonic()
    image = read_upright(job.source)
    encode_image(image[:1, :1], job.target.suffix)  # a format that cannot hold it is refused before the work
    large = _with_room(image, network, shrink=settings.shrink, bar=bar)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if settings.compare:
        both = beside_bicubic(image, large, network.scale)
        write_image(compare_name(job.target, "compare", ".png"), both)
    write_bytes(job.target, encode_image(large, job.target.suffix))
    size = f"{image.shape[1]}x{image.shape[0]} -> {large.shape[1]}x{large.shape[0]}"
    return f"{job.target}: {size}, {time.monotonic() - start:.1f} s"


def main() -> None:
    """Entry point of ``sr-upscale``."""
    run("sr-upscale", "upscale", upscale)


if __name__ == "__main__":
    main()

"""``sr-upscale``: a network on the user's own images, however large."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sr_train.cli.common import UsageError, compose_command, expect, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sr_train.cli.networks import Network

    Image = NDArray[Any]


class Job(NamedTuple):
    """One image to be made."""

    source: Path
    target: Path


def _jobs(config: Mapping[str, Any]) -> list[Job]:
    """What is read and where it goes: the same names below ``output=``."""
    from sr_train.data.images import SUFFIXES, BadFilesError, image_files

    given, wanted = Path(str(config["input"])), Path(str(config["output"]))
    suffix = config["format"]
    if suffix is not None:
        suffix = f".{str(suffix).lower().removeprefix('.')}"
        if suffix not in SUFFIXES:
            raise UsageError(f"format={config['format']}: choose from {', '.join(s[1:] for s in SUFFIXES)}")
    if given.is_dir():
        if wanted.resolve() == given.resolve():
            raise ValueError(f"output={wanted}: is the input's folder, whose images would be overwritten; name another")
        if wanted.exists() and not wanted.is_dir():
            raise NotADirectoryError(f"{wanted}: is a file; output= of a folder is a folder")
        inside = [p for p in image_files(given) if wanted.resolve() not in p.resolve().parents]
        jobs = [Job(p, wanted / p.relative_to(given)) for p in inside]
    elif given.exists():
        one = wanted.suffix.lower() in SUFFIXES and not wanted.is_dir()
        jobs = [Job(given, wanted if one else wanted / given.name)]
        suffix = None if one else suffix
    else:
        raise FileNotFoundError(f"{given}: there is no such file or folder")
    if suffix is not None:
        jobs = [Job(j.source, j.target.with_suffix(suffix)) for j in jobs]
    if not given.is_dir() and jobs[0].target.resolve() == given.resolve():
        raise ValueError(f"output={wanted}: would overwrite the input {given}; name another folder")
    targets: dict[Path, Path] = {}
    clashes = []
    for job in jobs:
        if job.target in targets:
            clashes.append(f"{job.source} and {targets[job.target].name} would both become {job.target.name}")
        targets.setdefault(job.target, job.source)
    if clashes:
        raise BadFilesError("several images would get one name; leave format= out or rename them", clashes)
    return jobs


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


def _memory_is_full(error: Exception) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _with_room(image: Image, network: Network, *, shrink: bool, bar: Any) -> Image:
    """Upscale; where the memory is full, in tiles of half the side, if the side was ours to choose."""
    import torch

    from sr_train.tiling import MemoryFullError, smaller

    start = bar.n
    while True:
        try:
            return upscale_image(image, network, lambda pixels: bar.update(pixels / 1e6))
        except (MemoryError, RuntimeError) as error:
            if not _memory_is_full(error):
                raise
            tiling = smaller(network.tiling, *image.shape[:2]) if shrink else None
            if tiling is None:
                raise MemoryFullError("the memory is full; give a smaller tile=") from None
            bar.n = start
            bar.write(f"memory is full with tile={network.tiling.tile}: going on with tile={tiling.tile}", sys.stderr)
            network.tiling = tiling
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _megapixels(jobs: list[Job]) -> float:
    """Of all images whose headers can be read; the others are reported when their turn comes."""
    from sr_train.data.images import ImageError, read_header

    total = 0.0
    for job in jobs:
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
    precision = "fp32" if network.precision == "32" else network.precision
    return f"{network.name}: {how}, {precision}{', ensemble of 8' if network.ensemble else ''}"


def upscale(arguments: list[str]) -> int:
    """Upscale every image; those that fail are reported, and the exit code says that there are some."""
    config = compose_command("upscale", arguments)
    skip = expect(config, "skip_existing", bool, "true or false")
    from sr_train.cli.networks import open_network

    jobs = _jobs(config)
    network = open_network(config, str(config["weights"]))
    print(_introduce(network), flush=True)
    from tqdm import tqdm

    problems: list[str] = []
    made = 0
    if skip:
        there = [job for job in jobs if job.target.exists()]
        jobs = [job for job in jobs if not job.target.exists()]
        if there:
            print(f"{len(there)} images are there already, and left as they are")
    total = round(_megapixels(jobs), 6)
    quiet = not sys.stderr.isatty()
    layout = "{percentage:3.0f}% {bar} {n:.2f}/{total:.2f} MP [{elapsed}<{remaining}] {postfix}"
    with tqdm(total=total, file=sys.stderr, disable=quiet, bar_format=layout) as bar:
        for job in jobs:
            bar.set_postfix_str(job.source.name)
            start = time.monotonic()
            try:
                shape = _one(job, network, shrink=config["tile"] == "auto", bar=bar)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                problems.append(f"{error.filename or job.source}: {error.strerror or error}")
            except (ValueError, RuntimeError) as error:
                text = str(error).splitlines()[0]
                problems.append(text if str(job.source) in text else f"{job.source}: {text}")
            else:
                made += 1
                size = f"{shape[1]}x{shape[0]} -> {shape[1] * network.scale}x{shape[0] * network.scale}"
                bar.write(f"{job.target}: {size}, {time.monotonic() - start:.1f} s", sys.stdout)
                continue
            bar.write(f"sr-upscale: {problems[-1]}", sys.stderr)
    if problems:
        shown = "\n  ".join(problems)
        print(f"sr-upscale: error: {len(problems)} of {len(jobs)} images failed:\n  {shown}", file=sys.stderr)
        return 1
    print(f"{made} images in {config['output']}")
    return 0


def _one(job: Job, network: Network, *, shrink: bool, bar: Any) -> tuple[int, ...]:
    from sr_train.data.images import encode_image, read_upright
    from sr_train.files import write_bytes

    image = read_upright(job.source)
    encode_image(image[:1, :1], job.target.suffix)  # a format that cannot hold it is refused before the work
    large = _with_room(image, network, shrink=shrink, bar=bar)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(job.target, encode_image(large, job.target.suffix))
    return image.shape


def main() -> None:
    """Entry point of ``sr-upscale``."""
    run("sr-upscale", "upscale", upscale)

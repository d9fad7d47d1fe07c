"""``sr-upscale``: a network on the user's own images, films and clips, however large or long."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.main import run
from sr_train.config.compose import compose_command
from sr_train.console import UsageError
from sr_train.upscaling.clips import Settings, settings_of, upscale_clip
from sr_train.upscaling.images import megapixels, upscale_job
from sr_train.upscaling.inputs import Job, list_jobs

if TYPE_CHECKING:
    from sr_train.inference.network import Network


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
    from sr_train.inference.network import open_network

    settings = settings_of(config)
    if not Path(str(config["input"])).exists():
        raise FileNotFoundError(f"{config['input']}: there is no such file or folder")
    if not Path(str(config["input"])).is_dir():
        list_jobs(config, None)  # a network takes a while to open
    network = open_network(config, str(config["weights"]))
    jobs = list_jobs(config, network.frames)
    if settings.suffix is None and any(job.kind == "film" for job in jobs):
        from sr_train.upscaling.film_writer import check_options

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
    total = round(megapixels(jobs), 6)
    quiet = not sys.stderr.isatty() or not total
    layout = "{percentage:3.0f}% {bar} {n:.2f}/{total:.2f} MP [{elapsed}<{remaining}] {postfix}"
    with tqdm(total=total, file=sys.stderr, disable=quiet, bar_format=layout) as bar:
        for job in jobs:
            bar.set_postfix_str(job.source.name)
            try:
                if job.kind == "image":
                    done = upscale_job(job, network, settings, bar=bar)
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


def main() -> None:
    """Entry point of ``sr-upscale``."""
    run("sr-upscale", "upscale", upscale)


if __name__ == "__main__":
    main()

"""``sr-upscale``: upscale images, videos and clips of any size and length."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sr_train.cli.main import run
from sr_train.console import UsageError, counted, expect, message_of

if TYPE_CHECKING:
    from sr_train.inference.network import Network
    from sr_train.upscaling.inputs import Job, Settings


def _settings(config: Mapping[str, Any]) -> Settings:
    """Return the checked settings of sr-upscale. Raise UsageError or ConfigError for wrong values."""
    from sr_train.data.images import limit_pixels
    from sr_train.data.video.windows import check_padding
    from sr_train.inference.output_size import output_size
    from sr_train.upscaling.encoder import Options
    from sr_train.upscaling.inputs import Settings, image_suffix

    try:
        check_padding(str(config["padding"]))
    except ValueError as error:
        raise UsageError(str(error)) from None
    limit_pixels(config["max_pixels"])
    codec = expect(config, "codec", str, "auto or the name of an encoder, e.g. libx264")
    quality = expect(config, "quality", (int, type(None)), "an integer, or null for the default of the codec")
    preset = expect(config, "preset", (str, type(None)), "a name, e.g. slow, or null for the default of the codec")
    audio, skip, compare = (expect(config, k, bool, "true or false") for k in ("audio", "skip_existing", "compare"))
    options = Options(codec, quality, preset)
    suffix, shrink = image_suffix(config), config["tile"] == "auto"
    size = output_size(config["size"], config["longest"], config["outscale"])
    return Settings(options, audio, str(config["padding"]), suffix, skip, compare, shrink, size)


def _prepare(config: Mapping[str, Any]) -> tuple[list[Job], Network, Settings]:
    """Check all that can be checked before the first image is upscaled. Return the jobs, the network, the settings."""
    from sr_train.inference.network import open_network
    from sr_train.upscaling.encoder import check_options
    from sr_train.upscaling.inputs import inputs, list_jobs

    settings = _settings(config)
    if not any(path.is_dir() for path in inputs(config)):
        list_jobs(config, None)  # report a wrong input before the network is opened, which is slow
    network = open_network(config, str(config["weights"]))
    jobs = list_jobs(config, network.frames)
    if settings.suffix is None and any(_kind(job) == "video" for job in jobs):
        try:
            check_options(settings.options)
        except ValueError as error:
            raise UsageError(str(error)) from None
        except ImportError:  # PyAV is missing: reported for each video; images do not need it
            pass
    return jobs, network, settings


def upscale(arguments: list[str]) -> int:
    """Run ``sr-upscale`` on every image, video and clip. Report each input that fails; the exit code is then 1."""
    from sr_train.config.compose import compose_command

    config = compose_command("upscale", arguments)
    from tqdm import tqdm

    from sr_train.upscaling.clips import upscale_clip
    from sr_train.upscaling.images import megapixels, upscale_file

    jobs, network, settings = _prepare(config)
    print(network.description, flush=True)
    problems: list[str] = []
    if settings.skip:
        there = [job for job in jobs if job.is_finished(settings.suffix)]
        jobs = [job for job in jobs if not job.is_finished(settings.suffix)]
        if there:
            print(f"{_count(there)} skipped: already in {config['output']}")
    total = round(megapixels(jobs), 6)
    quiet = not sys.stderr.isatty() or not total
    layout = "{percentage:3.0f}% {bar} {n:.2f}/{total:.2f} MP [{elapsed}<{remaining}] {postfix}"
    with tqdm(total=total, file=sys.stderr, disable=quiet, bar_format=layout) as bar:

        def tell(text: str) -> None:
            bar.write(text, sys.stderr)

        for job in jobs:
            bar.set_postfix_str(job.source.name)
            try:
                if job.kind == "image":
                    done = upscale_file(job, network, settings, bar, tell)
                else:
                    done = upscale_clip(job, network, settings, tell)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                problems.append(message_of(error) if error.filename else f"{job.source}: {error.strerror or error}")
            except (ValueError, RuntimeError, ImportError) as error:
                text = str(error).splitlines()[0]
                known = str(job.source) in text or str(job.target) in text
                problems.append(text if known else f"{job.source}: {text}")
            else:
                bar.write(done, sys.stdout)
                continue
            tell(f"sr-upscale: {problems[-1]}")
    if problems:
        shown = "\n  ".join(problems)
        print(f"sr-upscale: error: {len(problems)} of {_count(jobs)} failed:\n  {shown}", file=sys.stderr)
        return 1
    print(f"{_count(jobs)} in {config['output']}")
    return 0


def _kind(job: Job) -> str:
    return job.kind if job.kind in ("image", "clip") else "video"


def _count(jobs: Sequence[Job]) -> str:
    """Format the number of jobs: "2 images", "1 video", "3 files"."""
    kinds = {_kind(job) for job in jobs}
    return counted(len(jobs), kinds.pop() if len(kinds) == 1 else "file" if kinds else "image")


def main() -> None:
    """Entry point of ``sr-upscale``."""
    run("sr-upscale", "upscale", upscale)


if __name__ == "__main__":
    main()

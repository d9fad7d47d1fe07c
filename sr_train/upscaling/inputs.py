"""Inputs and outputs of ``sr-upscale``: images, videos, and folders of frames as clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sr_train.config.paths import matching
from sr_train.console import UsageError, for_shell
from sr_train.data.images import SUFFIXES, WRITABLE, BadFilesError, image_files
from sr_train.data.store.basicsr import is_basicsr
from sr_train.data.store.format import is_store
from sr_train.data.video.clips import select
from sr_train.data.video.film_reader import VIDEO_SUFFIXES
from sr_train.inference.output_size import OutputSize
from sr_train.upscaling.compare import compare_name, names_file
from sr_train.upscaling.encoder import CONTAINERS, Options


class Settings(NamedTuple):
    """Options for upscaling images, videos and clips."""

    options: Options
    audio: bool
    padding: str
    suffix: str | None  #: suffix of frames written as images; None writes videos as videos
    skip: bool  #: true to skip existing outputs
    compare: bool
    shrink: bool  #: true if tiles may be made smaller when the memory is full
    size: OutputSize = OutputSize()  #: size of the results, by default that of the network's output


class Job(NamedTuple):
    """One image, video or clip to upscale."""

    source: Path
    target: Path
    kind: str = "image"  #: "image", "video", or "clip" for a folder of frames
    frames: tuple[Path, ...] = ()  #: frames of a clip, in order

    def products(self, *, compare: bool) -> list[Path]:
        """Return the paths of all outputs of this job, including the outputs of ``compare=true`` if ``compare`` is true."""
        if not compare:
            return [self.target]
        if self.kind == "image":
            return [self.target, compare_name(self.target, "compare", ".png")]
        stills = [compare_name(self.target, what, ".png") for what in ("worst", "best")]
        return [self.target, self.side, *stills]

    @property
    def side(self) -> Path:
        """Path of the video or folder of frames that ``compare=true`` adds."""
        return compare_name(self.target, "compare", self.target.suffix if names_file(self.target) else "")

    def is_finished(self, suffix: str | None) -> bool:
        """Return True if the output of this job exists. For a folder of frames, always return False.

        The frames of a folder are checked one by one later. ``suffix`` is the file type for frames of a video, or None
        if a video is written.
        """
        return self.target.exists() and not (self.kind == "clip" or (self.kind == "video" and suffix is not None))


def image_suffix(config: Mapping[str, Any]) -> str | None:
    """Return the value of ``format=`` as a suffix, such as ``.png``. Raises UsageError for an unknown format."""
    if config["format"] is None:
        return None
    suffix = f".{str(config['format']).lower().removeprefix('.')}"
    if suffix not in WRITABLE:
        raise UsageError(f"format={config['format']}: choose from {', '.join(s[1:] for s in WRITABLE)}")
    return suffix


def is_video(path: Path) -> bool:
    """Return True if a path has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def inputs(config: Mapping[str, Any]) -> list[Path]:
    """Return the paths of ``input=``: a path, a glob, or a list of these. Raises FileNotFoundError if one is missing."""
    given = config["input"]
    items = given if isinstance(given, list) else [given]
    if not items or not all(isinstance(item, str) for item in items):
        raise UsageError(
            f"input={given}: expected a file, a folder, a pattern such as 'photos/*.png', or a list: input=[A,B]"
        )
    found = [Path(path) for item in items for path in matching("input", item)]
    for path in found:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder")
        if path.is_dir() and (is_store(path) or is_basicsr(path)):
            raise UsageError(
                f"input={path}: is an LMDB; sr-upscale reads image files: give the folder that it was made from. To score a "
                f"network on its images and write the results: sr-eval weights=FILE {for_shell(f'hr={path}')} out=DIR save=true"
            )
    return list(dict.fromkeys(found))


def list_jobs(config: Mapping[str, Any], window: int | None) -> list[Job]:
    """List inputs with their outputs, which have the same names below ``output=``.

    With a glob or a list, a file becomes ``output/FILE``, and the files of a folder are written to ``output/FOLDER``.

    Args:
        config: config of the command.
        window: number of frames that the network takes. ``None`` for a network that takes single images; then all
            images in a folder are single images, not frames.
    """
    found, wanted = inputs(config), Path(str(config["output"]))
    suffix = image_suffix(config)
    if Path(str(config["input"])).exists():  # neither a glob nor a list
        jobs = _jobs_of(found[0], wanted, suffix, window)
    elif not wanted.is_dir() and (names_file(wanted) or is_video(wanted)):
        raise ValueError(f"output={wanted}: is the name of a file; for several inputs give a folder as output=")
    else:
        folders = {path: wanted / path.name if path.is_dir() else wanted for path in found}
        jobs = [job for path, folder in folders.items() for job in _jobs_of(path, folder, suffix, window)]
    _check_clashes(jobs, compare=bool(config["compare"]), hint="" if suffix is None else "remove format=, ")
    return jobs


def _jobs_of(given: Path, wanted: Path, suffix: str | None, window: int | None) -> list[Job]:
    """List the jobs of one input, whose results are written to the file or folder ``wanted``."""
    if given.is_dir():
        if wanted.resolve() == given.resolve():
            raise ValueError(
                f"output={wanted}: this is the input folder, whose files would be overwritten; give another folder"
            )
        if wanted.exists() and not wanted.is_dir():
            raise NotADirectoryError(f"{wanted}: this is a file; for a folder as input= give a folder as output=")
        if is_video(wanted) and not wanted.is_dir():
            raise ValueError(
                f"output={wanted}: this is the name of a video; for a folder as input= give a folder as output="
            )
        return _of_folder(given, wanted, suffix, window)
    job = _video_job(given, wanted, suffix) if is_video(given) else _image_job(given, wanted, suffix)
    if job.target.resolve() == given.resolve():
        raise ValueError(f"output={wanted}: this would overwrite the input {given}; give another folder")
    return [job]


def _image_job(given: Path, wanted: Path, suffix: str | None) -> Job:
    if wanted.suffix.lower() in SUFFIXES and not wanted.is_dir():
        return Job(given, wanted)
    return Job(given, image_target(wanted / given.name, suffix))


def image_target(path: Path, suffix: str | None) -> Path:
    """Return the output path of an image: ``path`` with the given suffix, or unchanged if ``suffix`` is None.

    An unchanged suffix that cannot be written (.avif) is replaced by .png.
    """
    if suffix is None and path.suffix.lower() in WRITABLE:
        return path
    return path.with_suffix(suffix or ".png")


def _video_job(given: Path, wanted: Path, suffix: str | None) -> Job:
    if not wanted.is_dir() and wanted.suffix.lower() in SUFFIXES:
        kind = wanted.suffix[1:]
        raise ValueError(f"output={wanted}: a video becomes many images; give a folder, with format={kind}")
    if not wanted.is_dir() and wanted.suffix.lower() in CONTAINERS:
        if suffix is not None:
            raise UsageError(
                f"format={suffix[1:]} writes images, but output={wanted} is the name of a video; "
                "give only one of the two options"
            )
        return Job(given, wanted, "video")
    if not wanted.is_dir() and is_video(wanted):
        raise ValueError(f"output={wanted}: videos are written as {', '.join(s[1:] for s in CONTAINERS)}")
    return Job(given, _video_target(wanted / given.name, suffix), "video")


def _video_target(path: Path, suffix: str | None) -> Path:
    """Return the output path of a video: a folder (``path`` without suffix) if frames are written as images, else ``path``.

    A suffix that cannot be written (e.g. .gif) is replaced by .mkv, which can contain all kinds of streams.
    """
    if suffix is not None:
        return path.with_suffix("")
    return path if path.suffix.lower() in CONTAINERS else path.with_suffix(".mkv")


def _of_folder(given: Path, wanted: Path, suffix: str | None, window: int | None) -> list[Job]:
    files = image_files(given, (*SUFFIXES, *VIDEO_SUFFIXES), "images or videos")
    inside = [p for p in files if wanted.resolve() not in p.resolve().parents]
    videos = [p for p in inside if is_video(p)]
    jobs = [Job(p, _video_target(wanted / p.relative_to(given), suffix), "video") for p in videos]
    images = [p for p in inside if not is_video(p)]
    if window is not None:
        return [*jobs, *_clips(given, wanted, images)]
    made = [Job(p, image_target(wanted / p.relative_to(given), suffix)) for p in images]
    return sorted([*jobs, *made])


def _clips(given: Path, wanted: Path, images: Sequence[Path]) -> list[Job]:
    """Return a job for each folder of numbered frames.

    Raises BadFilesError if a number is missing between two frames.
    """
    if not images:
        return []
    by_key = {p.relative_to(given).with_suffix("").as_posix(): p for p in images}
    clips = sorted({key.rpartition("/")[0] for key in by_key})
    chosen = select(by_key, str(given), clips)
    return [Job(given / c, wanted / c, "clip", tuple(by_key[k] for k in keys)) for c, keys in chosen.items()]


def _check_clashes(jobs: Sequence[Job], *, compare: bool, hint: str) -> None:
    targets: dict[Path, Path] = {}
    clashes = []
    for job in jobs:
        for target in job.products(compare=compare):
            if target in targets:
                clashes.append(f"{job.source} and {targets[target].name} would both become {target.name}")
            targets.setdefault(target, job.source)
    if clashes:
        kinds = " and ".join(sorted({f"{job.kind}s" for job in jobs}))
        raise BadFilesError(
            f"several {kinds} would get the same output; {hint}rename them or upscale them one by one", clashes
        )
    given = {job.source.resolve(): job.source for job in jobs}
    lost = [f"{given[t.resolve()]} would be overwritten" for t in targets if t.resolve() in given]
    if lost:
        raise BadFilesError("inputs would be overwritten; give another output=", lost)

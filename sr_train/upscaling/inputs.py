"""What ``sr-upscale`` reads and where it goes: images, films, and folders of frames that are clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sr_train.console import UsageError
from sr_train.data.images import SUFFIXES, BadFilesError, image_files
from sr_train.data.video.clips import select
from sr_train.data.video.film_reader import VIDEO_SUFFIXES
from sr_train.upscaling.compare import compare_name, names_file
from sr_train.upscaling.encoder import CONTAINERS, Options


class Settings(NamedTuple):
    """How images, films and clips are made."""

    options: Options
    audio: bool
    padding: str
    suffix: str | None  #: of single frames; None: films stay films
    skip: bool  #: what is in the output already
    compare: bool
    shrink: bool  #: tiles may be made smaller


class Job(NamedTuple):
    """One image, film or clip to be made."""

    source: Path
    target: Path
    kind: str = "image"  #: or "film"; or "clip", a folder of frames
    frames: tuple[Path, ...] = ()  #: of a clip, in order

    def products(self, *, compare: bool) -> list[Path]:
        """All that will be written."""
        if not compare:
            return [self.target]
        if self.kind == "image":
            return [self.target, compare_name(self.target, "compare", ".png")]
        stills = [compare_name(self.target, what, ".png") for what in ("worst", "best")]
        return [self.target, self.side, *stills]

    @property
    def side(self) -> Path:
        """The film or the folder of frames that ``compare=true`` adds."""
        return compare_name(self.target, "compare", self.target.suffix if names_file(self.target) else "")

    def is_finished(self, suffix: str | None) -> bool:
        """Return whether the target is there; folders of frames are looked at frame by frame, and never finished.

        ``suffix`` is that of a film's single frames, if they are wanted.
        """
        return self.target.exists() and not (self.kind == "clip" or (self.kind == "film" and suffix is not None))


def image_suffix(config: Mapping[str, Any]) -> str | None:
    """``format=`` as a suffix. Raises UsageError."""
    if config["format"] is None:
        return None
    suffix = f".{str(config['format']).lower().removeprefix('.')}"
    if suffix not in SUFFIXES:
        raise UsageError(f"format={config['format']}: choose from {', '.join(s[1:] for s in SUFFIXES)}")
    return suffix


def is_film(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def list_jobs(config: Mapping[str, Any], window: int | None) -> list[Job]:
    """What is read and where it goes: the same names below ``output=``.

    Args:
        config: of the command.
        window: frames that the network takes; ``None`` for images, whose folders of frames are images to it.
    """
    given, wanted = Path(str(config["input"])), Path(str(config["output"]))
    suffix = image_suffix(config)
    if given.is_dir():
        if wanted.resolve() == given.resolve():
            raise ValueError(f"output={wanted}: is the input's folder, whose images would be overwritten; name another")
        if wanted.exists() and not wanted.is_dir():
            raise NotADirectoryError(f"{wanted}: is a file; output= of a folder is a folder")
        if is_film(wanted) and not wanted.is_dir():
            raise ValueError(f"output={wanted}: a folder's frames become frames and its films films: name a folder")
        jobs = _of_folder(given, wanted, suffix, window)
    elif given.exists():
        jobs = [_film_job(given, wanted, suffix) if is_film(given) else _image_job(given, wanted, suffix)]
        if jobs[0].target.resolve() == given.resolve():
            raise ValueError(f"output={wanted}: would overwrite the input {given}; name another folder")
    else:
        raise FileNotFoundError(f"{given}: there is no such file or folder")
    _check_clashes(jobs, compare=bool(config["compare"]), hint="" if suffix is None else "leave format= out, ")
    return jobs


def _image_job(given: Path, wanted: Path, suffix: str | None) -> Job:
    if wanted.suffix.lower() in SUFFIXES and not wanted.is_dir():
        return Job(given, wanted)
    target = wanted / given.name
    return Job(given, target if suffix is None else target.with_suffix(suffix))


def _film_job(given: Path, wanted: Path, suffix: str | None) -> Job:
    if not wanted.is_dir() and wanted.suffix.lower() in SUFFIXES:
        kind = wanted.suffix[1:]
        raise ValueError(f"output={wanted}: a film becomes many frames: name a folder, with format={kind}")
    if not wanted.is_dir() and wanted.suffix.lower() in CONTAINERS:
        if suffix is not None:
            raise UsageError(f"format={suffix[1:]} makes frames, output={wanted} names a film: give one of them")
        return Job(given, wanted, "film")
    if not wanted.is_dir() and is_film(wanted):
        raise ValueError(f"output={wanted}: films are written as {', '.join(s[1:] for s in CONTAINERS)}")
    return Job(given, _film_target(wanted / given.name, suffix), "film")


def _film_target(path: Path, suffix: str | None) -> Path:
    """The same name; .mkv, which holds everything, for kinds that are not written."""
    if suffix is not None:
        return path.with_suffix("")
    return path if path.suffix.lower() in CONTAINERS else path.with_suffix(".mkv")


def _of_folder(given: Path, wanted: Path, suffix: str | None, window: int | None) -> list[Job]:
    files = image_files(given, (*SUFFIXES, *VIDEO_SUFFIXES), "images or films")
    inside = [p for p in files if wanted.resolve() not in p.resolve().parents]
    films = [p for p in inside if is_film(p)]
    jobs = [Job(p, _film_target(wanted / p.relative_to(given), suffix), "film") for p in films]
    images = [p for p in inside if not is_film(p)]
    if window is not None:
        return [*jobs, *_clips(given, wanted, images)]
    made = [Job(p, wanted / p.relative_to(given)) for p in images]
    made = made if suffix is None else [j._replace(target=j.target.with_suffix(suffix)) for j in made]
    return sorted([*jobs, *made])


def _clips(given: Path, wanted: Path, images: Sequence[Path]) -> list[Job]:
    """Folders of numbered frames. Raises BadFilesError where numbers are missing."""
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
        raise BadFilesError(f"several {kinds} would get one name; {hint}rename them, or make them one by one", clashes)
    given = {job.source.resolve(): job.source for job in jobs}
    lost = [f"{given[t.resolve()]} would be overwritten" for t in targets if t.resolve() in given]
    if lost:
        raise BadFilesError("what is read would be overwritten; name another output=", lost)

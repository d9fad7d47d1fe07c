"""Clips: folders (or a store) of numbered frames, grouped, selected and checked before anything is trained."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sr_train.data.images import SUFFIXES, BadFilesError, Header, list_images, missing_end
from sr_train.data.pairs import Pairs
from sr_train.data.sources import FileSource, Source
from sr_train.data.store.format import is_store

_NUMBER = re.compile(r"\d+$")

_META = re.compile(r"\s+\d+\s*\(.*$")  # what BasicSR's lists say after a clip's name: frames and size


def split_key(key: str) -> tuple[str, str]:
    """``000/00000012`` -> (``000``, ``00000012``): clip and frame."""
    clip, _, frame = key.rpartition("/")
    return clip, frame


def shown_clip(clip: str, where: str) -> str:
    """A clip's name; where the folder itself is the clip, the folder's."""
    return clip or Path(where).name


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """Names of clips, one a line, as in Vimeo-90K's ``sep_trainlist.txt`` and BasicSR's lists (``000 100 (720,1280,3)``)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such list of clips") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text file of clips' names, one a line") from None
    names = [_META.sub("", line.strip()).strip("/") for line in text.splitlines()]
    names = list(dict.fromkeys(n for n in names if n))
    if not names:
        raise ValueError(f"{path}: names no clips; expected one a line, e.g. 00001/0001")
    return names


def empty_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Folders without frames where clips are expected: those that hold neither images nor folders."""
    found: list[str] = []
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if not folders and not any(Path(f).suffix.lower() in SUFFIXES for f in files):
            found.append(Path(root).relative_to(folder).as_posix())
    return sorted(found)


def select(
    names: Iterable[str], where: str, clips: Sequence[str] | None = None, without: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Clip -> names of its frames in order of their numbers, of the clips that are asked for.

    Args:
        names: ``CLIP/FRAME``.
        where: where they are, for messages; a folder is searched for empty ones.
        clips: which to keep; ``None`` for all.
        without: which to leave out of these.

    Raises:
        BadFilesError: with every clip at once that is missing or empty, or has frames without numbers or gaps between them.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(split_key(name)[0], []).append(name)
    empty = empty_folders(where) if Path(where).is_dir() and not is_store(where) else []
    problems = [f"{c}: there is no such clip" for c in (*(clips or ()), *without) if c not in found and c not in empty]
    wanted = set(clips if clips is not None else (*found, *empty)) - set(without)
    problems += [f"{shown_clip(c, where)}: the folder holds no frames" for c in empty if c in wanted]
    kept = {c: _in_order(shown_clip(c, where), found[c], problems) for c in sorted(wanted & found.keys())}
    if not problems and not kept:
        problems = ["no clip is left: clips= and without= leave none"]
    if problems:
        raise BadFilesError(f"{where}: {len(problems)} clips cannot be used", problems)
    return kept


def _in_order(clip: str, names: Sequence[str], problems: list[str]) -> list[str]:
    """A clip's frames by their numbers; what is wrong with these goes to ``problems``."""
    frames: dict[int, str] = {}
    for name in names:
        frame = split_key(name)[1]
        number = _NUMBER.search(frame)
        if number is None:
            problems.append(f"{clip}: frame {frame!r} has no number at the end of its name")
            return []
        if int(number[0]) in frames:
            problems.append(f"{clip}: frames {split_key(frames[int(number[0])])[1]} and {frame} have the same number")
            return []
        frames[int(number[0])] = name
    numbers = sorted(frames)
    missing = len(range(numbers[0], numbers[-1] + 1)) - len(numbers)
    if missing:
        after = next(n for n in numbers if n + 1 not in frames)
        more = f" (and {missing - 1} more)" if missing > 1 else ""
        frame = split_key(frames[after])[1]
        problems.append(f"{clip}: frame number {after + 1}{more} is missing, after {frame}")
    return [frames[n] for n in numbers]


def clip_files(
    folder: str | os.PathLike[str], clips: Sequence[str] | None = None, without: Sequence[str] = ()
) -> dict[str, Path]:
    """Key -> file of every frame of the clips asked for, in order. Raises as :func:`select` and ``list_images`` do."""
    files = list_images(folder)
    frames = select(files, os.fspath(folder), clips, without)
    return {name: files[name] for clip in frames.values() for name in clip}


def unequal_sizes(headers: Mapping[str, Header | tuple[int, int, int]]) -> list[str]:
    """Frames, by ``CLIP/FRAME``, whose size differs from that of the clip's first frame."""
    first: dict[str, tuple[int, int]] = {}
    problems: list[str] = []
    for key, header in headers.items():
        height, width = first.setdefault(split_key(key)[0], header[:2])
        if header[:2] != (height, width):
            problems.append(f"{key}: is {header[1]}x{header[0]}, the clip's first frame {width}x{height}")
    return problems


class Clips:
    """Frames of clips with their LR, which is given or made by bicubic reduction: pairs by number, and clips of numbers.

    Args:
        hr: a folder with one folder of numbered frames a clip, a store of one, or ``toy_clips:NAMES``.
        scale: HR pixels per LR pixel; 1 for frames to be deblurred.
        lr: the same for LR; ``None`` makes LR from HR.
        clips: names of the clips to use; ``None`` for all.
        without: names of those to leave out.
        least: frames that a clip must have.
        arithmetic: of LR made from HR.
        cache: keep decoded files in memory.

    Raises:
        BadFilesError: with every clip or frame at once that cannot be used.
    """

    def __init__(
        self,
        hr: str,
        *,
        scale: int,
        lr: str | Mapping[int, str] | None = None,
        clips: Sequence[str] | None = None,
        without: Sequence[str] = (),
        least: int = 1,
        arithmetic: str = "float",
        cache: bool = False,
    ) -> None:
        if scale == 1 and lr is None:
            raise ValueError(f"{hr}: scale=1 needs the input frames as lr=: made from HR they would be HR itself")
        self.frames: dict[str, list[str]] = {}

        def choose(hr_source: Source, names: Sequence[str], lr_source: Source | None) -> list[str]:
            self.frames = select(names, hr_source.name, clips, without)
            if lr_source is not None:
                self._compare(hr_source.name, lr_source, scale)
            return [name for frames in self.frames.values() for name in frames]

        self.pairs = Pairs(hr, scale=scale, lr=lr, arithmetic=arithmetic, cache=cache, choose=choose)
        self._check_files()
        where = self.pairs.hr.name
        self.names = [shown_clip(clip, where) for clip in self.frames]
        short = [
            f"{name}: {len(frames)} frames are fewer than the {least} that a window takes"
            for name, frames in zip(self.names, self.frames.values(), strict=True)
            if len(frames) < least
        ]
        if short:
            raise BadFilesError(f"{where}: {len(short)} clips are too short; leave them out or set fewer frames", short)
        #: first pair of each clip and the number of its frames: pairs stand in the order of clips and frames
        self.spans: list[tuple[int, int]] = []
        for frames in self.frames.values():
            self.spans.append((sum(self.spans[-1]) if self.spans else 0, len(frames)))

    def _compare(self, where: str, lr_source: Source, scale: int) -> None:
        """Every HR frame has an LR frame, and the other way round."""
        low: dict[str, set[str]] = {}
        for key in lr_source.keys:
            clip, frame = split_key(key)
            low.setdefault(clip, set()).add(frame)
        problems: list[str] = []
        for clip, names in self.frames.items():
            high = {split_key(name)[1] for name in names}
            given = {f if f in high else f.removesuffix(f"x{scale}") for f in low.get(clip, ())}
            if given != high:
                counts = f"HR has {len(high)} frames, LR has {len(low.get(clip, ())) or 'none'}"
                lone = [f"no LR of {min(high - given)}"] if given and high - given else []
                lone += [f"no HR of {min(given - high)}"] if given - high else []
                problems.append("; ".join([f"{shown_clip(clip, where)}: {counts}", *lone]))
        if problems:
            raise BadFilesError(f"{where} and {lr_source.name}: {len(problems)} clips do not fit each other", problems)

    def _check_files(self) -> None:
        """Frames of a clip are of one size; files are not cut short."""
        pairs = self.pairs
        sizes = {key: (*pairs.hr_size(i), 3) for i, key in enumerate(pairs.keys)}
        problems = unequal_sizes(sizes) or unequal_sizes(
            {key: (*pairs.lr_size(i), 3) for i, key in enumerate(pairs.keys)}
        )
        for source, numbers in pairs.used():
            if isinstance(source, FileSource):
                problems += [p for p in (missing_end(source.path(n)) for n in numbers) if p]
        if problems:
            raise BadFilesError(f"{pairs.hr.name}: {len(problems)} frames cannot be used", problems)

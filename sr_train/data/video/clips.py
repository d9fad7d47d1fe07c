"""Clips of numbered frames, from folders, a store (LMDB of sr-train) or an LMDB of BasicSR.

Frames are grouped into clips, clips are selected, and all of them are checked before training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sr_train.console import counted
from sr_train.data.archives import InputFile
from sr_train.data.images import SUFFIXES, BadFilesError, Header, missing_end
from sr_train.data.pairing import Matched
from sr_train.data.pairs import Pairs
from sr_train.data.sources import FileSource, input_files
from sr_train.data.store.format import is_store

_NUMBER = re.compile(r"\d+$")


def split_key(key: str) -> tuple[str, str]:
    """Split ``000/00000012`` into clip ``000`` and frame ``00000012``."""
    clip, _, frame = key.rpartition("/")
    return clip, frame


def shown_clip(clip: str, where: str) -> str:
    """Return the name of a clip for messages.

    If the source folder itself is the clip, return the name of the folder.
    """
    return clip or Path(where).name


def empty_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the folders below ``folder`` that contain neither images nor folders."""
    found: list[str] = []
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if not folders and not any(Path(f).suffix.lower() in SUFFIXES for f in files):
            found.append(Path(root).relative_to(folder).as_posix())
    return sorted(found)


def select(
    names: Iterable[str], where: str, clips: Sequence[str] | None = None, without: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return {name of a selected clip: names of its frames, in order of their numbers}.

    Args:
        names: names of all frames, ``CLIP/FRAME``.
        where: source of the frames, for messages. A folder is also searched for empty clips.
        clips: names of the clips to keep; ``None`` keeps all clips.
        without: names of clips to leave out, even if they are in ``clips``.

    Raises:
        BadFilesError: lists all clips that are missing or empty, or in which a frame is missing or has no number.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(split_key(name)[0], []).append(name)
    empty = empty_folders(where) if Path(where).is_dir() and not is_store(where) else []
    problems = [f"{c}: there is no such clip" for c in (*(clips or ()), *without) if c not in found and c not in empty]
    wanted = set(clips if clips is not None else (*found, *empty)) - set(without)
    problems += [f"{shown_clip(c, where)}: the folder contains no frames" for c in empty if c in wanted]
    kept = {c: _in_order(shown_clip(c, where), found[c], problems) for c in sorted(wanted & found.keys())}
    if not problems and not kept:
        problems = ["clips= and without= select no clip"]
    if problems:
        raise BadFilesError(f"{where}: {counted(len(problems), 'clip')} cannot be used", problems)
    return kept


def _in_order(clip: str, names: Sequence[str], problems: list[str]) -> list[str]:
    """Sort the frames of a clip by number. Add a message to ``problems`` for wrong, duplicate or missing numbers."""
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
    folder: str | os.PathLike[str],
    clips: Sequence[str] | None = None,
    without: Sequence[str] = (),
    *,
    copies: str | os.PathLike[str] | None = None,
) -> dict[str, InputFile]:
    """Return {key: file} for every frame of the selected clips, in order. Raises the errors of :func:`select`.

    ``folder`` may be a folder of clips, an archive or an LMDB of BasicSR. ``copies`` is the folder of the decompressed
    copies of tar.gz archives.
    """
    files = input_files(folder, clips=True, copies=copies)
    frames = select(files, os.fspath(folder), clips, without)
    return {name: files[name] for clip in frames.values() for name in clip}


def unequal_sizes(headers: Mapping[str, Header | tuple[int, int, int]]) -> list[str]:
    """Return a message for every frame ``CLIP/FRAME`` whose size differs from the size of its clip's first frame."""
    first: dict[str, tuple[int, int]] = {}
    problems: list[str] = []
    for key, header in headers.items():
        height, width = first.setdefault(split_key(key)[0], header[:2])
        if header[:2] != (height, width):
            problems.append(f"{key}: is {header[1]}x{header[0]}, but the first frame of the clip is {width}x{height}")
    return problems


class Clips:
    """HR and LR frames of clips. LR frames are read from a source, or made from HR frames by bicubic reduction.

    Args:
        hr: a folder that contains one folder of numbered frames per clip, a store that sr-prepare made from such a
            folder, an LMDB of BasicSR, or ``toy_clips:NAMES``.
        scale: HR pixels per LR pixel; 1 for deblurring.
        lr: source of the LR frames; ``None`` makes LR from HR.
        clips: names of the clips to use; ``None`` uses all.
        without: names of clips to leave out.
        least: smallest number of frames that a clip must have.
        arithmetic: name of the rounding rules for LR made from HR, see :mod:`sr_train.resampling`.
        cache: true to keep decoded files in memory.
        channels: number of channels C of the frames; see :func:`.images.to_channels`.

    Raises:
        BadFilesError: lists all clips or frames that cannot be used.
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
        channels: int = 3,
    ) -> None:
        if scale == 1 and lr is None:
            raise ValueError(f"{hr}: scale=1 needs the input frames as lr=; LR made from HR would equal HR")
        self.frames: dict[str, list[str]] = {}

        def choose(where: str, names: Sequence[str], low: Matched | None) -> list[str]:
            self.frames = select(names, where, clips, without)
            if low is not None:
                self._compare(where, low)
            return [name for frames in self.frames.values() for name in frames]

        options: dict[str, Any] = {"arithmetic": arithmetic, "cache": cache, "channels": channels}
        self.pairs = Pairs(hr, scale=scale, lr=lr, choose=choose, **options)
        self._check_files()
        where = self.pairs.hr.name
        self.names = [shown_clip(clip, where) for clip in self.frames]
        short = [
            f"{name}: has {len(frames)} of the {least} frames that a window needs"
            for name, frames in zip(self.names, self.frames.values(), strict=True)
            if len(frames) < least
        ]
        if short:
            what = f"{where}: {counted(len(short), 'clip')} too short; leave out the listed clips or set a smaller data.frames"
            raise BadFilesError(what, short)
        #: (index of the first pair, number of frames) of each clip; pairs are in the order of clips and frames
        self.spans: list[tuple[int, int]] = []
        for frames in self.frames.values():
            self.spans.append((sum(self.spans[-1]) if self.spans else 0, len(frames)))

    def _compare(self, where: str, low: Matched) -> None:
        """Raise BadFilesError if an HR frame has no LR frame, or an LR frame has no HR frame."""
        extra: dict[str, list[str]] = {}
        for key in low.extra:
            extra.setdefault(split_key(key)[0], []).append(split_key(key)[1])
        problems: list[str] = []
        for clip, names in self.frames.items():
            twice = [low.ambiguous[name] for name in names if name in low.ambiguous]
            missing = [name for name in names if name not in low.names]
            more = extra.get(clip, [])
            given = len(names) - len(missing) + len(more)
            if twice:
                problems += twice
            elif missing or more:
                counts = f"HR has {counted(len(names), 'frame')}, LR has {given or 'none'}"
                lone = [f"no LR for {min(split_key(name)[1] for name in missing)}"] if given and missing else []
                lone += [f"no HR for {min(more)}"] if more else []
                problems.append("; ".join([f"{shown_clip(clip, where)}: {counts}", *lone]))
        if problems:
            few = all(len(names) == 1 for names in self.frames.values()) and low.extra
            hint = "; HR has only one frame of each clip (GT_only4th?), all frames are needed"
            hint = f"{hint}: sr-prepare dataset=vimeo90k root=DIR makes such a store" if few else ""
            what = f"{where} and {low.where}: HR and LR differ in {counted(len(problems), 'clip')}{hint}"
            raise BadFilesError(what, problems)

    def _check_files(self) -> None:
        """Raise BadFilesError if frames of a clip have different sizes, or if a file is truncated."""
        pairs = self.pairs
        sizes = {key: (*pairs.hr_size(i), 3) for i, key in enumerate(pairs.keys)}
        problems = unequal_sizes(sizes) or unequal_sizes(
            {key: (*pairs.lr_size(i), 3) for i, key in enumerate(pairs.keys)}
        )
        for source, numbers in pairs.used():
            if isinstance(source, FileSource):
                problems += [p for p in (missing_end(source.path(n)) for n in numbers) if p]
        if problems:
            raise BadFilesError(f"{pairs.hr.name}: {counted(len(problems), 'frame')} cannot be used", problems)

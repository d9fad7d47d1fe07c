"""Text files of names: Vimeo-90K's ``sep_trainlist.txt``, ``meta_info_*.txt`` of BasicSR and MMagic, lists of your own.

A line is a name, which may be followed by sizes: ``00001/0001``, ``000 100 (720,1280,3)``, ``0001_s001.png (480, 480, 3)``.
Empty lines and lines that begin with ``#`` are ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from sr_train.data.images import SUFFIXES, BadFilesError

_SIZES = re.compile(r"\s+(?:\d+\s*)?\(\s*\d+(?:\s*,\s*\d+)*\s*\).*$")


def _lines(path: str | os.PathLike[str], what: str, example: str) -> list[str]:
    """Return the names in a text file without the sizes that may follow them, each name once.

    ``what`` is the word for the named things in messages, and ``example`` is an example of a name.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such list of {what}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path}: is a folder; expected a text file with names of {what}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; expected names of {what}, one per line") from None
    lines = [line.strip() for line in text.splitlines()]
    names = [_SIZES.sub("", line).strip().strip("/") for line in lines if not line.startswith("#")]
    names = list(dict.fromkeys(n for n in names if n))
    if not names:
        raise ValueError(f"{path}: contains no names of {what}; expected one per line, e.g. {example}")
    return names


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def read_clip_list(path: str | os.PathLike[str]) -> list[str]:
    """Read the names of clips from a text file with one name per line.

    For a list of frames (MMagic's ``000/00000000.png``), return the names of the clips that contain these frames.
    """
    names = _lines(path, "clips", "00001/0001")
    return list(dict.fromkeys(n if _without_suffix(n) == n else n.rpartition("/")[0] for n in names))


def listed_images(path: str | os.PathLike[str], keys: Collection[str], where: str) -> list[str]:
    """Return the names in ``keys`` that are also in the text file ``path``, in the order of ``keys``.

    A name in the file may have a suffix such as ``.png``. Raises BadFilesError that lists the names that are not in
    ``keys``; ``where`` is the name of the source of ``keys`` in this message.
    """
    names = [_without_suffix(name) for name in _lines(path, "images", "0001_s001.png (480,480,3)")]
    wanted, held = set(names), set(keys)
    missing = [name for name in names if name not in held]
    if missing:
        pairs = [name for name in missing if ", " in name]
        hint = "; lists of pairs `HR, LR` cannot be read, give hr: and lr: as folders" if pairs else ""
        raise BadFilesError(
            f"{path}: {len(missing)} of {len(names)} listed images are not in {where}{hint}",
            [f"{name}: there is no such image" for name in missing],
        )
    return [key for key in keys if key in wanted]

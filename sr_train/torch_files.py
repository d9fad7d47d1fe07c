"""Tensors of files: read from what others wrote, without running what is in them, and made ready to be written."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def archive_problem(path: Path) -> str | None:
    """What is wrong with one of torch's archives, or None; raises what ``zipfile`` meets in one that is none.

    torch does not look at the checksums, and unpacks a compressed archive to whatever it says that it holds.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
        if packed or sum(m.file_size for m in members) > path.stat().st_size:
            return "a compressed archive; torch's own are not: unpack it first"
        spoiled = archive.testzip()
    return None if spoiled is None else f"damaged: the checksum of {spoiled} differs; copy or download it again"


_PAGE = (b"<!doctype html", b"<html", b"<?xml")

_POINTER = b"version https://git-lfs.github.com/spec/"

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/\\])(.*)")

HEAD = 64  #: bytes of a file's beginning that :func:`misplaced` looks at


def misplaced(head: bytes) -> str | None:
    """Name a file that stands where a download should be, by its first bytes, and what to do; None for others."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "is empty; download or copy it again"
    if text.startswith(_PAGE):
        return (
            "is a web page, not the file itself: a link often leads to a page with a download button; download it again"
        )
    if head.startswith(_POINTER):
        return "is a Git LFS pointer, not the file itself: run git lfs pull where it was cloned, or download the file"
    return None


def web_address(path: str | os.PathLike[str]) -> str | None:
    """Return the advice for a web address in the place of a path, also one that ``Path`` shortened; None for paths."""
    match = _ADDRESS.match(os.fspath(path))
    if match is None or Path(path).exists():
        return None
    return f"{match[1]}://{match[2]}: is a web address; download the file and give its path"


def read_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a flat file by name, on the CPU. Raises ValueError, or FileNotFoundError, naming the file.

    ``*.safetensors``, or what ``torch.save`` wrote (read with ``weights_only=True``, so nothing in it is run); of the
    latter, entries that are no tensors are left out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(web_address(path) or f"{path}: there is no such file")
    with path.open("rb") as file:
        wrong = misplaced(file.read(HEAD))
    if wrong is not None:
        raise ValueError(f"{path}: {wrong}")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError:
        raise
    except Exception as error:  # of a damaged file the unpickler raises whatever it stumbles on
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{path}: not a readable file of tensors ({type(error).__name__}: {reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def storable(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what safetensors can write - contiguous tensors on the CPU, no two in one memory - and the names left out.

    The second maps each name of a tensor that has several to the one that it is kept under.
    """
    kept: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    places: dict[object, str] = {}
    for name, value in state.items():
        place = (_memory(value), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if place in places:
            shared[name] = places[place]
        else:
            places[place], kept[name] = name, value
    ready = {k: v.detach().cpu().contiguous() for k, v in kept.items()}  # safetensors takes no channels-last
    uses = Counter(_memory(v) for v in ready.values())
    return {k: v.clone() if uses[_memory(v)] > 1 else v for k, v in ready.items()}, shared


def _memory(tensor: torch.Tensor) -> int:
    """Return a number that tensors in one piece of memory have in common."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]

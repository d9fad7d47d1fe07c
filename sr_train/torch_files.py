"""Files of tensors: torch's (a zip, or a pickle as before torch 1.6) and safetensors, read without running what is in them.

The content decides the kind, not the suffix. No other file of the package calls ``torch.load``.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

import torch
from safetensors import SafetensorError, safe_open

_ZIP = b"PK\x03\x04"  # as torch decides it, so that no archive goes unchecked

_HEAD = 64  # bytes of a file's beginning that tell its kind

_PAGE = (b"<!doctype html", b"<html", b"<?xml")

_POINTER = b"version https://git-lfs.github.com/spec/"

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/\\])(.*)")

_ASKS_FOR = re.compile(r"GLOBAL ([\w.]+)|unrecognized function (.+)|but got (<.+>)")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class TorchFileError(ValueError):
    """A file of tensors that cannot be read, and why. The message begins with the file's path."""


def _misplaced(head: bytes) -> str | None:
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
    """Return the tensors of a flat file by name, on the CPU, and leave out other entries. Copy what is kept.

    Raises TorchFileError.
    """
    content, _ = read_file(path)
    if not is_dict(content):
        raise TorchFileError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    check_tensors(Path(path), tensors)
    return tensors


def read_file(path: str | os.PathLike[str]) -> tuple[object, dict[str, str]]:
    """Return what a file holds, and the header of a safetensors file (empty for torch's). Copy the tensors that are kept.

    Tensors stay mapped to the file. Raises TorchFileError.
    """
    path = Path(path)
    if _is_torchs(_head(path)):
        return read_torch(path, mapped=True), {}
    try:
        with _open_safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise TorchFileError(f"{path}: not a readable safetensors file, nor one of torch ({error})") from None


def read_header(path: Path) -> dict[str, str]:
    """Return the header of a safetensors file, empty for any other file."""
    try:
        with _open_safetensors(path) as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return {}


def _open_safetensors(path: Path) -> AbstractContextManager[Any]:
    return safe_open(path, framework="pt")


def read_torch(path: Path, *, mapped: bool = False) -> object:
    """Return what a file of torch holds: tensors on the CPU and plain values. The loader refuses everything else.

    ``mapped``: tensors of a zip stay mapped to the file, for callers that copy what they keep. Raises TorchFileError.
    """
    head = _head(path)
    if not _is_torchs(head):
        raise TorchFileError(f"{path}: damaged, or not a torch file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and sparse tensors; an error says more
            if not head.startswith(_ZIP):
                return _load_pickle(path)
            _check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except TorchFileError:
        raise
    except pickle.UnpicklingError as error:
        asked = _ASKS_FOR.search(str(error))
        what = f"it asks for {next(filter(None, asked.groups()))[:100]}" if asked else _short(error)
        raise TorchFileError(
            f"{path}: refused: it holds more than tensors and plain values ({what}), and unpickling that could run code; save "
            "the network's state_dict() alone where it comes from"
        ) from None
    except Exception as error:  # a damaged file raises whatever its reader meets
        raise TorchFileError(
            f"{path}: not a readable torch file ({type(error).__name__}: {_short(error)}); copy or download it again"
        ) from None


def _head(path: Path) -> bytes:
    """Return the first bytes of a file. Raises TorchFileError where there is none, or another in its place."""
    if not path.exists():
        raise TorchFileError(web_address(path) or f"{path}: there is no such file")
    if path.is_dir():
        raise TorchFileError(f"{path}: is a folder; name the file in it")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read ({error})") from None
    wrong = _misplaced(head)
    if wrong is not None:
        raise TorchFileError(f"{path}: {wrong}")
    return head


def _is_torchs(head: bytes) -> bool:
    """Return true for the beginning of a zip or a pickle.

    A safetensors file may begin with a pickle's first byte too, but its ninth opens the header.
    """
    return head.startswith(_ZIP) or (head.startswith(b"\x80") and head[8:9] != b"{")


def _load_pickle(path: Path) -> object:
    """Load a bare pickle from a map: reading from the file itself takes as much memory as a damaged length asks for."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return torch.load(cast("IO[bytes]", view), map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Raise TorchFileError for an archive that is cut short, compressed or spoiled.

    torch does not compare the checksums, and unpacks a compressed archive to any size that it claims.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
            if packed or sum(m.file_size for m in members) > path.stat().st_size:
                raise TorchFileError(f"{path}: a compressed archive; torch's own are not: unpack it first")
            spoiled = archive.testzip()
    except zipfile.BadZipFile as error:
        raise TorchFileError(f"{path}: damaged or cut short ({error}); copy or download it again") from None
    if spoiled is not None:
        raise TorchFileError(f"{path}: damaged: the checksum of {spoiled} differs; copy or download it again")


def _short(error: BaseException) -> str:
    """Return the first lines of torch's long explanations."""
    return " ".join(str(error).split())[:200]


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """``isinstance`` for values that a file holds, whose types are not known."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """``isinstance``, as :func:`is_dict`."""
    return isinstance(value, list)


def check_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise TorchFileError for a tensor that is no plain array in the file: a stride of 0 makes a terabyte out of four bytes.

    Integers pass: they are buffers of networks that no key format may fit, and that is what the user is told.
    """
    for name, value in tensors.items():
        plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        integers = not value.dtype.is_floating_point and not value.dtype.is_complex
        if not (plain and (value.dtype in _FLOATS or integers)):
            raise _kind_error(path, name, value)
    claimed, size = sum(v.numel() * v.element_size() for v in tensors.values()), path.stat().st_size
    if claimed > size:
        raise TorchFileError(
            f"{path}: its tensors claim {claimed:,} bytes in a file of {size:,}; it is damaged or forged"
        )


def check_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise TorchFileError for weights that are integers, but for BatchNorm's ``num_batches_tracked``."""
    for name, value in tensors.items():
        if value.dtype not in _FLOATS and not (value.dtype is torch.int64 and value.dim() == 0):
            raise _kind_error(path, name, value)


def _kind_error(path: Path, name: str, value: torch.Tensor) -> TorchFileError:
    kind = f"{value.dtype}, {value.layout}, {value.device}".replace("torch.", "")
    return TorchFileError(f"{path}: tensor {name[:60]} is of {kind}; expected plain floating-point numbers")


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

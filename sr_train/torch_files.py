"""Read torch files (zip, or pickle from before torch 1.6) and safetensors files without executing code in them.

The type of a file is detected from its content, not from its suffix. No other module of the package calls ``torch.load``.
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

_ZIP = b"PK\x03\x04"  # torch's own test for an archive, so that every archive is checked

_HEAD = 64  # number of first bytes that show the type of a file

_PAGE = (b"<!doctype html", b"<html", b"<?xml")

_POINTER = b"version https://git-lfs.github.com/spec/"

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/\\])(.*)")

_REMEDY = "copy or download it again"

_ASKS_FOR = re.compile(r"GLOBAL ([\w.]+)|unrecognized function (.+)|but got (<.+>)")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class TorchFileError(ValueError):
    """A file of tensors cannot be read. The message is ``PATH: REASON``."""


def misplaced(head: bytes) -> str | None:
    """Return a message if the first bytes show an empty file, a web page or a Git LFS pointer, else None."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "is empty; download or copy it again"
    if text.startswith(_PAGE):
        return "is a web page, not a file of tensors (the link leads to a page with a download button); download the file again"
    if head.startswith(_POINTER):
        return "is a Git LFS pointer, not a file of tensors: run git lfs pull in the file's repository, or download the file"
    return None


def web_address(path: str | os.PathLike[str]) -> str | None:
    """Return a message if a path is a web address, else None.

    ``https:/`` is recognized too, because ``Path`` shortens //.
    """
    match = _ADDRESS.match(os.fspath(path))
    if match is None or Path(path).exists():
        return None
    return f"{match[1]}://{match[2]}: is a web address; download the file and give its path"


def read_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of a torch or safetensors file that contains a flat dict.

    Entries that are no tensors are left out. The tensors are on the CPU. The tensors may be mapped to the file, so the
    caller must copy tensors that it keeps. Raise TorchFileError if the file cannot be read.
    """
    content, _ = read_file(path)
    if not is_dict(content):
        raise TorchFileError(f"{path}: contains a {type(content).__name__}; expected a dict of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    check_tensors(Path(path), tensors)
    return tensors


def read_file(path: str | os.PathLike[str]) -> tuple[object, dict[str, str]]:
    """Return (content, header) of a torch or safetensors file. The header of a torch file is empty.

    Tensors are mapped to the file, so the caller must copy tensors that it keeps. Raise TorchFileError if the file
    cannot be read.
    """
    path = Path(path)
    if _is_torchs(_head(path)):
        return read_torch(path, mapped=True), {}
    try:
        with _open_safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise TorchFileError(f"{path}: not a readable safetensors or torch file ({error})") from None


def read_header(path: Path) -> dict[str, str]:
    """Return the header of a safetensors file, or an empty dict for any other file."""
    try:
        with _open_safetensors(path) as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return {}


def _open_safetensors(path: Path) -> AbstractContextManager[Any]:
    return safe_open(path, framework="pt")


def read_torch(path: Path, *, mapped: bool = False, remedy: str = _REMEDY) -> object:
    """Return the content of a torch file: tensors on the CPU and plain values. A file with other objects is refused.

    If ``mapped`` is true, tensors of a zip are mapped to the file, so the caller must copy tensors that it keeps. Raise
    TorchFileError if the file cannot be read. ``remedy`` is the end of the message for a damaged file.
    """
    head = _head(path)
    if not _is_torchs(head):
        raise TorchFileError(f"{path}: damaged, or not a torch file; {remedy}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about pickle protocols and sparse tensors
            if not head.startswith(_ZIP):
                return _load_pickle(path)
            _check_archive(path, remedy)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except TorchFileError:
        raise
    except pickle.UnpicklingError as error:
        asked = _ASKS_FOR.search(str(error))
        what = f"it needs {next(filter(None, asked.groups()))[:100]}" if asked else _short(error)
        raise TorchFileError(
            f"{path}: refused: it contains more than tensors and plain values ({what}), and loading that could run code; save "
            "only the network's state_dict() with the program that wrote the file" + _again(path, what)
        ) from None
    except Exception as error:  # a damaged file can raise any exception
        raise TorchFileError(
            f"{path}: not a readable torch file ({type(error).__name__}: {_short(error)}); {remedy}"
        ) from None


def _head(path: Path) -> bytes:
    """Return the first bytes of a file. Raise TorchFileError if the file is missing, a folder, empty, or a web page."""
    if not path.exists():
        raise TorchFileError(web_address(path) or f"{path}: there is no such file")
    if path.is_dir():
        raise TorchFileError(f"{path}: is a folder; give the path of a file in it")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read ({error})") from None
    wrong = misplaced(head)
    if wrong is not None:
        raise TorchFileError(f"{path}: {wrong}")
    return head


def _is_torchs(head: bytes) -> bool:
    """Return true if the first bytes of a file are those of a torch file: a zip or a pickle.

    A safetensors file may start with the same byte as a pickle, but the ninth byte of a safetensors file is ``{``.
    """
    return head.startswith(_ZIP) or (head.startswith(b"\x80") and head[8:9] != b"{")


def _load_pickle(path: Path) -> object:
    """Load a pickle file of an old torch version.

    A memory map is used, because without it, a damaged length in the file could allocate huge memory.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return torch.load(cast("IO[bytes]", view), map_location="cpu", weights_only=True)


def _check_archive(path: Path, remedy: str) -> None:
    """Raise TorchFileError for an archive that is truncated, compressed or has a wrong checksum.

    This check is needed, because torch does not compare checksums, and would unpack a compressed archive to any size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(m.compress_type != zipfile.ZIP_STORED for m in members)
            if packed or sum(m.file_size for m in members) > path.stat().st_size:
                raise TorchFileError(f"{path}: is a compressed archive, not a torch file; unpack it first")
            spoiled = archive.testzip()
    except zipfile.BadZipFile as error:
        raise TorchFileError(f"{path}: damaged or truncated ({error}); {remedy}") from None
    if spoiled is not None:
        raise TorchFileError(f"{path}: damaged: the checksum of {spoiled} is wrong; {remedy}")


def _again(path: Path, what: str) -> str:
    """Return how to write a refused file again: a whole network by its class, another one by its dict."""
    if not what.startswith("it needs "):
        return ""
    plain = what.removeprefix("it needs ").startswith(
        ("numpy", "omegaconf", "argparse", "pathlib", "_codecs", "posixpath")
    )
    part = '["state_dict"]' if plain else ".state_dict()"
    return (
        f" (if you trust the file, there: torch.save(torch.load({path.name!r}, weights_only=False){part}, 'net.pth'))"
    )


def _short(error: BaseException) -> str:
    """Return the first 200 characters of an error, in one line."""
    return " ".join(str(error).split())[:200]


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Return true for a dict.

    Unlike ``isinstance``, this tells a type checker that keys and values may have any type.
    """
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Return true for a list. Unlike ``isinstance``, this tells a type checker that the items may have any type."""
    return isinstance(value, list)


def check_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise TorchFileError unless every tensor is a plain array that is not larger than the file.

    A tensor with a stride of 0 could turn four bytes into a terabyte. Integer tensors are allowed, because networks
    have integer buffers.
    """
    for name, value in tensors.items():
        plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        integers = not value.dtype.is_floating_point and not value.dtype.is_complex
        if not (plain and (value.dtype in _FLOATS or integers)):
            raise _kind_error(path, name, value)
    claimed, size = sum(v.numel() * v.element_size() for v in tensors.values()), path.stat().st_size
    if claimed > size:
        raise TorchFileError(
            f"{path}: the tensors need {claimed:,} bytes, but the file has {size:,} bytes; the file is damaged or forged"
        )


def check_numbers(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise TorchFileError for integer weights, except BatchNorm's ``num_batches_tracked``."""
    for name, value in tensors.items():
        if value.dtype not in _FLOATS and not (value.dtype is torch.int64 and value.dim() == 0):
            raise _kind_error(path, name, value)


def _kind_error(path: Path, name: str, value: torch.Tensor) -> TorchFileError:
    kind = f"{value.dtype}, {value.layout}, {value.device}".replace("torch.", "")
    return TorchFileError(f"{path}: tensor {name[:60]} is {kind}; expected a plain floating-point tensor on the CPU")


def storable(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return (tensors that safetensors can write, {left-out name: kept name}).

    The tensors are contiguous, on the CPU, and do not share memory. A tensor with several names is returned under the
    first name only; the second result maps its other names to this name.
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
    ready = {k: v.detach().cpu().contiguous() for k, v in kept.items()}  # safetensors refuses channels-last
    uses = Counter(_memory(v) for v in ready.values())
    return {k: v.clone() if uses[_memory(v)] > 1 else v for k, v in ready.items()}, shared


def _memory(tensor: torch.Tensor) -> int:
    """Return a number that is equal for tensors in the same memory."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]

"""Kinds of files that hold no tensors that can be read here, recognized by their first bytes, with a remedy for each."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from sr_train.torch_files import TorchFileError, misplaced, read_file
from sr_train.weights.foreign.base import WeightsError

_HEAD = 1024  # number of first bytes that are looked at

_ARCHIVE = "unpack it, and give the weights file in it"

_STATE = "in the program that wrote it: torch.save(network.state_dict(), 'net.pth')"

_RUNS_CODE = "reading that could run code, and only torch files of protocol 2 are read"

_TORCH = "give the .pth file that it was made from"

_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (  # offset, bytes, kind, remedy
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", "give a weights file; images belong to input= or hr="),
    (0, b"\xff\xd8\xff", "a JPEG image", "give a weights file; images belong to input= or hr="),
    (0, b"GIF8", "a GIF image", "give a weights file; images belong to input= or hr="),
    (0, b"BM", "a BMP image", "give a weights file; images belong to input= or hr="),
    (0, b"II*\0", "a TIFF image", "give a weights file; images belong to input= or hr="),
    (0, b"MM\0*", "a TIFF image", "give a weights file; images belong to input= or hr="),
    (8, b"WEBP", "a WebP image", "give a weights file; images belong to input= or hr="),
    (4, b"ftyp", "a video or an AVIF image", "give a weights file; images and videos belong to input="),
    (0, b"%PDF-", "a PDF document", "download the weights file itself"),
    (0, b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (0, b"BZh", "a bzip2 archive", _ARCHIVE),
    (0, b"\xfd7zXZ\0", "an xz archive", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _ARCHIVE),
    (0, b"Rar!\x1a\x07", "a RAR archive", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _ARCHIVE),
    (0, b"\x93NUMPY", "a numpy array (.npy)", f"only files of torch and safetensors are read; {_STATE}"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, TensorFlow or MATLAB)", "only networks of torch are read"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file", "only networks of torch are read"),
    (0, b"GGUF", "a GGUF file (ggml)", _TORCH),
    (0, b"lmgg", "a ggml file", _TORCH),
    (4, b"TFL3", "a TensorFlow Lite network", "only networks of torch are read"),
    (0, b"ftrt", "an engine of TensorRT, compiled for one GPU", _TORCH),
    (0, b"ptrt", "an engine of TensorRT, compiled for one GPU", _TORCH),
    (0, b"7767517", "a network of ncnn (.param)", _TORCH),
    (0, b"SQLite format 3\0", "an SQLite database", "give a weights file"),
    (0, b"\x7fELF", "a program or library", "give a weights file"),
    (0, b"MZ", "a program or library of Windows", "give a weights file"),
    (0, b"sys_info\0", "a torch file from before version 0.2 (tar)", "open it in torch 1.x and write it again: "
     "torch.save(torch.load(FILE), 'net.pth')"),
    (257, b"ustar", "a tar archive", _ARCHIVE),
    (0, b"\xde\xbe\xef\xde", "a LMDB", "give a weights file; stores of images belong to hr="),
)  # fmt: skip

_SUFFIXES = {  # kinds whose first bytes say nothing, by suffix
    ".engine": ("an engine of TensorRT, compiled for one GPU", _TORCH),
    ".plan": ("an engine of TensorRT, compiled for one GPU", _TORCH),
    ".trt": ("an engine of TensorRT, compiled for one GPU", _TORCH),
    ".onnx": ("an ONNX network", _TORCH),
    ".pb": ("a network of TensorFlow", "only networks of torch are read"),
    ".index": ("a checkpoint of TensorFlow", "only networks of torch are read"),
    ".mlmodel": ("a network of Core ML", _TORCH),
    ".caffemodel": ("a network of Caffe", "only networks of torch are read"),
    ".param": ("a network of ncnn", _TORCH),
}

_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # of a TensorFlow checkpoint's index

_MEMBERS: tuple[tuple[Callable[[str], bool], str, str], ...] = (  # of zip archives without a torch file's members
    (lambda name: name.endswith("constants.pkl") or "/code/" in name, "a TorchScript program",
     "it is code and is not run here; in the program that made it: torch.save(network.state_dict(), 'net.pth')"),
    (lambda name: name.endswith((".data/extern_modules", ".data/python_version")), "a package of torch.package", _STATE),
    (lambda name: name.endswith(("models/model.json", "serialized_exported_program.json")),
     "a program of torch.export (.pt2)", _STATE),
    (lambda name: name.endswith("model.weights.h5"), "a network of Keras", "only networks of torch are read"),
    (lambda name: name.endswith(".mlmodel"), "a network of Core ML", _TORCH),
    (lambda name: name.endswith((".pth", ".pt", ".ckpt", ".safetensors")), "a zip archive of weights files", _ARCHIVE),
    (lambda name: name.endswith(".npy"), "a file of numpy (.npz)", f"only files of torch and safetensors are read; {_STATE}"),
)  # fmt: skip


def read_any(path: Path) -> tuple[object, dict[str, str]]:
    """Return the content and the header of a file, as :func:`sr_train.torch_files.read_file` does.

    Raises WeightsError. It names the kind of a file that is none of torch and safetensors.
    """
    try:
        return read_file(path)
    except TorchFileError as error:
        kind = None if "(it needs " in str(error) or not path.is_file() else other_content(path)
        raise WeightsError(str(error) if kind is None else f"{path}: {kind}") from None


def other_content(path: Path) -> str | None:
    """Return a message for a file that is no file of torch and safetensors; None for one that may be,
    and for one that the reader of torch files recognizes itself.

    Nothing is unpacked and nothing is run. The message starts with the kind that was recognized.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, size - 8))
            end = file.read(8)
    except OSError:
        return None  # the reader reports it
    if head.startswith(b"PK\x03\x04"):
        return _in_zip(path)
    if misplaced(head) is not None and b"<net " not in head:
        return None
    protocol = _pickle(head)
    if protocol is not None:
        return f"refused: it is a Python pickle of protocol {protocol}; {_RUNS_CODE}; {_STATE}"
    found = _kind(path, head, end) or _text(head)
    if found is not None:
        return f"not a readable safetensors or torch file: it is {found[0]}; {found[1]}"
    return _safetensors(path, head, size) or _by_suffix(path, head)


def _kind(path: Path, head: bytes, end: bytes) -> tuple[str, str] | None:
    for offset, magic, kind, remedy in _MAGIC:
        if head[offset : offset + len(magic)] == magic and not _is_safetensors(head):
            return kind, remedy
    if head.strip(b"\0") == b"" and len(head) > 8:
        return "a file of zero bytes, as an unfinished download leaves", "download it again"
    if end == _TABLE_END:
        return "a checkpoint of TensorFlow", "only networks of torch are read"
    if head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] == b"\x12" and path.suffix != ".mlmodel":
        return "an ONNX network", _TORCH
    return None


def _pickle(head: bytes) -> int | None:
    """Return the protocol of a bare pickle; None for other files and for torch's, which starts with its magic number."""
    if head.startswith((b"(dp", b"(lp", b"ccollections\n", b"c__main__\n", b"ctorch")):
        return 0
    torchs = head.startswith(b"\x80\x02\x8a\x0al\xfc\x9c")
    bare = head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05" and not torchs and not _is_safetensors(head)
    return head[1] if bare else None


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"


def _text(head: bytes) -> tuple[str, str] | None:
    """Return the kind of a text file."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8-sig")
    if not all(letter.isprintable() or letter in "\n\r\t\f" for letter in text) or not text.strip():
        return None
    if text.lstrip()[:1] in "{[":
        if "weight_map" in text:
            return "the index of weights in several files", "give one file with all tensors"
        return "JSON", "give the weights file that belongs to it"
    if text.startswith("model_checkpoint_path"):
        return "the list of checkpoints of TensorFlow", "only networks of torch are read"
    if text.lstrip().startswith("<"):
        return "an XML file (a network of OpenVINO)", _TORCH
    return f"text ({' '.join(text.split())[:40]!r})", "give a weights file"


def _in_zip(path: Path) -> str | None:
    """Return a message for a zip archive that is no torch file, or whose pickle torch cannot read safely."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [n for n in names if n.rpartition("/")[2] == "data.pkl" and archive.getinfo(n).file_size > 1]
            start = b""
            if len(pickles) == 1 and archive.getinfo(pickles[0]).compress_type == zipfile.ZIP_STORED:
                with archive.open(pickles[0]) as file:
                    start = file.read(2)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return None  # the reader reports damaged archives
    for belongs, kind, remedy in _MEMBERS:
        if any(map(belongs, names)) and (not pickles or "TorchScript" in kind):
            return f"is {kind}, not a file of weights; {remedy}"
    if not pickles:
        shown = ", ".join(name[:40] for name in names[:3]) or "nothing"
        return f"not a readable torch file: it is a zip archive of other files ({shown}); {_ARCHIVE}"
    if len(start) == 2 and start[0] == 0x80 and start[1] > 3:
        return (
            f"is written with pickle protocol {start[1]}; only protocol 2, the default of torch.save, is read without running "
            f"code. If you trust it, write it again: torch.save(torch.load({path.name!r}, weights_only=False), 'net.pth')"
        )
    return None


def _safetensors(path: Path, head: bytes, size: int) -> str | None:
    """Return a message for a safetensors file whose header is damaged or that ends too early."""
    if not _is_safetensors(head):
        return None
    length, again = int.from_bytes(head[:8], "little"), "; copy or download it again"
    broken = "not a readable safetensors or torch file"
    if length > size - 8:
        return f"{broken}: it is cut within its header, which has {length:,} bytes of the file's {size:,}{again}"
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        ends = [int(value["data_offsets"][1]) for name, value in header.items() if name != "__metadata__"]
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError) as error:
        return f"{broken}: the header of this safetensors file is damaged ({' '.join(str(error).split())[:100]}){again}"
    if max(ends, default=0) > size - 8 - length:
        needed = 8 + length + max(ends)
        return (
            f"{broken}: the end of the file is missing: its tensors need {needed:,} bytes, the file has {size:,}{again}"
        )
    return None


def _by_suffix(path: Path, head: bytes) -> str | None:
    """Return a message for a file with a known suffix and first bytes that are none of torch."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None or head.startswith(b"\x80") or _is_safetensors(head):
        return None
    return f"not a readable safetensors or torch file: it is {found[0]}; {found[1]}"

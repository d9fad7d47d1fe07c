"""Reading and writing image files. The decoders of the file formats are in :mod:`sr_train.data.decoding`.

An image here is an array [H, W, C] of uint8 or uint16 with C = 1 (gray), 3 (RGB) or 4 (RGBA, straight alpha). A written
image is read back unchanged if its file format is lossless.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import PIL.Image
import tifffile

from sr_train.batch import Image
from sr_train.console import counted, warn
from sr_train.data.decoding.formats import decode, open_image, orientation_of
from sr_train.data.decoding.header import Header, ImageError, limit_pixels, reason_of
from sr_train.data.decoding.orientation import turn
from sr_train.data.decoding.png import swap_red_blue
from sr_train.data.decoding.profile import add_to_jpeg, add_to_png, read_profile
from sr_train.files import retried, write_bytes

__all__ = [  # what other folders import from here
    "SUFFIXES", "WITH_PROFILE", "WRITABLE", "BadFilesError", "Header", "ImageError", "check_channels", "decode_image",
    "encode_image", "image_files", "limit_pixels", "list_images", "missing_end", "read_header", "read_image", "read_profile",
    "read_upright", "to_channels", "to_real", "to_rgb", "to_uint8", "write_image",
]  # fmt: skip

WRITABLE = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff")

WITH_PROFILE = tuple(suffix for suffix in WRITABLE if suffix != ".bmp")  #: files that hold an ICC profile

SUFFIXES = (*WRITABLE, ".avif")  #: suffixes of the files that are read

_JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]

_MANY = 20  # number of names printed from a longer list

_FEW = 8  # number of names printed in one line

# OpenCV's own messages name no file; our errors do. OpenCV 5 has moved the function.
cast("Any", getattr(cv2.utils, "logging", cv2)).setLogLevel(0)


class BadFilesError(ValueError):
    """Files that cannot be used, listed in one message with a reason for each."""

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        shown = "\n".join(f"  {p}" for p in self.problems[:_MANY])
        more = f"\n  ... and {len(self.problems) - _MANY} more" if len(self.problems) > _MANY else ""
        super().__init__(f"{what}:\n{shown}{more}")


def _bytes(path: Path, count: int = -1) -> bytes:
    """Read the first ``count`` bytes of a file; by default, read the whole file.

    A shared file system may fail for a few seconds, so a failed attempt is repeated.
    """

    def attempt() -> bytes:
        with path.open("rb") as file:
            return file.read(count)

    try:
        return retried(attempt, path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read size, channels and depth of an image file without decoding it. Raises ImageError that names the file."""
    path = Path(path)
    try:
        return open_image(path, _bytes(path, 1 << 16)).header
    except ImageError:  # the directory of a TIFF may be at its end, the size of a JPEG after a large thumbnail
        return open_image(path, _bytes(path)).header


def missing_end(path: str | os.PathLike[str]) -> str | None:
    """Return an error message for a truncated PNG (without the IEND chunk at its end), else None.

    Files of other formats are not checked.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        return None
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(-min(1 << 12, path.stat().st_size), os.SEEK_END)
            end = file.read()
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    if start.startswith(b"\x89PNG") and b"IEND" not in end:
        return f"{path}: corrupt or truncated image (its end is missing)"
    return None


def decode_image(data: bytes, path: str | os.PathLike[str]) -> Image:
    """Decode the bytes of an image file to [H, W, C] uint8 or uint16, RGB order; ``path`` is for error messages.

    EXIF orientation is not applied: pixels stay as stored, as in MATLAB's ``imread``. The orientation tag of a TIFF is
    part of the TIFF format; it is applied, as in Pillow.
    """
    return decode(Path(path), data)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an image file as [H, W, C] uint8 or uint16, C = 1, 3 (RGB) or 4 (RGBA). Raises ImageError that names the file."""
    return decode_image(_bytes(Path(path)), path)


def read_upright(path: str | os.PathLike[str]) -> Image:
    """Read an image as :func:`read_image` does and apply its EXIF orientation: for photographs, not for training pairs."""
    path = Path(path)
    data = _bytes(path)
    return turn(decode_image(data, path), orientation_of(path, data))


def encode_image(image: Image, suffix: str, *, profile: bytes | None = None) -> bytes:
    """Encode an image [H, W, C] or [H, W] in the file format of ``suffix``.

    png, bmp, webp and tiff are lossless; jpg has quality 95. ``profile`` is an ICC profile that is stored in png, jpg,
    webp and tiff files.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype not in _DTYPES:
        raise ValueError(f"an image is [H, W, 1|3|4] uint8 or uint16, not {image.dtype} {image.shape}")
    suffix = suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(
            f"cannot write an image as {suffix or 'a file without suffix'!r}: choose one of {', '.join(WRITABLE)}"
        )
    if image.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        raise ValueError(f"{suffix} files have 8 bits per sample, the image has 16: write .png or .tiff")
    if image.shape[2] == 4 and suffix in (*_JPEGS, ".bmp"):
        raise ValueError(f"{suffix} files have no alpha channel: write .png, .webp or .tiff")
    options = _JPEG if suffix in _JPEGS else [cv2.IMWRITE_PNG_COMPRESSION, 3] if suffix == ".png" else []
    try:
        if suffix == ".webp":  # OpenCV loses the colors of transparent pixels
            out = io.BytesIO()
            PIL.Image.fromarray(to_rgb(image) if image.shape[2] == 1 else image).save(
                out, "WEBP", lossless=True, exact=True, **({} if profile is None else {"icc_profile": profile})
            )
            return out.getvalue()
        if profile is not None and suffix in (".tif", ".tiff"):  # OpenCV cannot add a tag
            return _tiff_with_profile(image, profile)
        done, data = cv2.imencode(".jpg" if suffix in _JPEGS else suffix, swap_red_blue(image), options)
    except (cv2.error, ValueError, OSError) as error:
        raise ValueError(f"cannot encode {image.shape} as {suffix}: {reason_of(error)}") from None
    if not done:
        raise ValueError(f"cannot encode {image.shape} as {suffix}")
    if profile is not None and suffix in WITH_PROFILE:
        return (add_to_png if suffix == ".png" else add_to_jpeg)(data.tobytes(), profile)
    return data.tobytes()


def _tiff_with_profile(image: Image, profile: bytes) -> bytes:
    out = io.BytesIO()
    gray = image.shape[2] == 1
    tifffile.imwrite(
        out,
        image[..., 0] if gray else image,
        photometric="minisblack" if gray else "rgb",
        extrasamples=["unassalpha"] if image.shape[2] == 4 else None,
        compression="zlib",
        iccprofile=profile,
        metadata=None,
        software=False,
    )
    return out.getvalue()


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write [H, W, C] uint8 or uint16 (RGB order) to a png, jpg, bmp, webp or tiff file, atomically."""
    write_bytes(path, encode_image(image, Path(path).suffix))


def to_rgb(image: Image) -> Image:
    """Convert [..., H, W, C] to [..., H, W, 3]: gray is repeated, alpha is dropped (not blended)."""
    if image.shape[-1] == 1:
        return np.repeat(image, 3, axis=-1)
    return image[..., :3]


def check_channels(channels: int) -> None:
    """Raise ValueError unless images can be converted to ``channels`` channels."""
    if channels not in (1, 3, 4):
        raise ValueError(
            f"channels={channels}: image files have 1 (gray), 3 (RGB) or 4 channels (RGBA); for other images write a data "
            "module, data._target_=PACKAGE.CLASS (docs/extending.md)"
        )


def to_channels(image: Image, channels: int) -> Image:
    """Convert [..., H, W, C] to 1, 3 or 4 channels; an image that has them is returned unchanged.

    The image is uint8, uint16, or float32 in [0, 1].

    1: color becomes its luma by ITU-R BT.601 in full range, (19595 R + 38470 G + 7471 B) / 65536 rounded half up, as in
    Pillow's mode L; alpha is dropped. 3: see :func:`to_rgb`. 4: images without alpha are opaque.
    """
    if image.shape[-1] == channels:
        return image
    top = 1.0 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    if channels == 1 and image.dtype == np.float32:
        return image[..., :3] @ np.array([[19595], [38470], [7471]], np.float32) / np.float32(65536)
    if channels == 1:
        red, green, blue = (image[..., i : i + 1].astype(np.uint32) for i in range(3))
        return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(image.dtype)
    rgb = to_rgb(image)
    return rgb if channels == 3 else np.concatenate([rgb, np.full_like(rgb[..., :1], top)], axis=-1)


def to_uint8(image: Image) -> Image:
    """Convert uint8 or uint16 pixels to uint8, rounded half up."""
    return image if image.dtype == np.uint8 else ((image.astype(np.uint32) * 2 + 257) // 514).astype(np.uint8)


def to_real(image: Image) -> Image:
    """Convert uint8, uint16 or float32 pixels to float32 in [0, 1]."""
    return image if image.dtype == np.float32 else image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _checked_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a folder.

    Raise FileNotFoundError if nothing exists there, NotADirectoryError if it is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is not a folder; give the folder that holds the images")
    return folder


def image_files(folder: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES, what: str = "images") -> list[Path]:
    """List every file below a folder with one of ``suffixes``, sorted; hidden files and folders are skipped.

    One warning lists the files with other suffixes. Raises FileNotFoundError or NotADirectoryError for a wrong folder,
    and ValueError if no file has one of the suffixes. ``what`` is the word for the files in messages, e.g. "images".
    """
    folder = _checked_folder(folder)
    found, other = list[Path](), list[str]()
    visited: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        raise PermissionError(f"{error.filename}: cannot be listed: {error.strerror}") from None

    for root, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        identity = (status := os.stat(root)).st_dev, status.st_ino  # noqa: PTH116 - links may form a loop
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        for path in (Path(root, name) for name in files if not name.startswith(".")):
            known = path.suffix.lower() in suffixes
            found += [path] if known else []
            other += [] if known else [path.relative_to(folder).as_posix()]
    foreign = [name for p in found if (name := str(p).encode("utf-8", "backslashreplace").decode()) != str(p)]
    if foreign:
        raise BadFilesError(
            f"{folder}: names that are not UTF-8; rename these files (convmv -f latin1 -t utf8)", foreign
        )
    if not found:
        raise ValueError(f"{folder}: no {what} in this folder or below it ({', '.join(suffixes)})")
    if other:
        names = ", ".join(sorted(other)[:_FEW]).encode("utf-8", "backslashreplace").decode()
        more = ", ..." if len(other) > _FEW else ""
        ignored = counted(len(other), "file is ignored, because its name", "files are ignored, because their names")
        verb = "has" if len(other) == 1 else "have"
        warn(f"{folder}: {ignored} {verb} no suffix of {what}: {names}{more}")
    return sorted(found)


def list_images(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return {key: file} for every image below a folder, sorted. A key is the relative path with / and without suffix.

    Raises the errors of :func:`image_files`, and ValueError if two files have the same key.
    """
    found: dict[str, Path] = {}
    clashes: list[str] = []
    for path in image_files(folder):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            clashes.append(f"{path} and {found[key].name} would both be {key!r}")
        found[key] = path
    if clashes:
        raise BadFilesError(f"{folder}: several files share a name; rename or remove one of each", clashes)
    return dict(sorted(found.items()))

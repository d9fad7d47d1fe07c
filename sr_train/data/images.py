"""Reading and writing image files: the only module that deals with file formats, BGR and bit depth.

An image here is an array [H, W, C] of uint8 or uint16 with C = 1 (gray), 3 (RGB) or 4 (RGBA). A written
image is read back unchanged if the format can hold it.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import PIL.Image

from sr_train.batch import Image
from sr_train.files import write_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "TIFF")  # JPEG also opens the MPO files of some phones

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))

_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284  # TIFF tags

_ORIENTATION = 0x0112  # EXIF: 1 upright ... 8

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]

_MANY = 20  # number of names printed from a longer list

# OpenCV's own messages name no file; our errors do. OpenCV 5 has moved the function.
cast("Any", getattr(cv2.utils, "logging", cv2)).setLogLevel(0)


class ImageError(ValueError):
    """Image file that cannot be used; the message gives the reason."""


class BadFilesError(ValueError):
    """Files that cannot be used, listed in one message with a reason for each."""

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        shown = "\n".join(f"  {p}" for p in self.problems[:_MANY])
        more = f"\n  ... and {len(self.problems) - _MANY} more" if len(self.problems) > _MANY else ""
        super().__init__(f"{what}:\n{shown}{more}")


class Header(NamedTuple):
    """Size, channels and type of an image, read without decoding pixels."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]


def _reason(error: BaseException) -> str:
    return str(error).split("\n")[0].replace("<_io.BytesIO object at", "<data at")[:200] or type(error).__name__


def _open(path: Path, data: bytes) -> PIL.Image.Image:
    """Parse the header; Pillow's decompression-bomb limit bounds the size before memory is allocated."""
    if not data:
        raise ImageError(f"{path}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{path}: refused before it is decoded: {_reason(error)}") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(
            f"{path}: not a readable image (corrupt, or not one of png, jpg, bmp, webp, tiff in 8 or 16 bit)"
        ) from None
    except (OSError, ValueError, SyntaxError, struct.error, TypeError, KeyError, OverflowError) as error:
        raise ImageError(f"{path}: the image header cannot be read: {_reason(error)}") from None
    if min(image.size) < 1:
        raise ImageError(f"{path}: the image header states a size of {image.size[0]}x{image.size[1]} pixels")
    return image


def _header(path: Path, image: PIL.Image.Image) -> Header:
    channels = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "I;16N": 1, "P": 3, "RGB": 3, "CMYK": 3}
    count = channels.get(image.mode, 4 if image.mode in ("RGBA", "LA", "PA", "RGBX", "RGBa") else 3)
    if image.mode in ("P", "RGB") and "transparency" in image.info:
        count = 4
    if image.mode == "F":
        raise ImageError(f"{path}: contains floating-point pixels; 8 and 16 bit are supported")
    deep = image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.format == "TIFF":
        count = 1 if image.mode == "LA" else count  # OpenCV drops this alpha
        tags = cast("Any", image).tag_v2
        deep = deep or max(tags.get(_BITS_PER_SAMPLE, ()), default=8) == 16
        if deep and count > 1 and tags.get(_PLANAR_CONFIGURATION) == 2:  # OpenCV decodes it wrongly without an error
            raise ImageError(f"{path}: a 16-bit TIFF of separate color planes; save it with interleaved channels")
    return Header(image.height, image.width, count, np.dtype(np.uint16 if deep else np.uint8))


def _bytes(path: Path, count: int = -1) -> bytes:
    """Read the first ``count`` bytes of a file, by default all."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read size, channels and depth of an image file without decoding it. Raises ImageError that names the file."""
    path = Path(path)
    try:
        return _header(path, _open(path, _bytes(path, 1 << 16)))
    except ImageError:  # the directory of a TIFF may be at its end, the size of a JPEG after a large thumbnail
        return _header(path, _open(path, _bytes(path)))


def _chunks_fit(data: bytes) -> bool:
    """Return True if the chunks of a PNG end within the file. OpenCV 5 does not check that and allocates up to 4 GB."""
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
    return kind == b"IEND" and at <= len(data)


def missing_end(path: str | os.PathLike[str]) -> str | None:
    """Return an error message for a PNG without its end, else None. Other formats are not checked."""
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
        return f"{path}: corrupt or truncated image (it has no end)"
    return None


def decode_image(data: bytes, path: str | os.PathLike[str]) -> Image:
    """Decode the bytes of an image file to [H, W, C] uint8 or uint16, RGB order; ``path`` is for error messages.

    EXIF orientation is not applied: pixels stay as stored, as in MATLAB's ``imread``.
    """
    path = Path(path)
    image = _open(path, data)
    header = _header(path, image)
    if image.format in ("JPEG", "MPO"):  # OpenCV 4 fills a truncated JPEG with gray without an error; Pillow raises one
        try:
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise ImageError(f"{path}: corrupt or truncated image: {_reason(error)}") from None
        return pixels[..., None] if pixels.ndim == 2 else pixels
    if image.format == "PNG" and not _chunks_fit(data):
        raise ImageError(f"{path}: corrupt or truncated image (its chunks do not fit {len(data)} bytes)")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"{path}: corrupt or truncated image: {_reason(error)}") from None
    if pixels is None:
        raise ImageError(f"{path}: corrupt or truncated image ({image.format}, {header.width}x{header.height})")
    if pixels.dtype not in _DTYPES:
        raise ImageError(f"{path}: contains {pixels.dtype} pixels; 8 and 16 bit are supported")
    if pixels.shape[:2] != (header.height, header.width):
        raise ImageError(
            f"{path}: decoded to {pixels.shape[1]}x{pixels.shape[0]}, its header states {header.width}x{header.height}"
        )
    pixels = _swap_red_blue(pixels)
    return to_rgb(pixels) if header.channels == 3 else pixels  # a palette of grays decodes to one channel, CMYK to four


def _swap_red_blue(pixels: Image) -> Image:
    """Return BGR(A) pixels as RGB(A), and RGB(A) as BGR(A). Gray pixels [H, W] get a channel axis."""
    pixels = np.atleast_3d(pixels)
    if pixels.shape[2] == 1:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read an image file as [H, W, C] uint8 or uint16, C = 1, 3 (RGB) or 4 (RGBA). Raises ImageError that names the file."""
    return decode_image(_bytes(Path(path)), path)


def read_upright(path: str | os.PathLike[str]) -> Image:
    """Read an image as :func:`read_image` does and apply its EXIF orientation: for photographs, not for training pairs."""
    path = Path(path)
    data = _bytes(path)
    pixels = decode_image(data, path)
    try:
        orientation = int(_open(path, data).getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, struct.error, TypeError, KeyError):  # a damaged tag is ignored
        return pixels
    pixels = np.swapaxes(pixels, 0, 1) if orientation in (5, 6, 7, 8) else pixels
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def encode_image(image: Image, suffix: str) -> bytes:
    """Encode [H, W, C] or [H, W] in the format of a suffix; png, bmp, webp and tiff are lossless, jpg has quality 95."""
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype not in _DTYPES:
        raise ValueError(f"an image is [H, W, 1|3|4] uint8 or uint16, not {image.dtype} {image.shape}")
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot write {suffix or 'a file without suffix'!r}: choose one of {', '.join(SUFFIXES)}")
    if image.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        raise ValueError(f"{suffix} files have 8 bits per sample, the image has 16: write .png or .tiff")
    if image.shape[2] == 4 and suffix in (".jpg", ".jpeg", ".bmp"):
        raise ValueError(f"{suffix} files have no alpha channel: write .png, .webp or .tiff")
    options = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 3], ".jpg": _JPEG, ".jpeg": _JPEG}.get(suffix, [])
    try:
        if suffix == ".webp":  # OpenCV loses the colors of transparent pixels
            out = io.BytesIO()
            PIL.Image.fromarray(to_rgb(image) if image.shape[2] == 1 else image).save(
                out, "WEBP", lossless=True, exact=True
            )
            return out.getvalue()
        done, data = cv2.imencode(suffix, _swap_red_blue(image), options)
    except (cv2.error, ValueError, OSError) as error:
        raise ValueError(f"cannot encode {image.shape} as {suffix}: {_reason(error)}") from None
    if not done:
        raise ValueError(f"cannot encode {image.shape} as {suffix}")
    return data.tobytes()


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write [H, W, C] uint8 or uint16 (RGB order) to a png, jpg, bmp, webp or tiff file, atomically."""
    write_bytes(path, encode_image(image, Path(path).suffix))


def to_rgb(image: Image) -> Image:
    """Convert [..., H, W, C] to [..., H, W, 3]: gray is repeated, alpha is dropped (not blended)."""
    if image.shape[-1] == 1:
        return np.repeat(image, 3, axis=-1)
    return image[..., :3]


def to_uint8(image: Image) -> Image:
    """Convert any depth to 8 bits, rounded half up."""
    return image if image.dtype == np.uint8 else ((image.astype(np.uint32) * 2 + 257) // 514).astype(np.uint8)


def to_real(image: Image) -> Image:
    """Convert any depth to float32 in [0, 1]."""
    return image if image.dtype == np.float32 else image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def image_files(folder: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES, what: str = "images") -> list[Path]:
    """List every file below a folder with one of ``suffixes``, sorted; hidden files and folders are skipped.

    Raises FileNotFoundError, NotADirectoryError, or ValueError if there are none; ``what`` names the files in the message.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is not a folder; give the folder that holds the images")
    found: list[Path] = []
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
        paths = [Path(root, name) for name in sorted(files) if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in suffixes]
    foreign = [name for p in found if (name := str(p).encode("utf-8", "backslashreplace").decode()) != str(p)]
    if foreign:
        raise BadFilesError(
            f"{folder}: names that are not UTF-8; rename these files (convmv -f latin1 -t utf8)", foreign
        )
    if not found:
        raise ValueError(f"{folder}: no {what} in it or below it ({', '.join(suffixes)})")
    return sorted(found)


def list_images(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Map the key of every image below a folder (relative path with / and without suffix) to its file, sorted.

    Raises as :func:`image_files` does, and ValueError if two files share a key.
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

"""A data set with many kinds of damage, for the check of data sets: sources, planted files, and what must be found."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
import numpy as np
import PIL.Image
import yaml

from sr_train.data.degrade import reduce_image
from sr_train.data.images import encode_image, read_image, write_image
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.reader import Store
from sr_train.data.toy import toy_files

HEIGHT, WIDTH = 84, 96  # of most images
PATCH = 16


class Planted(NamedTuple):
    """A kind of damage and the finding that must name it."""

    id: str
    kind: str
    file: str  #: path below the folder of the sets
    text: str  #: part of the message
    severity: str = "error"


def tiles():
    """Different windows of photographs."""
    for name in ("astronaut", "motorcycle_left", "ihc"):
        photograph = read_image(toy_files(name)[name])
        for top in range(0, photograph.shape[0] - HEIGHT + 1, HEIGHT):
            for left in range(0, photograph.shape[1] - WIDTH + 1, WIDTH):
                tile = np.ascontiguousarray(photograph[top : top + HEIGHT, left : left + WIDTH])
                if tile[-16:].std() > 3:  # not of one color
                    yield tile


SCORED = {  # windows of photographs that are not among the tiles
    "cat": ("chelsea", slice(0, 300), slice(0, 450)),
    "colors": ("color", slice(20, 348), slice(20, 348)),
    "eye": ("retina", slice(400, 800), slice(300, 796)),
    "sky": ("hubble_deep_field", slice(0, 500), slice(0, 500)),
    "rocket": ("rocket", slice(0, 400), slice(150, 550)),
    "cup": ("coffee", slice(0, 400), slice(0, 590)),
    "galaxy": ("hubble_deep_field", slice(500, 870), slice(480, 980)),
}


def scored_images():
    return {name: read_image(toy_files(photo)[photo])[y, x, :3] for name, (photo, y, x) in SCORED.items()}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(image, rows=None):
    """A PNG with whole chunks, whose pixels end after some rows."""
    raw = b"".join(b"\0" + row.tobytes() for row in image[:rows])
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def pillow(image, form, **options):
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, form, **options)
    return out.getvalue()


def changed(data, at, new):
    at = at if at >= 0 else len(data) + at
    return data[:at] + new + data[at + len(new) :]


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else write_image(path, content)


def _files(folder, tile):
    """Source ``more``: damaged files, and files that are no images."""
    png, jpeg = encode_image(next(tile), ".png"), encode_image(next(tile), ".jpg")
    webp, bmp, tiff = (encode_image(next(tile), s) for s in (".webp", ".bmp", ".tiff"))
    comment = png[:33] + changed(chunk(b"tEXt", b"Comment\0hello"), 10, b"X") + png[33:]
    middle = len(jpeg) // 2
    found: list[Planted] = []

    def plant(name, content, kind, text, severity="error"):
        _write(folder / name, content)
        found.append(Planted(Path(name).stem, kind, f"more/{name}", text, severity))

    plant("empty.png", b"", "damaged", "the file is empty")
    plant("zeros.png", bytes(9000), "damaged", "contains only zero bytes")
    plant("prose.png", b"these are words, not pixels\n" * 40, "unreadable", "not a readable image")
    plant("page.jpg", b"<!DOCTYPE html><html>not found</html>", "unreadable", "a web page")
    plant("pointer.png", b"version https://git-lfs.github.com/spec/v1\n", "unreadable", "git lfs pull")
    plant("zipped.png", b"PK\x03\x04" + bytes(5000), "unreadable", "an archive")
    plant("gif.png", pillow(next(tile), "GIF"), "unreadable", "a GIF")
    plant("png_cut.png", png[: len(png) // 2], "damaged", "more bytes than the file has")
    plant("png_no_end.png", png[:-12], "damaged", "has no end (IEND)")
    plant("png_zero_tail.png", png[:-2000] + bytes(2000), "damaged", "bytes are zero")
    plant("png_crc.png", changed(png, len(png) // 2, b"\xff\0\xff"), "damaged", "CRC error in the PNG chunk IDAT")
    plant("png_crc_text.png", comment, "damaged", "CRC error in the PNG chunk tEXt")
    plant("png_few_rows.png", png_of(next(tile), 40), "damaged", "contains 40 of 84 rows")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    plant("png_bomb.png", bomb, "damaged", "contains 0 of 60,000 rows")
    plant("jpeg_cut.jpg", jpeg[:middle], "damaged", "the JPEG has no end")
    plant("jpeg_cut_with_end.jpg", jpeg[:middle] + b"\xff\xd9", "damaged", "premature end of data segment")
    plant("jpeg_hole.jpg", changed(jpeg, middle, bytes(900)), "damaged", "filled with one color")
    plant("webp_cut.webp", webp[:-500], "damaged", "truncated: the WebP has")
    plant("webp_zero_tail.webp", changed(webp, -600, bytes(600)), "damaged", "bytes are zero")
    plant("bmp_cut.bmp", bmp[:-500], "damaged", "truncated")
    plant("bmp_zero_tail.bmp", changed(bmp, -9000, bytes(9000)), "band", "rows are (0, 0, 0)", "note")
    plant("tiff_cut.tiff", tiff[: len(tiff) // 2], "damaged", "header cannot be read")
    plant("tiff_float.tif", pillow(next(tile)[..., 0].astype(np.float32), "TIFF"), "unreadable", "float32 pixels")
    nan = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    plant("tiff_nan.tif", pillow(nan, "TIFF"), "unreadable", "float32 pixels")
    pages = [PIL.Image.fromarray(next(tile)) for _ in range(3)]
    plant("pages.tif", pillow(next(tile), "TIFF", save_all=True, append_images=pages), "unreadable", "4 pages")
    plant("moving.png", pillow(next(tile), "PNG", save_all=True, append_images=pages), "unreadable", "animated PNG")
    plant("deep.png", next(tile).astype(np.uint16) * 257, "depth", "has uint16 pixels", "note")
    plant("gray.png", next(tile)[..., :1].copy(), "channels", "is gray, most images are RGB", "note")
    alpha = np.dstack([next(tile), np.full((HEIGHT, WIDTH), 200, np.uint8)])
    plant("alpha.png", alpha, "channels", "is RGBA, whose alpha is dropped", "note")
    plant("black.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8), "constant", "all pixels are black", "note")
    plant("tiny.png", next(tile)[:30, :60].copy(), "small", "a patch of 16 LR pixels needs 32x32")
    plant("array.npy", b"\x93NUMPY", "other files", "has no suffix of an image (.npy)", "note")
    same = next(tile)
    _write(folder / "first_of_two.png", same)
    plant("second_of_two.bmp", same, "duplicate", "has the same pixels as", "note")
    _write(folder / "clash.bmp", next(tile))
    plant("clash.png", next(tile), "name", "would both be 'clash'")
    (folder / "lost.png").symlink_to(folder / "moved_away.png")
    os.mkfifo(folder / "pipe.png")
    found.append(Planted("lost", "unreadable", "more/lost.png", "a link to a file that does not exist"))
    found.append(Planted("pipe", "unreadable", "more/pipe.png", "is not a regular file"))
    bad = os.fsencode(folder) + b"/caf\xe9.png"
    Path(os.fsdecode(bad)).write_bytes(png)
    found.append(Planted("latin1", "name", "more/caf\\xe9.png", "is not UTF-8"))
    return found


def _resized(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def _copies(folder):
    """Copies of scored images among the training images."""
    images = scored_images()
    copies = {
        "cat": ("copied.png", images["cat"]),
        "colors": ("half.png", _resized(images["colors"], 0.5)),
        "eye": ("three_quarters.png", _resized(images["eye"], 0.75)),
        "sky": ("compressed.jpg", pillow(images["sky"], "JPEG", quality=80)),
        "rocket": ("cropped.png", images["rocket"][: 400 // 12 * 12, : 400 // 12 * 12]),
        "cup": ("gray_copy.png", np.repeat(cv2.cvtColor(images["cup"], cv2.COLOR_RGB2GRAY)[..., None], 3, 2)),
    }
    for name, content in copies.values():
        _write(folder / name, content if isinstance(content, bytes) else np.ascontiguousarray(content))
    return [
        Planted(Path(file).stem, "leak", f"more/{file}", f"scored/{name}.png") for name, (file, _) in copies.items()
    ]


def _turned(image):
    """JPEG of an image stored on its side, with the EXIF orientation that turns it upright."""
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    return pillow(np.ascontiguousarray(np.rot90(image)), "JPEG", quality=95, exif=exif)


def _pairs(hr, lr, tile):
    """Sources ``hr`` and ``lr``: good pairs, and pairs that are wrong."""
    for number in range(16):
        image = next(tile)
        _write(hr / f"good{number:02d}.png", image)
        _write(lr / f"good{number:02d}x2.png", reduce_image(image, 2))
    found: list[Planted] = []

    def plant(name, high, low, kind, text, file=None, severity="error"):
        _write(hr / f"{name}.png", high)
        if low is not None:
            _write(lr / f"{name}x2.png", np.ascontiguousarray(low))
        found.append(Planted(name, kind, file or f"lr/{name}x2.png", text, severity))

    plant("alone", next(tile), None, "unpaired", "has no LR x2", "hr/alone.png")
    image = next(tile)
    _write(lr / "twice.png", reduce_image(image, 2))
    plant("twice", image, reduce_image(image, 2), "unpaired", "both match", "hr/twice.png")
    image = next(tile)
    _write(lr / "orphanx2.png", reduce_image(image, 2))
    found.append(Planted("orphan", "extra", "lr/orphanx2.png", "has no HR image", "note"))
    image = next(tile)[:83, :95].copy()
    up = cv2.resize(image, (48, 42), interpolation=cv2.INTER_AREA)
    plant("rounded_up", image, up, "pair size", "LR was rounded up")
    found.append(Planted("odd", "odd size", "hr/rounded_up.png", "is no multiple of the scale 2", "note"))
    image = next(tile)
    plant("other_scale", image, reduce_image(image, 3), "pair size", "it fits scale 3")
    plant("same_size", image := next(tile), image, "pair size", "LR is as large as HR")
    plant("exchanged", reduce_image(image := next(tile), 2), image, "pair size", "are HR and LR swapped?")
    image = next(tile)
    _write(hr / "turned.jpg", _turned(image))
    _write(lr / "turnedx2.png", reduce_image(image, 2))
    found.append(Planted("turned", "pair size", "lr/turnedx2.png", "HR has EXIF orientation 6"))
    found.append(Planted("orientation", "orientation", "hr/turned.jpg", "EXIF orientation 6", "note"))
    image = next(tile)
    plant("shifted", image, np.roll(reduce_image(image, 2), 1, axis=1), "pair", "shifted")
    image = next(tile)
    plant("flipped", image, reduce_image(image, 2)[:, ::-1], "pair", "flipped")
    image = next(tile)
    plant("bgr", image, reduce_image(image, 2)[..., ::-1], "pair", "red and blue")
    image = next(tile)
    plant("nearest", image, image[::2, ::2].copy(), "kernel", "the LR of most pairs was made by", severity="note")
    one, other = next(tile), next(tile)
    plant("shuffled1", one, reduce_image(other, 2), "pair", "shuffled2")
    plant("shuffled2", other, reduce_image(one, 2), "pair", "shuffled1")
    return found


def _clips(high, low):
    """Scored clips, with LR."""
    photograph = read_image(toy_files("motorcycle_right")["motorcycle_right"])
    for clip in range(6):
        for t in range(5):
            frame = np.ascontiguousarray(
                photograph[80 * (clip % 5) + t :][:60, 100 * (clip // 5) + 200 + 2 * t :][:, :80]
            )
            _write(high / f"{clip:03d}" / f"{t:08d}.png", frame)
            _write(low / f"{clip:03d}" / f"{t:08d}.png", reduce_image(frame, 2))
    (high / "001" / "00000002.png").unlink()
    (low / "001" / "00000002.png").unlink()
    (low / "002" / "00000004.png").unlink()
    wide = read_image(high / "003" / "00000001.png")[:58]
    write_image(high / "003" / "00000001.png", np.ascontiguousarray(wide))
    write_image(low / "003" / "00000001.png", reduce_image(np.ascontiguousarray(wide), 2))
    shutil.rmtree(high / "004")
    shutil.rmtree(low / "004")
    (high / "004").mkdir()
    for folder in (high, low):
        shutil.copy(folder / "005" / "00000004.png", folder / "005" / "cover.png")
    return [
        Planted("gap", "clip", "clips/001", "frame number 2 is missing"),
        Planted("lr_frame", "unpaired", "clips/002/00000004.png", "has no LR x2"),
        Planted("unequal", "clip", "clips/003/00000001.png", "most frames of its clip are 80x60"),
        Planted("unequal_lr", "clip", "clips_lr/003/00000001.png", "most frames of its clip are 40x30"),
        Planted("no_frames", "clip", "clips/004", "contains no frames"),
        Planted("unnumbered", "clip", "clips/005", "has no number at the end"),
    ]


def _stores(folder, tile):
    """A store with a changed pixel, an LMDB of BasicSR with a changed PNG."""
    for number in range(3):
        _write(folder / "stored" / f"{number}.png", next(tile))
    StoreBuilder(folder / "stored", folder / "x.lmdb", scales=[]).build()
    shutil.rmtree(folder / "stored")
    image = Store(folder / "x.lmdb").read(1, "1")
    data = (folder / "x.lmdb" / "data.mdb").read_bytes()
    (folder / "x.lmdb" / "data.mdb").write_bytes(changed(data, data.index(image.tobytes()) + 5000, b"\1\2\3\4"))
    (folder / "b.lmdb").mkdir()
    lines: list[str] = []
    with lmdb.open(str(folder / "b.lmdb"), map_size=1 << 24) as environment, environment.begin(write=True) as writing:
        for number in range(3):
            png = encode_image(next(tile), ".png")
            writing.put(f"{number}".encode(), changed(png, 900, b"\0\1\2") if number == 2 else png)
            lines.append(f"{number}.png ({HEIGHT},{WIDTH},3) 1")
    (folder / "b.lmdb" / "meta_info.txt").write_text("\n".join(lines))
    return [
        Planted("store", "damaged", "x.lmdb: 1", "checksum differs"),
        Planted("basicsr", "damaged", "b.lmdb/2", "CRC error"),
    ]


def plant(folder: Path) -> list[Planted]:
    """Write the sets and their ``config.yaml``, as a run has it; return what must be found."""
    tile = tiles()
    found = _pairs(folder / "hr", folder / "lr", tile)
    for name, image in scored_images().items():
        _write(folder / "scored" / f"{name}.png", np.ascontiguousarray(image))
    found += _copies(folder / "more")
    found += _files(folder / "more", tile)
    found += _clips(folder / "clips", folder / "clips_lr")
    found += _stores(folder, tile)
    for name in ("0001", "0002", "0003", "0801"):
        _write(folder / "DIV2K_train_HR" / f"{name}.png", next(tile))
    found.append(Planted("div2k", "leak by name", "DIV2K_train_HR", "contains 0801 (1 image)", "note"))
    for number in range(2):
        image = next(tile)
        _write(folder / "REDS" / "train_sharp" / "000" / f"{number:08d}.png", image)
        _write(folder / "REDS" / "train_sharp_bicubic" / "X4" / "000" / f"{number:08d}.png", reduce_image(image, 4))
    found.append(Planted("mixed", "mixed", "REDS", "train_sharp (2 images), train_sharp_bicubic/X4 (2 images)"))
    found.append(Planted("nowhere", "source", "nowhere", "there is no such folder"))
    sources = ("more", "x.lmdb", "b.lmdb", "DIV2K_train_HR", "REDS", "nowhere")
    train = [{"hr": f"{folder}/hr", "lr": f"{folder}/lr"}, *({"hr": f"{folder}/{name}"} for name in sources)]
    val = {"scored": {"hr": f"{folder}/scored"},
           "held": {"hr": f"{folder}/clips", "lr": f"{folder}/clips_lr", "clips": "all"}}  # fmt: skip
    data = {"train": train, "val": val, "scale": 2, "scales": None, "lr_patch": PATCH}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return found

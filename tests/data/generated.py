"""Image files of every kind, written byte by byte from arrays: what no library that reads them has touched."""

import lzma
import struct
import zlib

import numpy as np


def packed(samples, bits, order=">"):
    """Rows of samples [H, W, C] as bytes; samples below a byte are packed, each row into whole bytes."""
    flat = samples.reshape(len(samples), -1)
    if bits == 16:
        return [row.astype(f"{order}u2").tobytes() for row in flat]
    if bits == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    each = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in each]


def _pack_bits(data):
    """PackBits of literal runs."""
    return b"".join(bytes([len(p) - 1]) + p for p in (data[i : i + 128] for i in range(0, len(data), 128)))


_COMPRESS = {1: bytes, 8: zlib.compress, 32946: zlib.compress, 32773: _pack_bits, 34925: lzma.compress}


def _block(samples, bits, order, compression, fill, predictor):
    if predictor == 2:
        samples = samples.astype(np.int64)
        samples = np.concatenate([samples[:, :1], np.diff(samples, axis=1)], axis=1) % 2**bits
    data = b"".join(packed(samples, bits, order))
    data = _COMPRESS.get(compression, bytes)(data)
    if fill == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()
    return data


def tiff(
    samples,
    photometric,
    bits=8,
    *,
    compression=1,
    order="<",
    big=False,
    tile=None,
    rows=5,
    planes=False,
    extra=(),
    orientation=1,
    fill=1,
    predictor=1,
    palette=None,
    kind=1,
    pages=1,
    subfile=0,
    drop=0,
    tags=(),
):
    """A TIFF of samples [H, W, C]; ``tile`` is (width, height), ``drop`` strips are left out, ``tags`` (tag, type, values)."""
    height, width, count = samples.shape
    layers = [samples[..., c : c + 1] for c in range(count)] if planes else [samples]
    blocks = []
    for layer in layers:
        if tile is None:
            parts = [layer[y : y + rows] for y in range(0, height, rows)]
        else:
            down, across = -(-height // tile[1]), -(-width // tile[0])
            whole = np.zeros((down * tile[1], across * tile[0], layer.shape[2]), layer.dtype)
            whole[:height, :width] = layer
            parts = [
                whole[y * tile[1] : (y + 1) * tile[1], x * tile[0] : (x + 1) * tile[0]]
                for y in range(down)
                for x in range(across)
            ]
        blocks += [_block(p, bits, order, compression, fill, predictor) for p in parts]
    blocks = blocks[: len(blocks) - drop]
    out = (b"II" if order == "<" else b"MM") + struct.pack(
        *([f"{order}HHHQ", 43, 8, 0, 0] if big else [f"{order}HI", 42, 0])
    )
    link, number = (len(out) - 8, "Q") if big else (len(out) - 4, "I")
    for page in range(pages):
        offsets = []
        for block in blocks:
            offsets.append(len(out))
            out += block
        out += b"\0" * (len(out) % 2)
        entries = {254: (4, [subfile if page else 0]), 256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * count)}
        entries |= {259: (3, [compression]), 262: (3, [photometric]), 266: (3, [fill]), 274: (3, [orientation])}
        entries |= {277: (3, [count]), 284: (3, [2 if planes else 1]), 317: (3, [predictor]), 339: (3, [kind] * count)}
        places = {273: (4, offsets), 278: (3, [rows]), 279: (4, [len(b) for b in blocks])}
        if tile is not None:
            places = {322: (3, [tile[0]]), 323: (3, [tile[1]]), 324: (4, offsets), 325: (4, [len(b) for b in blocks])}
        entries |= places | ({338: (3, list(extra))} if extra else {}) | {t: (k, v) for t, k, v in tags}
        if palette is not None:
            entries[320] = (3, (palette.astype(int) * 257).T.ravel().tolist())
        room = 8 if big else 4
        table = b""
        for tag, (form, values) in sorted(entries.items()):
            data = struct.pack(f"{order}{len(values)}{'HI'[form == 4]}", *values)
            if len(data) > room:
                out, data = out + data, struct.pack(f"{order}{number}", len(out))
                out += b"\0" * (len(out) % 2)
            table += struct.pack(f"{order}HH{number}", tag, form, len(values)) + data.ljust(room, b"\0")
        at = len(out)
        out += struct.pack(f"{order}{'Q' if big else 'H'}", len(entries)) + table
        out = out[:link] + struct.pack(f"{order}{number}", at) + out[link + room :]
        link = len(out)
        out += bytes(room)
    return out


def bmp(image, bits, size=40, *, palette=None, top_down=False, masks=None, rle=False):
    """A BMP; ``image`` [H, W] of indices, [H, W] of 16- or 32-bit pixels, or [H, W, 3] in RGB order; ``size`` of the header."""
    height, width = image.shape[:2]
    order = image if top_down else image[::-1]
    if rle:
        body = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in order.tolist()) + b"\0\1"
    else:
        if bits >= 16:
            lines = [(row[:, ::-1] if bits == 24 else row.astype(f"<u{bits // 8}")).tobytes() for row in order]
        else:
            lines = packed(order[..., None], bits)
        body = b"".join(line + b"\0" * (-len(line) % 4) for line in lines)
    if size == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
        colors = b"" if palette is None else palette[:, ::-1].astype(np.uint8).tobytes()
    else:
        kind = 1 if rle else 3 if masks else 0
        count = 0 if palette is None else len(palette)
        head = struct.pack(
            "<IiiHHIIiiII", size, width, -height if top_down else height, 1, bits, kind, 0, 0, 0, count, 0
        )
        head += struct.pack(f"<{len(masks or ())}I", *(masks or ()))
        head = head.ljust(size, b"\0")
        colors = b"" if palette is None else np.pad(palette[:, ::-1], ((0, 0), (0, 1))).astype(np.uint8).tobytes()
    start = 14 + len(head) + len(colors)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + head + colors + body


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def scanlines(samples, bits, *, interlaced=False):
    """Compressed pixels of a PNG without filters."""
    passes = [samples[y::down, x::across] for x, y, across, down in _PASSES] if interlaced else [samples]
    return zlib.compress(b"".join(b"\0" + row for p in passes if p.size for row in packed(p, bits)))


def png(samples, color, bits=8, *, interlaced=False, before=(), after=()):
    """A PNG of samples [H, W, C] of a color type, with chunks before and after the pixels."""
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, color, 0, 0, int(interlaced))
    body = chunk(b"IDAT", scanlines(samples, bits, interlaced=interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(before) + body + b"".join(after) + chunk(b"IEND", b"")


def frame_control(number, width, height):
    """An APNG's fcTL chunk."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 10, 0, 0))

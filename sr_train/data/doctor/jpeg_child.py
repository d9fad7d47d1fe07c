"""Program that decodes JPEG files and returns the warnings of libjpeg. It is started by :mod:`.jpeg_warnings`.

libjpeg fills the rest of a damaged image with gray and prints a warning to standard error, which no Python package returns.
The program therefore has a standard error of its own. It imports only OpenCV, so that it starts fast.

For each image it reads the number of bytes (8 bytes, little-endian) and the bytes, and writes the length of the warning
(4 bytes) and the warning.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile

import cv2
import numpy as np


def main() -> None:
    """Answer until the input ends."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        while head := sys.stdin.buffer.read(8):
            data = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
            captured.seek(0)
            captured.truncate()
            try:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                failed = b"" if image is not None else b"OpenCV does not decode it"
            except cv2.error as error:
                failed = str(error).encode()
            captured.seek(0)
            text = captured.read(1000) or failed
            sys.stdout.buffer.write(struct.pack("<I", len(text)) + text)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""Warnings of libjpeg: the only trace of a JPEG whose middle is damaged, because the decoder fills the rest with gray."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from queue import Empty, SimpleQueue

_CHILD = Path(__file__).with_name("jpeg_child.py")

_EXTRA = re.compile(r"(\d+) extraneous bytes? before marker 0xd9")

_HARMLESS_BYTES = 16  # before the end of the image; some cameras write a few

_DAMAGE = re.compile(r"premature end|bad Huffman|instead of RST|extraneous bytes|does not decode|progression", re.I)


def is_damage(warning: str) -> bool:
    """Return True for a warning that means wrong pixels."""
    extra = _EXTRA.search(warning)
    if extra is not None and len(warning.splitlines()) == 1:
        return int(extra[1]) > _HARMLESS_BYTES
    return _DAMAGE.search(warning) is not None


class JpegWarnings:
    """Decoders in processes of their own, as many as threads ask at the same time; a crash ends only its process."""

    def __init__(self) -> None:
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def __enter__(self) -> JpegWarnings:
        return self

    def __exit__(self, *_: object) -> None:
        while True:
            try:
                self._end(self._free.get_nowait())
            except Empty:
                return

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        child.kill()
        child.communicate()

    def of(self, data: bytes) -> str:
        """Return libjpeg's warning for a JPEG, "" if there is none."""
        try:
            child = self._free.get_nowait()
        except Empty:
            child = _start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(struct.pack("<Q", len(data)) + data)
            child.stdin.flush()
            head = child.stdout.read(4)
        except BrokenPipeError:
            head = b""
        if len(head) < 4:
            self._end(child)
            return "OpenCV does not decode it: its process has ended"
        text = child.stdout.read(struct.unpack("<I", head)[0]).decode("utf-8", "replace").strip()
        self._free.put(child)
        return text


def _start() -> subprocess.Popen[bytes]:
    """Start a decoder in a session of its own, so that Ctrl-C reaches only the command."""
    pipe, command = subprocess.PIPE, [sys.executable, "-I", str(_CHILD)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True)

"""A shared file system that does not answer for a moment: images are read again."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from sr_train import files
from sr_train.data.images import ImageError, read_header, read_image, write_image


class Passing(io.BytesIO):
    def read(self, *_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def failing(monkeypatch):
    """Function that lets the first ``times`` reads fail; returns the list of the pauses so far."""

    def start(times):
        real, pauses = Path.open, []

        def opened(path, mode="r", *rest, **options):
            nonlocal times
            if mode == "rb" and path.suffix == ".png" and times:
                times -= 1
                return Passing()
            return real(path, mode, *rest, **options)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(files.time, "sleep", pauses.append)
        return pauses

    return start


@pytest.mark.parametrize("times", [1, len(files.PAUSES)])
def test_an_error_that_passes_is_not_seen(tmp_path, failing, times):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    pauses = failing(times)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)
    assert pauses == list(files.PAUSES[:times])


def test_an_error_that_stays_names_the_file(tmp_path, failing):
    write_image(tmp_path / "a.png", np.zeros((9, 7, 3), np.uint8))
    failing(99)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"a\.png: cannot be read: Input/output error \(5 attempts\)"):
            read(tmp_path / "a.png")


def test_a_missing_file_is_not_tried_again(tmp_path, failing):
    pauses = failing(0)
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "gone.png")
    assert not pauses

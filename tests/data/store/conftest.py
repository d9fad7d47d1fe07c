"""A folder of images of all kinds, and the store that is made of it."""

import numpy as np
import pytest
from stores import picture, prepare

from sr_train.data.images import write_image


@pytest.fixture
def folder(tmp_path):
    """Twelve images of all kinds, some in a folder of their own."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for k in range(8):
        write_image(folder / f"{k:04d}.png", picture(k, 30 + k, 47 - k))
    write_image(folder / "more" / "grey.png", picture(8, channels=1))
    write_image(folder / "more" / "alpha.webp", picture(9, channels=4))
    write_image(folder / "more" / "deep.tiff", picture(10, dtype=np.uint16))
    write_image(folder / "more" / "dot.bmp", picture(11, 3, 3))
    return folder


@pytest.fixture
def stored(folder, tmp_path):
    prepare(folder, tmp_path / "x.lmdb")
    return tmp_path / "x.lmdb"

"""Job of prepare.py that makes an LMDB in BasicSR's way, with the Python of a venv that has BasicSR 1.4.2.

    PEER_PYTHON scripts/bench/prepare_peer.py ZIP FOLDER THREADS

It unpacks the archive, crops sub-images of 480x480 every 240 pixels (the rule of ``extract_subimages.py``, which is not in the
package; PNG level 3) and calls BasicSR's ``make_lmdb_from_imgs``. The last line is JSON. This file does not import sr_train.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import zipfile
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path

import cv2

CROP, STEP = 480, 240


def starts(size: int) -> list[int]:
    """Return where crops begin; an extra one is aligned to the border."""
    found = list(range(0, size - CROP + 1, STEP))
    return found if size == found[-1] + CROP else [*found, size - CROP]


def extract(job: tuple[str, str]) -> int:
    """Write the sub-images of one image; return their number."""
    image = cv2.imread(job[0], cv2.IMREAD_UNCHANGED)
    assert image is not None
    count = 0
    for top in starts(image.shape[0]):
        for left in starts(image.shape[1]):
            count += 1
            name = f"{job[1]}/{Path(job[0]).stem}_s{count:03d}.png"
            cv2.imwrite(name, image[top : top + CROP, left : left + CROP], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return count


def main() -> None:
    archive, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # The package imports torch and all of its networks; this file of it imports OpenCV and lmdb only.
    package = importlib.util.find_spec("basicsr")
    if package is None or package.origin is None:
        raise SystemExit("BasicSR is not installed in this Python")
    spec = importlib.util.spec_from_file_location("lmdb_util", Path(package.origin).with_name("utils") / "lmdb_util.py")
    assert spec is not None
    assert spec.loader is not None
    util = importlib.util.module_from_spec(spec)
    sys.modules["lmdb_util"] = util  # its worker processes find its functions there
    spec.loader.exec_module(util)
    times = [time.monotonic()]
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "images")
    times.append(time.monotonic())
    (folder / "sub").mkdir()
    with Pool(threads) as pool:
        files = sorted(map(str, (folder / "images").rglob("*.png")))
        count = sum(pool.map(extract, [(file, str(folder / "sub")) for file in files], chunksize=1))
        pool.close()
        pool.join()
    times.append(time.monotonic())
    paths = sorted(file.name for file in (folder / "sub").iterdir())
    keys = [Path(path).stem for path in paths]
    util.make_lmdb_from_imgs(
        str(folder / "sub"), str(folder / "sub.lmdb"), paths, keys, multiprocessing_read=True, n_thread=threads
    )
    times.append(time.monotonic())
    parts = dict(zip(("unpack", "extract", "lmdb"), (b - a for a, b in pairwise(times)), strict=True))
    print(json.dumps({"crops": count, **parts}))


if __name__ == "__main__":
    main()

"""Photographs from the scikit-image package: real training data without a download.

The astronaut is NASA's (public domain), coffee, chelsea and rocket are CC0 or public domain, motorcycle is from
the Middlebury stereo set, ihc is a CC0 micrograph. The docstrings of ``skimage.data`` name each source.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

#: photographs that recipes train on, and those that they validate on
TRAIN = ("astronaut", "coffee", "rocket", "motorcycle_left", "ihc")

VALIDATE = ("chelsea",)


def toy_files(names: str = ",".join(TRAIN)) -> dict[str, Path]:
    """Return {name: file} for the photographs in ``names``, e.g. ``"astronaut,coffee"``.

    Raises ValueError for an unknown name.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImportError("the toy photographs come with scikit-image: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    files = {p.stem: p for p in sorted(folder.glob("*")) if p.suffix in (".png", ".jpg")}
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    missing = [n for n in wanted if n not in files]
    if missing or not wanted:
        raise ValueError(f"toy:{names}: no photograph {missing}; scikit-image contains {', '.join(files)}")
    return {n: files[n] for n in wanted}

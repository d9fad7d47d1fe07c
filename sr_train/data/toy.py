"""Photographs that come inside the scikit-image wheel: real training data with nothing to download.

The astronaut is NASA's (public domain), coffee, chelsea and rocket are CC0 or public domain, motorcycle is of the
Middlebury stereo set, ihc is a CC0 micrograph; the docstrings of ``skimage.data`` name each source.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

#: What a recipe trains on, and what it is validated on.
TRAIN = ("astronaut", "coffee", "rocket", "motorcycle_left", "ihc")

VALIDATE = ("chelsea",)


def toy_files(names: str = ",".join(TRAIN)) -> dict[str, Path]:
    """Key -> file of the photographs named, e.g. ``"astronaut,coffee"``. Raises ValueError for a name there is not."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImportError("the toy photographs come with scikit-image: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    files = {p.stem: p for p in sorted(folder.glob("*")) if p.suffix in (".png", ".jpg")}
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    missing = [n for n in wanted if n not in files]
    if missing or not wanted:
        raise ValueError(f"toy:{names}: no photograph {missing}; scikit-image brings {', '.join(files)}")
    return {n: files[n] for n in wanted}

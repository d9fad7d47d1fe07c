"""Folder of LR images (PNG) made by a degradation, with a table of what was drawn, for an evaluation or as training pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sr_train.console import counted
from sr_train.data.degradation.whole import WholeMaker
from sr_train.data.images import Header, write_image
from sr_train.data.store.drawn import DrawnTable
from sr_train.data.store.partial import writer_lock
from sr_train.data.store.scan import Estimate, Inputs, Reduction
from sr_train.files import remove_leftovers, write_bytes

_STATE = (
    ".degrade"  # folder with the plan and the lines of an unfinished table; hidden, so no command takes it for images
)

_PLAN = "plan.json"


def _unchecked(headers: Mapping[str, Header]) -> list[str]:
    """Return no problems: images may have different sizes."""
    return []


class LRFolder:
    """Writer of the LR images of one scale. A killed command continues where it was.

    The table is next to the folder, ``NAME.csv``.

    Args:
        images: folder, archive or LMDB of HR images; see :class:`.builder.StoreBuilder`.
        folder: folder to make.
        scale: HR pixels per LR pixel.
        maker: maker of LR.
        workers: number of threads.
        skip_bad: true to leave unreadable images out; false to raise an error.
        listed: text file with the names of the images to use; default: all.
    """

    def __init__(
        self,
        images: str,
        folder: str,
        *,
        scale: int,
        maker: WholeMaker,
        workers: int,
        skip_bad: bool,
        listed: str | None,
    ) -> None:
        self.folder = Path(folder)
        self.table = self.folder.with_name(f"{self.folder.name}.csv")
        self.scale = scale
        plan = Reduction((scale,), maker.name)
        options: dict[str, Any] = {
            "workers": workers,
            "skip_bad": skip_bad,
            "listed": listed,
            "check": _unchecked,
        }
        copies = self.folder.absolute().parent
        self.inputs = Inputs(Path(images), plan, files=None, lr={}, copies=copies, maker=maker, hr=False, **options)
        digest = hashlib.blake2b(digest_size=8)
        for key, file in self.inputs.files.items():
            digest.update(f"{key} {file.stat().st_size}\n".encode())
        self.plan: dict[str, Any] = {
            "made": maker.name, "scale": scale, "images": digest.hexdigest(), "degrade": maker.config
        }  # fmt: skip

    def complete(self) -> bool:
        """Return True if the folder is finished. Raise FileExistsError if it has other contents."""
        path = self.folder / _STATE / _PLAN
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise FileExistsError(
                    f"{self.folder}: exists and was not made by sr-prepare degrade=; give another out="
                )
            return False
        try:
            plan = json.loads(path.read_bytes())
        except ValueError:
            raise FileExistsError(f"{path}: cannot be read; delete {self.folder} and run sr-prepare again") from None
        different = [key for key in ("made", "scale", "images") if plan.get(key) != self.plan[key]]
        if different:
            shown = "; ".join(f"{key}: {plan.get(key)}, requested {self.plan[key]}" for key in different)
            raise FileExistsError(
                f"{self.folder}: was made from other images or in another way ({shown}); give another out="
            )
        return bool(plan.get("finished")) and self.table.exists()

    def estimate(self, progress: Callable[[int], object]) -> Estimate:
        """Check the input images, memory and disk space before anything is written."""
        return self.inputs.estimate(self.folder, self.folder / _STATE, progress)

    def build(self, progress: Callable[[int], object]) -> str:
        """Write every missing image and the table. Return one line about the folder."""
        state = self.folder / _STATE
        state.mkdir(parents=True, exist_ok=True)
        with writer_lock(state):
            for place in {state, *(self._file(key).parent for key in self.inputs.files)}:
                remove_leftovers(place)
            self._write_plan(finished=False)
            rows = DrawnTable(state)
            done = [key for key in self.inputs.files if (self.scale, key) in rows.rows and self._file(key).exists()]
            progress(len(done))
            for item in self.inputs.load([key for key in self.inputs.files if key not in set(done)]):
                if item is not None:
                    self._file(item.key).parent.mkdir(parents=True, exist_ok=True)
                    rows.add(item.drawn)
                    write_image(self._file(item.key), item.images[self.scale][0])
                progress(1)
            self.inputs.raise_bad()
            self.inputs.raise_none()
            write_bytes(self.table, rows.text(self.inputs.files))
            self._write_plan(finished=True)
            rows.delete()
        self.inputs.discard_copies()
        return self.describe()

    def describe(self) -> str:
        """Return the number of images and the place of the table in one line."""
        return f"{self.folder}: {counted(len(self.inputs.files), 'LR image')} of x{self.scale}; drawn numbers: {self.table}"

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.png"

    def _write_plan(self, *, finished: bool) -> None:
        text = json.dumps({**self.plan, "finished": finished}, indent=1, default=str)
        write_bytes(self.folder / _STATE / _PLAN, text.encode())

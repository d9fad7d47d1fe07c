"""Damage to the images of a run after it has checked them."""

from pathlib import Path

import lightning as L


class Damage(L.Callback):
    """Cuts hr/0001.png to half its size, or removes all images, before the first batch is loaded."""

    def __init__(self, remove=False):
        self.remove = remove

    def setup(self, trainer, pl_module, stage):
        if not trainer.is_global_zero:
            return
        if self.remove:
            for path in Path("hr").iterdir():
                path.unlink()
            return
        path = Path("hr/0001.png")
        data = path.read_bytes()
        if len(data) > 10_000:
            path.write_bytes(data[:5000])

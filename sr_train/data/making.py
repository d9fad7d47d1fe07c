"""Choice of the maker of LR for each training source of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sr_train.data.degradation.base import Degradation
from sr_train.data.degradation.maker import LRMaker, check_degradation

_HINT = "give degrade=NAME, an option of the group degrade, or degrade={_target_: CLASS}"


class Makers:
    """Makers of the training patches of a stage's sources.

    Args:
        degrade: degradation for sources without ``lr``; ``None`` or an empty mapping for bicubic reduction.
        usm: true to sharpen HR and return it as the target.
        arithmetic: name of the rounding rules of bicubic reduction.
        scales: scales of the stage.
        channels: channels of the images.
    """

    def __init__(
        self,
        degrade: Degradation | Mapping[str, Any] | None,
        *,
        usm: bool,
        arithmetic: str,
        scales: Sequence[int],
        channels: int,
    ) -> None:
        self.usm, self.arithmetic, self.scales, self.channels = usm, arithmetic, scales, channels
        if usm and channels == 4:
            raise ValueError("data.usm=true: sharpens gray and RGB images (channels=1 or 3), not channels=4")
        self.degrade = self._checked("degrade", degrade)

    def _checked(self, where: str, degrade: Any) -> Degradation | None:
        if degrade is None or degrade == {}:
            return None
        if isinstance(degrade, str | Mapping):
            raise ValueError(f"{where}={degrade}: is no object that makes LR; {_HINT}")
        for scale in self.scales:
            check_degradation(degrade, where, scale, self.channels)
        return degrade

    def of(self, where: str, source: Mapping[str, Any]) -> LRMaker | None:
        """Return the maker of a source of ``data.train``; ``None`` if its patches are those of its files or bicubic."""
        degrade = self.degrade
        if "degrade" in source:
            degrade = self._checked(f"{where}.degrade", source["degrade"])
            if degrade is not None and source.get("lr") is not None:
                raise ValueError(
                    f"{where}: has lr and degrade; leave lr out to have LR made, or degrade to use the files"
                )
        if source.get("lr") is not None:
            degrade = None
        if degrade is None and not self.usm:
            return None
        return LRMaker(degrade, usm=self.usm, arithmetic=self.arithmetic)

    def check_used(self, train: Sequence[Mapping[str, Any]]) -> None:
        """Raise ValueError if there is a degradation for sources without ``lr``, but every source has ``lr`` or its own."""
        sources = [source for source in train if "hr" in source]  # others have been refused
        if self.degrade is None or any(s.get("lr") is None and "degrade" not in s for s in sources):
            return
        if all(source.get("lr") is not None for source in sources):
            hr = ", ".join(f"{{hr: {source['hr']}}}" for source in sources)
            raise ValueError(
                f"degrade ({type(self.degrade).__name__}): every source of data.train has lr, so no LR would be made; leave lr "
                f"out: 'data.train=[{hr}]', or give degrade=bicubic to use the files"
            )
        raise ValueError(
            f"degrade ({type(self.degrade).__name__}): every source of data.train has lr or its own degrade, so it is not "
            "used; give degrade=bicubic"
        )

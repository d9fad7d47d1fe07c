"""Sizes, depths and channels of decoded images, compared with their LR images and with the rest of their source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence

from sr_train.data.doctor.examine import Facts, Item
from sr_train.data.doctor.findings import Finding, finding
from sr_train.data.doctor.opened import Opened
from sr_train.data.doctor.specs import TRAIN
from sr_train.data.video.clips import split_key

_LEAST = 8  # images of a source from which "the rest" is known

_MOST = 0.25  # share of the images that can be unlike the rest

FactsOf = Mapping[str, Facts]  #: by the name of the item


def shape_findings(opened: Opened, facts: FactsOf) -> Iterator[Finding]:
    """Return the findings of one source."""
    groups = [list(opened.hr.values()), *(list(own.values()) for own in opened.lows.values())]
    for items in groups:
        known = [(item, facts[item.name]) for item in items if item.name in facts]
        yield from _unlike("depth", known, [f.dtype for _, f in known], "has {} pixels, most images have {}")
        yield from _unlike("channels", known, [_colors(f) for _, f in known], "is {}, most images are {}")
        for item, own in known:
            if own.orientation != 1:
                yield finding(
                    "orientation", item.name,
                    f"EXIF orientation {own.orientation}: the pixels are used as stored, {own.size}, not upright",
                )  # fmt: skip
        if opened.video:
            unequal = list(_unequal_frames(known))
            if opened.spec.video or len(unequal) <= _MOST * len(known):  # else the folders are no clips
                yield from unequal
    yield from _multiples(opened, facts)
    yield from _small(opened, facts)
    for scale, lows in opened.lows.items():
        yield from _pair_sizes(opened, scale, lows, facts)


def _colors(facts: Facts) -> str:
    return {1: "gray", 3: "RGB", 4: "RGBA, whose alpha is dropped"}[facts.channels]


def _unlike(kind: str, known: Sequence[tuple[Item, Facts]], values: Sequence[Hashable], text: str) -> Iterator[Finding]:
    """Yield a finding for every image whose value is not that of the most images."""
    if len(set(values)) < 2:
        return
    ((usual, _),) = Counter(values).most_common(1)
    for (item, _), value in zip(known, values, strict=True):
        if value != usual:
            yield finding(kind, item.name, text.format(value, str(usual).partition(",")[0]))


def _unequal_frames(known: Sequence[tuple[Item, Facts]]) -> Iterator[Finding]:
    clips: dict[str, list[tuple[Item, Facts]]] = {}
    for item, own in known:
        clips.setdefault(split_key(item.key)[0], []).append((item, own))
    for frames in clips.values():
        ((size, _),) = Counter(own.size for _, own in frames).most_common(1)
        for item, own in frames:
            if own.size != size:
                yield finding("clip", item.name, f"is {own.size}, most frames of its clip are {size}")


def _multiples(opened: Opened, facts: FactsOf) -> Iterator[Finding]:
    """Yield a finding for every size that is no multiple of the scale, where those of the other images are."""
    sizes = {item.name: facts[item.name] for item in opened.hr.values() if item.name in facts}
    for scale in opened.spec.scales:
        odd = {name: f for name, f in sizes.items() if f.height % scale or f.width % scale}
        if len(sizes) >= _LEAST and 0 < len(odd) <= _MOST * len(sizes):
            for name, own in odd.items():
                yield finding(
                    "odd size", name, f"{own.size} is no multiple of the scale {scale}, the sizes of most images are"
                )  # fmt: skip


def _small(opened: Opened, facts: FactsOf) -> Iterator[Finding]:
    patch, scales = opened.spec.patch, opened.spec.scales
    if opened.spec.role != TRAIN or not patch:
        return
    for item in opened.hr.values():
        own = facts.get(item.name)
        if own is not None and scales and min(own.height, own.width) // max(scales) < patch:
            need = patch * max(scales)
            yield finding("small", item.name, f"is {own.size}; a patch of {patch} LR pixels needs {need}x{need}")


def _pair_sizes(opened: Opened, scale: int, lows: Mapping[str, Item], facts: FactsOf) -> Iterator[Finding]:
    for name, low_item in lows.items():
        high, low = facts.get(opened.hr[name].name), facts.get(low_item.name)
        if high is not None and low is not None and not fits(high, low, scale):
            text = f"LR {low.size} does not fit HR {high.size} at scale {scale}: {_reason(high, low, scale)}"
            yield finding("pair size", low_item.name, text)


def fits(high: Facts, low: Facts, scale: int) -> bool:
    """Return True if an LR image has the size of its HR image divided by the scale, rounded down."""
    return (low.height, low.width) == (high.height // scale, high.width // scale)


def _reason(high: Facts, low: Facts, scale: int) -> str:
    size, lr = (high.height, high.width), (low.height, low.width)
    if lr == (size[1] // scale, size[0] // scale):
        for name, own in (("HR", high), ("LR", low)):
            if own.orientation in (5, 6, 7, 8):
                return (
                    f"{name} has EXIF orientation {own.orientation}, which a program has applied to the other image; save "
                    f"the {name} image upright (magick FILE -auto-orient FILE)"
                )
        return "one of them is rotated by 90 degrees"
    if lr == size:
        return "LR is as large as HR; leave lr out to make LR from HR"
    if lr[0] > size[0]:
        return "are HR and LR swapped?"
    if all(a in (b // scale, -(-b // scale)) for a, b in zip(lr, size, strict=True)):
        cropped = "x".join(str(n // scale * scale) for n in reversed(size))
        return f"LR was rounded up, as MATLAB's imresize does; crop HR to {cropped} before the reduction"
    other = [s for s in range(1, 17) if lr == (size[0] // s, size[1] // s)]
    return f"it fits scale {other[0]}" if other else "they are different images, or one is cropped"

"""Windows: the frames that a video network takes to restore the center one."""

from __future__ import annotations

#: replacements for frames beyond the ends of a clip; EDVR tests SR with the third, deblurring with the first
PADDINGS = ("replicate", "reflection", "reflection_circle", "circle")


def check_frames(frames: int) -> None:
    """Raise ValueError unless ``frames`` is an odd number, so that a window has a center frame."""
    if frames < 1 or frames % 2 == 0:
        raise ValueError(
            f"frames={frames}: expected an odd number of at least 1 (center frame and as many on each side)"
        )


def check_padding(padding: str) -> None:
    """Raise ValueError unless ``padding`` is one of the names in ``PADDINGS``."""
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}: choose from {', '.join(PADDINGS)}")


def padded_window(center: int, *, frames: int, length: int, padding: str = "reflection_circle") -> list[int]:
    """Return the numbers of the ``frames`` consecutive frames around frame ``center`` of a clip with ``length`` frames.

    Numbers outside the clip are replaced. ``replicate`` repeats the first or last frame. ``reflection`` mirrors at the
    first or last frame (2 1 0 1 2 for 5 frames around frame 0). The other two rules use the frames just beyond the
    other end of the window, so that no frame occurs twice: ``reflection_circle`` in reverse order (4 3 0 1 2, as in
    EDVR), ``circle`` in order (3 4 0 1 2).
    """
    check_padding(padding)
    check_frames(frames)
    if not 0 <= center < length or frames > length:
        raise ValueError(f"a clip with length {length} has no window of length {frames} around frame {center}")
    half = frames // 2
    first, last = center - half, center + half

    def within(i: int) -> int:
        if 0 <= i < length:
            return i
        early = i < 0
        if padding == "replicate":
            return 0 if early else length - 1
        if padding == "reflection":
            return -i if early else 2 * (length - 1) - i
        if padding == "reflection_circle":
            return last - i if early else first - (i - (length - 1))
        return i + frames if early else i - frames

    return [within(i) for i in range(first, last + 1)]

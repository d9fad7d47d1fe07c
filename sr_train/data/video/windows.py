"""Which frames a video network sees around the frame that it restores."""

from __future__ import annotations

#: How frames beyond a clip's ends are made up; EDVR tests SR with the third, deblurring with the first.
PADDINGS = ("replicate", "reflection", "reflection_circle", "circle")


def check_frames(frames: int) -> None:
    """Raise ValueError for a window that has no centre."""
    if frames < 1 or frames % 2 == 0:
        raise ValueError(
            f"frames={frames}: expected an odd number from 1 on: the centre frame and as many on each side"
        )


def check_padding(padding: str) -> None:
    """Raise ValueError for a padding there is not."""
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}: choose from {', '.join(PADDINGS)}")


def padded_window(centre: int, *, frames: int, length: int, padding: str = "reflection_circle") -> list[int]:
    """The ``frames`` consecutive frames around ``centre`` of a clip of ``length``, made up where the clip has none.

    ``replicate`` repeats the first or last frame, ``reflection`` mirrors at it (2 1 0 1 2). The other two take the frames
    that follow the window at its other end, so that no frame is seen twice: ``reflection_circle`` the farthest first
    (4 3 0 1 2, EDVR's), ``circle`` in their order (3 4 0 1 2).
    """
    check_padding(padding)
    check_frames(frames)
    if not 0 <= centre < length or frames > length:
        raise ValueError(f"no window of {frames} frames around frame {centre} of a clip of {length}")
    half = frames // 2
    first, last = centre - half, centre + half

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

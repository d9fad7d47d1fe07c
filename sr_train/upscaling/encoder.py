"""Encoders of videos: containers, codecs and their settings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sr_train.data.video.film_reader import import_av

#: suffixes of videos that can be written -> FFmpeg's name of the container
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts",
}  # fmt: skip

_QUALITY = {
    "libx264": 18,
    "libx264rgb": 18,
    "libx265": 20,
    "libvpx-vp9": 24,
    "libsvtav1": 24,
}  # values of about equal quality

_BEST = {
    "libx264": 51,
    "libx264rgb": 51,
    "libx265": 51,
    "libvpx-vp9": 63,
    "libsvtav1": 63,
}  # largest value: worst quality

_PRESETS = ("libx264", "libx264rgb", "libx265")

_NAMES = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

_HELD = 64 << 20  # bytes of frames that an encoder may look ahead

FIXED_RATE = (".avi",)  #: containers whose frames have no time stamps


class Options(NamedTuple):
    """Options for encoding a video."""

    codec: str = "auto"
    quality: int | None = None
    preset: str | None = None

    def codec_for(self, path: Path) -> str:
        """Return the name of the codec for a file.

        ``auto`` is VP9 for .webm, which allows no H.264, and H.264 otherwise.
        """
        if self.codec != "auto":
            return self.codec
        return "libvpx-vp9" if path.suffix.lower() == ".webm" else "libx264"

    def settings_for(self, path: Path, height: int, width: int) -> dict[str, str]:
        """Return the settings of the encoder for a video of height x width pixels."""
        codec, given = self.codec_for(path), {}
        if codec in _QUALITY:
            given["crf"] = str(_QUALITY[codec] if self.quality is None else self.quality)
        if path.suffix.lower() in FIXED_RATE and codec.startswith("libx26"):
            given["bf"] = "0"  # AVI shows frames in the order of the file
        if self.preset is not None:
            given["preset"] = self.preset
        ahead = min(max(_HELD // (2 * height * width), 4), 40)  # memory does not depend on the encoder's default
        if codec in ("libx264", "libx264rgb"):
            given |= {"rc-lookahead": str(ahead)}
        elif codec == "libx265":
            given["x265-params"] = f"rc-lookahead={max(ahead, 5)}:log-level=none"
        elif codec == "libvpx-vp9":
            given |= {"b": "0", "lag-in-frames": str(min(ahead, 25)), "row-mt": "1"}
        return given


def check_options(options: Options) -> None:
    """Raise ValueError for an unknown codec, or for a setting that the codec does not have."""
    av = import_av()
    codec = options.codec
    if codec != "auto":
        try:
            kind = av.codec.Codec(codec, "w").type
        except (ValueError, av.FFmpegError):
            kind = "none"
        if kind != "video":
            have = [c for c in ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1") if c in av.codecs_available]
            raise ValueError(f"codec={codec}: this PyAV has no such video encoder; choose e.g. from {', '.join(have)}")
    named = "libx264" if codec == "auto" else codec
    if options.quality is not None:
        if named not in _QUALITY:
            raise ValueError(f"quality={options.quality}: codec={codec} has no setting for quality; remove quality=")
        if not 0 <= options.quality <= _BEST[named]:
            raise ValueError(f"quality={options.quality}: expected 0 (best) to {_BEST[named]} for codec={codec}")
    if options.preset is not None:
        if named not in _PRESETS:
            raise ValueError(f"preset={options.preset}: only {', '.join(_PRESETS)} have presets, not codec={codec}")
        if options.preset not in _NAMES:
            raise ValueError(f"preset={options.preset}: choose from {', '.join(_NAMES)}")

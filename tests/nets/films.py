"""Small films for tests, made by PyAV alone: nothing of them comes from the project."""

from fractions import Fraction

import av
import numpy as np


def photograph_frames(frames=12, width=48, height=32, seed=0):
    """[T, h, w, 3] uint8: smooth, moving."""
    y, x = np.mgrid[:height, :width].astype(float)
    rows = []
    for t in range(frames):
        waves = [np.sin((x + 2 * t) / (5 + c) + seed) * np.cos((y - t) / (4 + c)) for c in range(3)]
        rows.append(np.stack(waves, -1) * 90 + 128)
    return np.clip(np.stack(rows), 0, 255).astype(np.uint8)


def write_film(
    path, frames, *, codec="libx264", pixels="yuv420p", rate=24, times=None, base=None, sound=(), options=None,
    color=None, rotation=None, aspect=None, planes=None, start=0,
):  # fmt: skip
    """A film of [T, h, w, 3]; or of flat ``planes`` values, one per plane, for exact colors."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate)
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        context.options = options or {}
        context.time_base = stream.time_base = base or Fraction(1, rate)
        if color is not None:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        sounds = [film.add_stream(name, rate=48000) for name in sound]
        for t, pixel in enumerate(frames):
            if planes is None:
                frame = av.VideoFrame.from_ndarray(pixel, "rgb24").reformat(format=pixels)
            else:
                frame = flat(frames.shape[2], frames.shape[1], pixels, planes[t % len(planes)])
            frame.pts, frame.time_base = start + (t if times is None else times[t]), context.time_base
            if color is not None:
                frame.colorspace, frame.color_range = color[:2]
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        rng = np.random.default_rng(0)
        for one in sounds:
            for t in range(24):
                data = (rng.random((2, 1024)) - 0.5).astype(np.float32)
                kind = "fltp"
                if one.codec_context.name.startswith("pcm"):
                    data, kind = (data.T.reshape(1, -1) * 32767).astype(np.int16), "s16"
                frame = av.AudioFrame.from_ndarray(data, kind, "stereo")
                frame.sample_rate, frame.pts = 48000, t * 1024 + round(start * context.time_base * 48000)
                film.mux(one.encode(frame))
            film.mux(one.encode(None))
    return path


def flat(width, height, pixels, values):
    """A frame of one value a plane."""
    frame = av.VideoFrame(width, height, pixels)
    for plane, value in zip(frame.planes, values, strict=True):
        deep = frame.format.components[0].bits > 8
        np.frombuffer(plane, np.uint16 if deep else np.uint8)[:] = value
    return frame


def packets(path, kind):
    """(time stamp in seconds, bytes) of every packet of a kind of stream, stream by stream."""
    with av.open(str(path)) as film:
        found = {s.index: [] for s in film.streams if s.type == kind}
        for packet in film.demux():
            if packet.stream_index in found and packet.size:
                found[packet.stream_index].append((packet.pts * packet.time_base, bytes(packet)))
    return list(found.values())


def decoded(path, pixels=None):
    """(time stamps in seconds, frames as arrays in their own or a given format, the stream's facts)."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        times, frames = [], []
        facts = {}
        for frame in film.decode(stream):
            times.append(frame.pts * frame.time_base)
            made = frame if pixels is None else frame.reformat(format=pixels)
            frames.append([np.array(np.frombuffer(p, np.uint8)).reshape(p.height, -1) for p in made.planes])
            c = stream.codec_context
            facts = {
                "format": frame.format.name, "size": (frame.height, frame.width), "matrix": int(frame.colorspace),
                "range": int(frame.color_range), "primaries": int(c.color_primaries), "transfer": int(c.color_trc),
                "aspect": stream.sample_aspect_ratio, "rotation": frame.rotation, "rate": stream.average_rate,
                "codec": c.name,
            }  # fmt: skip
    return times, frames, facts

"""Reading and writing of videos: colors against the textbook, bits, time stamps, sound."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from nets.films import decoded, packets, photograph_frames, write_film

from sr_train.data.images import write_image
from sr_train.data.video.film_color import Color, PixelFormat, from_rgb, to_rgb
from sr_train.data.video.film_reader import FilmError, FilmReader
from sr_train.upscaling.encoder import Options, check_options
from sr_train.upscaling.film_writer import choose_pixel_format, film_writer

pytestmark = pytest.mark.video

GREY = np.zeros((6, 32, 48, 3), np.uint8)
SHARES = {1: (0.2126, 0.7152, 0.0722), 6: (0.299, 0.587, 0.114), 9: (0.2627, 0.6780, 0.0593)}


def textbook(values, matrix, full, depth=8):
    """BT.601, BT.709, BT.2020: Y'CbCr samples -> RGB in 0 ... 255."""
    y, cb, cr = (float(v) / 2 ** (depth - 8) for v in values)
    top = (2**depth - 1) / 2 ** (depth - 8)
    y, cb, cr = (
        (y / top, (cb - 128) / top, (cr - 128) / top) if full else ((y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224)
    )
    kr, kg, kb = SHARES[matrix]
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    return [min(max(255 * v, 0), 255) for v in (r, (y - kr * r - kb * b) / kg, b)]


def read(path):
    with FilmReader(path) as film:
        return list(film.frames()), film.look


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixels", "depth"), [("yuv420p", 8), ("yuv444p10le", 10)])
def test_flat_colors_equal_the_textbook_formula(tmp_path, matrix, full, pixels, depth):
    values = [(150, 90, 170), (60, 140, 120), (200, 128, 128)]
    scaled = [tuple(v << (depth - 8) for v in one) for one in values]
    color = (matrix, 2 if full else 1, matrix, matrix)
    path = write_film(tmp_path / "f.mkv", GREY, codec="ffv1", pixels=pixels, planes=scaled, color=color)
    frames, look = read(path)
    assert look.color == Color(matrix, full, matrix, matrix)
    assert frames[0].pixels.dtype == (torch.uint8 if depth == 8 else torch.uint16)
    for t, frame in enumerate(frames):
        expected = textbook(scaled[t % 3], matrix, full, depth)
        found = frame.pixels.numpy().reshape(3, -1) / (1 if depth == 8 else 257)
        assert np.abs(found - np.array(expected)[:, None]).max() <= 0.51


@pytest.mark.parametrize(("height", "matrix"), [(32, 6), (720, 1)])
def test_an_untagged_video_gets_the_matrix_of_its_height(tmp_path, height, matrix):
    flat = np.zeros((1, height, 48, 3), np.uint8)
    path = write_film(tmp_path / "f.mp4", flat, planes=[(150, 90, 170)], options={"qp": "0"})
    frames, look = read(path)
    assert (look.color.matrix, look.tagged) == (matrix, False)
    assert np.abs(frames[0].pixels.numpy()[:, 5, 5] - np.array(textbook((150, 90, 170), matrix, False))).max() <= 1


def test_mjpeg_is_of_full_range(tmp_path):
    path = write_film(tmp_path / "f.avi", GREY, codec="mjpeg", pixels="yuvj420p", planes=[(150, 100, 160)])
    frames, look = read(path)
    assert look.color.full
    assert np.abs(frames[0].pixels.numpy()[:, 9, 9] - np.array(textbook((150, 100, 160), 6, True))).max() <= 2


@pytest.mark.parametrize(
    "pix_fmt",
    [
        PixelFormat("yuv", 8, 1, 1),
        PixelFormat("yuv", 10, 2, 1),
        PixelFormat("yuv", 8, 2, 2),
        PixelFormat("rgb", 16),
        PixelFormat("yuv", 8, 4, 1),
    ],
)
@pytest.mark.parametrize("left", [False, True])
def test_chroma_that_changes_evenly_keeps_its_place(pix_fmt, left):
    """A linear ramp goes through subsampling unchanged where chroma is taken and put back at the same place."""
    x = torch.linspace(0.3, 0.6, 48).expand(32, -1) + torch.linspace(0, 0.1, 32)[:, None]
    rgb = torch.stack([x, 0.8 - x, x * 0 + 0.5])
    color = Color(0 if pix_fmt.kind == "rgb" else 1, pix_fmt.kind == "rgb")
    planes = from_rgb(rgb, pix_fmt, color, left=left)
    if pix_fmt.kind == "yuv":
        assert planes[1].shape == (-(-32 // pix_fmt.down), -(-48 // pix_fmt.across))
    again = to_rgb(planes, pix_fmt, color, left=left)
    assert (again - rgb)[:, 4:-4, 4:-4].abs().max() < 0.012


@pytest.mark.parametrize(
    ("source", "size", "formats", "expected"),
    [
        (PixelFormat("yuv", 8, 2, 2), (64, 96), ["yuv420p", "yuv444p"], "yuv420p"),
        (PixelFormat("yuv", 8, 2, 2), (63, 96), ["yuv420p", "yuv422p", "yuv444p"], "yuv422p"),
        (PixelFormat("yuv", 8, 2, 2), (63, 95), ["yuv420p", "yuv422p", "yuv444p"], "yuv444p"),
        (PixelFormat("yuv", 10, 2, 2), (64, 96), ["yuv420p", "yuv420p10le"], "yuv420p10le"),
        (PixelFormat("yuv", 10, 2, 1), (64, 96), ["yuv420p10le", "yuv422p"], "yuv420p10le"),
        (PixelFormat("yuv", 12, 1, 1), (64, 96), ["yuv420p", "yuv444p", "yuv444p16le"], "yuv444p16le"),
        (PixelFormat("yuv", 12, 1, 1), (64, 96), ["yuv420p", "yuv444p", "yuv444p10le"], "yuv444p10le"),
        (PixelFormat("yuv", 8, 4, 1), (64, 96), ["yuv420p", "yuv444p"], "yuv420p"),
        (PixelFormat("gray", 8), (64, 96), ["yuv420p", "gray"], "gray"),
        (PixelFormat("gray", 10), (64, 96), ["yuv420p", "yuv420p10le"], "yuv420p10le"),
        (PixelFormat("rgb", 8), (64, 96), ["bgr0", "yuv444p"], "bgr0"),
        (PixelFormat("rgb", 8), (64, 96), ["yuv420p", "yuv444p"], "yuv444p"),
    ],
)
def test_the_nearest_pixel_format_is_chosen(source, size, formats, expected):
    assert choose_pixel_format(source, *size, formats)[1] == expected


def copy(source, target, codec="auto", *, scale=1, **options):
    """A film written again, every pixel repeated."""
    with FilmReader(source) as film:
        size = film.look.height * scale, film.look.width * scale
        with film_writer(target, film, size, Options(codec), **options) as writer:
            for frame in film.frames(writer.copy):
                rgb = frame.pixels.float() / (255 if frame.pixels.dtype == torch.uint8 else 65535)
                rgb = rgb.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
                writer.write(rgb, frame.time, frame.duration)
    return target


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
@pytest.mark.parametrize("start", [0, 120])
def test_sound_is_copied_byte_for_byte_and_in_sync(tmp_path, suffix, start):
    sound = ("aac", "ac3")
    source = write_film(tmp_path / f"in{suffix}", photograph_frames(), sound=sound, start=start)
    target = copy(source, tmp_path / f"out{suffix}")
    before, after = packets(source, "audio"), packets(target, "audio")
    assert len(after) == 2
    if suffix == ".ts":  # the elements of MPEG-TS are cut anew; what is in them is not
        assert [b"".join(p[1] for p in s) for s in after] == [b"".join(p[1] for p in s) for s in before]
    else:
        assert [[p[1] for p in s] for s in after] == [[p[1] for p in s] for s in before]
    offset = [decoded(p)[0][0] - packets(p, "audio")[0][0][0] for p in (source, target)]
    assert offset[0] == offset[1]
    assert [p[0] for p in after[0]] == [p[0] for p in before[0]]
    assert decoded(source)[0] == decoded(target)[0]


def test_sound_may_come_before_the_pictures(tmp_path):
    plain = write_film(tmp_path / "plain.mkv", photograph_frames(), sound=("aac",), options={"bf": "3"})
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as given, av.open(str(source), "w") as made:
        streams = {i: made.add_stream_from_template(given.streams[i]) for i in (1, 0)}
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
    with av.open(str(source)) as film:
        assert [s.type for s in film.streams] == ["audio", "video"]
    frames, _ = read(source)
    assert len(frames) == 12
    target = copy(source, tmp_path / "out.mkv")
    assert [p[1] for p in packets(target, "audio")[0]] == [p[1] for p in packets(source, "audio")[0]]
    assert decoded(target)[0] == decoded(plain)[0]


@pytest.mark.parametrize(
    ("start", "end", "sound"),
    [
        (".mkv", ".mp4", "flac"),
        (".mkv", ".mov", "pcm_s16le"),
        (".avi", ".mkv", "mp3"),
        (".mp4", ".avi", "aac"),
        (".ts", ".mp4", "ac3"),
    ],
)
def test_containers_can_be_changed(tmp_path, start, end, sound):
    source = write_film(tmp_path / f"in{start}", photograph_frames(), sound=(sound,))
    target = copy(source, tmp_path / f"out{end}")
    before, after = packets(source, "audio")[0], packets(target, "audio")[0]
    assert b"".join(p[1] for p in after) == b"".join(p[1] for p in before)
    times = decoded(target)[0]
    assert len(times) == 12
    assert times == sorted(times)
    shift = []
    for path in (source, target):  # the reader's times: FFmpeg has no right ones of AVI
        frames, look = read(path)
        shift.append(frames[0].time * look.time_base - packets(path, "audio")[0][0][0])
    assert abs(shift[0] - shift[1]) < (0.03 if end == ".avi" else 0.005)  # sound there starts with a whole packet


def test_subtitles_are_copied_where_the_container_takes_them(tmp_path):
    (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n\n")
    source = tmp_path / "in.mkv"
    film = write_film(tmp_path / "film.mkv", photograph_frames())
    with av.open(str(tmp_path / "s.srt")) as text, av.open(str(film)) as pictures, av.open(str(source), "w") as both:
        parts = [(one.streams[0], both.add_stream_from_template(one.streams[0])) for one in (pictures, text)]
        parts[1][1].metadata["language"] = "deu"
        for given, made in parts:
            for packet in given.container.demux():
                if packet.size:
                    packet.stream = made
                    both.mux(packet)
    target = copy(source, tmp_path / "out.mkv")
    assert packets(target, "subtitle") == packets(source, "subtitle")
    with av.open(str(target)) as film:
        assert film.streams.subtitles[0].metadata["language"] == "deu"
    with FilmReader(source) as film, film_writer(tmp_path / "out.mp4", film, (32, 48), Options()) as writer:
        assert writer.warnings == ["not copied to .mp4: subtitle 1 (subrip)"]
        writer.write(torch.zeros(3, 32, 48), 0)


def test_the_last_frame_lasts_as_long_as_it_did(tmp_path):
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for t, pixel in enumerate(photograph_frames(frames=3)):
            frame = av.VideoFrame.from_ndarray(pixel, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = 40 * t, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.duration = 3000 if t == 2 else 40
                film.mux(packet)
        film.mux(stream.encode(None))
    for suffix in (".mkv", ".mp4"):
        with av.open(str(copy(path, tmp_path / f"out{suffix}"))) as film:
            assert film.duration == pytest.approx(3_080_000, abs=1000)


def test_times_of_any_average_rate_fit_mpeg4(tmp_path):
    times = [0, 40, 50, 200, 210, 220, 230, 500, 501, 700, 900, 1000]
    source = write_film(tmp_path / "in.mp4", photograph_frames(), times=times, base=Fraction(1, 12800))
    assert len(decoded(copy(source, tmp_path / "out.mp4", "mpeg4"))[0]) == 12
    hasty = write_film(tmp_path / "in.mkv", GREY[:2], times=[0, 1], base=Fraction(1, 1000), rate=1000)
    with FilmReader(hasty) as film:
        film.look = film.look._replace(rate=Fraction(1_000_000))
        with film_writer(tmp_path / "hasty.mp4", film, (32, 48), Options("mpeg4")) as writer:
            writer.write(torch.zeros(3, 32, 48), 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.avi", {"codec": "mpeg4"}),
        ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("a.flv", {"codec": "flv1"}),
        ("a.gif", {"codec": "gif", "pixels": "rgb8"}),
        ("a.y4m", {"codec": "rawvideo"}),
        ("a.mkv", {"options": {"bf": "3"}}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.mp4", {}),
        ("a.mov", {}),
    ],
)
def test_truncated_videos_are_refused_and_whole_ones_read(tmp_path, name, options):
    path = write_film(tmp_path / name, photograph_frames(frames=40, width=64, height=48), **options)
    assert len(read(path)[0]) == 40
    whole = path.read_bytes()
    for share in (0.5, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FilmError, match=r"cut short|damaged"):
            read(path)


def test_a_film_trimmed_by_its_edit_list_is_whole(tmp_path):
    path = write_film(tmp_path / "in.mp4", photograph_frames(frames=36), options={"g": "12", "bf": "0"})
    with av.open(str(path)) as film:
        frame = round(1 / (24 * film.streams.video[0].time_base))
    film = bytearray(path.read_bytes())
    at = film.index(b"elst")
    struct.pack_into(">I", film, at + 12, 1000 * 10 // 24)  # lasts ten frames
    struct.pack_into(">I", film, at + 16, frame * 26)  # from the 27th on
    path.write_bytes(film)
    with FilmReader(path) as reader:
        assert len(list(reader.frames())) == len(decoded(path)[0]) == 10
        if hasattr(reader.stream, "index_entries"):  # PyAV 17 and later
            assert 10 <= (reader.count or 0) <= 12  # with those that the first one shown is decoded from


def test_an_image_with_the_suffix_of_a_video_is_refused(tmp_path):
    write_image(tmp_path / "a.png", photograph_frames()[0])
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    with pytest.raises(FilmError, match=r"a\.mp4: is an image \(png\), not a video"):
        FilmReader(tmp_path / "a.mp4")


def chapters(path):
    with av.open(str(path)) as film:
        return [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"].get("title"))
            for c in film.chapters()
        ]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_chapters_are_kept_or_give_a_warning(tmp_path, suffix):
    plain, source = write_film(tmp_path / f"plain{suffix}", photograph_frames()), tmp_path / f"in{suffix}"
    marks = [(0, 80, "Dawn"), (80, 240, "Dusk")]
    with av.open(str(plain)) as given, av.open(str(source), "w") as made:
        made.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                for n, (a, b, title) in enumerate(marks)
            ]
        )
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux():
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    assert [c[2] for c in chapters(source)] == ["Dawn", "Dusk"]
    assert chapters(copy(source, tmp_path / f"out{suffix}")) == chapters(source)
    with FilmReader(source) as film, film_writer(tmp_path / f"same{suffix}", film, (32, 48), Options()) as writer:
        assert writer.warnings == []
        writer.write(torch.zeros(3, 32, 48), 0)
    with FilmReader(source) as film, film_writer(tmp_path / "out.avi", film, (32, 48), Options()) as writer:
        assert writer.warnings == [".avi cannot store chapters; 2 chapters dropped"]
        writer.write(torch.zeros(3, 32, 48), 0)


def test_interlaced_and_transparent_videos_give_a_warning(tmp_path):
    half = write_film(tmp_path / "a.mkv", photograph_frames(), codec="mpeg2video", options={"flags": "+ildct+ilme"})
    clear = write_film(tmp_path / "b.gif", photograph_frames(), codec="gif", pixels="rgb8")
    for path, message in ((half, "the video is interlaced"), (clear, "the video's transparency is dropped")):
        with FilmReader(path) as film:
            assert [w for w in film.warnings if message in w]


def test_time_stamps_of_a_variable_rate_are_kept(tmp_path):
    times = [0, 3000, 4500, 12000, 12001, 50000, 53003, 53010, 99999, 100000, 200000, 200007]
    source = write_film(tmp_path / "in.mp4", photograph_frames(), times=times, base=Fraction(1, 90000))
    assert decoded(source)[0] == [Fraction(t, 90000) for t in times]
    assert decoded(copy(source, tmp_path / "out.mp4"))[0] == decoded(source)[0]
    other = decoded(copy(source, tmp_path / "out.mkv"))[0]  # Matroska counts milliseconds
    assert max(abs(a - b) for a, b in zip(other, decoded(source)[0], strict=True)) <= Fraction(1, 1000)


@pytest.mark.parametrize(
    ("pixels", "codec"), [("yuv420p10le", "auto"), ("yuv422p10le", "ffv1"), ("gbrp10le", "ffv1"), ("gray10le", "ffv1")]
)
def test_ten_bits_stay_ten_bits(tmp_path, pixels, codec):
    made = "libx264" if codec == "auto" else "ffv1"
    source = write_film(tmp_path / "in.mkv", photograph_frames(), pixels=pixels, codec=made)
    target = copy(source, tmp_path / "out.mkv", codec)
    assert decoded(target)[2]["format"] == pixels
    if codec == "ffv1":
        tolerance = 1 if pixels.startswith("yuv") else 0
        a, b = (np.array([f[0] for f in decoded(p)[1]]).view(np.uint16).astype(int) for p in (source, target))
        assert np.abs(a - b).max() <= tolerance


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="this PyAV cannot write rotations"
)
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_films_of_phones_are_upright(tmp_path, degrees):
    source = write_film(tmp_path / "in.mp4", photograph_frames(), rotation=degrees, aspect=Fraction(4, 3))
    stored = write_film(tmp_path / "plain.mp4", photograph_frames())
    turned, look = read(source)
    plain, _ = read(stored)
    expected = np.rot90(plain[3].pixels.numpy(), degrees // 90, axes=(1, 2))
    assert np.array_equal(turned[3].pixels.numpy(), expected)
    assert (look.height, look.width) == expected.shape[1:]
    facts = decoded(copy(source, tmp_path / "out.mp4"))[2]
    assert facts["rotation"] == 0
    assert facts["aspect"] == (Fraction(4, 3) if degrees % 180 == 0 else Fraction(3, 4))


def test_tags_of_hdr_are_passed_on(tmp_path):
    source = write_film(tmp_path / "in.mp4", GREY, pixels="yuv420p10le", planes=[(500, 500, 500)], color=(9, 1, 9, 16))
    facts = decoded(copy(source, tmp_path / "out.mp4"))[2]
    assert [facts[k] for k in ("matrix", "range", "primaries", "transfer", "format")] == [9, 1, 9, 16, "yuv420p10le"]


def test_an_error_leaves_no_file_and_the_old_video_unchanged(tmp_path):
    source = write_film(tmp_path / "in.mp4", photograph_frames())
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "out.mp4"
    target.write_bytes(b"old")

    def interrupted():
        with FilmReader(source) as film, film_writer(target, film, (32, 48), Options()) as writer:
            writer.write(torch.zeros(3, 32, 48), 0)
            assert len(list(target.parent.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in target.parent.iterdir()] == ["out.mp4"]
    assert target.read_bytes() == b"old"


def test_a_film_too_small_for_its_encoder_is_refused(tmp_path):
    source = write_film(tmp_path / "in.mkv", photograph_frames())
    with pytest.raises(
        FilmError, match=r"libx265 cannot write videos of 48x32; choose another codec=, e.g. codec=libx264"
    ):
        copy(source, tmp_path / "out.mkv", "libx265")
    assert decoded(copy(source, tmp_path / "out.mkv", "libx265", scale=2))[2]["codec"] == "hevc"


def test_what_the_container_cannot_hold_is_refused_before_the_work(tmp_path):
    source = write_film(tmp_path / "in.mkv", photograph_frames(), sound=("aac",))
    with pytest.raises(FilmError, match=r"webm cannot hold the sound \(aac\); give a name with .mkv"):
        copy(source, tmp_path / "out.webm")
    with pytest.raises(FilmError, match="cannot hold ffv1"):
        copy(source, tmp_path / "out.webm", "ffv1", audio=False)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]
    with pytest.raises(FilmError, match=r"mp4 cannot hold the sound \(pcm_s16le\)"):
        copy(write_film(tmp_path / "pcm.mkv", photograph_frames(), sound=("pcm_s16le",)), tmp_path / "out.mp4")
    copy(source, tmp_path / "out.webm", audio=False)
    facts = decoded(tmp_path / "out.webm")[2]
    assert "vp9" in facts["codec"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options("x264"), "no such video encoder; choose e.g. from libx264"),
        (Options("aac"), "no such video encoder"),
        (Options("ffv1", 3), "has no setting for quality"),
        (Options("libx264", 52), r"0 \(best\) to 51"),
        (Options("libx264", None, "fastest"), "choose from ultrafast"),
        (Options("ffv1", None, "fast"), "only libx264"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        check_options(options)

"""sr-upscale on videos and on folders of frames as clips, by the real command."""

import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_train.cli.upscale import upscale
from sr_train.data.images import read_image, write_image
from sr_train.data.video.film_reader import FilmReader
from sr_train.inference.clips import super_resolve_clip
from sr_train.inference.images import super_resolve
from sr_train.models.edsr import EDSR
from sr_train.resampling import imresize
from sr_train.weights.file import Weights, save_weights

sys.path.insert(0, NETS := str(Path(__file__).parents[1] / "nets"))
from films import decoded, packets, photograph_frames, write_film
from tiny_video import TinyVideo

pytestmark = pytest.mark.video

BICUBIC = ("weights=bicubic", "scale=2", "device=cpu")
GREY = np.zeros((6, 32, 48, 3), np.uint8)


def save(path, network, target, **options):
    model = {"_target_": target, **options}
    save_weights(path, Weights(model, network.state_dict()))
    return network.eval()


@pytest.fixture
def video(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(NETS)
    monkeypatch.setenv("PYTHONPATH", NETS)
    torch.manual_seed(0)
    return save(tmp_path / "v.safetensors", TinyVideo(scale=2), "tiny_video.TinyVideo", scale=2)


VIDEO = ("weights=v.safetensors", "allow=[tiny_video]", "device=cpu")


def frames_of(path):
    with FilmReader(path) as film:
        return [f.pixels for f in film.frames()]


def made(done, code=0):
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "bgr0"), ("libx264rgb", "rgb24"), ("libx264", "yuv444p")])
def test_a_lossless_video_equals_the_upscaled_frames(invoke, tmp_path, codec, pixels):
    torch.manual_seed(0)
    options = {"scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
    network = save(tmp_path / "n.safetensors", EDSR(**options), "sr_train.models.edsr.EDSR", **options)
    write_film(tmp_path / "in.mkv", photograph_frames(), codec="ffv1", pixels="bgr0" if codec != "libx264" else pixels)
    quality = () if codec == "ffv1" else ("quality=0",)
    call = ("weights=n.safetensors", "input=in.mkv", "output=out/x.mkv", f"codec={codec}", *quality, "device=cpu")
    done = made(invoke("sr-upscale", *call))
    assert "out/x.mkv: 12 frames 48x32 -> 96x64, 24 fps," in done.stdout
    assert "1 video in" in done.stdout
    small, large = frames_of(tmp_path / "in.mkv"), frames_of(tmp_path / "out" / "x.mkv")
    assert len(large) == 12
    for lr, hr in zip(small, large, strict=True):
        expected = torch.floor(super_resolve(network, lr).double() * 255 + 0.5)
        assert (hr - expected).abs().max() <= (0 if codec != "libx264" else 2)


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("full", [False, True])
def test_colors_and_their_tags_are_kept(invoke, tmp_path, matrix, full):
    color = (matrix, 2 if full else 1, matrix, matrix)
    write_film(tmp_path / "in.mp4", GREY, planes=[(150, 90, 170), (60, 140, 120)], color=color, options={"qp": "0"})
    made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=out", "quality=5"))
    before, after = decoded(tmp_path / "in.mp4")[2], decoded(tmp_path / "out" / "in.mp4")[2]
    for tag in ("matrix", "range", "primaries", "transfer", "format", "rate"):
        assert before[tag] == after[tag]
    assert (after["matrix"], after["range"], after["size"]) == (matrix, color[1], (64, 96))
    for a, b in zip(frames_of(tmp_path / "in.mp4"), frames_of(tmp_path / "out" / "in.mp4"), strict=True):
        assert (a[:, 9, 9].int() - b[:, 19, 19].int()).abs().max() <= 2


def test_sound_time_and_aspect_are_kept(invoke, tmp_path):
    times = [0, 1000, 1500, 4000, 5000, 9000, 11000, 12345, 13000, 20000, 21000, 22000]
    write_film(
        tmp_path / "in.mp4", photograph_frames(), times=times, base=Fraction(1, 24000), sound=("aac",), aspect=Fraction(8, 9),
        start=7000,
    )  # fmt: skip
    made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=out"))
    assert packets(tmp_path / "out" / "in.mp4", "audio") == packets(tmp_path / "in.mp4", "audio")
    before, after = decoded(tmp_path / "in.mp4"), decoded(tmp_path / "out" / "in.mp4")
    assert before[0] == after[0]
    assert after[2]["aspect"] == Fraction(8, 9)
    made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=mute", "audio=false"))
    assert packets(tmp_path / "mute" / "in.mp4", "audio") == []


def test_odd_sizes_are_kept_with_full_chroma(invoke, tmp_path):
    write_film(tmp_path / "in.mkv", photograph_frames(width=45, height=31), codec="ffv1", pixels="yuv420p")
    call = ("weights=bicubic", "scale=3", "device=cpu", "input=in.mkv")
    done = made(invoke("sr-upscale", *call, "output=out.mp4"))
    facts = decoded(tmp_path / "out.mp4")[2]
    assert (facts["size"], facts["format"]) == ((93, 135), "yuv444p")
    assert "is written as yuv444p, because libx264 needs this format for 135x93" in done.stderr


def test_a_video_network_upscales_a_video_also_to_frames_that_can_be_continued(invoke, video, tmp_path):
    write_film(tmp_path / "in.mkv", photograph_frames(frames=9), codec="ffv1", pixels="bgr0")
    lr = frames_of(tmp_path / "in.mkv")
    expected = [
        torch.floor(x.double() * 255 + 0.5).byte() for x in super_resolve_clip(video, iter(lr), padding="replicate")
    ]
    call = ("sr-upscale", *VIDEO, "input=in.mkv", "padding=replicate")
    made(invoke(*call, "output=a.mkv", "codec=ffv1"))
    assert all(torch.equal(a, b) for a, b in zip(frames_of(tmp_path / "a.mkv"), expected, strict=True))
    made(invoke(*call, "output=out", "format=png"))
    folder = tmp_path / "out" / "in"
    names = [f"{i:08d}.png" for i in range(9)]
    assert sorted(p.name for p in folder.iterdir()) == names
    for missing in (names[3:], names[8:], names, [], ["00000002.png"]):
        for name in missing:
            (folder / name).unlink()
        stamps = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
        made(invoke(*call, "output=out", "format=png", "skip_existing=true"))
        for i, name in enumerate(names):
            assert np.array_equal(read_image(folder / name), expected[i].permute(1, 2, 0).numpy())
        if missing != ["00000002.png"]:
            assert all((folder / n).stat().st_mtime_ns == s for n, s in stamps.items())


def test_folders_of_frames_are_clips_for_a_video_network(invoke, video, write_clips, tmp_path):
    write_clips(tmp_path / "clips", sizes={"000": 6, "deep/er": 5, "short": 4})
    write_film(tmp_path / "clips" / "film.mp4", photograph_frames(frames=5))
    done = made(invoke("sr-upscale", *VIDEO, "input=clips", "output=out"), 1)
    assert "1 of 4 files failed" in done.stderr
    assert "clips/short: the clip has 4 frames, but a window of the network needs 5 frames" in done.stderr
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    names = [f"{i:08d}.png" for i in range(6)]
    assert found == [*(f"000/{n}" for n in names), *(f"deep/er/{n}" for n in names[:5]), "film.mp4"]
    lr = [torch.from_numpy(read_image(p)).permute(2, 0, 1) for p in sorted((tmp_path / "clips" / "000").iterdir())]
    for i, sr in enumerate(super_resolve_clip(video, iter(lr))):
        expected = torch.floor(sr.double() * 255 + 0.5).permute(1, 2, 0).numpy()
        assert np.array_equal(read_image(tmp_path / "out" / "000" / names[i]), expected)
    made(invoke("sr-upscale", *VIDEO, "input=clips/000", "output=one"))
    assert len(list((tmp_path / "one").iterdir())) == 6
    shutil.copy(tmp_path / "clips/000/00000000.png", tmp_path / "clips/000/00000009.png")
    assert (
        "frame number 6 (and 2 more) is missing"
        in made(invoke("sr-upscale", *VIDEO, "input=clips", "output=o"), 1).stderr
    )


def test_compare_writes_both_and_the_worst_and_best_frame(invoke, video, tmp_path):
    with torch.no_grad():
        video.last.weight.mul_(0.02)
        video.last.bias.zero_()
    save(tmp_path / "v.safetensors", video, "tiny_video.TinyVideo", scale=2)
    frames = photograph_frames(frames=7)
    frames[2] = np.random.default_rng(0).integers(0, 256, frames[2].shape)  # fine detail is what reduction loses
    frames[5] = 128
    write_film(tmp_path / "in.mkv", frames, codec="ffv1", pixels="bgr0")
    done = made(invoke("sr-upscale", *VIDEO, "input=in.mkv", "output=out", "compare=true", "codec=ffv1"))
    out = tmp_path / "out"
    names = ["in.mkv", "in_best.png", "in_compare.mkv", "in_worst.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    small, large, both = (frames_of(p) for p in (tmp_path / "in.mkv", out / "in.mkv", out / "in_compare.mkv"))
    psnr = []
    for lr, hr, pair in zip(small, large, both, strict=True):
        assert torch.equal(pair[:, :, 98:], hr)
        assert (pair[:, :, 96:98] == 255).all()
        bicubic = imresize(lr.permute(1, 2, 0).numpy(), 2)
        assert np.abs(pair[:, :, :96].permute(1, 2, 0).numpy().astype(int) - bicubic).max() <= 1
        again = imresize(hr.permute(1, 2, 0).numpy().astype(float), 0.5)
        psnr.append(-10 * np.log10(np.square((again - lr.permute(1, 2, 0).numpy()) / 255).mean()))
    worst, best = int(np.argmin(psnr)), int(np.argmax(psnr))
    assert worst == 2
    assert f"worst frame {worst} (" in done.stdout
    assert f"best frame {best} (" in done.stdout
    assert np.array_equal(read_image(out / "in_worst.png"), both[worst].permute(1, 2, 0).numpy())
    assert np.array_equal(read_image(out / "in_best.png"), both[best].permute(1, 2, 0).numpy())
    made(invoke("sr-upscale", *VIDEO, "input=in.mkv", "output=out", "compare=true", "format=png"))
    assert len(list((out / "in_compare").iterdir())) == len(list((out / "in").iterdir())) == 7


def test_compare_writes_images_side_by_side(invoke, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    made(invoke("sr-upscale", *BICUBIC, "input=a.png", "output=out/b.png", "compare=true"))
    pair = read_image(tmp_path / "out" / "b_compare.png")
    assert pair.shape == (20, 50, 3)
    assert np.array_equal(pair[:, :24], imresize(image, 2))
    assert np.array_equal(pair[:, 26:], read_image(tmp_path / "out" / "b.png"))


def test_the_input_is_never_overwritten(invoke, video, write_clips, tmp_path):
    write_film(tmp_path / "w_compare.mp4", photograph_frames())
    before = (tmp_path / "w_compare.mp4").read_bytes()
    done = made(invoke("sr-upscale", *BICUBIC, "input=w_compare.mp4", "output=w.mp4", "compare=true"), 1)
    assert "w_compare.mp4 would be overwritten" in done.stderr
    assert (tmp_path / "w_compare.mp4").read_bytes() == before
    write_clips(tmp_path / "x_compare")
    clip = tmp_path / "x_compare" / "000"
    clip.rename(tmp_path / "y_compare")
    done = made(invoke("sr-upscale", *VIDEO, "input=y_compare", "output=y", "compare=true"), 1)
    assert "would be overwritten" in done.stderr
    assert read_image(tmp_path / "y_compare" / "00000000.png").shape == (40, 48, 3)


def test_names_of_folders_may_have_dots_or_be_the_current_folder(invoke, video, write_clips, tmp_path, monkeypatch):
    write_clips(tmp_path / "clips", sizes={"g.one": 5, "g.two": 5})
    made(invoke("sr-upscale", *VIDEO, "input=clips", "output=out", "compare=true"))
    names = {f"g.{n}{more}" for n in ("one", "two") for more in ("", "_compare", "_best.png", "_worst.png")}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given = ("weights=../v.safetensors", *VIDEO[1:], "input=../clips/g.one", "output=.", "compare=true")
    assert upscale(list(given)) == 0
    assert len(list((tmp_path / "here").iterdir())) == len(list((tmp_path / "here_compare").iterdir())) == 5


def test_frames_that_lose_bits_or_alpha_give_a_warning(invoke, video, write_clips, tmp_path):
    write_clips(tmp_path / "clips", sizes={"rgb": 5, "rgba": 5, "grey": 5})
    for path in (tmp_path / "clips").rglob("*.png"):
        frame = read_image(path)
        if path.parent.name == "rgba":
            write_image(path, np.dstack([frame, frame[..., 0]]))
        elif path.parent.name == "grey":
            write_image(path, frame[..., :1])
    done = made(invoke("sr-upscale", *VIDEO, "input=clips", "output=out"))
    assert "rgba: the frames have transparency, which is dropped" in done.stderr
    assert "grey: the frames are gray: they become RGB" in done.stderr
    assert done.stderr.count("the frames") == 2


def test_frames_moved_in_time_give_a_warning(invoke, tmp_path):
    times = [0, 40, 50, 200, 210, 220, 230, 500, 501, 700, 900, 1000]
    write_film(tmp_path / "in.mp4", photograph_frames(), times=times, base=Fraction(1, 1000))
    done = made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=out.avi"))
    assert "in.mp4: .avi has a fixed frame rate: frames were moved by up to 0." in done.stderr
    done = made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=out.mp4", "codec=mpeg4"))
    assert "in.mp4: mpeg4 has a fixed frame rate: frames were moved by up to 0." in done.stderr
    assert "fixed frame rate" not in made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=out.mkv")).stderr


@pytest.mark.kill
def test_a_killed_command_leaves_no_file_that_looks_finished(invoke, tmp_path):
    write_film(tmp_path / "in.mp4", photograph_frames(frames=100, width=160, height=120))
    program = str(Path(sys.executable).with_name("sr-upscale"))
    call = (*BICUBIC, "input=in.mp4", "output=out", "compare=true")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([program, *call], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    end = time.monotonic() + 60
    out = tmp_path / "out"
    while not (out.exists() and sum(p.stat().st_size for p in out.iterdir()) > 12000):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.communicate()
    left = [p.name for p in out.iterdir()]
    assert left
    assert all(name.startswith(".in") and name.endswith(".part") for name in left)
    (out / ".other.mp4.abc.part").touch()
    made(invoke("sr-upscale", *call))
    names = {".other.mp4.abc.part", "in.mp4", "in_best.png", "in_compare.mp4", "in_worst.png"}
    assert {p.name for p in out.iterdir()} == names
    assert len(frames_of(out / "in.mp4")) == 100


# -- bad input -------------------------------------------------------------------------------------------------------


def damage(folder):
    """Films that cannot be used, and one that can."""
    folder.mkdir()
    write_film(folder / "good.mp4", photograph_frames())
    (folder / "text.mp4").write_text("this is no film\n" * 100)
    (folder / "zero.mp4").touch()
    for name in ("cut.mp4", "short.mkv"):
        path = write_film(folder / name, photograph_frames(frames=60, width=96, height=64))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    import av

    front = folder / "front.mp4"  # its head is whole, its frames are not
    source = write_film(folder.parent / "x.mp4", photograph_frames(frames=60, width=96, height=64))
    with av.open(str(source)) as film, av.open(str(front), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(film.streams.video[0])
        for packet in film.demux():
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    front.write_bytes(front.read_bytes()[: front.stat().st_size * 6 // 10])
    spoiled = bytearray(source.read_bytes())
    at = spoiled.index(b"mdat") + 2500
    spoiled[at : at + 900] = np.random.default_rng(0).bytes(900)
    (folder / "spoiled.mp4").write_bytes(spoiled)
    with av.open(str(folder / "sound.mp4"), "w") as film:
        stream = film.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    with av.open(str(folder / "grows.ts"), "w") as film:
        stream = None
        for part, size in enumerate((32, 64)):
            with av.open(str(write_film(folder.parent / f"{size}.ts", photograph_frames(height=size)))) as one:
                stream = stream or film.add_stream_from_template(one.streams.video[0])
                for packet in one.demux():
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + part * 90000, packet.dts + part * 90000
                        packet.stream = stream
                        film.mux(packet)


def test_bad_videos_are_reported_one_by_one_and_leave_no_files(invoke, tmp_path):
    damage(tmp_path / "in")
    done = made(invoke("sr-upscale", *BICUBIC, "input=in", "output=out", "compare=true"), 1)
    told = done.stderr.split("failed:\n")[1]
    assert "8 of 9 videos failed" in done.stderr
    for name, message in (
        ("text.mp4", "not a readable video"),
        ("zero.mp4", "the file is empty"),
        ("cut.mp4", "cut short: at least "),
        ("short.mkv", "cut short: at least "),
        ("front.mp4", "cut short: at least "),
        ("spoiled.mp4", "frame"),
        ("sound.mp4", "has no video stream; it contains audio"),
        ("grows.ts", "frame 12 is 48x64, earlier frames are 48x32"),
    ):
        (line,) = [one for one in told.splitlines() if f"in/{name}:" in one]
        assert message in line
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == ["good.mp4", "good_best.png", "good_compare.mp4", "good_worst.png"]


def test_a_damaged_video_is_reported_again_when_its_frames_are_continued(invoke, tmp_path):
    path = write_film(tmp_path / "in.flv", photograph_frames(frames=40), codec="flv1")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    call = ("sr-upscale", *BICUBIC, "input=in.flv", "output=out", "format=png")
    assert "in.flv: damaged or cut short at frame" in made(invoke(*call), 1).stderr
    assert len(list((tmp_path / "out" / "in").iterdir())) > 10
    assert "in.flv: damaged or cut short at frame" in made(invoke(*call, "skip_existing=true"), 1).stderr


def test_a_clip_may_have_fewer_frames_than_the_window(invoke, video, tmp_path):
    write_film(tmp_path / "in.mp4", photograph_frames(frames=4))
    done = made(invoke("sr-upscale", *VIDEO, "input=in.mp4", "output=out"), 1)
    assert "in.mp4: the clip has 4 frames, but a window of the network needs 5 frames" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["input=in.mp4", "output=."], 1, "would overwrite the input in.mp4"),
        (["input=in.mp4", "output=in.mp4"], 1, "would overwrite the input in.mp4"),
        (["input=in.mp4", "output=o.png"], 1, "give a folder, with format=png"),
        (["input=in.mp4", "output=o.gif"], 1, "videos are written as mp4"),
        (["input=in.mp4", "output=o.mp4", "format=png"], 2, "give only one of the two options"),
        (["input=in.mp4", "output=o", "codec=h265"], 2, "no such video encoder"),
        (["input=in.mp4", "output=o", "codec=7"], 2, "expected auto or the name of an encoder"),
        (["input=in.mp4", "output=o", "quality=70"], 2, "expected 0 (best) to 51"),
        (["input=in.mp4", "output=o", "quality=good"], 2, "expected an integer"),
        (["input=in.mp4", "output=o", "preset=fastest"], 2, "choose from ultrafast"),
        (["input=in.mp4", "output=o", "padding=zeros"], 2, "choose from replicate"),
        (["input=in.mp4", "output=o", "audio=maybe"], 2, "expected true or false"),
        (["input=in.mp4", "output=o", "compare=maybe"], 2, "expected true or false"),
        (["input=in.mp4", "output=o.webm", "codec=libx264"], 1, ".webm cannot hold libx264"),
        (["input=in.mp4", "output=o.webm"], 1, ".webm cannot hold the sound (aac)"),
    ],
)
def test_errors_of_users(invoke, tmp_path, arguments, code, message):
    write_film(tmp_path / "in.mp4", photograph_frames(frames=2), sound=("aac",))
    before = (tmp_path / "in.mp4").read_bytes()
    assert message in made(invoke("sr-upscale", *BICUBIC, *arguments), code).stderr
    assert (tmp_path / "in.mp4").read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["in.mp4"]


def test_without_pyav_images_are_upscaled_and_videos_report_what_to_install(invoke, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_film(tmp_path / "in" / "film.mp4", photograph_frames(frames=2))
    write_image(tmp_path / "in" / "image.png", photograph_frames(frames=1)[0])
    monkeypatch.setitem(sys.modules, "av", None)
    done = made(invoke("sr-upscale", *BICUBIC, "input=in", "output=out"), 1)
    assert 'in/film.mp4: videos need PyAV: pip install ".[video]"' in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["image.png"]


def test_full_memory_makes_the_tiles_of_a_video_smaller(invoke, tmp_path, monkeypatch):
    tried = []

    def greedy(model, frames, *, tiling, **options):
        tried.append(tiling.tile)
        if tiling.tile is None:
            next(iter(frames))
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from super_resolve_clip(model, frames, tiling=tiling, **options)

    monkeypatch.setattr("sr_train.inference.network.super_resolve_clip", greedy)
    monkeypatch.setattr("sr_train.inference.tiling._LARGEST_TILE", 300)
    write_film(tmp_path / "in.mp4", photograph_frames(frames=3, width=200, height=160))
    done = made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=out"))
    assert tried[0] is None
    assert tried[-1] is not None
    assert "continuing with tile=" in done.stderr
    assert len(frames_of(tmp_path / "out" / "in.mp4")) == 3


def test_a_full_disk_is_reported_and_leaves_no_files(invoke, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        noise = np.random.default_rng(0).integers(0, 256, (60, 64, 96, 3), dtype=np.uint8)
        write_film(tmp_path / "in.mp4", noise)
        done = made(invoke("sr-upscale", *BICUBIC, "input=in.mp4", "output=disk", "compare=true"), 1)
        assert "in.mp4: the disk is full; free some space" in done.stderr
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)

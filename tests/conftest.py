"""Fixtures shared by all tests: everything they need comes with the project and its dependencies."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from sr_train.config.folders import own_folders
from sr_train.data.degrade import reduce_image
from sr_train.data.images import read_image, write_image
from sr_train.data.toy import toy_files

cv2.setNumThreads(1)
os.environ.pop("SR_DEBUG", None)

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that runs a command as slow: ``make unit`` leaves it out."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"command", "invoke", "train_in"} or item.get_closest_marker("kill"):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Keep what Hydra composed from the same files: most of the time of a short run goes into composing it again."""
    from sr_train.config import compose

    real, kept = compose._compose, {}

    def composed(name: str, overrides: Sequence[str], *, hydra: bool) -> DictConfig:
        own = [p for folder in own_folders() for p in sorted(folder.rglob("*.yaml"))]
        key = (name, *overrides, hydra, *((str(p), p.read_bytes()) for p in own))
        if key not in kept:
            kept[key] = pickle.dumps(real(name, overrides, hydra=hydra))
        return pickle.loads(kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_compose", composed)
        yield


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run one of the commands as a user would, in an empty folder: command("sr-eval", "weights=bicubic", ...)."""

    def run(name: str, *arguments: str, timeout: float = 300, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(name)
        return subprocess.run(
            [str(program), *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The same within this process: seconds faster, as nothing is imported again."""

    def run(name: str, *arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        module = import_module({"sr-eval": "sr_train.cli.evaluate"}.get(name, "") or f"sr_train.cli.{name[3:]}")
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            module.main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess([name, *arguments], int(stop.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def train_in() -> Callable[..., None]:
    """Train within this process, for fixtures that several tests share: train_in(folder, "experiment=...", ...)."""
    from sr_train.cli.train import train

    def run(folder: Path, *arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert train(list(arguments)) == 0

    return run


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip of seven small frames: a set that is scored in a moment."""
    folder = tmp_path_factory.mktemp("short") / "clip"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (7, 48, 64, 3), np.uint8)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:08d}.png"), frame)
    return folder.parent


@pytest.fixture(scope="session")
def tiny_vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random weights in the place of torchvision's VGG19."""
    from safetensors.torch import save_file

    from sr_train.models.features import _layers_of

    generator = torch.Generator().manual_seed(0)
    state = {}
    for i, layer in enumerate(_layers_of("vgg19")):
        if layer.kind == "conv":
            weight = torch.randn(layer.outputs, layer.inputs, 3, 3, generator=generator)
            state[f"features.{i}.weight"] = weight * (2 / (9 * layer.inputs)) ** 0.5
            state[f"features.{i}.bias"] = torch.zeros(layer.outputs)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def tiny_lpips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with random weights in the place of AlexNet's and LPIPS' layers."""
    from safetensors.torch import save_file

    from sr_train.models.features import _layers_of

    generator = torch.Generator().manual_seed(0)
    state, count = {}, 0
    for i, layer in enumerate(_layers_of("alexnet")):
        if layer.kind == "conv":
            size = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
            state[f"features.{i}.weight"] = (
                torch.randn(size, generator=generator) * (2 / (size[1] * size[2] ** 2)) ** 0.5
            )
            state[f"features.{i}.bias"] = torch.zeros(layer.outputs)
            state[f"lin{count}.model.1.weight"] = torch.rand(1, layer.outputs, 1, 1, generator=generator)
            count += 1
    path = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with four crops of 96x80 pixels from real photographs."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i, path in enumerate(toy_files("astronaut,coffee,chelsea,rocket").values()):
        write_image(folder / f"{i:04d}.png", read_image(path)[60:140, 100:196])
    return folder


CLIPS = {"000": 8, "001": 6, "011": 9}  #: names of tiny clips and their frames


def moving(clip: int, frames: int) -> np.ndarray:
    """[T, 40, 48, 3]: a window that moves over a photograph, two pixels a frame. No patch occurs in two frames."""
    photograph = read_image(toy_files("coffee")["coffee"])
    top, left = 60 + 37 * clip, 80 + 53 * clip
    return np.stack([photograph[top + t :, left + 2 * t :][:40, :48] ^ np.uint8(t) for t in range(frames)])


def write_clips(folder: Path, *, lr: int = 0, sizes: dict[str, int] | None = None, template: str = "{:08d}") -> str:
    """Clips as folders of frames; with ``lr`` their bicubic LR instead."""
    for number, (name, frames) in enumerate((sizes or CLIPS).items()):
        (folder / name).mkdir(parents=True)
        for t, frame in enumerate(moving(number, frames)):
            write_image(folder / name / f"{template.format(t)}.png", reduce_image(frame, lr) if lr else frame)
    return str(folder)


@pytest.fixture(name="moving", scope="session")
def moving_fixture() -> Callable[..., np.ndarray]:
    """The frames that tiny clips are made of: moving(number of the clip, frames)."""
    return moving


@pytest.fixture(name="write_clips", scope="session")
def write_clips_fixture() -> Callable[..., str]:
    """Tiny clips as files: write_clips(folder, lr=0, sizes={"000": 8, "001": 6, "011": 9})."""
    return write_clips


@pytest.fixture
def tiny_video(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that make a command train a tiny network of EDVR's contract."""
    nets = str(Path(__file__).parent / "nets")
    monkeypatch.syspath_prepend(nets)
    monkeypatch.setenv("PYTHONPATH", nets)
    return ["model._target_=tiny_video.TinyVideo", "model.channels=8", "model.blocks=1", "model.frames=5"]

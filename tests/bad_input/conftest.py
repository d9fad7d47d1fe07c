"""A small world of images, pairs, a store, weights and a run, which each case spoils before it runs a command.

Exit codes: 2 for a command line that is wrong by itself, 1 for what is wrong in the files.
"""

import shutil
import subprocess

import pytest
import torch
from spoil import TRAIN

from sr_train.data.degrade import reduce_image
from sr_train.data.images import read_image, write_image
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.toy import toy_files
from sr_train.models.edsr import EDSR
from sr_train.weights.file import Weights, save_weights


@pytest.fixture(scope="session")
def world(tmp_path_factory, train_in):
    folder = tmp_path_factory.mktemp("world")
    for i, path in enumerate(toy_files("astronaut,coffee,rocket").values()):
        image = read_image(path)[60:140, 100:196]
        for name, pixels in (("hr", image), ("lr", reduce_image(image, 2))):
            (folder / name).mkdir(exist_ok=True)
            write_image(folder / name / f"{i:04d}.png", pixels)
    StoreBuilder(folder / "hr", folder / "x.lmdb", scales=[2]).build()
    torch.manual_seed(0)
    for scale in (2, 3):
        model = {"_target_": "sr_train.models.edsr.EDSR", "scale": scale, "channels": 4, "blocks": 1, "res_scale": 1.0}
        network = EDSR(scale=scale, channels=4, blocks=1, res_scale=1.0)
        name = "net.safetensors" if scale == 2 else "x3.safetensors"
        save_weights(folder / name, Weights(model, network.state_dict()))
    train_in(folder, *TRAIN[1:])
    return folder


@pytest.fixture
def place(world, tmp_path):
    """A copy of the world, in which commands run."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def small_disk(place):
    """A disk of a given size, mounted; returns a function that makes it larger. Needs the right to mount."""
    where = place / "disk"
    where.mkdir()

    def mount(size, *options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "none", str(where)],
            capture_output=True,
        )

    if shutil.which("mount") is None or mount("400k").returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield lambda size: mount(size, "remount")
    subprocess.run(["umount", str(where)], check=True)

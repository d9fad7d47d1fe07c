"""Commands on a small world, and ways to spoil it: images, pairs, a store, weights, a run."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sr_train.data.images import write_image
from sr_train.models.srresnet import SRResNet
from sr_train.weights.file import Weights, save_weights

TINY = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=4", "data.workers=0", "data.batch=2",
    "data.lr_patch=12", "trainer.accelerator=cpu", "checkpoint.every=2", "sets=[]", "logger=csv", "curve=constant",
    "record.every=1",
)  # fmt: skip
TRAIN = ("sr-train", *TINY, "data.train=[{hr: hr}]", "trainer.max_steps=4")
LONGER = (*TRAIN[:-1], "trainer.max_steps=6")
EVAL = ("sr-eval", "device=cpu", "hr=hr")
UPSCALE = ("sr-upscale", "device=cpu", "weights=net.safetensors", "output=out")
RUN = Path("runs/quickstart_edsr/x2")


def text(name, content="not what you think"):
    def make(place):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def cut(name, part=0.5):
    def make(place):
        data = (place / name).read_bytes()
        (place / name).write_bytes(data[: int(len(data) * part)])

    return make


def spoil(name, at=0.5, length=64):
    def make(place):
        data = bytearray((place / name).read_bytes())
        first = int(len(data) * at)
        data[first : first + length] = bytes(255 - b for b in data[first : first + length])
        (place / name).write_bytes(data)

    return make


def remove(name):
    return lambda place: shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()


def folder(name):
    return lambda place: (place / name).mkdir(parents=True)


def picture(name, height, width, channels=3, dtype=np.uint8):
    def make(place):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(place / name, np.full((height, width, channels), 99, dtype))

    return make


def bomb(name, width=100_000, height=100_000):
    """A PNG of a few bytes that says it is 100000x100000."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return text(name, b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


def pickled(name, wrap=lambda payload: {"params": payload}):
    return lambda place: torch.save(wrap(Payload()), place / name)


def weights(name="w.safetensors", *, header=None, state=None, source="net.safetensors", **model):
    """A weights file whose header or tensors are changed."""

    def make(place):
        tensors = load_file(place / source)
        described = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 4, "blocks": 1, "res_scale": 1.0}
        fields = {
            "format": "sr-train weights", "version": "1", "model": json.dumps({**described, **model}), "scale": "2",
            "origin": "{}", "scores": "{}", **(header or {}),
        }  # fmt: skip
        save_file(tensors if state is None else state(tensors), place / name, metadata=fields)

    return make


def evil_module(place):
    """A class that would make a file, in a module that could be imported."""
    (place / "evil.py").write_text("import os\nos.mkdir('executed')\nclass Net: pass\n")
    weights(_target_="evil.Net")(place)


def other_network(place):
    torch.manual_seed(0)
    model = {"_target_": "sr_train.models.srresnet.SRResNet", "scale": 2, "channels": 4, "blocks": 1}
    save_weights(place / "w.safetensors", Weights(model, SRResNet(scale=2, channels=4, blocks=1).state_dict()))


def in_store(**items):
    def make(place):
        with (
            lmdb.open(str(place / "x.lmdb"), map_size=1 << 24, lock=False) as environment,
            environment.begin(write=True) as transaction,
        ):
            for key, value in items.items():
                transaction.put(key.encode(), value)
        for name in ("lock.mdb", "index"):  # which no longer fits
            (place / "x.lmdb" / name).unlink(missing_ok=True)

    return make


def far_root(place):
    """The root page of both headers far beyond the file: LMDB would follow it. Without an index, which would not need it."""
    (place / "x.lmdb" / "index").unlink()
    data = bytearray((place / "x.lmdb" / "data.mdb").read_bytes())
    for page in (0, 4096):
        struct.pack_into("<Q", data, page + 128, 1 << 40)
    (place / "x.lmdb" / "data.mdb").write_bytes(data)


def checkpoint(change):
    """The run is unfinished, and its newest checkpoint is changed."""

    def make(place):
        (place / RUN / "weights.safetensors").unlink()
        for path in (place / RUN / "checkpoints").glob("step_*.ckpt"):
            change(path)

    return make


def rewrite(**changes):
    def change(path):
        torch.save({**torch.load(path, weights_only=True), **changes}, path)

    return change


def hostile(path):
    torch.save({**torch.load(path, weights_only=True), "callbacks": Payload()}, path)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_wider_network(path):
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {k: torch.cat([v, v]) if v.dim() else v for k, v in content["state_dict"].items()}
    torch.save(content, path)


def unfinished(place):
    (place / RUN / "weights.safetensors").unlink()


def both(*makes):
    def make(place):
        for one in makes:
            one(place)

    return make


def nothing(place):
    """Leave the world as it is."""


class Case(NamedTuple):
    id: str
    arguments: tuple[str, ...]
    make: Callable[[Path], object]
    code: int
    message: str


def check(case, invoke, place):
    """Spoil the world, run the command, and compare its exit code and message."""
    case.make(place)
    done = invoke(*case.arguments)
    assert done.returncode == case.code, done.stdout + done.stderr
    assert f"{case.arguments[0]}: error:" in done.stderr
    assert case.message in " ".join((done.stdout + done.stderr).split()), done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "executed").exists()  # what a payload would have made

"""Everything that a user may hand to a command by mistake, or an enemy on purpose: refused by name, with what to do.

Each case spoils a small world - images, pairs, a store, weights, a run - and runs a command in it. Exit codes: 2 where
the command line makes no sense by itself, 1 where what it names does not.
"""

import errno
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_train import files
from sr_train.data.degrade import reduce_image
from sr_train.data.images import read_image, write_image
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.toy import toy_files
from sr_train.models.edsr import EDSR
from sr_train.models.srresnet import SRResNet
from sr_train.runs.lock import hold
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


@pytest.fixture(scope="module")
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


# -- how things are spoiled ------------------------------------------------------------------------------------------


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


CASES = [
    # images
    Case(
        "empty image",
        ("sr-prepare", "images=hr", "store=y.lmdb"),
        text("hr/a.png", ""),
        1,
        "hr/a.png: the file is empty",
    ),
    Case(
        "text as png",
        ("sr-prepare", "images=hr", "store=y.lmdb"),
        text("hr/a.png"),
        1,
        "hr/a.png: not a readable image",
    ),
    Case("png cut", (*UPSCALE, "input=hr"), cut("hr/0001.png"), 1, "hr/0001.png: corrupt or truncated"),
    Case(
        "png cut in training", TRAIN, both(remove("runs"), cut("hr/0001.png")), 1, "hr/0001.png: corrupt or truncated"
    ),
    Case("png cut in scoring", (*EVAL, "weights=net.safetensors"), cut("hr/0001.png"), 1, "hr/0001.png: corrupt"),
    Case("bomb upscaled", (*UPSCALE, "input=b.png"), bomb("b.png"), 1, "b.png: refused before it is decoded"),
    Case("bomb prepared", ("sr-prepare", "images=hr", "store=y.lmdb"), bomb("hr/b.png"), 1, "hr/b.png: refused before"),
    Case(
        "bomb in training", TRAIN, both(remove("runs"), bomb("hr/b.png")), 1, "hr/b.png: refused before it is decoded"
    ),
    Case("bomb in scoring", (*EVAL, "weights=net.safetensors"), bomb("hr/b.png"), 1, "hr/b.png: refused before"),
    Case("huge but under the limit", (*UPSCALE, "input=b.png"), bomb("b.png", 12_000, 12_000), 1, "b.png: corrupt"),
    Case(
        "image of no height",
        (*UPSCALE, "input=b.png"),
        bomb("b.png", 10, 0),
        1,
        "b.png: not a readable image (corrupt, or not one of png, jpg",
    ),
    Case(
        "float tiff",
        (*UPSCALE, "input=f.tiff"),
        lambda p: PIL.Image.fromarray(np.ones((8, 8), np.float32)).save(p / "f.tiff"),
        1,
        "f.tiff: contains floating-point pixels; 8 and 16 bit are supported",
    ),
    Case(
        "ppm",
        (*UPSCALE, "input=a.ppm"),
        lambda p: PIL.Image.new("RGB", (8, 8)).save(p / "a.ppm"),
        1,
        "a.ppm: not a readable image",
    ),
    Case("folder named png", (*UPSCALE, "input=d.png"), folder("d.png"), 1, "d.png: no images or videos in it"),
    Case(
        "16 bit to jpg",
        (*UPSCALE, "input=deep.png", "format=jpg"),
        picture("deep.png", 8, 8, dtype=np.uint16),
        1,
        "holds 8 bits, the image has 16: write .png",
    ),
    Case(
        "two names become one",
        ("sr-prepare", "images=hr", "store=y.lmdb"),
        picture("hr/0001.bmp", 8, 8),
        1,
        "would both be '0001'",
    ),
    Case(
        "too small for ssim",
        (*EVAL, "weights=net.safetensors"),
        picture("hr/9.png", 10, 10),
        1,
        "9: SSIM needs at least 11x11",
    ),
    Case(
        "too small to reduce",
        ("sr-prepare", "images=hr", "store=y.lmdb", "scales=[4]"),
        picture("hr/9.png", 3, 30),
        1,
        "hr/9.png: 30x3 pixels are too few to reduce by 4",
    ),
    # folders and files
    Case("no images", (*UPSCALE, "input=e"), folder("e"), 1, "e: no images or videos in it or below it (.png, .jpg"),
    Case(
        "no images to train on", (*TRAIN[:-2], "data.train=[{hr: e}]", "name=n"), folder("e"), 1, "e: no images in it"
    ),
    Case(
        "file for a folder",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr/0000.png"),
        nothing,
        1,
        "hr/0000.png: is not a folder; give the folder",
    ),
    Case(
        "folder for weights",
        (*EVAL, "weights=hr"),
        nothing,
        1,
        "hr: this folder has no weights.safetensors and no checkpoints",
    ),
    Case(
        "run for a stage",
        (*EVAL, "weights=runs/quickstart_edsr"),
        nothing,
        1,
        "its stages are x2; give e.g. weights=runs/quickstart_edsr/x2",
    ),
    Case(
        "image for weights",
        (*EVAL, "weights=hr/0000.png"),
        nothing,
        1,
        "hr/0000.png: not a readable safetensors or torch file",
    ),
    Case(
        "weights for an image", (*UPSCALE, "input=net.safetensors"), nothing, 1, "net.safetensors: not a readable image"
    ),
    Case(
        "output below a file",
        (*UPSCALE[:-1], "input=hr/0000.png", "output=net.safetensors/out"),
        nothing,
        1,
        "net.safetensors/out: Not a directory",
    ),
    Case(
        "scores below a file",
        (*EVAL, "weights=net.safetensors", "out=net.safetensors/out"),
        nothing,
        1,
        "net.safetensors/out: Not a directory",
    ),
    Case(
        "scores into a file",
        (*EVAL, "weights=net.safetensors", "out=x3.safetensors"),
        nothing,
        1,
        "x3.safetensors: File exists",
    ),
    Case("runs below a file", (*TRAIN, "paths.runs=net.safetensors"), nothing, 1, "net.safetensors: File exists"),
    Case(
        "store below a file",
        ("sr-prepare", "images=hr", "store=net.safetensors/y.lmdb"),
        nothing,
        1,
        "net.safetensors: File exists",
    ),
    Case("name with ..", (*TRAIN, "name=../../etc/x"), nothing, 2, "expected a folder's name below runs"),
    Case("absolute name", (*TRAIN, "name=/tmp/x"), nothing, 2, "expected a folder's name below runs"),
    # pairs
    Case(
        "hr and lr swapped",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=lr", "lr=hr"),
        nothing,
        1,
        "are HR and LR swapped?",
    ),
    Case(
        "lr is hr",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=hr"),
        nothing,
        1,
        "LR is as large as HR; leave lr out",
    ),
    Case(
        "lr off by one",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=lr"),
        picture("lr/0001.png", 40, 47),
        1,
        "0001: HR 96x80 does not fit LR 47x40 at scale 2",
    ),
    Case(
        "lr larger by one",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=lr"),
        picture("lr/0001.png", 40, 49),
        1,
        "0001: HR 96x80 does not fit LR 49x40",
    ),
    Case(
        "lr missing",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=hr", "lr=lr"),
        remove("lr/0001.png"),
        1,
        "0001: no 0001, 0001x2 or 0001_SRF_2_LR",
    ),
    Case(
        "lr of another scale",
        ("sr-eval", "weights=bicubic", "scale=3", "hr=hr", "lr=lr"),
        nothing,
        1,
        "is scale=3 right?",
    ),
    Case(
        "finished images of another size",
        ("sr-eval", "sr=lr", "hr=hr", "scale=2"),
        nothing,
        1,
        "the result is 48x40, the HR image 96x80",
    ),
    Case(
        "finished images missing",
        ("sr-eval", "sr=lr", "hr=hr", "scale=2"),
        remove("lr/0002.png"),
        1,
        "0002: no image is named 0002 or 0002x2 or 0002_SRF_2_SR, and no name begins with 0002_",
    ),
    Case(
        "patch larger than images",
        (*TRAIN, "data.lr_patch=41", "name=n"),
        nothing,
        1,
        "smaller than the patch of 41x41",
    ),
    Case(
        "patch of nothing",
        (*TRAIN, "data.lr_patch=0", "name=n"),
        nothing,
        2,
        "data.lr_patch=0: expected an integer of at least 1",
    ),
    # stores
    Case(
        "no store",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=none.lmdb"),
        nothing,
        1,
        "none.lmdb: there is no such store; make it with sr-prepare",
    ),
    Case(
        "store cut",
        (*EVAL[:-1], "hr=x.lmdb", "weights=net.safetensors"),
        cut("x.lmdb/data.mdb"),
        1,
        "x.lmdb: truncated",
    ),
    Case(
        "store cut in training",
        (*TRAIN[:-2], "data.train=[{hr: x.lmdb}]", "name=n"),
        cut("x.lmdb/data.mdb", 0.8),
        1,
        "x.lmdb: truncated",
    ),
    Case(
        "store verified when cut",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        cut("x.lmdb/data.mdb", 0.9),
        1,
        "x.lmdb: truncated",
    ),
    Case(
        "store of a far page",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        far_root,
        1,
        "x.lmdb: cannot be opened as LMDB (page 1099511627776 of",
    ),
    Case(
        "index damaged",
        (*TRAIN[:-2], "data.train=[{hr: x.lmdb}]", "name=n"),
        spoil("x.lmdb/index", 0.5, 1),
        1,
        "x.lmdb: its file 'index' cannot be read (damaged",
    ),
    Case(
        "index cut",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        cut("x.lmdb/index"),
        1,
        "x.lmdb: its file 'index' cannot be read (damaged",
    ),
    Case(
        "index of another store",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        spoil("x.lmdb/data.mdb", 0.0, 1),
        1,
        "x.lmdb: its files 'index' and 'data.mdb' belong to different stores",
    ),
    Case(
        "store of another version",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        in_store(store=b'{"format": "sr-train store", "version": 3}'),
        1,
        "x.lmdb: has version 3, this sr-train reads versions 1 and 2; make it again",
    ),
    Case(
        "store without its summary's fields",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        in_store(store=b'{"format": "sr-train store", "version": 1}'),
        1,
        "x.lmdb: damaged summary",
    ),
    Case(
        "pixels of a store damaged",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        spoil("x.lmdb/data.mdb", 0.7),
        1,
        "checksum differs, the pixels are damaged",
    ),
    Case(
        "store without this scale",
        ("sr-eval", "weights=bicubic", "scale=4", "hr=hr", "lr=x.lmdb"),
        nothing,
        1,
        "x.lmdb: contains LR of scales [2], not of 4; make another with sr-prepare scales=[2, 4]",
    ),
    Case(
        "a file called lmdb",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=f.lmdb"),
        text("f.lmdb"),
        1,
        "f.lmdb: contains no data.mdb, so it is not a store of sr-prepare",
    ),
    Case(
        "store made otherwise",
        ("sr-prepare", "images=hr", "store=x.lmdb", "scales=[3]"),
        nothing,
        1,
        "x.lmdb: was made with scales=[2]",
    ),
    # weights
    Case(
        "weights cut",
        (*EVAL, "weights=net.safetensors"),
        cut("net.safetensors"),
        1,
        "net.safetensors: not a readable safetensors or torch file",
    ),
    Case(
        "weights of another scale",
        (*EVAL, "weights=x3.safetensors", "scale=2"),
        nothing,
        1,
        "scale=2, but x3.safetensors is a network for x3",
    ),
    Case(
        "start from another scale",
        (*TRAIN, "init.weights=x3.safetensors", "name=n"),
        nothing,
        1,
        "upsample.0.weight: [36, 4, 3, 3] in the source, [16, 4, 3, 3] in the network",
    ),
    Case(
        "start from another network",
        (*TRAIN, "init.weights=w.safetensors", "name=n"),
        other_network,
        1,
        "match; list the tensors to re-initialize, e.g. init.skip=",
    ),
    Case(
        "start from nowhere",
        (*TRAIN, "init.weights=none.safetensors", "name=n"),
        nothing,
        1,
        "none.safetensors: there is no such file",
    ),
    Case(
        "nan in weights",
        (*EVAL, "weights=w.safetensors"),
        weights(state=lambda s: {k: v * float("nan") for k, v in s.items()}),
        1,
        "NaN or infinity",
    ),
    Case(
        "tensors missing",
        (*EVAL, "weights=w.safetensors"),
        weights(state=lambda s: dict(list(s.items())[1:])),
        1,
        "w.safetensors: 1 tensor does not match",
    ),
    Case(
        "huge arguments",
        (*EVAL, "weights=w.safetensors"),
        weights(channels=10**12),
        1,
        "w.safetensors: model.channels=1000000000000 is beyond 10000",
    ),
    Case(
        "huge but plausible arguments",
        (*EVAL, "weights=w.safetensors"),
        weights(channels=9999, blocks=9999),
        1,
        "w.safetensors: 40003 tensors do not match sr_train.models.edsr.EDSR: body.0.conv1.bias: [4], expected [9999]",
    ),
    Case(
        "huge scale",
        (*UPSCALE[:2], "weights=w.safetensors", "input=hr", "output=o"),
        weights(scale=10**6),
        1,
        "is not an integer from 1 to 16",
    ),
    Case(
        "header of another version",
        (*EVAL, "weights=w.safetensors"),
        weights(header={"version": "9"}),
        1,
        "w.safetensors: has version 9",
    ),
    Case(
        "header that is no json",
        (*EVAL, "weights=w.safetensors"),
        weights(header={"model": "{"}),
        1,
        "w.safetensors: damaged header",
    ),
    Case(
        "header nested without end",
        (*EVAL, "weights=w.safetensors"),
        weights(header={"model": "[" * 100_000}),
        1,
        "w.safetensors: damaged header",
    ),
    Case(
        "target of os",
        (*EVAL, "weights=w.safetensors"),
        weights(_target_="os.mkdir", path="executed"),
        1,
        "names the network 'os.mkdir'; only networks of sr_train.models",
    ),
    Case(
        "target within an argument",
        (*EVAL, "weights=w.safetensors"),
        weights(channels={"_target_": "os.mkdir", "path": "executed"}),
        1,
        "must be plain values",
    ),
    Case(
        "target of a module at hand",
        (*EVAL, "weights=w.safetensors"),
        evil_module,
        1,
        "names the network 'evil.Net'; only networks of sr_train.models",
    ),
    Case(
        "target beside the networks",
        (*EVAL, "weights=w.safetensors"),
        weights(_target_="sr_train.models.edsr.torch.load"),
        1,
        "w.safetensors: this version has no network 'sr_train.models.edsr.torch.load'",
    ),
    Case(
        "a pickle that would run code",
        (*EVAL, "weights=p.pth"),
        pickled("p.pth"),
        1,
        "p.pth: refused: it contains more than tensors",
    ),
    Case(
        "a pickle in old clothes",
        (*EVAL, "weights=p.safetensors"),
        lambda p: (p / "p.safetensors").write_bytes(pickle.dumps(Payload())),
        1,
        "p.safetensors: refused: it contains more than tensors",
    ),
    Case(
        "a start that would run code", (*TRAIN, "init.weights=p.pth", "name=n"), pickled("p.pth"), 1, "p.pth: refused"
    ),
    Case(
        "a pickle that asks for gigabytes",
        (*EVAL, "weights=p.pth"),
        text("p.pth", b"\x80\x02X\xff\xff\xff\xffabc"),
        1,
        "p.pth: not a readable torch file",
    ),
    # checkpoints and what stands beside them
    Case(
        "all checkpoints cut",
        LONGER,
        checkpoint(halve),
        1,
        "no checkpoint can be read (2 tried); resume=never renames the folder and starts from scratch",
    ),
    Case(
        "checkpoints of another network",
        LONGER,
        checkpoint(of_wider_network),
        1,
        "does not fit this command; nothing was changed: model.*: model.conv_first.weight: [8, 3, 3, 3] in the checkpoint",
    ),
    Case(
        "checkpoints that would run code",
        LONGER,
        checkpoint(hostile),
        1,
        "refused: it contains more than tensors and plain values",
    ),
    Case(
        "checkpoints of another step",
        LONGER,
        checkpoint(rewrite(global_step=99)),
        1,
        "was written at step 99: it belongs to another run or was renamed",
    ),
    Case(
        "checkpoints whose weights are none",
        LONGER,
        checkpoint(rewrite(state_dict=[1])),
        1,
        "not a checkpoint of sr-train",
    ),
    Case(
        "checkpoints without loops",
        LONGER,
        checkpoint(rewrite(loops={})),
        1,
        "step_00000004.ckpt: cannot be restored; nothing was changed (KeyError: 'fit_loop')",
    ),
    Case(
        "checkpoints of another optimizer",
        LONGER,
        checkpoint(rewrite(optimizer_states=[{"state": {}, "param_groups": []}])),
        1,
        "task.rate_scale: the checkpoint has parameter groups (none); this command (the others)",
    ),
    Case(
        "a checkpoint for weights",
        (*EVAL, f"weights={RUN}/checkpoints/step_00000004.ckpt"),
        nothing,
        1,
        f"is a checkpoint to resume training from; give the folder of its stage, {RUN}",
    ),
    Case("config damaged", LONGER, text(RUN / "config.yaml", "a: [1"), 1, f"{RUN}/config.yaml: cannot be read"),
    Case(
        "config binary", LONGER, text(RUN / "config.yaml", b"\xff\xfe\x00\x80"), 1, f"{RUN}/config.yaml: cannot be read"
    ),
    Case("config a list", LONGER, text(RUN / "config.yaml", "- 1"), 1, f"{RUN}/config.yaml: is not a config"),
    Case(
        "config gone when scored",
        (*EVAL, f"weights={RUN}"),
        both(unfinished, remove(RUN / "config.yaml")),
        1,
        f"{RUN}: has no checkpoint yet",
    ),
    Case(
        "config without a model when scored",
        (*EVAL, f"weights={RUN}"),
        both(unfinished, text(RUN / "config.yaml", "name: x")),
        1,
        f"{RUN}/config.yaml: damaged, because the name of the network, run or stage is missing",
    ),
    Case(
        "metrics a folder",
        LONGER,
        both(unfinished, remove(RUN / "metrics.csv"), folder(RUN / "metrics.csv")),
        1,
        f"{RUN}/metrics.csv: Is a directory",
    ),
    Case(
        "finished weights damaged",
        TRAIN,
        cut(RUN / "weights.safetensors"),
        1,
        f"{RUN}/weights.safetensors: not a readable safetensors or torch file",
    ),
    # values
    Case(
        "text for a number",
        (*TRAIN, "trainer.max_steps=many"),
        nothing,
        2,
        'trainer.max_steps="many": expected an integer',
    ),
    Case("fraction for a number", (*TRAIN, "data.batch=2.5"), nothing, 2, "data.batch=2.5: expected an integer"),
    Case("list for a number", (*TRAIN, "scale=[2]"), nothing, 2, "scale=[2]: expected an integer"),
    Case(
        "negative batch",
        (*TRAIN, "data.batch=-4", "name=n"),
        nothing,
        2,
        "data.batch=-4: expected an integer of at least 1",
    ),
    Case("negative rate", (*TRAIN, "task.rate=-1", "name=n"), nothing, 2, "task.rate=-1 must be positive"),
    Case("negative scale", (*TRAIN, "scale=-2", "name=n"), nothing, 2, "scale=-2: expected an integer of at least 1"),
    Case(
        "negative interval",
        (*TRAIN, "record.every=-1", "name=n"),
        nothing,
        2,
        "record.every=-1: expected an integer of at least 1",
    ),
    Case(
        "one checkpoint kept",
        (*TRAIN, "checkpoint.keep=1", "name=n"),
        nothing,
        2,
        "checkpoint.keep=1: expected an integer of at least 2",
    ),
    Case(
        "a later stage's rate",
        ("sr-train", "experiment=quickstart_edsr", *TRAIN[3:], "x4.task.rate=-1", "name=n"),
        nothing,
        2,
        "task.rate=-1 must be positive",
    ),
    Case(
        "a later stage's best",
        ("sr-train", "experiment=quickstart_edsr", *TRAIN[3:], "x4.validate.best=a/y/psnr", "name=n"),
        nothing,
        2,
        "validate.best=a/y/psnr is not measured",
    ),
    Case(
        "a later stage's typo",
        ("sr-train", "experiment=quickstart_edsr", *TRAIN[3:], "x4.task.rte=1"),
        nothing,
        2,
        "did you mean x4.task.rate?",
    ),
    Case(
        "negative weight",
        (*TRAIN[:-2], "data.train=[{hr: hr, weight: -1}]", "name=n"),
        nothing,
        1,
        "weight=-1: expected a positive number",
    ),
    Case(
        "source without hr",
        (*TRAIN[:-2], "data.train=[{lr: lr}]", "name=n"),
        nothing,
        1,
        "expected a source, {hr: ..., lr: ..., weight: ...}",
    ),
    Case(
        "unknown protocol in training",
        (*TRAIN, "sets=[toy]", "validate.protocols=[psnr]", "name=n"),
        nothing,
        2,
        "choose from y, y_matlab, rgb, div2k",
    ),
    Case(
        "unknown protocol in scoring",
        (*EVAL, "weights=net.safetensors", "protocols=[y,lab]"),
        nothing,
        2,
        "choose from y, y_matlab, rgb, div2k",
    ),
    Case("unknown set in training", (*TRAIN, "sets=[set99]"), nothing, 2, "there is no such sets; did you mean"),
    Case(
        "unknown set in scoring",
        (*EVAL, "weights=net.safetensors", "sets=[set99]"),
        nothing,
        2,
        "Could not load 'sets/set99'",
    ),
    Case("no yaml", (*TRAIN, "data.train=[{hr: hr"), nothing, 2, "not KEY=VALUE"),
    Case("no key", ("sr-eval", "net.safetensors"), nothing, 2, "'net.safetensors': not KEY=VALUE"),
    Case(
        "negative tile",
        (*UPSCALE, "input=hr", "tile=-1"),
        nothing,
        2,
        "tile=-1: expected auto, null for the whole image, or an integer of at least 1",
    ),
    Case(
        "negative scale in scoring",
        ("sr-eval", "weights=bicubic", "hr=hr", "scale=-2"),
        nothing,
        2,
        "scale=-2: expected an integer of at least 1",
    ),
    Case(
        "scale of a million",
        ("sr-eval", "weights=bicubic", "hr=hr", "scale=1000000"),
        nothing,
        1,
        "pixels are too few for scale 1000000",
    ),
    Case(
        "negative scales",
        ("sr-prepare", "images=hr", "store=y.lmdb", "scales=[-2]"),
        nothing,
        2,
        "expected different integers of at least 2",
    ),
    Case(
        "scale twice",
        ("sr-prepare", "images=hr", "store=y.lmdb", "scales=[2,2]"),
        nothing,
        2,
        "expected different integers of at least 2",
    ),
    Case(
        "unknown arithmetic",
        ("sr-prepare", "images=hr", "store=y.lmdb", "arithmetic=exact"),
        nothing,
        2,
        "float, uint8, uint8_replicate",
    ),
    Case(
        "no device",
        (*EVAL[:1], "hr=hr", "weights=net.safetensors", "device=abacus"),
        nothing,
        1,
        "device=abacus: cannot be used here",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    case.make(place)
    done = invoke(*case.arguments)
    assert done.returncode == case.code, done.stdout + done.stderr
    assert f"{case.arguments[0]}: error:" in done.stderr
    assert case.message in " ".join((done.stdout + done.stderr).split()), done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "executed").exists()  # what a payload would have made


# -- disks, processes and what else a case cannot be -------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = [
    (TRAIN, "runs/full/x2/config.yaml"),
    ((*EVAL, "weights=net.safetensors", "out=scores"), "scores/metrics.json"),
    ((*UPSCALE, "input=hr"), "out/0000.png"),
    (("sr-prepare", "images=hr", "store=y.lmdb"), "y.lmdb.partial/index"),
]


@pytest.mark.parametrize(("arguments", "file"), FULL, ids=[a[0] for a, _ in FULL])
def test_a_full_disk_is_reported_in_one_line(invoke, place, monkeypatch, arguments, file):
    monkeypatch.setattr(files, "_write", full)
    done = invoke(*arguments, *(["name=full"] if arguments is TRAIN else []))
    assert done.returncode == 1
    assert f"{file}: the disk is full; free some space and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(place.rglob("*.part"))


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


def test_a_run_on_a_full_disk_warns_once_and_continues_when_there_is_space(command, place, small_disk):
    run = (
        *TRAIN[:-2],
        "sets=[toy]",
        "logger=[tensorboard,csv]",
        "validate.every=2",
        "trainer.max_steps=4",
        "paths.runs=disk",
    )
    failed = command(*run)
    assert failed.returncode == 1, failed.stderr
    assert "disk/quickstart_edsr/x2" in failed.stderr
    assert "the disk is full; free some space and run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert small_disk("50m").returncode == 0
    done = command(*run)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_upscaling_and_preparing_with_a_remedy(invoke, place, small_disk):
    small_disk("100k")
    done = invoke(*UPSCALE[:-1], "input=hr", "output=disk/out")
    assert done.returncode == 1
    assert "the disk is full; free some space and run the same command again" in done.stderr
    assert not list((place / "disk").rglob("*.part"))
    shutil.rmtree(place / "disk" / "out")
    small_disk("30k")
    done = invoke("sr-prepare", "images=hr", "store=disk/y.lmdb")
    assert done.returncode == 1
    assert "disk: the store needs about" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_not_started_twice_at_the_same_time(invoke, place, monkeypatch):
    from sr_train.runs import lock

    monkeypatch.setattr(lock, "hold", lambda folder: hold(folder, 0.3))
    program = "from sr_train.runs.lock import hold\nfrom pathlib import Path\nimport time\n"
    program += "with hold(Path('runs/quickstart_edsr')): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=place, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    done = invoke(*TRAIN)
    holder.kill()
    holder.wait()
    assert done.returncode == 1
    assert f"runs/quickstart_edsr: is being written by process {holder.pid}" in done.stderr
    assert "wait until it ends, stop it, or give another name=" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("sr-prepare", "images=hr", "store=y.lmdb"), (*UPSCALE, "input=hr"), (*TRAIN, "name=n")]
)
def test_names_that_are_not_utf8_are_listed(command, place, arguments):
    try:
        Path(os.fsdecode(os.fsencode(place) + b"/hr/caf\xe9.png")).write_bytes((place / "hr" / "0000.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    done = command(*arguments)
    assert done.returncode == 1, done.stdout
    assert "names that are not UTF-8; rename these files" in done.stderr
    assert "hr/caf\\udce9.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_readable_lines_of_damaged_metrics_are_kept(invoke, place):
    """Half a line, a line of another program and bytes of none: the rows up to the checkpoint stay, the rest is cut."""
    unfinished(place)
    path = place / RUN / "metrics.csv"
    rows = path.read_bytes()
    path.write_bytes(rows + b"\xff\xfe\x00,,\n1;2;3\n9,train/l")
    done = invoke(*LONGER)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert text.startswith(rows.decode())
    assert "1;2;3" not in text
    assert [line for line in text.splitlines() if line.startswith("6,train/loss")]


@pytest.mark.slow
def test_a_typo_is_refused_in_every_place_of_an_experiment_file(tmp_path):
    """A user's own recipe stands in conf/experiment of a checkout; here in a copy of the package."""
    import sr_train
    from sr_train.config.folders import conf_folder

    shutil.copytree(
        Path(sr_train.__file__).parent, tmp_path / "sr_train", ignore=shutil.ignore_patterns("conf", "__pycache__")
    )
    shutil.copytree(conf_folder(), tmp_path / "sr_train" / "conf", ignore=shutil.ignore_patterns("__pycache__"))
    lines = [
        "# @package _global_", "# Mine", "sede: 1", "model: {chanels: 8}", "task: {rate: fast}", "stages:",
        "  x2: {scale: 2, trainer.max_stpes: 3}", "  x4: {scale: 4, init.stage: x3, sets: [set55]}",
    ]  # fmt: skip
    (tmp_path / "sr_train" / "conf" / "experiment" / "mine.yaml").write_text("\n".join(lines))
    program = "import sys; sys.argv = ['sr-train', 'experiment=mine']; from sr_train.cli.train import main; main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for message in ("trainer.max_stpes'; did you mean max_steps", "set55"):
        assert message in done.stderr
    lines[6:] = ["  x2: {scale: 2}", "  x4: {scale: 4, init.stage: x3}"]
    (tmp_path / "sr_train" / "conf" / "experiment" / "mine.yaml").write_text("\n".join(lines))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for message in ("unknown key 'sede'; did you mean seed", "unknown key 'model.chanels'; did you mean channels"):
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()

"""Read damaged and forged files with the reading functions of sr-train, and count the outcomes.

    python scripts/fuzz.py                                        # 1,000 mutants of each kind, about a minute
    python scripts/fuzz.py --count 200 --kinds images stores --seed 7

A mutant is a function of (seed, kind, number): flipped bits, cut ends, zeroed and swapped blocks, or huge length fields.
If the format has checksums, some mutants have correct ones. Each mutant is read in a process with limits on address
space, memory and time; a process that crashes is counted and replaced. An audit hook reports forbidden operations: to
unpickle by name, start processes, connect, write or remove. The exit code is 1 unless all outcomes are one of these:

    equal       read, with the content of the undamaged file
    different   read, with other content (the format has no checksums, or they were corrected)
    refused     an error of sr-train that contains the file's name
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sr_train import Weights, build_network, load_weights, save_weights
from sr_train.data.images import ImageError, encode_image, read_header, read_image, read_upright, write_image
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import StoreError
from sr_train.data.store.reader import Store
from sr_train.models.edsr import EDSR
from sr_train.runs.checkpoints import CheckpointError, newest_checkpoint, read_checkpoint
from sr_train.runs.resume import ChangedError, write_config
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.open import load

OURS = (CheckpointError, ChangedError, WeightsError, ImageError, StoreError)
FINE = ("equal", "different", "refused")
OUTCOMES = (*FINE, "foreign error", "crash", "time out", "memory", "code run")
ROOM = 2 << 30  # address space in addition to that mapped at the start
MUCH = 1 << 30  # largest allowed rise in memory; the files have some kilobytes
SECONDS = 20.0
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.mkdir",
             "socket.connect", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "ctypes.dlopen")  # fmt: skip
MODEL = {"_target_": "sr_train.models.edsr.EDSR", "scale": 2, "channels": 8, "blocks": 1, "res_scale": 1.0}


class Kind(NamedTuple):
    """A kind of file: its undamaged files by name, the path of a mutant, and the function that reads it."""

    name: str
    seeds: dict[str, bytes]
    place: Callable[[Path, str], Path]
    read: Callable[[Path], object]


# -- mutations -------------------------------------------------------------------------------------------------------


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def zero(data: bytearray, chance: random.Random) -> None:
    at, length = chance.randrange(len(data)), chance.randint(1, max(1, len(data) // 4))
    data[at : at + length] = bytes(len(data[at : at + length]))


def swap(data: bytearray, chance: random.Random) -> None:
    length = chance.randint(1, max(1, len(data) // 8))
    a, b = (chance.randrange(max(1, len(data) - length)) for _ in range(2))
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def huge(data: bytearray, chance: random.Random, near: int = 1 << 30) -> None:
    """Set a length field to a huge value, more often near the beginning, where headers are."""
    value = chance.choice((0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1))
    size = next(s for s in (1, 2, 4, 8) if value < 1 << 8 * s)
    at = chance.randrange(min(len(data), near if chance.random() < 0.6 else len(data)))
    data[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))[: len(data) - at]


def text_number(data: bytearray, chance: random.Random) -> None:
    """Replace the digits of a number (in a header of safetensors) by nines."""
    digits = [i for i in range(min(len(data), 1 << 16)) if 48 <= data[i] <= 57]
    if digits:
        at = chance.choice(digits)
        while at < len(data) and 48 <= data[at] <= 57:
            data[at] = 57
            at += 1


MUTATIONS = (flip, truncate, zero, swap, huge, text_number)


def mutate_zip(data: bytearray, chance: random.Random) -> None:
    """Damage a member of a torch archive, mostly its pickle, and correct the checksum."""
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        members = [m for m in archive.infolist() if m.file_size]
    pickles = [m for m in members if m.filename.endswith("data.pkl")]
    member = chance.choice(pickles if chance.random() < 0.7 else members)
    name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
    start = member.header_offset + 30 + name + extra
    inside = data[start : start + member.file_size]
    chance.choice((flip, zero, swap, huge))(inside, chance)
    data[start : start + member.file_size] = inside
    data[:] = data.replace(struct.pack("<I", member.CRC), struct.pack("<I", zlib.crc32(inside)))


def mutate_png(data: bytearray, chance: random.Random) -> None:
    """Damage chunks of a PNG and correct their checksums."""
    chance.choice((flip, zero, swap, huge))(data, chance)
    at = 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        if at + 12 + length > len(data):
            return
        struct.pack_into(">I", data, at + 8 + length, zlib.crc32(data[at + 4 : at + 8 + length]))
        at += 12 + length


def mutate_tree(data: bytearray, chance: random.Random) -> None:
    """Damage a page of an LMDB that contains keys, records or the root; the other pages contain pixels."""
    pages = [at for at in range(0, len(data), 4096) if data[at + 10] & 0b1011 and not data[at + 10] & 0b100]
    at = chance.choice(pages)
    lower, upper = struct.unpack_from("<HH", data, at + 12)  # the bytes between them are unused
    first, last = (at, at + lower) if chance.random() < 0.5 or data[at + 10] & 0b1000 else (at + upper, at + 4096)
    part = data[first:last] or data[at : (last := at + 160)]
    chance.choice((flip, flip, zero, swap, huge))(part, chance)
    data[last - len(part) : last] = part


def mutate_index(data: bytearray, chance: random.Random) -> None:
    """Damage the index of a store and correct its checksum."""
    body = data[:-4]
    chance.choice((flip, flip, zero, swap, huge))(body, chance)
    data[:] = body + zlib.crc32(body).to_bytes(4, "little")


def mutant(kind: Kind, number: int, seed: int) -> tuple[str, str, bytes]:
    """Return (name of the undamaged file, mutation, bytes) of the ``number``-th mutant of a kind."""
    chance = random.Random(f"{seed}/{kind.name}/{number}")
    name = list(kind.seeds)[number % len(kind.seeds)]
    data = bytearray(kind.seeds[name])
    special = {b"PK\x03\x04": mutate_zip, b"\x89PNG": mutate_png}.get(bytes(data[:4]))
    special = {"data.mdb": mutate_tree, "index": mutate_index}.get(name, special)
    chosen = special if special is not None and chance.random() < 0.4 else chance.choice(MUTATIONS)
    if chosen is huge:
        huge(data, chance, near=256)
    else:
        chosen(data, chance)
    return name, chosen.__name__, bytes(data)


# -- kinds -----------------------------------------------------------------------------------------------------------


def photograph(height: int, width: int, channels: int = 3) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :channels]
    return ((np.sin(x / 5 + c) + np.cos(y / 7)) * 60 + 128 + (x * y + c) % 9).astype(np.uint8)


def checkpoints(folder: Path) -> Kind:
    """Return checkpoints of a tiny network with Adam's state and an EMA, as Lightning writes them."""
    torch.manual_seed(0)
    network = EDSR(**{k: v for k, v in MODEL.items() if k != "_target_"})
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    state |= {f"ema.module.{k}": v for k, v in network.state_dict().items()}
    content = {
        "state_dict": {**state, "ema.n_averaged": torch.tensor(7)},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 7}],
        "loops": {"fit_loop": {}},
        "callbacks": {"Validate": {"best": 31.5}},
        "global_step": 7,
    }
    stage = folder / "stage"
    write_config(stage, {"name": "run", "stage": "x2", "model": MODEL})
    (stage / "checkpoints").mkdir()
    torch.save(content, folder / "seed.ckpt")

    def read(path: Path) -> object:
        newest_checkpoint(path.parent, lambda text: None)
        found = read_checkpoint(path)
        weights, file = load(str(stage))
        return found.content, build_network(weights, where=str(file)).state_dict()

    return Kind(
        "checkpoints",
        {"step_00000007.ckpt": (folder / "seed.ckpt").read_bytes()},
        lambda _, name: stage / "checkpoints" / name,
        read,
    )


def weights(folder: Path) -> Kind:
    """Return weights files: sr-train's, and BasicSR's key formats as a zip, a bare pickle and plain safetensors."""
    torch.manual_seed(0)
    state = EDSR(**{k: v for k, v in MODEL.items() if k != "_target_"}).state_dict()
    save_weights(folder / "a.safetensors", Weights(MODEL, state, {"step": 7}, {"toy/y/psnr": 31.5}))
    torch.save({"params": state}, folder / "b.pth")
    torch.save({"params": state}, folder / "c.pth", _use_new_zipfile_serialization=False)
    from safetensors.torch import save_file

    save_file(state, folder / "d.safetensors")

    def read(path: Path) -> object:
        found = load_weights(path)
        return build_network(found, where=str(path)).state_dict(), found.origin, found.scores, found.model

    names = ("a.safetensors", "b.pth", "c.pth", "d.safetensors")
    return Kind("weights", {n: (folder / n).read_bytes() for n in names}, lambda f, name: f / f"mutant-{name}", read)


def images(folder: Path) -> Kind:
    """Return images: PNG with three kinds of pixels, JPEG, WebP, TIFF and BMP."""
    deep = photograph(40, 56).astype(np.uint16) * 257
    seeds = {f"rgb{s}": encode_image(photograph(40, 56), s) for s in (".png", ".jpg", ".webp", ".tiff", ".bmp")}
    seeds |= {"deep.png": encode_image(deep, ".png"), "grey.png": encode_image(photograph(40, 56, 1), ".png")}
    seeds |= {"deep.tiff": encode_image(deep, ".tiff"), "alpha.webp": encode_image(photograph(40, 56, 4), ".webp")}

    def read(path: Path) -> object:
        header = read_header(path)
        image = read_image(path)
        upright = read_upright(path)
        if image.shape != (header.height, header.width, header.channels) or image.dtype != header.dtype:
            raise AssertionError(f"the header says {header}, the image is {image.shape} {image.dtype}")
        return image, upright

    return Kind("images", seeds, lambda f, name: f / name, read)


def stores(folder: Path, *, index: bool = True) -> Kind:
    """Return stores: their two files, one of them damaged, or ``data.mdb`` alone, as in stores of version 1."""
    (folder / "photographs").mkdir()
    for i in range(6):
        write_image(folder / "photographs" / f"{i}.png", photograph(40 + i, 56))
    StoreBuilder(folder / "photographs", folder / "good.lmdb", scales=[2]).build()
    if not index:
        (folder / "good.lmdb" / "index").unlink()
    seeds = {file.name: file.read_bytes() for file in sorted((folder / "good.lmdb").iterdir())}

    def place(where: Path, name: str) -> Path:
        shutil.copytree(folder / "good.lmdb", where / "x.lmdb", dirs_exist_ok=True)
        return where / "x.lmdb" / name

    def read(path: Path) -> object:
        store = Store(path.parent)
        for scale in store.scales:  # any bytes are allowed, but not beyond the end of the file
            for key, record in store.records[scale].items():
                store.crop(scale, key, 0, 0, record.height, record.width).sum()
        return {(s, k): store.read(s, k).copy() for s in store.scales for k in store.keys(s)}

    return Kind("stores" if index else "bare_stores", seeds, place, read)


KINDS = {"checkpoints": checkpoints, "weights": weights, "images": images, "stores": stores}
KINDS["bare_stores"] = partial(stores, index=False)


# -- reading, in a process that may crash -----------------------------------------------------------------------------


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def memory(name: str) -> int:
    """Return the value of a line of /proc/self/status, in bytes."""
    return int(Path("/proc/self/status").read_text(encoding="ascii").partition(f"{name}:")[2].split()[0]) * 1024


class Watch:
    """An audit hook that records forbidden operations. Hooks cannot be removed, so this one can be switched off."""

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        if event in FORBIDDEN or writes:
            self.seen.append(f"{event} {str(arguments)[:100]}")


def judge(kind: Kind, path: Path, expected: object, watch: Watch) -> tuple[str, str]:
    """Read a mutant and return (outcome, detail)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = memory("VmRSS")
    watch.seen.clear()
    watch.on = True
    try:
        found = kind.read(path)
        outcome, detail = ("equal" if equal(found, expected) else "different"), ""
    except OURS as error:
        outcome, detail = "refused", str(error)
        if path.name not in detail and path.parent.name not in detail and path.parent.parent.name not in detail:
            outcome, detail = "foreign error", f"message without the file's name: {detail}"
        if "MemoryError" in detail or "allocator" in detail.lower():  # of torch; LMDB maps address space only
            outcome = "memory"
    except MemoryError as error:
        outcome, detail = "memory", repr(error)
    except Exception as error:
        outcome, detail = "foreign error", f"{type(error).__name__}: {error}"
    finally:
        watch.on = False
    if watch.seen:
        return "code run", "; ".join(watch.seen)
    rise = memory("VmHWM") - before
    return ("memory", f"{rise >> 20} MB: {detail}") if rise > MUCH else (outcome, detail)


def serve(kind: Kind, folder: Path, seed: int, line: Connection) -> None:
    """Read mutants in this process: receive their numbers, send (undamaged file, mutation, outcome, detail)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libpng prints a line for each damaged file
    expected = {}
    for name, data in kind.seeds.items():
        kind.place(folder, name).write_bytes(data)
        expected[name] = kind.read(kind.place(folder, name))
    watch = Watch()
    limit = memory("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        name, mutation, data = mutant(kind, line.recv(), seed)
        path = kind.place(folder, name)
        path.write_bytes(data)
        line.send((name, mutation, *judge(kind, path, expected[name], watch)))


class Reader:
    """A process that runs :func:`serve`, replaced when it crashes."""

    def __init__(self, kind: Kind, folder: Path, seed: int) -> None:
        self.arguments = kind, folder, seed
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # a new process has torch imported already
        self.line, other = context.Pipe()
        self.process = context.Process(target=serve, args=(*self.arguments, other), daemon=True)
        self.process.start()
        other.close()

    def read(self, number: int) -> tuple[str, str, str, str]:
        """Return (undamaged file, mutation, outcome, detail) of a mutant."""
        name, mutation, _ = mutant(self.arguments[0], number, self.arguments[2])
        try:
            self.line.send(number)
            if self.line.poll(SECONDS):
                return self.line.recv()
            outcome, detail = "time out", f"over {SECONDS} s"
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            outcome, detail = "crash", signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.stop()
        self._start()
        return name, mutation, outcome, detail

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.line.close()


def fuzz(name: str, count: int, seed: int, keep: Path | None = None) -> list[tuple[str, str, str, str, int]]:
    """Return (undamaged file, mutation, outcome, detail, number) of every mutant of a kind.

    Mutants with a wrong outcome are written to the folder ``keep``.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mutants").mkdir()
        kind = KINDS[name](Path(folder))
        reader = Reader(kind, Path(folder) / "mutants", seed)
        found = []
        for number in range(count):
            found.append((*reader.read(number), number))
            if found[-1][2] not in FINE and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name}-{number}-{found[-1][0]}").write_bytes(mutant(kind, number, seed)[2])
        reader.stop()
    return found


def table(found: Sequence[tuple[str, str, str, str, int]], column: int, title: str) -> str:
    """Return a table of counts of outcomes, with a row for each value of a column."""
    counts = {
        value: Counter(f[2] for f in found if f[column] == value) for value in dict.fromkeys(f[column] for f in found)
    }
    width = max(len(title), *(len(str(v)) for v in counts))
    lines = [f"{title:<{width}}  " + "  ".join(OUTCOMES)]
    for value, outcomes in counts.items():
        lines.append(f"{value:<{width}}  " + "  ".join(f"{outcomes[o]:>{len(o)}}" for o in OUTCOMES))
    total = Counter(f[2] for f in found)
    lines.append(f"{'all':<{width}}  " + "  ".join(f"{total[o]:>{len(o)}}" for o in OUTCOMES))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="mutants of each kind")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the mutants with a wrong outcome")
    parser.add_argument("--json", action="store_true", help="also print every mutant as a line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    for name in options.kinds:
        found = fuzz(name, options.count, options.seed, options.keep)
        print(
            f"\n{name}, {len(found)} mutants, seed {options.seed}\n{table(found, 0, 'file')}\n\n{table(found, 1, 'mutation')}"
        )
        for file, mutation, outcome, detail, number in found:
            if options.json:
                print(json.dumps([name, number, file, mutation, outcome, detail]))
            elif outcome not in FINE:
                print(f"  {number} {file} {mutation}: {outcome}: {detail[:300]}")
        wrong += sum(f[2] not in FINE for f in found)
        sys.stdout.flush()
    print(f"\nwrong outcomes: {wrong}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

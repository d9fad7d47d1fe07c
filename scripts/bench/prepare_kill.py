"""Kill ``sr-prepare`` (kill -9) at random moments, run it again, and compare with the store of an uninterrupted command.

python scripts/bench/prepare_kill.py IMAGES [--extend] [--kills 20] [--seed 0]

IMAGES is a folder or an archive. With --extend the command that is killed adds two scales to a finished store, whose images
must be readable after every kill.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmdb
from children import run_child, start_child

from sr_train.data.store.reader import Store


def contents(store: Path) -> dict[str, dict[bytes, bytes]]:
    """Every key and value of a store and of the scales added to it, by folder."""
    found: dict[str, dict[bytes, bytes]] = {}
    for folder in sorted(file.parent for file in store.rglob("data.mdb")):
        with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
            found[folder.relative_to(store).as_posix()] = dict(transaction.cursor())
    return found


def command(images: Path, store: Path, scales: str) -> list[str]:
    program = "import sys; sys.argv[0] = 'sr-prepare'; from sr_train.cli.prepare import main; main()"
    return [sys.executable, "-c", program, f"images={images}", f"store={store}", f"scales=[{scales}]"]


def run(images: Path, store: Path, scales: str) -> float:
    """Run the command to its end; return its seconds."""
    start = time.monotonic()
    run_child(command(images, store, scales), check=True, capture_output=True)
    return time.monotonic() - start


def strike(images: Path, folder: Path, options: argparse.Namespace) -> tuple[int, list[Path], float]:
    """Kill the command again and again; return the number of kills and the stores that were made."""
    chance = random.Random(options.seed)
    calm, base = folder / "calm.lmdb", folder / "base.lmdb"
    if options.extend:
        run(images, base, "2")
        shutil.copytree(base, calm)
    whole = run(images, calm, "2,3,4")
    print(f"uninterrupted: {whole:.1f} s, {sum(map(len, contents(calm).values()))} records")
    killed, stores = 0, list[Path]()
    disturbed = Path()
    while killed < options.kills or not stores:
        if not stores or is_whole(disturbed):  # the command has finished: start another store
            disturbed = folder / f"disturbed{len(stores)}.lmdb"
            stores.append(disturbed)
            if options.extend:
                shutil.copytree(base, disturbed)
        process = start_child(command(images, disturbed, "2,3,4"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.05, 0.9) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        if options.extend:
            store = Store(disturbed)
            assert all(store.verify(scale, key) is None for scale in store.scales for key in store.keys(scale))
    run(images, disturbed, "2,3,4")
    shutil.rmtree(base, ignore_errors=True)
    return killed, stores, whole


def is_whole(store: Path) -> bool:
    return store.exists() and Store(store).scales == [1, 2, 3, 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--extend", action="store_true")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        killed, stores, _ = strike(options.images, folder, options)
        expected = contents(folder / "calm.lmdb")
        same = [contents(store) == expected for store in stores]
        left = sorted(p.name for p in folder.iterdir())
        print(f"killed {killed} times over {len(stores)} stores; equal: {same}; left in the folder: {left}")
        if not all(same) or left != sorted(["calm.lmdb", *(s.name for s in stores)]):
            sys.exit(1)


if __name__ == "__main__":
    main()

"""Kill ``sr-prepare`` (kill -9) at random moments, run it again, and compare with the store of an uninterrupted command.

python scripts/bench/prepare_kill.py IMAGES [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmdb


def contents(store: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(store), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def command(images: Path, store: Path) -> list[str]:
    program = "import sys; sys.argv[0] = 'sr-prepare'; from sr_train.cli.prepare import main; main()"
    return [sys.executable, "-c", program, f"images={images}", f"store={store}", "scales=[2,3,4]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm.lmdb"), Path(folder, "disturbed.lmdb")
        start = time.monotonic()
        subprocess.run(command(options.images, calm), check=True, capture_output=True)
        whole = time.monotonic() - start
        print(f"uninterrupted: {whole:.1f} s, {len(contents(calm))} records")
        killed = 0
        stores = []
        while killed < options.kills:
            if disturbed.exists():  # the command has finished: start another store
                stores.append(disturbed)
                disturbed = Path(folder, f"disturbed{len(stores)}.lmdb")
            process = subprocess.Popen(
                command(options.images, disturbed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(chance.uniform(0.05, 0.5) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        subprocess.run(command(options.images, disturbed), check=True, capture_output=True)
        stores.append(disturbed)
        same = [contents(calm) == contents(store) for store in stores]
        left = sorted(p.name for p in Path(folder).iterdir())
        print(f"killed {killed} times over {len(stores)} stores; equal: {same}; left in the folder: {left}")
        if not all(same) or left != sorted(["calm.lmdb", *(s.name for s in stores)]):
            sys.exit(1)


if __name__ == "__main__":
    main()

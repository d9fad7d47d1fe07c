"""Training steps of all kinds of networks, sr-train's against BasicSR's, in one command.

    python scripts/bench/all_steps.py --basicsr-python bsr/bin/python
    python scripts/bench/all_steps.py --basicsr-python bsr/bin/python --avx2

It runs, one after the other: step.py with EDSR baseline x2 and with RRDBNet x4, gan.py (RRDBNet in a GAN), clips.py (EDVR-M)
and mdsr.py. Each of them prints the precision that sr-train chooses and fp32, next to BasicSR in fp32. BasicSR has no MDSR:
mdsr.py compares a step of MDSR with those of one EDSR per scale.

``--avx2`` lets torch, oneDNN and MKL use AVX2 only, and sr-train fp32, so that a newer CPU works like an older one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from children import end, start_child

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}

NETWORKS = {  # name: script and its arguments
    "edsr": ("step.py", ["--network=edsr", "--loops-only"]),
    "rrdbnet": ("step.py", ["--network=rrdbnet", "--loops-only", "--patch=32"]),
    "gan": ("gan.py", []),
    "edvr": ("clips.py", []),
    "mdsr": ("mdsr.py", []),
}


def command(name: str, args: argparse.Namespace) -> list[str]:
    """Return the command that measures one kind of network."""
    script, arguments = NETWORKS[name]
    found = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    if name == "mdsr":
        return [*found, f"--rounds={args.blocks}", *(["--precision=32"] if args.avx2 else [])]
    found.append(f"--blocks={args.blocks}")
    return [*found, *([] if args.basicsr_python is None else [f"--basicsr-python={args.basicsr_python}"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basicsr-python", help="Python of the venv with BasicSR, see loader.py")
    parser.add_argument("--only", default=",".join(NETWORKS), help="default: %(default)s")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of steps of each program (default: %(default)s)")
    parser.add_argument("--avx2", action="store_true", help="imitate a CPU with AVX2 only")
    args = parser.parse_args()
    failed: list[str] = []
    for name in args.only.split(","):
        print(f"\n== {name}", flush=True)
        process = start_child(command(name, args), env=os.environ | (AVX2 if args.avx2 else {}))
        try:
            if process.wait():
                failed.append(name)
        finally:
            end(process)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""A small model zoo: train, score and convert small networks, and write docs/zoo.md from the headers of their files.

    python scripts/zoo.py                                # everything; the same command again continues
    python scripts/zoo.py --only 3x_zoo_edsr             # one file; its run is trained to the end
    python scripts/zoo.py --features vgg16-397923af.pth  # the GAN with VGG16's features (torchvision's or LPIPS's file)
    python scripts/zoo.py --set5 'Set5/x{scale}'         # scores on Set5 too: a folder of HR images
    python scripts/zoo.py --publish                      # only writes the page and its picture, from the files there are

The recipes are in scripts/zoo_conf (SR_CONF). Each is one run in --runs with one thread of the CPU. sr-train continues a
run that was stopped; an entry whose file was made by the same command and recipe is skipped. Files are written to --out.

The header of each .safetensors file contains how it was made: field "zoo" of the origin. The page contains nothing else
about a network, so it can be written again from the files alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sr_train import Weights, build_network, imresize, load_weights, plan, save_weights
from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.evaluation.contact_sheet import contact_sheet
from sr_train.files import write_bytes
from sr_train.runs.history import read_history
from sr_train.weights.export.openers import opened_by, without_basicsr

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "scripts" / "zoo_conf"
LICENSE = "Apache-2.0"  #: of the weights, as of the project
PHOTOGRAPHS = (
    "photographs of scikit-image that are in the public domain, CC0 or without known copyright restrictions "
    "(astronaut, coffee, rocket, ihc; for the GAN also coins, for EDVR also brick and grass)"
)
ROWS = {"chelsea": (96, 180), "brick": (200, 200), "gravel": (120, 240)}  #: photograph of the picture: top, left
SIDE = 128  #: side of the picture's crops


class Entry(NamedTuple):
    """One file of the zoo, and where it comes from."""

    experiment: str
    stage: str
    title: str
    sets: str = "zoo"
    protocol: str = "y"


ENTRIES = {
    "2x_zoo_edsr": Entry("zoo_edsr", "x2", "EDSR x2"),
    "3x_zoo_edsr": Entry("zoo_edsr", "x3", "EDSR x3, from the x2 weights"),
    "4x_zoo_edsr": Entry("zoo_edsr", "x4", "EDSR x4, from the x2 weights"),
    "2x3x4x_zoo_mdsr": Entry("zoo_mdsr", "main", "MDSR x2, x3 and x4"),
    "4x_zoo_rrdbnet_psnr": Entry("zoo_rrdbnet", "psnr", "RRDBNet x4, L1"),
    "4x_zoo_rrdbnet_gan": Entry("zoo_rrdbnet", "gan", "RRDBNet x4, GAN"),
    "4x_zoo_edvr": Entry("zoo_edvr", "main", "EDVR x4, 3 frames", "toy_clips", "y_full"),
}


def own_recipes() -> None:
    """Let this process and its commands find the recipes of the zoo."""
    folders = [f for f in os.environ.get("SR_CONF", "").split(os.pathsep) if f]
    if str(CONF) not in folders:
        os.environ["SR_CONF"] = os.pathsep.join([*folders, str(CONF)])


def recipe(entry: Entry, features: str | None, steps_scale: float) -> list[str]:
    """Return the arguments of sr-train that decide about an entry's weights."""
    found = [f"experiment={entry.experiment}"]
    if features and entry.experiment == "zoo_rrdbnet":
        extractor = "gan.loss.perceptual.extractor"
        found += ["gan.loss=esrgan", "gan.loss.perceptual.layers={conv4_3:1}", f"{extractor}.network=vgg16"]
        found += [f"{extractor}.weights={features}"]
    if steps_scale != 1:
        for stage in plan(found).stages:
            steps = max(2, round(stage.config["trainer"]["max_steps"] * steps_scale))
            found += [f"{stage.name}.trainer.max_steps={steps}"]
    return found


def shown(typed: Sequence[str]) -> list[str]:
    """Return the command for the page: without this machine's path of the features."""
    return ["sr-train", *(a.partition("=")[0] + "=FILE" if "extractor.weights=" in a else a for a in typed)]


def command(name: str, *arguments: str) -> None:
    """Run a command of sr-train with one thread; raise CalledProcessError if it fails."""
    print("$", f"sr-{name}", *arguments, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "sr_train", name, *arguments], check=True, env=environment)


def commit(run: Path) -> str:
    """Return the commit that a run began with. It is noted next to the run's folder when the run begins."""
    note = run.with_name(f"{run.name}.commit")
    if not note.exists():
        git = [subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
               for a in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))]  # fmt: skip
        note.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(note, ((git[0] or "unknown") + (" with changes" if git[1] else "")).encode())
    return note.read_text()


def scored(entry: Entry, scales: Sequence[int], weights: Path, out: Path, set5: str | None) -> list[dict[str, Any]]:
    """Score a network and bicubic with sr-eval; return one row for each set and scale."""
    rows: list[dict[str, Any]] = []
    for scale in scales:
        jobs = {entry.sets: [f"sets=[{entry.sets}]"]}
        if set5 and entry.sets == "zoo":
            jobs["Set5"] = [f"hr={set5.replace('{scale}', str(scale))}"]
        for name, keys in jobs.items():
            folder = out / f"{name}_x{scale}"
            both = [f"weights=[bicubic,{weights}]", f"scale={scale}", f"protocols=[{entry.protocol}]"]
            command("eval", *both, *keys, f"out={folder}", "save=true")
            means = json.loads((folder / "metrics.json").read_text())
            bicubic, network = (next(iter(means[c].values()))[entry.protocol] for c in means)
            row = {"set": name, "scale": scale, "protocol": entry.protocol, "images": network["n"]}
            rows.append({**row, **{m: network[m] for m in ("psnr", "ssim")}, "bicubic_psnr": bicubic["psnr"],
                         "bicubic_ssim": bicubic["ssim"]})  # fmt: skip
    return rows


def described(
    weights: Weights, entry: Entry, run: Path, typed: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> Weights:
    """Return weights whose origin contains how they were made and what they reach."""
    history = read_history(run / entry.stage)
    features = "VGG16" if any("perceptual" in a for a in typed) else "EfficientNet-Lite0"
    extra = f"; the loss uses {features}'s features, trained on ImageNet" if entry.stage == "gan" else ""
    zoo = {
        "title": entry.title,
        "command": shown(typed),
        "recipe": recipe_hash(entry),
        "stage": entry.stage,
        "commit": commit(run),
        "seconds": round(sum(s.seconds for s in history)),
        "device": history[-1].device if history else "unknown",
        "data": PHOTOGRAPHS + extra,
        "license": LICENSE,
        "scores": list(rows),
    }
    return Weights(weights.model, weights.state, {**weights.origin, "zoo": zoo}, weights.scores)


def recipe_hash(entry: Entry) -> str:
    """Return the start of the SHA-256 of an entry's recipe: a file made by another one is made again."""
    return hashlib.sha256((CONF / "experiment" / f"{entry.experiment}.yaml").read_bytes()).hexdigest()[:12]


def make(name: str, options: argparse.Namespace) -> None:
    """Train, score and convert one entry, unless its file was made by the same command."""
    entry, out, runs = ENTRIES[name], Path(options.out), Path(options.runs)
    run = runs / entry.experiment
    typed = recipe(entry, options.features, options.steps_scale)
    draft, scores = out / "drafts" / f"{name}.safetensors", out / "scores" / name
    commit(run)
    command("train", *typed, f"paths.runs={runs}")  # skips finished stages; refuses to continue another recipe
    weights = load_weights(run / entry.stage / "weights.safetensors")
    rows = scored(entry, weights.scales, run / entry.stage, scores, options.set5)
    draft.parent.mkdir(parents=True, exist_ok=True)
    save_weights(draft, described(weights, entry, run, typed, rows))
    about = [f"name={name.partition('_')[2]}", f"license={LICENSE}", "overwrite=true"]
    kinds = [".safetensors"] if without_basicsr(weights.model) else [".pth", ".safetensors"]
    for kind in kinds:  # the .safetensors file last: it marks the entry as finished
        command("convert", f"weights={draft}", f"out={out / (name + kind)}", *about)


def finished(name: str, options: argparse.Namespace) -> bool:
    """Return true if an entry's file was made by the command that these options give, and by the recipe as it is now."""
    entry, file = ENTRIES[name], Path(options.out) / f"{name}.safetensors"
    made = load_weights(file).origin.get("zoo", {}) if file.exists() else {}
    typed = shown(recipe(entry, options.features, options.steps_scale))
    return made.get("command") == typed and made.get("recipe") == recipe_hash(entry)


def section(file: Path) -> tuple[list[str], list[str]]:
    """Return the lines of the page about one file, and its rows of the table of scores, from the file's header."""
    weights = load_weights(file)
    zoo, origin = weights.origin["zoo"], weights.origin
    count = sum(p.numel() for p in build_network(weights, where=file.name).parameters())
    files = [f for f in (file, file.with_suffix(".pth")) if f.exists()]
    lines = [
        f"## {zoo['title']}", "",
        "```text", f"SR_CONF=scripts/zoo_conf {' '.join(zoo['command'])}    # stage {zoo['stage']}", "```", "",
        f"- {count:,} parameters, {origin.get('step', 0):,} steps in {zoo['seconds'] / 60:.1f} min of wall time on one thread "
        f"({zoo['device']}), commit {zoo['commit']}",
        f"- Data: {zoo['data']}", f"- License of the weights: {zoo['license']}",
        f"- Opens in: {opened_by(weights.model)}",
    ]  # fmt: skip
    lines += [
        f"- `{f.name}`: {f.stat().st_size:,} bytes, sha256 `{hashlib.sha256(f.read_bytes()).hexdigest()}`"
        for f in files
    ]
    rows = [
        f"| `{file.stem}` | {r['set']} x{r['scale']} | {r['images']} | {r['protocol']} | {r['psnr']:.2f} | "
        f"{r['bicubic_psnr']:.2f} | {r['psnr'] - r['bicubic_psnr']:+.2f} | {r['ssim']:.4f} | {r['bicubic_ssim']:.4f} |"
        for r in zoo["scores"]
    ]
    return [*lines, ""], rows


INTRODUCTION = """\
# A small model zoo

Small networks of each system, made on one CPU thread by `python scripts/zoo.py`. They show that the recipes work from training
to another program. They are too small, and saw too few photographs, to be compared with the papers' networks.

- **The weights are not in the repository.** The script makes them: binary files would stay in git's history forever, and one
  command makes them again. It continues where it was stopped, and skips finished files.
- **Data**: only photographs of scikit-image that are in the public domain, CC0 or without known copyright restrictions, so that
  the weights can be shared. DIV2K, BSDS and Set5 are for research, and the Middlebury pair of scikit-image states no license:
  nothing is trained on them.
- **Scores** are of photographs that the network was not trained on: set `zoo` is chelsea, camera, brick, grass and gravel;
  `toy_clips` contains clips over chelsea, camera and gravel. Protocols: [scores](scores.md).
- This page is written by `python scripts/zoo.py --publish` from the headers of the files.
"""


def page(files: Sequence[Path], picture: str | None = None, missing: Sequence[str] = ()) -> str:
    """Return docs/zoo.md for the files that exist."""
    found = [section(f) for f in files]
    head = "| file | set | images | protocol | PSNR | bicubic | gain | SSIM | bicubic |\n|---|---|---|---|---|---|---|---|---|"
    lines = [INTRODUCTION]
    if missing:
        lines += [f"Not made yet: {', '.join(f'`{m}`' for m in missing)}.\n"]
    if picture:
        lines += [f"![Crops of photographs: LR, bicubic, two networks, HR]({picture})\n"]
    lines += [head, *(row for _, rows in found for row in rows), "", *(line for text, _ in found for line in text)]
    return "\n".join(lines).rstrip() + "\n"


def draw(out: Path, to: Path) -> bool:
    """Write the picture LR | bicubic | PSNR | GAN | HR at x4; return false if a network was not scored yet."""
    names = ("4x_zoo_rrdbnet_psnr", "4x_zoo_rrdbnet_gan")
    folders = [out / "scores" / n / "zoo_x4" / "images" for n in names]
    if not all(f.is_dir() for f in folders):
        return False
    (bicubic, psnr), (_, gan) = (sorted(f.iterdir(), key=lambda p: p.name != "bicubic") for f in folders)
    rows: dict[str, list[np.ndarray]] = {}
    for key, (top, left) in ROWS.items():
        hr = read_image(toy_files(key)[key])
        hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
        lr = imresize(hr, 0.25).repeat(4, axis=0).repeat(4, axis=1)
        shown = [lr, *(read_image(folder / "zoo" / f"{key}.png") for folder in (bicubic, psnr, gan)), hr]
        crops = [image[top : top + SIDE, left : left + SIDE] for image in shown]
        rows[key] = [np.broadcast_to(c.reshape(SIDE, SIDE, -1), (SIDE, SIDE, 3)).astype(np.uint8) for c in crops]
    sheet = contact_sheet(rows, ["LR", "bicubic", "RRDBNet, L1", "RRDBNet, GAN", "HR"])
    _, data = cv2.imencode(".webp", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 90])
    write_bytes(to, data.tobytes())
    return True


def publish(out: Path, docs: Path) -> None:
    """Write zoo.md and zoo.webp into a folder."""
    files = [out / f"{name}.safetensors" for name in ENTRIES]
    drawn = draw(out, docs / "zoo.webp")
    missing = [f.stem for f in files if not f.exists()]
    write_bytes(
        docs / "zoo.md", page([f for f in files if f.exists()], "zoo.webp" if drawn else None, missing).encode()
    )
    print(f"{docs / 'zoo.md'}: {len(files) - len(missing)} of {len(files)} files")


def main() -> None:
    """Make the entries that are not finished, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ENTRIES, action="append", help="entry to make; may be repeated; default: all")
    parser.add_argument(
        "--steps-scale", type=float, default=1.0, help="factor for the steps, e.g. 0.01 to try the script"
    )
    parser.add_argument("--features", help="file of VGG16's weights, for the GAN's perceptual loss")
    parser.add_argument("--set5", help="folder of Set5's HR images; {scale} is replaced")
    parser.add_argument("--out", default="build/zoo", help="folder of the files")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--docs", default=str(ROOT / "docs"), help="folder of zoo.md and zoo.webp")
    parser.add_argument("--publish", action="store_true", help="only write the page and its picture")
    options = parser.parse_args()
    own_recipes()
    for name in [] if options.publish else options.only or ENTRIES:
        if finished(name, options):
            print(f"{name}: finished")
        else:
            make(name, options)
    if options.publish:
        publish(Path(options.out), Path(options.docs))


if __name__ == "__main__":
    main()

"""Mixtures of two networks: found in a run, checked, shown next to each other."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

import sr_train
from sr_train.batch import to_float
from sr_train.config.compose import expect
from sr_train.data.dataset import EvalImage, EvalImages
from sr_train.data.images import write_image
from sr_train.data.pairs import Pairs
from sr_train.devices import device_of
from sr_train.evaluation.contact_sheet import chart, contact_sheet
from sr_train.evaluation.metrics import open_lpips
from sr_train.files import write_bytes
from sr_train.inference.images import super_resolve
from sr_train.inference.network import scale_of
from sr_train.metrics.functional import quantize
from sr_train.metrics.protocol import get_protocols, score
from sr_train.models.bicubic import Bicubic
from sr_train.weights.file import Weights
from sr_train.weights.mixing import digest, family, interpolate
from sr_train.weights.network import build_network, one_scale


def _newest_run(runs: Path, stages: Sequence[str]) -> Path:
    """The run whose stages are both complete, the later of them most recently."""
    files = [
        f for f in runs.rglob(f"{stages[1]}/weights.safetensors") if (f.parent.parent / stages[0] / f.name).exists()
    ]
    if not files:
        raise FileNotFoundError(
            f"{runs}: no run below it has stages {stages[0]} and {stages[1]} complete; give run=DIR, stages=[A,B], or "
            "weights=[FILE,FILE]"
        )
    return max(files, key=lambda f: f.stat().st_mtime).parent.parent


def sources_of(config: Mapping[str, Any]) -> tuple[list[str], Path]:
    """What is mixed, and the folder that the result is written to."""
    given, stages = config["weights"], expect(config, "stages", list, "two names, e.g. stages=[psnr,gan]")
    if given is not None:
        if config["run"] is not None:
            raise ValueError("give run= or weights=, not both")
        if not isinstance(given, list) or len(given) < 2 or not all(isinstance(w, str) for w in given):
            raise ValueError(f"weights={given}: expected two files or more, weights=[A,B]")
        return given, Path(str(config["out"] or "."))
    if len(stages) != 2:
        raise ValueError(f"stages={stages}: expected two names, e.g. stages=[psnr,gan]")
    folder = (
        Path(str(config["run"])) if config["run"] is not None else _newest_run(Path(config["paths"]["runs"]), stages)
    )
    open_ones = [s for s in stages if not (folder / str(s) / "weights.safetensors").exists()]
    if open_ones:
        raise ValueError(f"{folder}: stage {' and '.join(open_ones)} is not complete; finish it, or give weights=[A,B]")
    return [str(folder / str(s)) for s in stages], Path(str(config["out"] or folder))


def mixes_of(config: Mapping[str, Any], count: int) -> dict[str, list[float]]:
    """Each file's name and its factors."""
    alpha, mix = config["alpha"], config["mix"]
    if (alpha is None) == (mix is None):
        raise ValueError("give alpha=0.8 (or a list), or mix=[...] with a factor for each of weights=")
    values = alpha if isinstance(alpha, list) else [alpha]
    values = mix if alpha is None else values
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    ):
        raise ValueError(f"{'mix' if alpha is None else 'alpha'}={values}: expected numbers from 0 to 1")
    if alpha is None:
        return {f"mix_{'_'.join(map(_number, values))}": [float(v) for v in values]}
    if count != 2:
        raise ValueError(f"alpha= is of two networks, these are {count}: give mix=[...]")
    wrong = [v for v in values if not 0 <= v <= 1]
    if wrong:
        raise ValueError(f"alpha={wrong}: expected numbers from 0 to 1")
    return {f"alpha_{_number(v)}": [1 - v, float(v)] for v in sorted(set(values))}


def _number(value: float) -> str:
    """Two digits, or as many as it takes to tell it from others."""
    return f"{value:.2f}" if round(value, 2) == value else repr(float(value))


def warn_strangers(sources: Mapping[str, Weights]) -> None:
    """Mixing networks that were trained apart gives noise: their units mean different things."""
    families = {name: family(weights) for name, weights in sources.items()}
    for a, b in combinations(sources, 2):
        if not families[a] & families[b]:
            print(
                f"warning: nothing says that {b} was trained from {a}, or both from a third; networks that were trained apart "
                "do not mix",
                file=sys.stderr,
            )


def check_scale(config: Mapping[str, Any], sources: Mapping[str, Weights]) -> None:
    """Of networks of several scales, ``scale=`` chooses what ``images=`` shows; the mixture itself holds all."""
    name, weights = next(iter(sources.items()))
    if config["images"] is not None or config["scale"] is not None:
        scale = scale_of(config, weights.scales, name)
        if config["images"] is None and len(weights.scales) > 1:
            raise ValueError(
                f"scale={scale} is of images=; a mixture holds all scales: sr-convert weights=FILE scale={scale} out=... takes "
                "one out of it"
            )


def origin_of_mixture(sources: Mapping[str, Weights], mix: Sequence[float]) -> dict[str, Any]:
    """Return the origin of a mixture: file, factor and digest of each source."""
    parts = [
        {
            "file": name,
            "factor": factor,
            "digest": digest(w.state),
            **{k: v for k, v in w.origin.items() if k != "ancestors"},
        }
        for (name, w), factor in zip(sources.items(), mix, strict=True)
    ]
    origin: dict[str, Any] = {"mixed": parts, "sr_train": sr_train.__version__}
    if len(mix) == 2:
        origin["alpha"] = mix[1]
    return {**origin, "ancestors": sorted(set().union(*map(family, sources.values())))}


class ContactSheet:
    """Contact sheet and curve over alpha.

    Args:
        config: of the command.
        sources: the two networks.
    """

    def __init__(self, config: Mapping[str, Any], sources: Sequence[Weights]) -> None:
        self.allow = config["allow"]
        scale = scale_of(config, sources[0].scales, "the mixture")
        self.sources = [one_scale(w, scale, where="the mixture", allow=self.allow) for w in sources]
        self.device = device_of(str(config["device"]))
        (self.protocol,) = get_protocols([str(config["protocol"])])
        self.lpips = None if config["lpips"] is None else open_lpips(str(config["lpips"]))
        self.images = EvalImages({"images": Pairs(str(config["images"]), scale=scale)})
        self.rows, self.crop = int(config["rows"]), int(config["crop"])

    def write(self, out: Path, alphas: Sequence[float]) -> None:
        """``interp.png``, ``interp_curve.png``, ``interp_curve.csv``."""
        states, model = [w.state for w in self.sources], self.sources[0].model
        columns: dict[float, list[NDArray[Any]]] = {}
        table: list[list[float]] = []
        shown = [self.images[i] for i in range(min(self.rows, len(self.images)))]
        corners = [self._corner(image) for image in shown]
        for alpha in tqdm(alphas, desc="alpha", file=sys.stderr, disable=not sys.stderr.isatty()):
            mixed = Weights(model, interpolate(states, [1 - alpha, alpha]))
            network = build_network(mixed, where=f"alpha {alpha:g}", allow=self.allow).to(self.device)
            columns[alpha], scores = self._scores(network, corners)
            table.append([alpha, *scores])
        first = [self._cut(self._bicubic(image), at) for image, at in zip(shown, corners, strict=True)]
        last = [self._cut(image.hr, at) for image, at in zip(shown, corners, strict=True)]
        rows = {
            image.key: [first[i], *(crops[i] for crops in columns.values()), last[i]] for i, image in enumerate(shown)
        }
        write_image(out / "interp.png", contact_sheet(rows, ["bicubic", *(f"alpha {a:g}" for a in alphas), "HR"]))
        names = [f"psnr_{self.protocol.name}", *(["lpips"] if self.lpips else [])]
        curves = {n: [row[i + 1] for row in table] for i, n in enumerate(names)}
        write_image(out / "interp_curve.png", chart(alphas, curves, xlabel="alpha"))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["alpha", *names])
        writer.writerows([f"{row[0]:g}", *(f"{v:.6f}" for v in row[1:])] for row in table)
        write_bytes(out / "interp_curve.csv", text.getvalue().encode())
        print(text.getvalue().replace(",", "\t"), end="")
        perceptual = "" if self.lpips is None else f"; lpips: {self.lpips.definition}"
        print(f"{len(self.images)} images; {self.protocol.name}: {self.protocol.definition}{perceptual}")
        print(f"written: {out / 'interp.png'}, {out / 'interp_curve.png'}, {out / 'interp_curve.csv'}")

    def _scores(
        self, network: torch.nn.Module, corners: Sequence[tuple[int, int]]
    ) -> tuple[list[NDArray[Any]], list[float]]:
        """Crops of the images on the sheet, and means over all images."""
        crops, values = [], []
        for i in range(len(self.images)):
            image = self.images[i]
            sr = super_resolve(network, image.lr.to(self.device)).cpu()
            values.append([score(sr, image.hr, self.protocol, image.scale)["psnr"]])
            if self.lpips is not None:
                values[-1].append(self.lpips(sr.to(self.device), image.hr))
            if i < len(corners):
                crops.append(self._cut(sr, corners[i]))
        return crops, [sum(column) / len(column) for column in zip(*values, strict=True)]

    @staticmethod
    def _bicubic(image: EvalImage) -> torch.Tensor:
        return Bicubic(scale=image.scale)(to_float(image.lr)[None])[0]

    def _corner(self, image: EvalImage) -> tuple[int, int]:
        """Top and left of the crop in which bicubic is farthest from HR: where there is something to see."""
        error = (quantize(self._bicubic(image)) - quantize(image.hr)).abs().mean(0)
        side = min(self.crop, *error.shape)
        step = max(1, side // 4)
        means = F.avg_pool2d(error[None, None], side, step)[0, 0]
        at = int(means.argmax())
        return at // means.shape[1] * step, at % means.shape[1] * step

    def _cut(self, image: torch.Tensor, at: tuple[int, int]) -> NDArray[Any]:
        """A crop, white beyond the image where that is smaller: [crop, crop, 3] uint8."""
        part = quantize(image)[:, at[0] : at[0] + self.crop, at[1] : at[1] + self.crop]
        part = F.pad(part, (0, self.crop - part.shape[2], 0, self.crop - part.shape[1]), value=255.0)
        return part.to(torch.uint8).permute(1, 2, 0).numpy()

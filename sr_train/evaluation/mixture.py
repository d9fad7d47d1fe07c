"""Mixtures of networks' weights (ESRGAN section 3.4, eq. 4), and pictures and scores of these mixtures."""

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
from tqdm import tqdm

import sr_train
from sr_train.batch import Image, to_float
from sr_train.console import say, warn
from sr_train.data.dataset import EvalImage, EvalImages
from sr_train.data.images import write_image
from sr_train.data.pairs import Pairs
from sr_train.devices import device_of
from sr_train.evaluation.contact_sheet import chart, contact_sheet
from sr_train.evaluation.metrics import open_lpips
from sr_train.evaluation.report.gallery import mixtures
from sr_train.evaluation.report.page import render
from sr_train.files import write_bytes
from sr_train.inference.network import Network
from sr_train.metrics.functional import quantize
from sr_train.metrics.protocol import get_protocols, score
from sr_train.models.bicubic import Bicubic
from sr_train.weights.file import Weights, save_weights
from sr_train.weights.mixing import digest, family, interpolate
from sr_train.weights.network import build_network, one_scale
from sr_train.weights.open import WEIGHTS, full_arguments, load


def newest_run(runs: Path, stages: Sequence[str]) -> Path:
    """Return the folder of the run in which both stages are finished.

    If there are several such runs, return the run whose second stage was finished last.
    """
    files = [f for f in runs.rglob(f"{stages[1]}/{WEIGHTS}") if (f.parent.parent / stages[0] / f.name).exists()]
    if not files:
        raise FileNotFoundError(
            f"{runs}: no run in this folder has finished stages {stages[0]} and {stages[1]}; give run=DIR, stages=[A,B], "
            "or weights=[FILE,FILE]"
        )
    return max(files, key=lambda f: f.stat().st_mtime).parent.parent


def open_sources(names: Sequence[str], *, allow: Sequence[str], scale: int | None) -> dict[str, Weights]:
    """Read the networks to mix. Return {file: weights}.

    Arguments that are missing in a file's config are filled in with their defaults, so that the configs can be
    compared.
    """
    sources: dict[str, Weights] = {}
    for name in names:
        weights, file = load(name, allow=allow, scale=scale)
        sources[str(file)] = Weights(full_arguments(weights.model), weights.state, weights.origin, weights.scores)
    if len(sources) < len(names):
        raise ValueError(f"weights={names}: one file is given twice")
    return sources


def warn_strangers(sources: Mapping[str, Weights]) -> None:
    """Warn of networks that were not trained from common initial weights.

    A mixture of such networks gives only noise.
    """
    families = {name: family(weights) for name, weights in sources.items()}
    for a, b in combinations(sources, 2):
        if not families[a] & families[b]:
            warn(
                f"{a} and {b} have no common ancestor in their origins; a mixture of networks that were trained independently "
                "is usually useless"
            )


def _origin(sources: Mapping[str, Weights], mix: Sequence[float]) -> dict[str, Any]:
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


def write_mixtures(sources: Mapping[str, Weights], mixes: Mapping[str, Sequence[float]], out: Path) -> None:
    """Write ``NAME.safetensors`` for each mixture, and print a line for each file.

    ``mixes`` is {NAME: factors}, with one factor for each network in ``sources``.
    """
    out.mkdir(parents=True, exist_ok=True)
    states, model = [w.state for w in sources.values()], next(iter(sources.values())).model
    for name, mix in mixes.items():
        path = out / f"{name}.safetensors"
        save_weights(path, Weights(model, interpolate(states, mix), _origin(sources, mix)))
        shown = " + ".join(f"{f:g} {n}" for n, f in zip(sources, mix, strict=True))
        say(f"{path}: {shown}")


class MixtureSheet:
    """Contact sheet and chart of the mixtures of two networks over alpha.

    Args:
        sources: the two networks.
        scale: HR pixels per LR pixel.
        images: source of the HR images.
        device: value of ``device=``.
        protocol: name of the protocol for PSNR.
        lpips: file with the weights of LPIPS; None for a chart without LPIPS.
        rows: number of images on the sheet.
        crop: side of the crops of these images, in HR pixels.
        allow: packages that the networks may be built from.
    """

    def __init__(
        self,
        sources: Sequence[Weights],
        *,
        scale: int,
        images: str,
        device: str = "auto",
        protocol: str = "y",
        lpips: str | None = None,
        rows: int = 6,
        crop: int = 128,
        allow: Sequence[str] = (),
    ) -> None:
        self.scale, self.rows, self.crop, self.allow = scale, rows, crop, allow
        self.sources = [one_scale(w, scale, where="the mixture", allow=allow) for w in sources]
        self.device = device_of(device)
        (self.protocol,) = get_protocols([protocol])
        self.lpips = None if lpips is None else open_lpips(lpips)
        self.images = EvalImages({"images": Pairs(images, scale=scale, channels=sources[0].channels)})

    def write(self, out: Path, alphas: Sequence[float]) -> None:
        """Write ``interp.png`` (contact sheet), ``interp_curve.png`` (chart) and ``interp_curve.csv``; print the scores."""
        states, model = [w.state for w in self.sources], self.sources[0].model
        columns: dict[float, list[Image]] = {}
        table: list[list[float]] = []
        shown = [self.images[i] for i in range(min(self.rows, len(self.images)))]
        corners = [self._corner(image) for image in shown]
        for alpha in tqdm(alphas, desc="alpha", file=sys.stderr, disable=not sys.stderr.isatty()):
            mixed, name = Weights(model, interpolate(states, [1 - alpha, alpha])), f"alpha {alpha:g}"
            network = build_network(mixed, where=name, allow=self.allow).to(self.device)
            columns[alpha], scores = self._scores(Network(network, self.scale, name), corners)
            table.append([alpha, *scores])
        first = [self._cut(self._bicubic(image), at) for image, at in zip(shown, corners, strict=True)]
        last = [self._cut(image.target, at) for image, at in zip(shown, corners, strict=True)]
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
        write_bytes(out / "interp.html", self._page(rows, alphas, curves).encode())
        say(text.getvalue().replace(",", "\t").rstrip("\n"))
        perceptual = "" if self.lpips is None else f"; lpips: {self.lpips.definition}"
        say(f"{len(self.images)} images; {self.protocol.name}: {self.protocol.definition}{perceptual}")
        names = ("interp.html", "interp.png", "interp_curve.png", "interp_curve.csv")
        say(f"written: {', '.join(str(out / name) for name in names)}")

    def _page(
        self, rows: Mapping[str, Sequence[Image]], alphas: Sequence[float], curves: Mapping[str, Sequence[float]]
    ) -> str:
        """Return the report: scores over alpha, and the pictures with a slider over alpha."""
        lines = {n: [{"label": n, "steps": list(alphas), "values": list(values)}] for n, values in curves.items()}
        charts = [{"title": f"{n} over alpha", "label": "alpha", "curves": line} for n, line in lines.items()]
        rows_ = [list(row) for row in zip(alphas, *curves.values(), strict=True)]
        note = f"{len(self.images)} images; {self.protocol.name}: {self.protocol.definition}"
        table = {"title": "Scores", "names": ["alpha", *curves], "rows": rows_, "notes": [note]}
        return render("Network interpolation", tables=[table], charts=charts, galleries=[mixtures(rows, alphas)])

    def _scores(self, network: Network, corners: Sequence[tuple[int, int]]) -> tuple[list[Image], list[float]]:
        """Return crops of the upscaled images for the contact sheet, and the mean scores over all images."""
        crops, values = [], []
        for i in range(len(self.images)):
            image = self.images[i]
            sr = network.image(image.lr)
            values.append([score(sr, image.target, self.protocol, image.scale, from_gray=image.from_gray)["psnr"]])
            if self.lpips is not None:
                distance = self.lpips(sr.to(self.device), image.target, image.scale)
                values[-1].append(math.nan if distance is None else distance)
            if i < len(corners):
                crops.append(self._cut(sr, corners[i]))
        return crops, [sum(column) / len(column) for column in zip(*values, strict=True)]

    @staticmethod
    def _bicubic(image: EvalImage) -> torch.Tensor:
        return Bicubic(scale=image.scale)(to_float(image.lr)[None])[0]

    def _corner(self, image: EvalImage) -> tuple[int, int]:
        """Return (top, left) of the crop in which bicubic upscaling differs most from HR.

        In such a crop, the results of two networks usually differ too.
        """
        error = (quantize(self._bicubic(image)) - quantize(image.target)).abs().mean(0)
        side = min(self.crop, *error.shape)
        step = max(1, side // 4)
        means = F.avg_pool2d(error[None, None], side, step)[0, 0]
        at = int(means.argmax())
        return at // means.shape[1] * step, at % means.shape[1] * step

    def _cut(self, image: torch.Tensor, at: tuple[int, int]) -> Image:
        """Return a crop of an image, [crop, crop, 3] uint8, filled with white beyond the image's edges."""
        part = quantize(image)[:, at[0] : at[0] + self.crop, at[1] : at[1] + self.crop]
        part = F.pad(part, (0, self.crop - part.shape[2], 0, self.crop - part.shape[1]), value=255.0)
        return part[:3].expand(3, -1, -1).to(torch.uint8).permute(1, 2, 0).numpy()

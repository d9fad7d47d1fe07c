"""Scores of images, and the outputs of sr-eval: a table, ``metrics.json``, ``metrics.csv`` and the images."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sr_train.console import counted
from sr_train.data.images import write_image
from sr_train.evaluation.metrics import PROTOCOL, PerceptualMetric, perceptual_scores
from sr_train.evaluation.report.gallery import Gallery
from sr_train.evaluation.report.page import render
from sr_train.files import write_bytes
from sr_train.metrics.functional import quantize
from sr_train.metrics.meter import Meter
from sr_train.metrics.protocol import Protocol, score

_DIGITS = {"psnr": ("PSNR dB", 3), "ssim": ("SSIM", 4), "lpips": ("LPIPS", 4), "niqe": ("NIQE", 4)}

_NAMES = 5  # most names of images without a score

_CLIPS_SHOWN = 30  # most clips in the table; metrics.json has all


def short_names(sources: Sequence[str]) -> list[str]:
    """Return a short title for each source (path of a network), e.g. ``quickstart_edsr/x2``.

    A title is the end of the path, with as many parts as are needed to make all titles different.
    """
    parts = [[p for p in Path(s).parts if p not in ("/", ".", "..")] or [s] for s in sources]
    parts = [p[:-1] if p[-1] == "weights.safetensors" and len(p) > 1 else p for p in parts]
    parts = [[*p[:-1], p[-1].removesuffix(".safetensors").removesuffix(".pth")] for p in parts]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)


def _finite(values: Mapping[str, float]) -> dict[str, Any]:
    """Replace infinite values and NaN by None, because JSON has no infinity."""
    return {k: v if math.isfinite(v) else None for k, v in values.items()}


def _cell(value: float | None) -> float | None:
    """Return a value of a page's table; None for a value that is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


class Scores:
    """Scores by column (one for each network in ``weights=``), set, image and protocol.

    Args:
        columns: short name of each column; all names are different.
        titles: full name of each column.
        protocols: protocols for PSNR and SSIM.
        scale: HR pixels per LR pixel. Some protocols leave out a border of ``scale`` pixels.
        out: folder of the files; None if only the table is needed.
        save: true to write the images too.
        metrics: names of the metrics to show, in this order.
        perceptual: {name: metric} of the metrics other than PSNR and SSIM. Those that need no HR are computed for images
            without HR also if ``metrics`` does not contain them.
    """

    def __init__(
        self,
        columns: Sequence[str],
        titles: Sequence[str],
        protocols: Sequence[Protocol],
        scale: int,
        out: Path | None,
        *,
        save: bool,
        metrics: Sequence[str] = ("psnr", "ssim"),
        perceptual: Mapping[str, PerceptualMetric] | None = None,
    ) -> None:
        self.columns, self.titles = list(columns), list(titles)
        self.protocols, self.scale = list(protocols), scale
        self.meters = {c: Meter() for c in self.columns}
        self.out, self.save = out, save
        self.metrics, self.perceptual = list(dict.fromkeys(metrics)), dict(perceptual or {})
        self.gallery = Gallery() if out is not None else None
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        column: str,
        set_name: str,
        key: str,
        sr: torch.Tensor,
        hr: torch.Tensor | None,
        *,
        clip: str = "",
        centered: bool = True,
        from_gray: bool = False,
    ) -> None:
        """Score one image, or one frame of the clip named ``clip``. ``sr`` and ``hr`` are [C, H, W] each, or hr is None.

        ``centered`` is true for an image and for a clip's center frame. ``from_gray`` is true if the HR file has one
        channel.
        """
        try:
            for protocol in self.protocols:
                if hr is None or (protocol.center and not centered):
                    continue
                values = score(sr, hr, protocol, self.scale, from_gray=from_gray)
                kept = {m: v for m, v in values.items() if m in self.metrics}
                if kept:
                    self.meters[column].add(set_name, key, protocol.name, kept, clip)
            own = [m for m in self.perceptual if m in self.metrics]
            if own or hr is None:
                found = perceptual_scores(self.perceptual, own, sr, hr, self.scale)
                self.meters[column].add(set_name, key, PROTOCOL, found, clip)
        except ValueError as error:
            raise ValueError(f"{set_name}: {key}: {error}") from None
        if self.gallery is not None:
            self.gallery.add(set_name, key, column, sr, hr)
        if self.save and self.out is not None:
            folder = self.out / "images" / (column if len(self.columns) > 1 else "")
            self._write_image(folder / set_name / f"{key}.png", sr)

    @staticmethod
    def _write_image(path: Path, sr: torch.Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, quantize(sr).to(torch.uint8).permute(1, 2, 0).numpy())

    def summary(self) -> dict[str, Any]:
        """Return the mean scores: {set: {protocol: {n, psnr, ssim}}}, or {column: {set: ...}} for several networks.

        A set of clips also contains the means of each clip: {set: {protocol: {..., clips: {clip: {n, psnr, ssim}}}}}.
        ``n`` is the number of images.
        """
        plain = {}
        for column, meter in self.meters.items():
            by_clip = meter.by_clip()
            plain[column] = {
                s: {
                    p: _finite(values)
                    | ({"clips": {c: _finite(v) for c, v in by_clip[s][p].items()}} if s in by_clip else {})
                    for p, values in found.items()
                }
                for s, found in meter.summary().items()
            }
        return plain[self.columns[0]] if len(self.columns) == 1 else plain

    def write(self) -> None:
        """Write all scores that were added before to ``metrics.json`` and ``metrics.csv``."""
        rows = [(column, row) for column, meter in self.meters.items() for row in meter.rows]
        if self.out is None or not rows:
            return
        write_bytes(self.out / "metrics.json", (json.dumps(self.summary(), indent=2) + "\n").encode())
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        several = len(self.columns) > 1
        metrics = self._measured()
        table.writerow([*(["weights"] if several else []), "set", "image", "protocol", *metrics])
        for column, row in rows:
            values = [f"{row.values[m]:.6f}" if m in row.values else "" for m in metrics]
            table.writerow([*([column] if several else []), row.set, row.key, row.protocol, *values])
        write_bytes(self.out / "metrics.csv", text.getvalue().encode())
        write_bytes(self.out / "report.html", self._page().encode())

    def _page(self) -> str:
        """Return the report: the table of means, the scores of each image, and pictures."""
        assert self.gallery is not None
        found, metrics = {c: meter.summary() for c, meter in self.meters.items()}, self._measured()
        means = [[c, s, p, n["n"], *(_cell(n.get(m)) for m in metrics)]
                 for c, sets in found.items() for s, protocols in sets.items() for p, n in protocols.items()]  # fmt: skip
        rows = [[c, r.set, r.key, r.protocol, *(_cell(r.values.get(m)) for m in metrics)]
                for c, meter in self.meters.items() for r in meter.rows]  # fmt: skip
        shown = [_DIGITS.get(m, (m, 4))[0] for m in metrics]
        tables = [
            {"title": "Scores", "names": ["weights", "set", "protocol", "images", *shown], "rows": means,
             "notes": self._definitions()},
            {"title": "Scores of each image", "names": ["weights", "set", "image", "protocol", *shown], "rows": rows},
        ]  # fmt: skip
        titles = [f"{c}: {t}" if c != t else c for c, t in zip(self.columns, self.titles, strict=True)]
        pictures = self.gallery.as_json("Middle of the images", f"Crops of {self.gallery.side} pixels, without loss.")
        return render(f"Scores: {', '.join(self.columns)}", tables=tables, galleries=[pictures], notes=titles)

    def _measured(self) -> list[str]:
        """Return the metrics that have a score: those of ``metrics`` in their order, then NIQE of images without HR."""
        found = {m for meter in self.meters.values() for row in meter.rows for m in row.values}
        return [m for m in dict.fromkeys([*self.metrics, *self.perceptual]) if m in found]

    def _definitions(self) -> list[str]:
        """Return the lines that define the protocols and metrics of the table, and name images without a score."""
        rows = [row for meter in self.meters.values() for row in meter.rows]
        used, measured = {row.protocol for row in rows}, self._measured()
        lines = [f"{p.name}: {p.definition}" for p in self.protocols if p.name in used]
        perceptual = {n: m for n, m in self.perceptual.items() if n in measured}
        lines += [f"{PROTOCOL}: {m.values}, mean over images; {m.definition}" for m in perceptual.values()]
        if "niqe" in self.perceptual:
            niqe = [r for r in rows if r.protocol == PROTOCOL and ("niqe" in self.metrics or len(r.values) == 0)]
            names = list(dict.fromkeys(f"{r.set}/{r.key}" for r in niqe if "niqe" not in r.values))
            if names:
                more = ", ..." if len(names) > _NAMES else ""
                lines.append(
                    f"no NIQE for {counted(len(names), 'image')} with fewer than two blocks of 96x96 pixels with texture: "
                    f"{', '.join(names[:_NAMES])}{more}"
                )
        return lines

    def table(self) -> str:
        """Return the table of means, followed by the definition of every protocol."""
        lines = self._one() if len(self.columns) == 1 else self._side_by_side()
        lines += self._definitions()
        for set_name, protocols in self.meters[self.columns[0]].by_clip().items():
            counts = {p: (len(clips), sum(int(v["n"]) for v in clips.values())) for p, clips in protocols.items()}
            for clips, frames in dict.fromkeys(counts.values()):
                of = [p for p, found in counts.items() if found == (clips, frames)]
                of = f" {', '.join(of)}:" if len(of) < len(counts) else ""
                means = "the mean over each clip's frames, then over clips"
                lines.append(f"{set_name}:{of} {clips} clips of {frames} frames, {means}")
        if self.out is not None:
            files = ("metrics.json", "metrics.csv", "report.html")
            lines.append(f"written: {', '.join(str(self.out / name) for name in files)}")
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, str, list[dict[str, float]]]]:
        """Return (label, protocol, values for each column) of every set.

        Clips of a set have rows too, if they are at most 30.
        """
        summaries = [self.meters[c].summary() for c in self.columns]
        clips = [self.meters[c].by_clip() for c in self.columns]
        rows = []
        for set_name, protocols in summaries[0].items():
            for protocol in protocols:
                rows.append((set_name, protocol, [s[set_name][protocol] for s in summaries]))
                names = clips[0].get(set_name, {}).get(protocol, {})
                if 1 < len(names) <= _CLIPS_SHOWN:
                    rows += [(f"  {n}", protocol, [c[set_name][protocol][n] for c in clips]) for n in names]
        return rows

    def _one(self) -> list[str]:
        rows = self._rows()
        width = max(len(label) for label in ["set", *(r[0] for r in rows)])
        wide = max(len(p) for p in ["protocol", *(r[1] for r in rows)]) + 1
        metrics = self._measured()
        names = "".join(f"  {_DIGITS[m][0]:>8}" for m in metrics)
        lines = [self.titles[0], f"{'set':<{width}}  {'images':>6}  {'protocol':<{wide}}{names}"]
        for label, protocol, (v,) in rows:
            cells = [f"{v[m]:.{_DIGITS[m][1]}f}" if m in v else "-" for m in metrics]
            values = "".join(f"  {cell:>8}" for cell in cells)
            lines.append(f"{label:<{width}}  {int(v['n']):>6}  {protocol:<{wide}}{values}")
        return lines

    def _side_by_side(self) -> list[str]:
        rows = self._rows()
        width = max(len(label) for label in ["set", *(r[0] for r in rows)])
        wide = [max(8, len(c)) for c in self.columns]
        head = "".join(f"  {c:>{w}}" for c, w in zip(self.columns, wide, strict=True))
        lines = [f"{c}: {t}" for c, t in zip(self.columns, self.titles, strict=True)]
        lines.append(f"{'set':<{width}}  {'images':>6}  {'protocol':<10}  {'':<8}{head}")
        for label, protocol, values in rows:
            for metric in (m for m in self._measured() if m in values[0]):
                title, digits = _DIGITS[metric]
                cells = "".join(
                    f"  {v.get(metric, math.nan):>{w}.{digits}f}" for v, w in zip(values, wide, strict=True)
                )
                lines.append(f"{label:<{width}}  {int(values[0]['n']):>6}  {protocol:<10}  {title:<8}{cells}")
        return lines

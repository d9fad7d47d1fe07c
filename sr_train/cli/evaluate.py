"""``sr-eval``: PSNR and SSIM of a network, of bicubic or of finished images, by named protocols."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.common import compose_command, expect, run

if TYPE_CHECKING:
    import torch

    from sr_train.data.index import Pairs
    from sr_train.metrics.meter import Meter
    from sr_train.metrics.protocol import Protocol

Upscale = Callable[["torch.Tensor"], "torch.Tensor"]


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name}: cannot be used here ({str(error).splitlines()[0]}); try device=cpu") from None
    return device


def _scale_of(config: Mapping[str, Any], known: int | None) -> int:
    scale = config["scale"]
    if scale is None and known is None:
        raise ValueError("give scale=2 (or 3, 4, ...): neither bicubic nor finished images know theirs")
    if scale is None:
        return int(known or 0)
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale={scale!r}: expected a whole number from 1 on")
    if known is not None and scale != known:
        raise ValueError(f"scale={scale}, but {config['weights']} is a network for x{known}")
    return scale


def _network(config: Mapping[str, Any]) -> tuple[Upscale, int, str]:
    """What turns LR into SR, its scale, and its name in the table."""
    from sr_train.cli.locate import load
    from sr_train.inference import super_resolve
    from sr_train.models.bicubic import Bicubic
    from sr_train.weights import build_network

    device = _device(str(config["device"]))
    source = str(config["weights"])
    if source == "bicubic":
        scale = _scale_of(config, None)
        network, name = (
            Bicubic(scale=scale, arithmetic=config["arithmetic"]),
            f"bicubic x{scale} ({config['arithmetic']})",
        )
    else:
        allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
        if not all(isinstance(name, str) for name in allow):
            raise ValueError(f"allow={allow}: expected names of packages")
        weights, file = load(source, allow=allow)
        scale = _scale_of(config, weights.scale)
        network = build_network(weights, where=str(file), allow=allow).to(device)
        recognized = "".join(f"; {k}: {weights.origin[k]}" for k in ("layout", "assumed") if k in weights.origin)
        name = f"{file} (x{scale}{recognized})"
    return lambda lr: super_resolve(network, lr.to(device)).cpu(), scale, name


def _set_name(folder: str) -> str:
    """A set is called after its folder, or after the folder above where that is only ``HR`` or ``GTmod12``."""
    path = Path(folder).absolute()
    if path.name.lower().startswith(("hr", "gt")) and path.parent.name:
        path = path.parent
    return path.name.removesuffix(".lmdb") or "images"


def _sets(config: Mapping[str, Any], scale: int) -> dict[str, Pairs]:
    """The sets to score: ``hr=``, or those named in ``sets=``."""
    from sr_train.data.index import Pairs

    named = dict(config.get("sets") or {})
    if config["hr"] is not None:
        name = _set_name(str(config["hr"]))
        if name in named:
            name = f"{name} (hr)"
        named = {name: {"hr": str(config["hr"]), "lr": config["lr"]}, **named}
    elif config["lr"] is not None:
        raise ValueError("lr= alone cannot be scored: give hr= as well")
    if not named:
        raise ValueError("nothing to score: give hr=DIR or sets=[NAME]")
    return {
        name: Pairs(spec["hr"], lr=spec.get("lr"), scale=scale, arithmetic=str(config["arithmetic"]))
        for name, spec in named.items()
    }


def _finished(config: Mapping[str, Any], scale: int) -> dict[str, list[tuple[str, Any, Any]]]:
    """Finished images and their HR by name: ``sr=DIR hr=DIR``."""
    from sr_train.data.images import BadFilesError
    from sr_train.data.index import hr_names, open_source

    if config["hr"] is None or config["lr"] is not None or config.get("sets"):
        raise ValueError("sr=DIR is scored against hr=DIR, without lr= and sets=")
    hr, sr = open_source(str(config["hr"])), open_source(str(config["sr"]))
    results = {key: i for i, key in enumerate(sr.keys)}
    pairs, problems = [], []
    for stem, i in hr_names(hr.keys).items():
        candidates = (hr.keys[i], stem, f"{stem}x{scale}", f"{stem}_SRF_{scale}_SR")
        found = [results[c] for c in candidates if c in results]
        if not found:
            problems.append(f"{stem}: no image of this name in {sr.name}")
            continue
        (h, w), (a, b) = hr.shape(i)[:2], sr.shape(found[0])[:2]
        if not (0 <= h - a < scale and 0 <= w - b < scale):
            problems.append(f"{stem}: the result is {b}x{a}, the HR image {w}x{h} (scale {scale})")
            continue
        pairs.append((stem, (sr, found[0]), (hr, i)))
    if problems:
        raise BadFilesError(f"{config['sr']}: {len(problems)} images cannot be scored against {config['hr']}", problems)
    return {_set_name(str(config["hr"])): pairs}


def _tensor(source: Any, index: int) -> torch.Tensor:
    import torch

    from sr_train.data.images import to_rgb, to_uint8

    return torch.from_numpy(to_uint8(to_rgb(source.read(index))).copy()).permute(2, 0, 1)


class _Results:
    """Scores as they come: the table, ``metrics.json``, ``metrics.csv`` and the images."""

    def __init__(self, config: Mapping[str, Any], protocols: list[Protocol], scale: int) -> None:
        from sr_train.metrics.meter import Meter

        self.protocols, self.scale = protocols, scale
        self.meter: Meter = Meter()
        self.out = None if config["out"] is None else Path(str(config["out"]))
        self.save = expect(config, "save", bool, "true or false")
        if self.save and self.out is None:
            raise ValueError("save=true needs a folder: give out=DIR")
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)

    def add(self, set_name: str, key: str, sr: torch.Tensor, hr: torch.Tensor) -> None:
        from sr_train.metrics.protocol import score

        for protocol in self.protocols:
            try:
                values = score(sr, hr, protocol, self.scale)
            except ValueError as error:
                raise ValueError(f"{set_name}: {key}: {error}") from None
            self.meter.add(set_name, key, protocol.name, values)
        if self.save and self.out is not None:
            self._write_image(self.out / "images" / set_name / f"{key}.png", sr)

    @staticmethod
    def _write_image(path: Path, sr: torch.Tensor) -> None:
        import torch

        from sr_train.data.images import write_image
        from sr_train.metrics.functional import quantize

        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, quantize(sr).to(torch.uint8).permute(1, 2, 0).numpy())

    def write(self) -> None:
        """Whatever has been scored so far."""
        if self.out is None or not self.meter.rows:
            return
        from sr_train.files import write_bytes

        summary = {
            name: {
                p: {k: v if math.isfinite(v) else None for k, v in values.items()} for p, values in protocols.items()
            }
            for name, protocols in self.meter.summary().items()
        }
        write_bytes(self.out / "metrics.json", (json.dumps(summary, indent=2) + "\n").encode())
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["set", "image", "protocol", *self.meter.rows[0].values])
        for row in self.meter.rows:
            rows.writerow([row.set, row.key, row.protocol, *(f"{v:.6f}" for v in row.values.values())])
        write_bytes(self.out / "metrics.csv", text.getvalue().encode())

    def table(self, name: str) -> str:
        """The means, with every protocol's definition beneath."""
        summary = self.meter.summary()
        width = max(len(s) for s in [*summary, "set"])
        lines = [name, f"{'set':<{width}}  {'images':>6}  {'protocol':<9}  {'PSNR dB':>8}  {'SSIM':>6}"]
        for set_name, protocols in summary.items():
            for protocol, v in protocols.items():
                lines.append(
                    f"{set_name:<{width}}  {int(v['n']):>6}  {protocol:<9}  {v['psnr']:>8.3f}  {v['ssim']:>6.4f}"
                )
        lines += [f"{p.name}: {p.definition}" for p in self.protocols]
        if self.out is not None:
            lines.append(f"written: {self.out / 'metrics.json'}, {self.out / 'metrics.csv'}")
        return "\n".join(lines)


def evaluate(arguments: list[str]) -> int:
    """Score and print."""
    config = compose_command("evaluate", arguments)
    if (config["weights"] is None) == (config["sr"] is None):
        raise ValueError("give weights=FILE.safetensors, weights=bicubic, or sr=DIR with finished images")
    names = expect(config, "protocols", list, "a list, e.g. protocols=[y,rgb]")
    from tqdm import tqdm

    from sr_train.metrics.protocol import get_protocols

    protocols = get_protocols(names)
    items: Any
    if config["sr"] is not None:
        scale, name = _scale_of(config, None), str(config["sr"])
        finished = _finished(config, scale)
        items = [
            (set_name, key, lambda a=a, b=b: (_tensor(*a), _tensor(*b)))
            for set_name, pairs in finished.items()
            for key, a, b in pairs
        ]
    else:
        upscale, scale, name = _network(config)
        from sr_train.data.dataset import EvalImages

        images = EvalImages(_sets(config, scale))

        def scored(index: int) -> tuple[torch.Tensor, torch.Tensor]:
            image = images[index]
            return upscale(image.lr), image.hr

        items = [(s, k, lambda i=i: scored(i)) for i, (s, k) in enumerate(images.names())]
    results = _Results(config, protocols, scale)
    try:
        for set_name, key, compute in tqdm(
            items, desc="score", unit="image", file=sys.stderr, disable=not sys.stderr.isatty()
        ):
            sr, hr = compute()
            results.add(set_name, key, sr[..., : hr.shape[-2], : hr.shape[-1]], hr[..., : sr.shape[-2], : sr.shape[-1]])
    finally:
        results.write()  # what was scored before an error or Ctrl-C is kept
    print(results.table(name))
    return 0


def main() -> None:
    """Entry point of ``sr-eval``."""
    run("sr-eval", "evaluate", evaluate, show_groups=("sets",))

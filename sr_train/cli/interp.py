"""``sr-interp``: networks between two networks, by mixing their weights (ESRGAN section 3.4, eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.main import run
from sr_train.config.compose import compose_command, expect
from sr_train.console import UsageError

if TYPE_CHECKING:
    from sr_train.weights.file import Weights


def _sources(config: Mapping[str, Any]) -> tuple[list[str], Path]:
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
    from sr_train.evaluation.mixture import newest_run

    typed = config["run"]
    folder = Path(str(typed)) if typed is not None else newest_run(Path(config["paths"]["runs"]), stages)
    open_ones = [s for s in stages if not (folder / str(s) / "weights.safetensors").exists()]
    if open_ones:
        raise ValueError(f"{folder}: stage {' and '.join(open_ones)} is not complete; finish it, or give weights=[A,B]")
    return [str(folder / str(s)) for s in stages], Path(str(config["out"] or folder))


def _mixes(config: Mapping[str, Any], count: int) -> dict[str, list[float]]:
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


def _scale_shown(config: Mapping[str, Any], sources: Mapping[str, Weights]) -> int | None:
    """Return the scale that ``images=`` shows, None without it. The mixture itself holds all scales."""
    from sr_train.inference.network import scale_of

    name, weights = next(iter(sources.items()))
    if config["images"] is None and config["scale"] is None:
        return None
    scale = scale_of(config, weights.scales, name)
    if config["images"] is None and len(weights.scales) > 1:
        raise ValueError(
            f"scale={scale} is of images=; a mixture holds all scales: sr-convert weights=FILE scale={scale} out=... takes "
            "one out of it"
        )
    return None if config["images"] is None else scale


def interp(arguments: list[str]) -> int:
    """Mix, write, and show where images are given."""
    config = compose_command("interp", arguments)
    allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
    for key in ("rows", "crop"):
        if expect(config, key, int, "a whole number from 1 on") < 1:
            raise UsageError(f"{key}={config[key]}: expected a whole number from 1 on")
    names, out = _sources(config)
    mixes = _mixes(config, len(names))
    if config["images"] is not None and config["mix"] is not None:
        raise ValueError("images= shows a curve over alpha=, not mix=")
    from sr_train.evaluation.mixture import MixtureSheet, open_sources, warn_strangers, write_mixtures
    from sr_train.weights.mixing import check_mix

    sources = open_sources(names, allow=allow, scale=config["scale"])
    for mix in mixes.values():
        check_mix(sources, mix)
    scale = _scale_shown(config, sources)
    warn_strangers(sources)
    write_mixtures(sources, mixes, out)
    if scale is not None:
        alphas = [mix[1] for mix in mixes.values()]
        sheet = MixtureSheet(
            list(sources.values()),
            scale=scale,
            images=str(config["images"]),
            device=str(config["device"]),
            protocol=str(config["protocol"]),
            lpips=None if config["lpips"] is None else str(config["lpips"]),
            rows=config["rows"],
            crop=config["crop"],
            allow=allow,
        )
        sheet.write(out, alphas if len(alphas) > 1 else sorted({0.0, 1.0, *alphas}))
    return 0


def main() -> None:
    """Entry point of ``sr-interp``."""
    run("sr-interp", "interp", interp)


if __name__ == "__main__":
    main()

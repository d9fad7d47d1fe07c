"""``sr-interp``: interpolate the weights of networks (ESRGAN section 3.4, eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_train.cli.main import run
from sr_train.console import UsageError, expect

if TYPE_CHECKING:
    from sr_train.weights.file import Weights


def _sources(config: Mapping[str, Any]) -> tuple[list[str], Path]:
    """Return the files or folders of the networks to mix, and the output folder."""
    given, stages = config["weights"], expect(config, "stages", list, "two names, e.g. stages=[psnr,gan]")
    if given is not None:
        from sr_train.config.paths import matching

        if config["run"] is not None:
            raise ValueError("give run= or weights=, not both")
        items = given if isinstance(given, list) else [given]
        found = (
            [path for w in items for path in matching("weights", w)] if all(isinstance(w, str) for w in items) else []
        )
        if len(found) < 2:
            raise ValueError(f"weights={given}: expected two files or more, weights=[A,B]")
        return found, Path(str(config["out"] or "."))
    if len(stages) != 2:
        raise ValueError(f"stages={stages}: expected two names, e.g. stages=[psnr,gan]")
    from sr_train.evaluation.mixture import newest_run

    typed = config["run"]
    folder = Path(str(typed)) if typed is not None else newest_run(Path(config["paths"]["runs"]), stages)
    if not folder.is_dir():
        raise ValueError(f"run={folder}: there is no such folder; give the folder of a run, runs/NAME")
    open_ones = [s for s in stages if not (folder / str(s) / "weights.safetensors").exists()]
    if open_ones:
        raise ValueError(f"{folder}: {_stages(open_ones)} not finished; finish the run, or give weights=[A,B]")
    return [str(folder / str(s)) for s in stages], Path(str(config["out"] or folder))


def _stages(names: list[str]) -> str:
    return f"stage {names[0]} is" if len(names) == 1 else f"stages {' and '.join(names)} are"


def _mixes(config: Mapping[str, Any], count: int) -> dict[str, list[float]]:
    """Return {name of the output file: factors of the networks}."""
    alpha, mix = config["alpha"], config["mix"]
    if (alpha is None) == (mix is None):
        raise ValueError("give alpha=0.8 (or a list), or mix=[...] with one factor per network of weights=")
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
        raise ValueError(f"alpha= mixes two networks, but {count} were given; give mix=[...]")
    wrong = [v for v in values if not 0 <= v <= 1]
    if wrong:
        raise ValueError(f"alpha={wrong}: expected numbers from 0 to 1")
    return {f"alpha_{_number(v)}": [1 - v, float(v)] for v in sorted(set(values))}


def _number(value: float) -> str:
    """Format a number with two decimals, or with more decimals if two do not show its exact value."""
    return f"{value:.2f}" if round(value, 2) == value else repr(float(value))


def _scale_shown(config: Mapping[str, Any], sources: Mapping[str, Weights]) -> int | None:
    """Return the scale at which the pictures of ``images=`` are upscaled for the contact sheet; None without ``images=``.

    The written networks keep all scales of an MDSR. Raise ValueError for ``scale=`` without ``images=``.
    """
    from sr_train.inference.network import scale_of

    name, weights = next(iter(sources.items()))
    if config["images"] is None and config["scale"] is None:
        return None
    scale = scale_of(config, weights.scales, name)
    if config["images"] is None and len(weights.scales) > 1:
        raise ValueError(
            f"scale={scale} is the scale of the contact sheet, so it needs images=; the written network contains all scales; "
            f"to extract one scale, run sr-convert weights=FILE scale={scale} out=..."
        )
    return None if config["images"] is None else scale


def interp(arguments: list[str]) -> int:
    """Run ``sr-interp``: write the mixtures, and a contact sheet if images are given."""
    from sr_train.config.compose import compose_command

    config = compose_command("interp", arguments)
    allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
    for key in ("rows", "crop"):
        if expect(config, key, int, "an integer of at least 1") < 1:
            raise UsageError(f"{key}={config[key]}: expected an integer of at least 1")
    names, out = _sources(config)
    mixes = _mixes(config, len(names))
    if config["images"] is not None and config["mix"] is not None:
        raise ValueError("images= plots scores against alpha=; it cannot be used with mix=")
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

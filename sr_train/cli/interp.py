"""``sr-interp``: networks between two networks, by mixing their weights (ESRGAN section 3.4, eq. 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sr_train.cli.main import run
from sr_train.config.compose import compose_command, expect
from sr_train.console import UsageError
from sr_train.evaluation.mixture import (
    ContactSheet,
    check_scale,
    mixes_of,
    origin_of_mixture,
    sources_of,
    warn_strangers,
)
from sr_train.weights.open import full_arguments, load

if TYPE_CHECKING:
    from sr_train.weights.file import Weights


def interp(arguments: list[str]) -> int:
    """Mix, write, and show where images are given."""
    config = compose_command("interp", arguments)
    allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
    for key in ("rows", "crop"):
        if expect(config, key, int, "a whole number from 1 on") < 1:
            raise UsageError(f"{key}={config[key]}: expected a whole number from 1 on")
    names, out = sources_of(config)
    mixes = mixes_of(config, len(names))
    if config["images"] is not None and config["mix"] is not None:
        raise ValueError("images= shows a curve over alpha=, not mix=")
    from sr_train.weights.file import Weights, save_weights
    from sr_train.weights.mixing import check_mix, interpolate

    sources: dict[str, Weights] = {}
    for name in names:
        weights, file = load(name, allow=allow, scale=config["scale"])
        sources[str(file)] = Weights(full_arguments(weights.model), weights.state, weights.origin, weights.scores)
    if len(sources) < len(names):
        raise ValueError(f"weights={names}: names one of them twice")
    for mix in mixes.values():
        check_mix(sources, mix)
    check_scale(config, sources)
    warn_strangers(sources)
    out.mkdir(parents=True, exist_ok=True)
    states, model = [w.state for w in sources.values()], next(iter(sources.values())).model
    for name, mix in mixes.items():
        path = out / f"{name}.safetensors"
        save_weights(path, Weights(model, interpolate(states, mix), origin_of_mixture(sources, mix)))
        shown = " + ".join(f"{f:g} {n}" for n, f in zip(sources, mix, strict=True))
        print(f"{path}: {shown}")
    if config["images"] is not None:
        alphas = [mix[1] for mix in mixes.values()]
        ContactSheet(config, list(sources.values())).write(
            out, alphas if len(alphas) > 1 else sorted({0.0, 1.0, *alphas})
        )
    return 0


def main() -> None:
    """Entry point of ``sr-interp``."""
    run("sr-interp", "interp", interp)


if __name__ == "__main__":
    main()

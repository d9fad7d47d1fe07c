"""``sr-convert``: write a network of any supported file format, or one scale of an MDSR, as a .safetensors file.

The file also contains the network's config, so no other file is needed to load the network.
"""

from __future__ import annotations

from pathlib import Path

from sr_train.cli.main import run
from sr_train.console import UsageError, expect, for_shell, listed


def convert(arguments: list[str]) -> int:
    """Run ``sr-convert``: read, check and write a network."""
    from sr_train.config.compose import compose_command

    config = compose_command("convert", arguments)
    allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
    overwrite = expect(config, "overwrite", bool, "true or false")
    source, out = str(config["weights"]), Path(str(config["out"]))
    if out.suffix != ".safetensors":
        raise UsageError(
            f"out={out}: give a name that ends in .safetensors, e.g. "
            + for_shell(f"out={out.with_suffix('.safetensors')}")
        )
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: already exists; give another name or overwrite=true")
    from sr_train.inference.network import recognized_as, scale_of
    from sr_train.weights.file import Weights, save_weights
    from sr_train.weights.network import build_network, one_scale
    from sr_train.weights.open import full_arguments, load

    weights, file = load(source, allow=allow, scale=config["scale"])
    if config["scale"] is not None:
        scale = scale_of(config, weights.scales, source)
        weights = one_scale(weights, scale, where=str(file), allow=allow)
    network = build_network(weights, where=str(file), allow=allow)  # fails if tensors are missing or have wrong shapes
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, Weights(full_arguments(weights.model), weights.state, weights.origin, weights.scores))
    count = sum(p.numel() for p in network.parameters())
    origin = f"{file}{recognized_as(weights)}"
    print(f"{out}: {type(network).__name__} {listed(weights.scales)}, {count:,} parameters, from {origin}")
    return 0


def main() -> None:
    """Entry point of ``sr-convert``."""
    run("sr-convert", "convert", convert)


if __name__ == "__main__":
    main()

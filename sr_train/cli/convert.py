"""``sr-convert``: write a network, or one scale of an MDSR, as a .safetensors file or for another program.

The input may have any supported file format. A .safetensors file also contains the network's config, so no other file
is needed to load the network.
"""

from __future__ import annotations

from pathlib import Path

from sr_train.cli.main import run
from sr_train.console import UsageError, expect, listed


def convert(arguments: list[str]) -> int:
    """Run ``sr-convert``: read, check and write a network."""
    from sr_train.config.compose import compose_command

    config = compose_command("convert", arguments)
    allow = expect(config, "allow", list, "a list of packages, e.g. allow=[my_package.models]")
    overwrite, card = (expect(config, key, bool, "true or false") for key in ("overwrite", "card"))
    source, out, precision = str(config["weights"]), str(config["out"]), str(config["precision"])
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"precision={precision}: expected fp32 or fp16")
    if card and not config["license"]:
        raise UsageError("card=true needs the license of the weights, which only you know: give e.g. license=CC-BY-4.0")
    from sr_train.inference.network import recognized_as, scale_of
    from sr_train.weights.discriminator import convert_discriminator, is_discriminator
    from sr_train.weights.export import write
    from sr_train.weights.export.card import About, default_name
    from sr_train.weights.export.openers import opened_by
    from sr_train.weights.file import Weights
    from sr_train.weights.network import one_scale
    from sr_train.weights.open import full_arguments, load

    if is_discriminator(Path(source)):
        print(convert_discriminator(Path(source), Path(out), allow=allow, overwrite=overwrite))
        return 0
    kind = write.kind_of(out, config["format"])
    weights, file = load(source, allow=allow, scale=config["scale"])
    if config["scale"] is not None or kind in write.ONE_SCALE:
        weights = one_scale(weights, scale_of(config, weights.scales, source), where=str(file), allow=allow)
    recognized = recognized_as(weights)
    weights = Weights(full_arguments(weights.model), weights.state, weights.origin, weights.scores)
    name = str(config["name"] or default_name(weights, Path(source)))
    given = {key: str(config[key]) for key in ("author", "license", "description") if config[key]}
    about = About(name=name, **given) if given or card or config["name"] else None
    path = write.path_of(out, kind, weights, name, precision)
    if not overwrite:
        write.check_free(path, kind, weights, about if card else None)
    done = write.export(path, kind, weights, precision=precision, about=about, card=card, allow=allow)
    network = str(weights.model["_target_"]).rpartition(".")[2]
    print(f"{path}: {network} {listed(weights.scales)}, {done.parameters:,} parameters, from {file}{recognized}")
    print(f"  checked   {done}")
    for line in done.notes:
        print(f"  note      {line}")
    print(f"  opens in  {opened_by(weights.model)}")
    return 0


def main() -> None:
    """Entry point of ``sr-convert``."""
    run("sr-convert", "convert", convert)


if __name__ == "__main__":
    main()

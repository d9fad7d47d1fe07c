"""``sr-eval``: score networks, bicubic or finished images by named protocols."""

from __future__ import annotations

from pathlib import Path

from sr_train.cli.main import arithmetic_of, run
from sr_train.console import UsageError, expect


def evaluate(arguments: list[str]) -> int:
    """Run ``sr-eval``: compute and print the scores."""
    from sr_train.config.compose import compose_command

    config = compose_command("evaluate", arguments)
    if (config["weights"] is None) == (config["sr"] is None):
        raise UsageError("give one of weights=FILE.safetensors, weights=bicubic, or sr=DIR with finished images")
    if config["clips"] is False:
        config = {**config, "clips": None}
    arithmetic_of(config)
    names = expect(config, "protocols", list, "a list, e.g. protocols=[y,rgb]")
    from sr_train.data.images import limit_pixels
    from sr_train.evaluation.items import has_lone, open_outputs, score_all
    from sr_train.evaluation.metrics import open_perceptual
    from sr_train.evaluation.scores import Scores
    from sr_train.metrics.protocol import get_protocols

    try:
        protocols = get_protocols(names)
    except ValueError as error:
        raise UsageError(str(error)) from None
    metrics = expect(config, "metrics", list, "a list, e.g. metrics=[psnr,ssim,lpips]")
    perceptual = open_perceptual(metrics, config["lpips"], without_hr=has_lone(config))
    out = None if config["out"] is None else Path(str(config["out"]))
    save = expect(config, "save", bool, "true or false")
    if save and out is None:
        raise UsageError("save=true needs a folder: give out=DIR")
    limit_pixels(config["max_pixels"])
    outputs = open_outputs(config, centers_only=all(p.center for p in protocols))
    named = outputs.columns, outputs.titles, protocols, outputs.scale
    scores = Scores(*named, out, save=save, metrics=metrics, perceptual=perceptual)
    score_all(outputs, scores)
    print(scores.table())
    return 0


def main() -> None:
    """Entry point of ``sr-eval``."""
    run("sr-eval", "evaluate", evaluate, show_groups=("sets",))


if __name__ == "__main__":
    main()

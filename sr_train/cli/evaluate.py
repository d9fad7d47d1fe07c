"""``sr-eval``: PSNR and SSIM of networks, of bicubic or of finished images, by named protocols."""

from __future__ import annotations

import sys
from pathlib import Path

from sr_train.cli.main import arithmetic_of, run
from sr_train.config.compose import compose_command, expect
from sr_train.console import UsageError
from sr_train.evaluation.items import outputs
from sr_train.evaluation.scores import Scores


def evaluate(arguments: list[str]) -> int:
    """Score and print."""
    config = compose_command("evaluate", arguments)
    if (config["weights"] is None) == (config["sr"] is None):
        raise UsageError("give weights=FILE.safetensors, weights=bicubic, or sr=DIR with finished images")
    if config["clips"] is False:
        config = {**config, "clips": None}
    arithmetic_of(config)
    names = expect(config, "protocols", list, "a list, e.g. protocols=[y,rgb]")
    from tqdm import tqdm

    from sr_train.evaluation.metrics import open_measures
    from sr_train.metrics.protocol import get_protocols

    try:
        protocols = get_protocols(names)
    except ValueError as error:
        raise UsageError(str(error)) from None
    metrics = expect(config, "metrics", list, "a list, e.g. metrics=[psnr,ssim,lpips]")
    measures = open_measures(metrics, config["lpips"])
    out = None if config["out"] is None else Path(str(config["out"]))
    save = expect(config, "save", bool, "true or false")
    if save and out is None:
        raise UsageError("save=true needs a folder: give out=DIR")
    columns, titles, scale, items = outputs(config, centres=all(p.centre for p in protocols))
    scores = Scores(columns, titles, protocols, scale, out, save=save, metrics=metrics, measures=measures)
    shown = tqdm(
        items,
        desc="score",
        unit="frame" if any(item.clip for item in items) else "image",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
    try:
        for item in shown:
            results, hr = item.compute()
            for column, sr in zip(columns, results, strict=True):
                cut = sr[..., : hr.shape[-2], : hr.shape[-1]], hr[..., : sr.shape[-2], : sr.shape[-1]]
                scores.add(column, item.set, item.key, *cut, clip=item.clip, centred=item.centred)
    finally:
        scores.write()  # what was scored before an error or Ctrl-C is kept
    print(scores.table())
    return 0


def main() -> None:
    """Entry point of ``sr-eval``."""
    run("sr-eval", "evaluate", evaluate, show_groups=("sets",))


if __name__ == "__main__":
    main()

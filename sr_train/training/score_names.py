"""Names ``SET/PROTOCOL/METRIC`` of the scores of validation, and the choice of the score that decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sr_train.data.lone import is_lone
from sr_train.data.module import means_of, set_name
from sr_train.evaluation.metrics import PROTOCOL, PerceptualMetric


def score_names(config: Mapping[str, Any], perceptual: Mapping[str, PerceptualMetric]) -> list[str]:
    """Return the names ``SET/PROTOCOL/METRIC`` of the scores of a stage's validation.

    Means over several scales come first. Sets without HR have only the scores that need none.
    """
    validate, data = config["validate"], config["data"]
    val, scales = data["val"] or {}, data.get("scales") or ()

    def sets(names: Sequence[str]) -> list[str]:
        return [*means_of(names, scales), *(set_name(n, s, scales) for n in names for s in scales or (0,))]

    paired = sets([name for name, spec in val.items() if not is_lone(spec)])
    plain = [m for m in validate["metrics"] if m not in perceptual]
    chosen = [m for m in perceptual if m in validate["metrics"]]
    metrics = [f"{s}/{p}/{m}" for s in paired for p in validate["protocols"] for m in plain]
    metrics += [f"{s}/{PROTOCOL}/{m}" for s in paired for m in chosen]
    lone = sets([name for name, spec in val.items() if is_lone(spec)])
    return metrics + [f"{s}/{PROTOCOL}/{m}" for s in lone for m, metric in perceptual.items() if not metric.needs_hr]


def best_metric(chosen: str | None, scores: Iterable[str]) -> str:
    """Return the name of the score by which ``best.safetensors`` is chosen: ``validate.best``, else the first PSNR.

    Without PSNR it is the first score. ``SET/METRIC`` is completed to ``SET/PROTOCOL/METRIC`` with the first protocol.
    """
    if chosen is None:
        return next((n for n in scores if n.endswith("psnr")), next(iter(scores), ""))
    first, _, last = chosen.rpartition("/")
    own = (n for n in scores if (n.partition("/")[0], n.rpartition("/")[2]) == (first, last))
    return chosen if chosen in scores else next(own, chosen)


def means_of_scores(scores: Mapping[str, float], means: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return {``NAME/protocol/metric``: mean of the scores of NAME's sets} for each mean NAME in ``means``."""
    found = {}
    for name, sets in means.items():
        rests = [key.partition("/")[2] for key in scores if key.startswith(f"{sets[0]}/")]
        rests = [rest for rest in rests if all(f"{s}/{rest}" in scores for s in sets)]
        found |= {f"{name}/{rest}": sum(scores[f"{s}/{rest}"] for s in sets) / len(sets) for rest in rests}
    return found

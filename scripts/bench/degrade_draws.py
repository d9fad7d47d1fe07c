"""Draws of ``degrade=blind`` and ``degrade=bsrgan`` against their distributions.

    python scripts/bench/degrade_draws.py --samples 10000

Each sample is a small patch, degraded with a key of its own. Numbers are compared by Kolmogorov and Smirnov's test,
choices and integers by Pearson's chi-squared test. The expected distributions are written here from the papers and the
published options, not read from conf/. The script fails if a p-value is below 1e-5. The keys are fixed, so
that the result is the same in every run.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from scipy import stats

from sr_train.config.build import build
from sr_train.data.degradation.base import Words

CONF = Path(__file__).resolve().parents[2] / "conf" / "degrade"

LEAST = 1e-5

Sample = dict[str, "float | str"]


class Expected(NamedTuple):
    """Distribution of one drawn value: {choice: probability}, or a distribution function."""

    name: str
    law: dict[Any, float] | Callable[[Any], Any]
    given: Callable[[Sample], bool] = lambda sample: True
    when: str = ""


def samples(model: str, count: int, side: int = 16, scale: int = 4) -> list[Sample]:
    degradation = build(OmegaConf.to_container(OmegaConf.load(CONF / f"{model}.yaml")))  # pyright: ignore
    hr = np.random.default_rng(0).random((side, side, 3), np.float32)
    return [degradation(hr, scale, Words(i.to_bytes(16, "little"))).drawn for i in range(count)]


def uniform(low: float, high: float) -> Callable[[Any], Any]:
    return stats.uniform(low, high - low).cdf


def two_parts(low: float, middle: float, high: float) -> Callable[[Any], Any]:
    """Return the distribution function of U[low, middle] or U[middle, high], each with probability 1/2."""
    return lambda x: (uniform(low, middle)(x) + uniform(middle, high)(x)) / 2


def even(choices: Any) -> dict[Any, float]:
    return {choice: 1 / len(choices) for choice in choices}


def mixed_blur(name: str, probability: float, sigma: float) -> list[Expected]:
    shares = {"iso": 0.45, "aniso": 0.25, "generalized_iso": 0.12, "generalized_aniso": 0.03}
    shares |= {"plateau_iso": 0.12, "plateau_aniso": 0.03}
    kinds: dict[Any, float] = {kind: probability * 0.9 * share for kind, share in shares.items()}
    kinds |= {"sinc": probability * 0.1} | ({None: 1 - probability} if probability < 1 else {})
    kernel, size, beta = f"{name}.kernel", f"{name}.size", f"{name}.beta"
    return [
        Expected(kernel, kinds),
        Expected(size, even(range(7, 22, 2)), lambda s: size in s),
        Expected(f"{name}.sigma", uniform(0.2, sigma)),
        Expected(f"{name}.sigma_y", uniform(0.2, sigma)),
        Expected(f"{name}.angle", uniform(-math.pi, math.pi)),
        Expected(beta, two_parts(0.5, 1, 4), lambda s: str(s.get(kernel)).startswith("generalized"), "generalized"),
        Expected(
            beta, uniform(1, 2), lambda s: str(s.get(kernel)).startswith("plateau") and s[beta] != 1, "plateau, not 1"
        ),
        Expected(f"{name}.cutoff", uniform(1 / 3, 1), lambda s: float(s.get(size, 0)) < 13, "size < 13"),
        Expected(f"{name}.cutoff", uniform(1 / 5, 1), lambda s: float(s.get(size, 0)) >= 13, "size >= 13"),
    ]


def resized(name: str, up: float, down: float, low: float, high: float) -> list[Expected]:
    way, factor = f"{name}.way", f"{name}.factor"
    return [
        Expected(way, {"up": up, "down": down, "keep": 1 - up - down}),
        Expected(factor, uniform(low, 1), lambda s: s[way] == "down", "down"),
        Expected(factor, uniform(1, high), lambda s: s[way] == "up", "up"),
        Expected(f"{name}.method", even(["area", "bilinear", "bicubic"])),
    ]


def noisy(name: str, sigma: float, scale: float) -> list[Expected]:
    shares = {"gray": 0.4, "color": 0.6}
    return [
        Expected(f"{name}.kind", even(["gaussian", "poisson"])),
        Expected(f"{name}.gaussian.sigma", uniform(1, sigma)),
        Expected(f"{name}.gaussian.color", shares, lambda s: s[f"{name}.kind"] == "gaussian"),
        Expected(f"{name}.poisson.scale", uniform(0.05, scale)),
        Expected(f"{name}.poisson.color", shares, lambda s: s[f"{name}.kind"] == "poisson"),
    ]


BLIND = [
    *mixed_blur("blur_1", 1, 3),
    *resized("resize_1", 0.2, 0.7, 0.15, 1.5),
    *noisy("noise_1", 30, 3),
    Expected("jpeg_1.quality", even(range(30, 96))),
    *mixed_blur("blur_2", 0.8, 1.5),
    *resized("resize_2", 0.3, 0.4, 0.3, 1.2),
    *noisy("noise_2", 25, 2.5),
    Expected("last.order", even(["back jpeg", "jpeg back"])),
    Expected("last.jpeg.quality", even(range(30, 96))),
    Expected("last.back.resize.method", even(["area", "bilinear", "bicubic"])),
    Expected("last.back.sinc.size", {None: 0.2, **{size: 0.1 for size in range(7, 22, 2)}}),
    Expected("last.back.sinc.cutoff", uniform(1 / 3, 1)),
]


def bsrgan() -> list[Expected]:
    """Return what is expected at scale 4, which is 2 after the image was halved."""
    methods, parts = ["area", "bilinear", "bicubic"], ["blur_1", "blur_2", "noise", "jpeg"]
    down = "shuffled.downsample"
    expected = [
        Expected("halve.method", {None: 0.75, "matlab": 0.125, **{m: 0.125 / 3 for m in methods}}),
        Expected(f"{down}.method", {"shifted": 0.25, **{m: 0.25 for m in methods}}),
        Expected("shuffled.resize.method", even(methods)),
        Expected("shuffled.noise.color", {"color": 0.4, "gray": 0.4, "correlated": 0.2}),
        Expected(
            "shuffled.noise.sigma",
            even(range(2, 26)),
            lambda s: s["shuffled.noise.color"] != "correlated",
            "not correlated",
        ),
        Expected("shuffled.jpeg.quality", {None: 0.1, **{q: 0.9 / 66 for q in range(30, 96)}}),
        Expected("jpeg.quality", even(range(30, 96))),
        *(Expected(f"place of {part}", even(range(6))) for part in parts),
        Expected("downsample before resize", {1: 1.0}),
    ]
    for scale, halved in ((4, False), (2, True)):

        def at(s: Sample, halved: bool = halved) -> bool:
            return ("halve.method" in s) is halved

        when = f"scale {scale}"
        expected += [
            Expected(f"{down}.inverse", uniform(1, 2 * scale), at, when),
            Expected(f"{down}.sigma", uniform(0.1, 0.6 * scale), at, when),
        ]
        for name in ("shuffled.blur_1", "shuffled.blur_2"):
            iso, aniso = (lambda s, n=name, k=k, at=at: at(s) and s[f"{n}.kernel"] == k for k in ("iso", "aniso"))
            expected += [
                Expected(f"{name}.kernel", even(["iso", "aniso"]), at, when),
                Expected(f"{name}.size", even(range(7, 26, 2)), at, when),
                Expected(f"{name}.sigma", uniform(0, 2 + 0.2 * scale), iso, f"iso, {when}"),
                Expected(f"{name}.sigma", lambda x, n=4 + scale: np.square(x) / n, aniso, f"aniso, {when}"),
                Expected(f"{name}.sigma_y", lambda x, n=4 + scale: np.square(x) / n, aniso, f"aniso, {when}"),
                Expected(f"{name}.angle", uniform(0, math.pi), aniso, f"aniso, {when}"),
            ]
    return expected


def with_derived(sample: Sample) -> Sample:
    """Add what is compared and not drawn as such: places in the order, and the inverse of a factor."""
    derived = dict(sample)
    if "shuffled.order" in sample:
        order = str(sample["shuffled.order"]).split()
        derived |= {f"place of {name}": place for place, name in enumerate(order)}
        derived["downsample before resize"] = int(order.index("downsample") < order.index("resize"))
    if "shuffled.downsample.factor" in sample:
        derived["shuffled.downsample.inverse"] = 1 / float(sample["shuffled.downsample.factor"])
    return derived


def p_value(drawn: list[Sample], expected: Expected) -> tuple[int, float]:
    """Return the number of values and the p-value of the test."""
    given = [s for s in drawn if expected.given(s)]
    if callable(expected.law):
        values = [float(s[expected.name]) for s in given if expected.name in s]
        return len(values), float(stats.kstest(values, expected.law).pvalue)
    counts = Counter(s.get(expected.name) for s in given)
    if set(counts) - set(expected.law):
        return len(given), 0.0  # a value that cannot be
    if len(expected.law) == 1:
        return len(given), 1.0
    observed = [counts[choice] for choice in expected.law]
    wanted = [len(given) * share for share in expected.law.values()]
    return len(given), float(stats.chisquare(observed, wanted).pvalue)


def report(model: str, count: int) -> list[tuple[str, int, float]]:
    """Return (name, number of values, p-value) for everything that ``model`` draws."""
    drawn = [with_derived(s) for s in samples(model, count)]
    laws = BLIND if model == "blind" else bsrgan()
    rows: list[tuple[str, int, float]] = []
    for expected in laws:
        name = f"{expected.name} ({expected.when})" if expected.when else expected.name
        rows.append((name, *p_value(drawn, expected)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000, help="samples of each model (default: %(default)s)")
    count = parser.parse_args().samples
    failed = 0
    for model in ("blind", "bsrgan"):
        for name, values, p in report(model, count):
            failed += p < LEAST
            print(f"{model:8}{name:58}{values:7} values  p = {p:.4f}{'  FAILED' if p < LEAST else ''}")
    print(f"{failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()

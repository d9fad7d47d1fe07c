import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from sr_train.config.build import build
from sr_train.data.degradation.base import Words
from sr_train.data.degradation.combine import Chain, OneOf, Shuffled
from sr_train.data.degradation.pipeline import Pipeline
from sr_train.data.degradation.resize import ToSize

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(3)
MODELS = ["blind", "bsrgan"]


def words(i=0):
    return Words(i.to_bytes(16, "little"))


def node(model, **changes):
    """Return conf/degrade/MODEL.yaml with changes by dotted path."""
    config = OmegaConf.load(ROOT / "conf" / "degrade" / f"{model}.yaml")
    for path, value in changes.items():
        OmegaConf.update(config, path, value)
    return OmegaConf.to_container(config)


def photo(height=64, width=96, channels=3):
    y, x = np.mgrid[:height, :width] / height
    image = 0.5 + 0.4 * np.sin(7 * x[..., None] * (y[..., None] + np.arange(1, channels + 1)))
    return image.astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("model", MODELS)
def test_lr_patches_are_8_bit_floats_of_the_size(model, scale, channels):
    degradation, hr = build(node(model)), photo(12 * scale, 16 * scale, channels)
    before = hr.copy()
    for i in range(12):
        lr, drawn = degradation(hr, scale, words(i))
        assert (lr.shape, lr.dtype) == ((12, 16, channels), np.float32)
        np.testing.assert_array_equal(lr, np.rint(lr * 255).astype(np.uint8) / np.float32(255))
        assert all(type(value) in (int, float, str) for value in drawn.values())
    np.testing.assert_array_equal(hr, before)


@pytest.mark.parametrize("model", MODELS)
def test_the_result_depends_on_the_key_alone(model):
    degradation, hr = build(node(model)), photo()
    results = [degradation(hr, 4, words(i)) for i in range(6)]
    copy = pickle.loads(pickle.dumps(degradation))
    for i in (5, 2, 0):
        lr, drawn = copy(hr, 4, words(i))
        np.testing.assert_array_equal(lr, results[i].lr)
        assert drawn == results[i].drawn
    assert len({lr.tobytes() for lr, _ in results}) == 6


@pytest.mark.parametrize("model", MODELS)
def test_the_lr_patch_is_not_shifted(model):
    """A ramp stays a ramp under everything but noise and JPEG; the mean over the draws is not shifted by 1/5 of a pixel."""
    config = node(model, levels=None)
    for group in (config["operators"], config["operators"].get("shuffled", {}).get("operators", {})):
        group.update({name: None for name in group if name.startswith(("noise", "jpeg"))})
    config["operators"].get("last", {"operators": {}})["operators"]["jpeg"] = None
    y, x = np.mgrid[:192, :192]
    hr = ((np.dstack([x, y, 191 - x]) + 0.5) / 192).astype(np.float32)
    target = hr.reshape(48, 4, 48, 4, 3).mean((1, 3))
    degradation = build(config)
    errors = [degradation(hr, 4, words(i)).lr - target for i in range(30)]
    center = np.stack(errors)[:, 20:28, 20:28] * 48  # in LR pixels
    assert np.abs(center.mean((0, 1, 2))).max() < 0.05
    assert np.abs(np.median(center, axis=(1, 2))).max() < 0.2


def test_switching_an_operator_off_does_not_change_the_draws_of_others():
    hr = photo()
    for i in range(4):
        every = build(node("blind"))(hr, 4, words(i)).drawn
        changes = {"operators.blur_1": None, "operators.blur_2.probability": 0.0, "operators.noise_1": None}
        some = build(node("blind", **changes))(hr, 4, words(i)).drawn
        kept = {k: v for k, v in every.items() if not k.startswith(("blur_", "noise_1")) and not k.endswith(".rate")}
        assert {k: v for k, v in some.items() if not k.endswith(".rate")} == kept


def test_a_pipeline_of_nothing_but_the_resize_is_that_resize():
    off = {
        f"operators.{name}": None
        for name in ("blur_1", "resize_1", "noise_1", "jpeg_1", "blur_2", "resize_2", "noise_2")
    }
    off |= {"operators.last.operators.jpeg": None, "operators.last.operators.back.operators.sinc.probability": 0.0}
    lr, drawn = build(node("blind", **off, **{"operators.last.operators.back.operators.resize.methods": ["area"]}))(
        photo(), 4, words()
    )
    expected = photo().reshape(16, 4, 24, 4, 3).mean((1, 3))
    np.testing.assert_array_equal(lr, np.rint(np.float32(expected) * 255) / np.float32(255))
    assert drawn == {"last.order": "back", "last.back.resize.method": "area"}


def darker(image, words, context):
    context.note(by=words.uniform(0, 0.5))
    return image * np.float32(1 - context.drawn[f"{context.name}.by"])


def test_operators_of_users_are_composed_like_ours():
    both = {"chain": Chain(operators={"first": darker, "off": None}), "to": ToSize()}
    lr, drawn = Pipeline(operators=both, levels=None)(np.ones((8, 8, 1), np.float32), 2, words())
    assert list(drawn) == ["chain.first.by", "to.method"]
    assert lr == pytest.approx(np.full((4, 4, 1), 1 - drawn["chain.first.by"]), abs=1e-6)


def test_shuffled_operators_keep_the_order_that_is_asked_for():
    operators = dict.fromkeys("abcd", darker)
    orders = {"".join(Shuffled(operators=operators, keep_order=["c", "a"]).order(words(i))) for i in range(400)}
    assert len(orders) == 12  # 4! / 2
    assert all(order.index("c") < order.index("a") for order in orders)
    with pytest.raises(ValueError, match="keep_order: 'x' is unknown; choose from a, b, c, d"):
        Shuffled(operators=operators, keep_order=["x"])


def test_one_of_several_operators_is_drawn_by_weight():
    one = OneOf(operators={"a": darker, "b": None}, weights={"a": 1, "b": 3})
    pipeline = Pipeline(operators={"one": one})
    kinds = [pipeline(np.ones((2, 2, 1), np.float32), 1, words(i)).drawn["one.kind"] for i in range(400)]
    assert kinds.count("b") == pytest.approx(300, abs=30)
    with pytest.raises(ValueError, match="weights: 'c' is unknown; choose from a, b"):
        OneOf(operators={"a": darker, "b": None}, weights={"c": 1})


def test_images_that_cannot_be_degraded_are_refused():
    blind = build(node("blind"))
    with pytest.raises(ValueError, match=r"\[8, 8, 4\]: remove the alpha channel, with channels=3"):
        blind(np.zeros((8, 8, 4), np.float32), 4, words())
    with pytest.raises(ValueError, match=r"float32 in \[0, 1\], not uint8"):
        blind(np.zeros((8, 8, 3), np.uint8), 4, words())
    with pytest.raises(ValueError, match=r"multiples of scale=4, not 8 x 10"):
        blind(np.zeros((8, 10, 3), np.float32), 4, words())
    with pytest.raises(
        ValueError, match=r"4 x 4 pixels, expected 2 x 2 .* add sr_train.data.degradation.resize.ToSize"
    ):
        Pipeline(operators={"dark": darker})(np.zeros((4, 4, 3), np.float32), 2, words())
    with pytest.raises(ValueError, match=r"operators.dark='darker': expected an operator"):
        Pipeline(operators={"dark": "darker"})
    with pytest.raises(ValueError, match="margin=-1"):
        Pipeline(operators={}, margin=-1)


@pytest.mark.parametrize("model", MODELS)
def test_draws_have_their_distributions(model):
    """A small round of scripts/bench/degrade_draws.py."""
    spec = importlib.util.spec_from_file_location("degrade_draws", ROOT / "scripts" / "bench" / "degrade_draws.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.report(model, 500)
    assert len(rows) > 30
    assert not [row for row in rows if row[2] < script.LEAST]
    wrong = script.Expected("jpeg.quality" if model == "bsrgan" else "jpeg_1.quality", script.uniform(60, 95))
    assert script.p_value(script.samples(model, 200), wrong)[1] < script.LEAST

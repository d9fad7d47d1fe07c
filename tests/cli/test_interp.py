import csv
import json
import os

import pytest
import torch
from helpers import EDSR_MODEL

from sr_train.data.images import read_image
from sr_train.models.edsr import EDSR
from sr_train.models.srresnet import SRResNet
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.mixing import check_mix, digest, interpolate


def network(seed, **changes):
    torch.manual_seed(seed)
    model = {**EDSR_MODEL, **changes}
    return Weights(model, EDSR(**{k: v for k, v in model.items() if k != "_target_"}).state_dict())


def related(seed=1, **changes):
    """Return weights whose ancestors contain ``network(0)``."""
    weights = network(seed, **changes)
    weights.origin = {"stage": "gan", "ancestors": [digest(network(0).state)]}
    return weights


@pytest.fixture
def files(tmp_path):
    for name, weights in {"a": network(0), "b": related(1), "c": related(2)}.items():
        save_weights(tmp_path / f"{name}.safetensors", weights)
    return tmp_path


def _run(tmp_path, name, minutes):
    for stage, weights in {"psnr": network(0), "gan": related()}.items():
        folder = tmp_path / "runs" / name / stage
        folder.mkdir(parents=True)
        save_weights(folder / "weights.safetensors", weights)
        os.utime(folder / "weights.safetensors", (minutes * 60,) * 2)


def test_both_ends_are_reproduced_bit_for_bit_and_the_middle_is_the_mean():
    a, b = network(0).state, network(1).state
    b["conv_last.bias"][0] = -0.0
    assert all(torch.equal(v, a[k]) for k, v in interpolate([a, b], [1, 0]).items())
    end = interpolate([a, b], [0.0, 1.0])
    assert all(torch.equal(v, b[k]) for k, v in end.items())
    assert torch.signbit(end["conv_last.bias"][0])
    for key, value in interpolate([a, b], [0.5, 0.5]).items():
        torch.testing.assert_close(value, (a[key] + b[key]) / 2)
    same = interpolate([a, a, a], [0.2, 0.3, 0.5])
    assert all(torch.equal(v, a[k]) for k, v in same.items())


def test_statistics_are_mixed_and_counters_come_from_the_larger_factor():
    a, b = (SRResNet(scale=2, channels=4, blocks=1).state_dict() for _ in range(2))
    mean, count = (next(k for k in a if k.endswith(end)) for end in ("running_mean", "num_batches_tracked"))
    a[mean], b[mean], a[count], b[count] = a[mean] + 1, b[mean] + 2, a[count] + 10, b[count] + 20
    for alpha, counter in ((0.2, 10), (0.8, 20)):
        mixed = interpolate([a, b], [1 - alpha, alpha])
        torch.testing.assert_close(mixed[mean], torch.full_like(a[mean], 1 + alpha))
        assert int(mixed[count]) == counter
        assert mixed[count].dtype == a[count].dtype


@pytest.mark.parametrize(
    ("change", "mix", "messages"),
    [
        (lambda w: w.state.pop("conv_last.bias"), [0.5, 0.5], ["b: conv_last.bias: missing"]),
        (lambda w: w.state.update(x=torch.zeros(1)), [0.5, 0.5], ["b: x: not in a"]),
        (lambda w: w.state.update({"conv_last.bias": torch.zeros(1)}), [0.5, 0.5], [r"conv_last.bias: \[1\], a has \[3\]"]),
        (lambda w: w.model.update(scale=4), [0.5, 0.5], ["b: model.scale=4, a has 2"]),
        (lambda w: w.model.update(_target_="sr_train.models.x.Y", res_scale=0.1), [0.5, 0.5],
         ["model._target_='sr_train.models.x.Y'", "model.res_scale=0.1, a has 1.0"]),
        (lambda w: w.state["conv_last.bias"].fill_(float("nan")), [0.5, 0.5], ["b: conv_last.bias: contains NaN"]),
        (lambda w: None, [0.5, 0.4], ["sum to 0.9, expected 1"]),
        (lambda w: None, [1.5, -0.5], ["between 0 and 1"]),
        (lambda w: None, [1.0], ["1 factors for 2 networks"]),
        (lambda w: (w.model.update(scale=4), w.state.pop("conv_last.bias")), [0.5, 0.4],
         ["sum to 0.9", "model.scale=4", "conv_last.bias: missing"]),
    ],
)  # fmt: skip
def test_the_error_for_networks_that_cannot_be_mixed_lists_all_reasons(change, mix, messages):
    b = network(1)
    change(b)
    for message in messages:
        with pytest.raises(WeightsError, match=message):
            check_mix({"a": network(0), "b": b}, mix)


def test_alpha_alone_uses_the_newest_run_with_both_stages(invoke, tmp_path):
    _run(tmp_path, "new", 20)
    _run(tmp_path, "old", 10)
    _run(tmp_path, "open", 30)
    (tmp_path / "runs" / "open" / "psnr" / "weights.safetensors").unlink()
    done = invoke("sr-interp", "alpha=0.8")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    mixed = load_weights(tmp_path / "runs" / "new" / "alpha_0.80.safetensors")
    assert mixed.model == {
        **load_weights(tmp_path / "runs" / "new" / "psnr" / "weights.safetensors").model,
        **mixed.model,
    }
    expected = interpolate([network(0).state, network(1).state], [0.2, 0.8])
    assert all(torch.allclose(v, expected[k]) for k, v in mixed.state.items())
    assert mixed.origin["alpha"] == 0.8
    assert [(p["file"], p["factor"]) for p in mixed.origin["mixed"]] == [
        ("runs/new/psnr/weights.safetensors", pytest.approx(0.2)),
        ("runs/new/gan/weights.safetensors", 0.8),
    ]
    assert invoke("sr-interp", "alpha=[0.85,0.8]", "run=runs/old", "out=x").returncode == 0
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["alpha_0.80.safetensors", "alpha_0.85.safetensors"]
    scored = invoke("sr-eval", "weights=x/alpha_0.80.safetensors", "sets=[toy]", "device=cpu")
    assert scored.returncode == 0, scored.stderr


def test_three_networks_are_mixed_by_their_factors(invoke, files):
    three = "weights=[a.safetensors,b.safetensors,c.safetensors]"
    done = invoke("sr-interp", three, "mix=[0.5,0.3,0.2]")
    assert done.returncode == 0, done.stderr
    mixed = load_weights(files / "mix_0.50_0.30_0.20.safetensors")
    expected = interpolate([network(i).state for i in range(3)], [0.5, 0.3, 0.2])
    assert all(torch.equal(v, expected[k]) for k, v in mixed.state.items())
    assert invoke("sr-interp", "weights=[a.safetensors,mix_0.50_0.30_0.20.safetensors]", "alpha=0.5").stderr == ""
    assert "give mix=" in invoke("sr-interp", three, "alpha=0.5").stderr
    assert "sum to 0.8, expected 1" in invoke("sr-interp", three, "mix=[0.5,0.3,0]").stderr
    assert "one file is given twice" in invoke("sr-interp", "weights=[a.safetensors,a.safetensors]", "alpha=0.5").stderr


def test_a_warning_is_printed_for_networks_without_a_common_ancestor(invoke, files):
    save_weights(files / "stranger.safetensors", network(5))
    done = invoke("sr-interp", "weights=[a.safetensors,stranger.safetensors]", "alpha=0.5")
    assert done.returncode == 0
    assert "stranger.safetensors have no common ancestor" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give alpha=0.8"),
        (["alpha=0.5", "mix=[1]"], "give alpha=0.8"),
        (["alpha=1.2"], r"alpha=[1.2]: expected numbers from 0 to 1"),
        (["alpha=high"], "expected numbers from 0 to 1"),
        (["alpha=0.5", "run=runs/x"], "run=runs/x: there is no such folder"),
        (["alpha=0.5", "run=runs"], "runs: stages psnr and gan are not finished"),
        (["alpha=0.5", "weights=a.safetensors"], "expected two files or more"),
        (["mix=[0.5,0.5]", "images=x", "weights=[a.safetensors,b.safetensors]"], "images= plots scores against alpha="),
    ],
)
def test_wrong_options_are_refused(invoke, files, arguments, message):
    _run(files, "run", 1)
    done = invoke("sr-interp", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("argument", ["rows=1.5", "rows=0", "crop=-1", "crop=true", "overlap=1.5"])
def test_options_are_checked_before_files(invoke, argument):
    done = invoke("sr-interp", "alpha=0.8", argument)
    assert done.returncode == 2
    known = argument.partition("=")[0] != "overlap"
    assert ("of at least 1" if known else "unknown key 'overlap'") in done.stderr


def test_a_missing_run_is_an_error(invoke):
    assert "no run in this folder has finished stages psnr and gan" in invoke("sr-interp", "alpha=0.8").stderr


def test_images_give_a_contact_sheet_and_a_plot(invoke, files, photographs, tiny_lpips):
    call = (
        "sr-interp",
        "weights=[a.safetensors,b.safetensors]",
        "images=photographs",
        "device=cpu",
        "rows=3",
        "crop=48",
    )
    done = invoke(*call, "alpha=[0,0.5,1]", f"lpips={tiny_lpips}", "out=shown")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((files / "shown" / "interp_curve.csv").open()))
    assert [r["alpha"] for r in rows] == ["0", "0.5", "1"]
    scored = invoke("sr-eval", "weights=b.safetensors", "hr=photographs", "protocols=[y]", "metrics=[psnr,lpips]",
                    f"lpips={tiny_lpips}", "device=cpu", "out=scores")  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    expected = json.loads((files / "scores" / "metrics.json").read_text())["photographs"]
    assert float(rows[2]["psnr_y"]) == pytest.approx(expected["y"]["psnr"], abs=1e-4)
    assert float(rows[2]["lpips"]) == pytest.approx(expected["perceptual"]["lpips"], abs=1e-5)
    sheet = read_image(files / "shown" / "interp.png")
    assert sheet.shape[0] == 20 + 3 * (48 + 20)
    assert read_image(files / "shown" / "interp_curve.png").shape == (360, 560, 3)
    one = invoke(*call, "alpha=0.3", "out=one")
    assert one.returncode == 0, one.stderr
    assert [r["alpha"] for r in csv.DictReader((files / "one" / "interp_curve.csv").open())] == ["0", "0.3", "1"]


def test_an_exported_network_contains_its_ancestors(invoke, tmp_path):
    small = ("experiment=quickstart_edsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2",
             "data.lr_patch=12", "trainer.accelerator=cpu", "trainer.max_steps=1", "logger=none",
             "validate.pictures=0")  # fmt: skip
    assert invoke("sr-train", *small).returncode == 0
    first, second = (
        load_weights(tmp_path / "runs" / "quickstart_edsr" / s / "weights.safetensors") for s in ("x2", "x4")
    )
    assert "ancestors" not in first.origin
    assert second.origin["ancestors"] == [digest(first.state)]

import pytest
import torch

from sr_train.models.rrdbnet import RRDBNet
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.foreign.rrdbnet import KEY_FORMATS, infer_rrdbnet
from sr_train.weights.network import build_model, build_network
from sr_train.weights.warm_start import match_warm_start

PARTS = ("weight", "bias")


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def names_2018(blocks, ups):
    """The authors' first code: a Sequential whose layers are numbered, with parameter-free ones between."""
    names = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    for n in range(blocks):
        for r in (1, 2, 3):
            for c in (1, 2, 3, 4, 5):
                names[f"body.{n}.rdb{r}.conv{c}"] = f"model.1.sub.{n}.RDB{r}.conv{c}.0"
    at = 3  # 2 upscales, 3 convolves, 4 is LeakyReLU, and again
    for i in range(ups):
        names[f"conv_up{i + 1}"] = f"model.{at}"
        at += 3
    names["conv_hr"] = f"model.{at - 1}"
    names["conv_last"] = f"model.{at + 1}"
    return names


def names_2019(blocks, ups):
    names = {"conv_first": "conv_first", "conv_body": "trunk_conv", "conv_hr": "HRconv", "conv_last": "conv_last"}
    names |= {f"conv_up{i + 1}": f"upconv{i + 1}" for i in range(ups)}
    for n in range(blocks):
        for r in (1, 2, 3):
            for c in (1, 2, 3, 4, 5):
                names[f"body.{n}.rdb{r}.conv{c}"] = f"RRDB_trunk.{n}.RDB{r}.conv{c}"
    return names


LAYOUTS = {"2018": names_2018, "2019": names_2019}
FORMATS = {form.name.rpartition(" ")[2]: form for form in KEY_FORMATS}


def test_the_published_x4_files_names_are_as_recorded():
    names = names_2018(23, 2)
    assert (names["conv_up1"], names["conv_up2"], names["conv_hr"], names["conv_last"]) == (
        "model.3", "model.6", "model.8", "model.10",
    )  # fmt: skip
    assert names["conv_body"] == "model.1.sub.23"
    assert names_2018(23, 1)["conv_last"] == "model.7"
    assert names_2018(23, 3)["conv_last"] == "model.13"
    assert 2 * len(names) == 702


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("blocks", "ups"), [(23, 2), (3, 2), (12, 1), (2, 3), (1, 0)])
def test_every_name_is_mapped_to_basicsrs(layout, blocks, ups):
    names = LAYOUTS[layout](blocks, ups)
    old = {f"{name}.{p}": f"{ours}.{p}" for ours, name in reversed(names.items()) for p in PARTS}
    given = dict.fromkeys(old, ())
    assert FORMATS[layout].names(given) == old
    assert given == dict.fromkeys(old, ())
    assert len(old) == 2 * (15 * blocks + 4 + ups)
    assert all(FORMATS[other].names(given) is None for other in LAYOUTS if other != layout)
    ours = dict.fromkeys(old.values(), ())
    assert FORMATS["RRDBNet"].names(ours) == {name: name for name in ours}
    assert all(FORMATS[other].names(ours) is None for other in LAYOUTS)


def test_unknown_names_are_refused(tmp_path):
    def rename(state):
        torch.save(dict.fromkeys(state, torch.zeros(1)), tmp_path / "net.pth")
        load_weights(tmp_path / "net.pth")

    with pytest.raises(WeightsError, match="no key format matches"):
        rename({"head.0.weight": 0})
    for layout, extra in {
        "2018": "model.1.sub.0.RDB1.conv1x1.weight",
        "2019": "RRDB_trunk.0.RDB1.noise.weight",
    }.items():
        state = {f"{name}.{p}": 0 for name in LAYOUTS[layout](2, 2).values() for p in PARTS}
        with pytest.raises(ValueError, match=f"ESRGAN's RRDBNet of {layout} has no {extra}"):
            rename({**state, extra: 0})
    with pytest.raises(ValueError, match=r"has no model\.1\.sub\.5\.weight"):
        rename({**{f"{n}.weight": 0 for n in names_2018(2, 2).values()}, "model.1.sub.5.weight": 0})


CONFIGS = [  # scale, unshuffle
    (1, True), (2, True), (4, True), (8, True), (1, False), (2, False), (3, True),
]  # fmt: skip


@pytest.mark.parametrize(("scale", "unshuffle"), CONFIGS)
def test_a_network_is_inferred_from_its_tensors(scale, unshuffle):
    config = {"_target_": "sr_train.models.rrdbnet.RRDBNet", "scale": scale, "channels": 16, "growth": 8, "blocks": 11,
              "unshuffle": unshuffle}  # fmt: skip
    with torch.device("meta"):
        state = build_model(config, where="test").state_dict()
    ambiguous = (scale, unshuffle) in {(3, True), (2, False)}
    found = infer_rrdbnet(shapes(state), scale=scale if ambiguous else 5)
    assert found is not None
    with torch.device("meta"):
        rebuilt = build_model(found, where="test").state_dict()
    assert not match_warm_start(rebuilt, state, [], where="test").initialized
    assert found == config
    if ambiguous:
        for unknown in (None, 4):
            with pytest.raises(ValueError, match="RRDBNet x2 and an RRDBNet x3; give scale=2 or scale=3"):
                infer_rrdbnet(shapes(state), scale=unknown)


def test_other_networks_are_not_recognized_as_rrdbnet():
    edsr = {"_target_": "sr_train.models.edsr.EDSR", "scale": 4, "channels": 8, "blocks": 2}
    with torch.device("meta"):
        assert infer_rrdbnet(shapes(build_model(edsr, where="test").state_dict())) is None
        state = build_model(
            {"_target_": "sr_train.models.rrdbnet.RRDBNet", "scale": 4, "blocks": 1}, where="t"
        ).state_dict()
    assert infer_rrdbnet({**shapes(state), "conv_first.weight": (64, 4, 3, 3)}) is None
    assert infer_rrdbnet({**shapes(state), "conv_last.weight": (1, 64, 3, 3)}) is None


@pytest.mark.parametrize("layout", [*LAYOUTS, "basicsr"])
def test_a_file_in_any_key_format_gives_the_network_it_was_saved_from(layout, tmp_path):
    torch.manual_seed(0)
    network = RRDBNet(scale=4, channels=4, growth=2, blocks=2).eval()
    names = LAYOUTS[layout](2, 2) if layout in LAYOUTS else {}
    state = {}
    for key, value in network.state_dict().items():
        name, _, part = key.rpartition(".")
        state[f"{names.get(name, name)}.{part}"] = value
    torch.save(state if layout == "2018" else {"params_ema": state}, tmp_path / "net.pth")
    weights = load_weights(tmp_path / "net.pth")
    assert weights.origin["layout"].endswith("RRDBNet" if layout == "basicsr" else f"RRDBNet of {layout}")
    lr = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(build_network(weights, where="test")(lr), network(lr))
    torch.save({**state, "wings.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"more\.pth: .*wings\.weight"):
        build_network(load_weights(tmp_path / "more.pth"), where=str(tmp_path / "more.pth"))


def test_a_file_with_ambiguous_scale_is_refused_until_the_scale_is_given(invoke, tmp_path, photographs):
    network = RRDBNet(scale=3, channels=4, growth=2, blocks=1)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    done = invoke("sr-eval", "weights=net.pth", "hr=photographs", "device=cpu")
    assert done.returncode == 1
    assert "net.pth: one upsampling convolution" in done.stderr
    assert "give scale=2 or scale=3" in done.stderr
    assert invoke("sr-eval", "weights=net.pth", "hr=photographs", "device=cpu", "scale=3").returncode == 0

import pytest
import torch

from sr_train.rrdb_layouts import infer_rrdbnet, layout_of, rename
from sr_train.weights import build_model, match_warm_start

PARTS = ("weight", "bias")


def names_2018(blocks, ups):
    """The authors' first code: a Sequential whose layers are numbered, with parameter-free ones between."""
    names = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    for n in range(blocks):
        for r in (1, 2, 3):
            for c in (1, 2, 3, 4, 5):
                names[f"body.{n}.rdb{r}.conv{c}"] = f"model.1.sub.{n}.RDB{r}.conv{c}.0"
    at = 3  # 2 enlarges, 3 convolves, 4 is LeakyReLU, and again
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
    before = dict(old)
    assert layout_of(old) == layout
    renamed = rename(old)
    assert old == before
    assert all(ours == value for ours, value in renamed.items())
    assert len(renamed) == 2 * (15 * blocks + 4 + ups)
    assert rename(renamed) == renamed
    assert layout_of(renamed) == "basicsr"


def test_names_that_do_not_belong_are_refused():
    assert layout_of({"conv_first.weight": 0}) is None
    with pytest.raises(ValueError, match="no RRDBNet in a layout"):
        rename({"head.0.weight": 0})
    for layout, extra in {
        "2018": "model.1.sub.0.RDB1.conv1x1.weight",
        "2019": "RRDB_trunk.0.RDB1.noise.weight",
    }.items():
        state = {f"{name}.{p}": 0 for name in LAYOUTS[layout](2, 2).values() for p in PARTS}
        with pytest.raises(ValueError, match=f"layout of {layout} has no {extra}"):
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
    found = infer_rrdbnet(state, scale=scale if ambiguous else None)
    assert found is not None
    with torch.device("meta"):
        rebuilt = build_model(found, where="test").state_dict()
    assert not match_warm_start(rebuilt, state, [], where="test").afresh
    assert found == config
    if ambiguous:
        with pytest.raises(ValueError, match="x2 or x3, and nothing tells which: give scale=2 or 3"):
            infer_rrdbnet(state)
    with pytest.raises(ValueError, match=r"scale=5: these tensors are of an RRDBNet x"):
        infer_rrdbnet(state, scale=5)


def test_other_networks_are_not_taken_for_it():
    edsr = {"_target_": "sr_train.models.edsr.EDSR", "scale": 4, "channels": 8, "blocks": 2}
    with torch.device("meta"):
        assert infer_rrdbnet(build_model(edsr, where="test").state_dict()) is None
        state = build_model(
            {"_target_": "sr_train.models.rrdbnet.RRDBNet", "scale": 4, "blocks": 1}, where="t"
        ).state_dict()
    assert infer_rrdbnet({**state, "conv_first.weight": torch.empty(64, 4, 3, 3, device="meta")}) is None
    assert infer_rrdbnet({**state, "conv_last.weight": torch.empty(1, 64, 3, 3, device="meta")}) is None

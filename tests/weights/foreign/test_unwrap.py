"""Wrappers, prefixes and companions that other programs write around a network's tensors."""

import itertools

import pytest
import torch
from helpers import equal

from sr_train.models.edsr import EDSR
from sr_train.models.edvr import EDVR
from sr_train.models.msrresnet import MSRResNet
from sr_train.models.rrdbnet import RRDBNet
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network

NETWORKS = {
    "rrdbnet": (lambda: RRDBNet(scale=4, channels=4, growth=2, blocks=1), (1, 3, 5, 6)),
    "edsr": (lambda: EDSR(scale=2, channels=4, blocks=1, res_scale=1.0), (1, 3, 5, 6)),
    "msrresnet": (lambda: MSRResNet(scale=3, channels=4, blocks=1), (1, 3, 5, 6)),
    "edvr of 7 frames": (lambda: EDVR(channels=4, groups=1, frames=7, front_blocks=1, back_blocks=1), (1, 7, 3, 8, 8)),
    "edvr with predeblur": (
        lambda: EDVR(scale=1, channels=4, groups=1, front_blocks=1, back_blocks=1, predeblur=True, hr_in=True),
        (1, 5, 3, 16, 16),
    ),
}

WRAPPERS = (
    "", "state_dict", "params", "params_ema", "params-ema", "model", "net", "model_state_dict", "generator", "ema", "weights",
    "state_dict/params", "my_run/best", "checkpoint/model/ema",
)  # fmt: skip

PREFIXES = (
    "", "generator.", "generator_ema.", "netG.", "net.", "module.", "_orig_mod.", "params.", "module._orig_mod.",
    "_orig_mod.module.", "generator_ema.module.", "model.net_g._forward_module.module.",
)  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Networks, saved as plain files: {name: (state, input, output)}."""
    found = {}
    for number, (name, (make, shape)) in enumerate(NETWORKS.items()):
        torch.manual_seed(number)
        state = {k: v + 0.01 * torch.randn_like(v) for k, v in make().state_dict().items()}
        path = tmp_path_factory.mktemp("plain") / "net.pth"
        torch.save(state, path)
        lr = torch.rand(shape)
        found[name] = state, lr, _output(path, lr)
    return found


def _output(path, lr):
    with torch.no_grad():
        return build_network(load_weights(path), where=path.name)(lr)


def _prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def _wrapped(wrapper, content):
    for label in reversed(wrapper.split("/") if wrapper else []):
        content = {label: content, "epoch": 3, "note": "x"}
    return content


def test_every_wrapper_with_every_prefix_gives_the_plain_files_output(tmp_path, plain):
    """Every wrapper stands around every prefix; each pair is tried with one or two of the networks."""
    count, path = 0, tmp_path / "net.pth"
    cases = list(itertools.product(WRAPPERS, PREFIXES, NETWORKS))
    for wrapper, prefix, name in [*cases[::4], *cases[1::20]]:
        state, lr, expected = plain[name]
        torch.save(_wrapped(wrapper, _prefixed(prefix, state)), path)
        assert torch.equal(_output(path, lr), expected), (name, wrapper, prefix)
        count += 1
    assert count == 252
    assert len({(w, p) for w, p, _ in [*cases[::4], *cases[1::20]]}) == len(WRAPPERS) * len(PREFIXES)


RAW = [
    ("params", "params_ema"), ("params", "params-ema"), ("params", "ema"), ("state_dict", "ema_state_dict"),
    ("model", "model_ema"), ("model", "ema_model"), ("generator", "generator_ema"), ("net_g", "net_g_ema"),
    ("netG", "netG_EMA"), ("G", "G_ema"), ("model_state_dict", "averaged_model"), ("net", "swa"), ("weights", "shadow"),
]  # fmt: skip


@pytest.mark.parametrize("ema_first", [False, True])
@pytest.mark.parametrize("as_prefix", [False, True])
@pytest.mark.parametrize(("raw", "ema"), RAW)
def test_averaged_weights_are_taken_before_raw_ones_in_every_spelling(tmp_path, plain, raw, ema, as_prefix, ema_first):
    state = plain["edsr"][0]
    other = {k: v + 1 for k, v in state.items()}
    if as_prefix:
        content = _prefixed(f"{raw}.", other) | _prefixed(f"{ema}.module.", state) | {"n_averaged": torch.tensor(3)}
    else:
        content = {raw: other, ema: state, "epoch": 1}
    torch.save(dict(reversed(content.items())) if ema_first else content, tmp_path / "net.pth")
    weights = load_weights(tmp_path / "net.pth")
    assert equal(weights.state, state)
    assert weights.origin["wrapper"].startswith(ema)
    assert weights.origin["aside"] == raw


def _optimizer(state):
    return {
        "state": {i: {"exp_avg": v, "step": torch.tensor(3.0)} for i, v in enumerate(state.values())},
        "param_groups": [],
    }


def _vgg():
    return {f"features.{i}.weight": torch.zeros(4, 3, 3, 3) for i in (0, 2, 5)} | {"mean": torch.zeros(1, 3, 1, 1)}


def _discriminator():
    return {
        "conv0_0.weight": torch.zeros(4, 3, 3, 3),
        "conv0_0.bias": torch.zeros(4),
        "linear1.weight": torch.zeros(2, 2),
    }


#: name -> (what the program writes, what is taken, what is set aside)
FILES = {
    "MMagic": (
        lambda s, raw: {
            "meta": {"iter": 5}, "optimizer": _optimizer(s), "state_dict": {
                "step_counter": torch.tensor(5), **_prefixed("generator.", raw), **_prefixed("generator_ema.module.", s),
                "generator_ema.steps": torch.tensor(5), **_prefixed("discriminator.", _discriminator()),
                **_prefixed("perceptual_loss.vgg.vgg_layers.", _vgg()), "data_preprocessor.mean": torch.zeros(3, 1, 1),
            },
        }, "state_dict > generator_ema > module", "generator, optimizer, discriminator, perceptual_loss, data_preprocessor",
    ),
    "MMEngine's EMA hook, which swaps both": (
        lambda s, raw: {
            "meta": {"mmengine_version": "0.10"}, "message_hub": {}, "state_dict": _prefixed("generator.", s),
            "ema_state_dict": {**_prefixed("module.generator.", raw), "steps": torch.tensor(5)},
        }, "state_dict (EMA) > generator", "current_model_state",
    ),
    "KAIR": (lambda s, raw: _prefixed("module.", s), "module", None),
    "neosr": (lambda s, raw: {"params-ema": s, "params": raw}, "params-ema", "params"),
    "traiNNer-redux": (lambda s, raw: {"params_ema": _prefixed("_orig_mod.", s)}, "params_ema > _orig_mod", None),
    "Lightning": (
        lambda s, raw: {
            "epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.0", "loops": {}, "callbacks": {},
            "optimizer_states": [_optimizer(s)], "lr_schedulers": [], "state_dict": {
                **_prefixed("model.", s), **_prefixed("loss_fn.vgg.", _vgg()), "lpips.net.lin0.weight": torch.zeros(1, 4, 1, 1),
                "mean": torch.zeros(3),
            },
        }, "state_dict > model", "loss_fn, lpips",
    ),
    "Lightning's WeightAveraging": (
        lambda s, raw: {
            "state_dict": _prefixed("net.", s), "current_model_state": _prefixed("net.", raw), "global_step": 3,
            "averaging_state": {"n_averaged": torch.tensor(4)},
        }, "state_dict > net", "current_model_state, averaging_state",
    ),
    "a GAN in one dict": (
        lambda s, raw: {"netG": s, "netD": _discriminator(), "optG": _optimizer(s), "optD": {}}, "netG", "netD, optG, optD",
    ),
    "torch's AveragedModel": (lambda s, raw: {"n_averaged": torch.tensor(3), **_prefixed("module.", s)}, "module", None),
    "ema_pytorch": (
        lambda s, raw: {
            **_prefixed("online_model.", raw), **_prefixed("ema_model.", s), "initted": torch.tensor([True]),
            "step": torch.tensor([3]),
        }, "ema_model", "online_model",
    ),
    "an average in a callback": (
        lambda s, raw: {"state_dict": _prefixed("model.", raw), "callbacks": {"EMA": {"ema_weights": _prefixed("model.", s)}}},
        "callbacks > EMA > ema_weights > model", "state_dict",
    ),
    "a training loop": (lambda s, raw: {"model": s, "optimizer": _optimizer(raw), "epoch": 3}, "model", "optimizer"),
}  # fmt: skip


@pytest.mark.parametrize("program", FILES)
def test_files_of_programs_are_recognized(tmp_path, plain, program):
    make, wrapper, aside = FILES[program]
    state, lr, expected = plain["rrdbnet"]
    torch.save(make(state, {k: v + 1 for k, v in state.items()}), tmp_path / "net.ckpt")
    weights = load_weights(tmp_path / "net.ckpt")
    assert equal(weights.state, state)
    assert weights.origin["wrapper"] == wrapper
    assert weights.origin.get("aside") == aside
    assert torch.equal(_output(tmp_path / "net.ckpt", lr), expected)


def test_what_was_chosen_is_printed_in_one_line(tmp_path, plain, invoke):
    make = FILES["MMagic"][0]
    state = plain["rrdbnet"][0]
    torch.save(make(state, state), tmp_path / "net.pth")
    done = invoke("sr-convert", "weights=net.pth", "out=o.safetensors")
    assert done.returncode == 0, done.stderr
    chosen = "from net.pth; layout: BasicSR's RRDBNet; taken from: state_dict > generator_ema > module; set aside: gen"
    assert sum(chosen in line for line in done.stdout.splitlines()) == 1
    assert equal(load_weights(tmp_path / "o.safetensors").state, state)


def test_two_networks_of_equal_rank_are_refused(tmp_path, plain):
    state = plain["edsr"][0]
    torch.save({"netG_A": state, "netG_B": state, "epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: contains several networks \(netG_A, netG_B\); write the one"):
        load_weights(tmp_path / "net.pth")


def test_a_network_within_a_larger_one_is_not_taken_for_the_whole(tmp_path, plain):
    state = plain["rrdbnet"][0]
    flow = {"flow.layers.0.weight": torch.zeros(3, 3)}
    torch.save({**_prefixed("model.", state), **flow}, tmp_path / "net.pth")
    with pytest.raises(
        WeightsError, match=r"model is BasicSR's RRDBNet, but .* next to it whose use is unknown \(flow\)"
    ):
        load_weights(tmp_path / "net.pth")
    torch.save({**_prefixed("RRDB.", state), **flow}, tmp_path / "net.pth")  # as SRFlow: features, no output
    with pytest.raises(WeightsError, match="no key format matches its"):
        load_weights(tmp_path / "net.pth")
    torch.save({**_prefixed("generator.", state), **flow}, tmp_path / "net.pth")
    assert load_weights(tmp_path / "net.pth").origin["aside"] == "flow"


def test_a_file_that_contains_itself_ends(tmp_path, plain):
    state = plain["edsr"][0]
    circle: dict = {"params": dict(state)}
    for i in range(30):
        circle[f"again{i}"] = circle
    circle["params"]["above"] = circle
    torch.save(circle, tmp_path / "circle.pth")
    assert equal(load_weights(tmp_path / "circle.pth").state, state)
    wide: dict = {}
    for _ in range(9):  # 60^9 paths to an empty dict
        wide = dict.fromkeys([f"k{i}" for i in range(60)], wide)
    torch.save({"x": wide}, tmp_path / "wide.pth")
    with pytest.raises(WeightsError, match=r"wide\.pth: contains no named tensors"):
        load_weights(tmp_path / "wide.pth")


def test_names_with_a_thousand_labels_are_refused(tmp_path):
    torch.save({"a." * 1000 + "weight": torch.zeros(1)}, tmp_path / "deep.pth")
    with pytest.raises(WeightsError, match=r"deep\.pth: .*no key format matches its 1 tensor"):
        load_weights(tmp_path / "deep.pth")


def test_checkpoints_of_other_projects_without_a_known_network_list_their_tensors(tmp_path):
    content = {"epoch": 1, "global_step": 9, "loops": {}, "callbacks": {}, "optimizer_states": [], "state_dict": {
        "model.layers.0.attn.qkv.weight": torch.zeros(6, 2), "model.norm.weight": torch.zeros(2)}}  # fmt: skip
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=r"no key format matches its 2 tensors \(model\.layers\.0"):
        load_weights(tmp_path / "other.ckpt")

import json
import pickle

import pytest
import torch
from helpers import EDSR_MODEL
from safetensors.torch import save_file

from sr_train.models.edsr import EDSR
from sr_train.weights.file import Weights, load_weights, save_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network


@pytest.fixture
def network():
    torch.manual_seed(0)
    return EDSR(scale=2, channels=4, blocks=1, res_scale=1.0).to(memory_format=torch.channels_last)


@pytest.fixture
def file(tmp_path, network):
    path = tmp_path / "weights.safetensors"
    save_weights(path, Weights(EDSR_MODEL, network.state_dict(), {"stage": "x2"}, {"set5/y/psnr": 36.0}))
    return path


def _write(path, state=None, **changes):
    header = {"format": "sr-train weights", "version": "1", "model": json.dumps(EDSR_MODEL), "scale": "2"}
    header |= {"origin": "{}", "scores": "{}"}
    header |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in changes.items()}
    save_file({"x": torch.zeros(1)} if state is None else state, path, metadata=header)
    return path


def test_a_network_is_rebuilt_from_the_file_alone(file, network):
    loaded = load_weights(file)
    assert (loaded.scale, loaded.origin, loaded.scores) == (2, {"stage": "x2"}, {"set5/y/psnr": 36.0})
    rebuilt = build_network(loaded, where=str(file))
    lr = torch.rand(1, 3, 8, 8)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in rebuilt.state_dict().items())
    torch.testing.assert_close(rebuilt(lr), network(lr))
    assert not rebuilt.training
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "target", ["os.system", "sr_train.models", "sr_train.models.edsr.upsampler", "sr_train.models.edsr.nn.Linear",
               "sr_train.cli.train.main", "sr_train.models.evil.Net", "sr_train.models..os.system", "torch.nn.Linear"]
)  # fmt: skip
def test_only_our_networks_are_built(tmp_path, target):
    path = _write(tmp_path / "evil.safetensors", model={**EDSR_MODEL, "_target_": target})
    with pytest.raises(
        WeightsError, match=r"only networks of|no network|no name of a network|is not the name of a network class"
    ):
        build_network(load_weights(path), where=str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 10**9}, "beyond 10000"),
        ({"channels": [10**9]}, "beyond"),
        ({"channels": {"_target_": "os.system"}}, "plain values"),
        ({"res_scale": "x" * 1000}, "1000 characters"),
        ({"channels": "many"}, "cannot be built"),
        ({"wings": 2}, "cannot be built"),
        ({"scale": 10**6}, "from 1 to 16"),
        ({"scale": None}, "from 1 to 16"),
        ({"channels": 5}, "tensors do not match"),
        ({"channels": 9000, "blocks": 1}, "tensors do not match"),
    ],
)
def test_arguments_are_plain_and_bounded(tmp_path, network, change, message):
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    path = _write(tmp_path / "w.safetensors", state, model={**EDSR_MODEL, **change})
    with pytest.raises(WeightsError, match=message):
        build_network(load_weights(path), where=str(path))


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match=r"bomb\.pth: refused: it is a Python pickle of protocol \d"):
        load_weights(path)


def test_files_without_weights_are_named(tmp_path, file):
    for name, data in (("text", b"hello"), ("cut", file.read_bytes()[:-7])):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=f"{name}: not a readable safetensors or torch file"):
            load_weights(path)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="the file does not contain the name of its network"):
        load_weights(tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="version 9"):
        load_weights(_write(tmp_path / "new.safetensors", version="9"))
    with pytest.raises(WeightsError, match="damaged header"):
        load_weights(_write(tmp_path / "damaged.safetensors", model="{"))
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "missing")
    with pytest.raises(WeightsError, match="is a folder"):
        load_weights(tmp_path)


def test_weights_that_are_not_finite_are_not_written(tmp_path, network):
    state = network.state_dict()
    state["conv_first.bias"][0] = float("nan")
    with pytest.raises(WeightsError, match=r"1 tensor contains NaN or infinity: conv_first\.bias"):
        save_weights(tmp_path / "w.safetensors", Weights(EDSR_MODEL, state))
    assert not list(tmp_path.iterdir())

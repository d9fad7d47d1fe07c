"""Files of BasicSR for other numbers of channels: num_in_ch and num_out_ch follow from the shapes."""

import pytest
import torch
from nets.small import NETWORKS, upscale

from sr_train.models import contract
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.foreign.edsr import infer_edsr
from sr_train.weights.network import build_network


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    "name", ["edsr", "msrresnet", "rrdbnet", "rrdbnet_unshuffle", "edvr", "edvr_predeblur", "edvr_hr_in"]
)
def test_the_number_of_channels_is_read_from_the_shapes(name, channels, tmp_path):
    torch.manual_seed(0)
    network = NETWORKS[name](image_channels=channels).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    weights = load_weights(tmp_path / "net.pth")
    assert weights.channels == channels
    assert weights.model["image_channels"] == channels
    if name == "edsr":
        assert weights.model["res_scale"] == 1.0
    rebuilt = build_network(weights, where="test")
    lr = torch.rand(contract.input_shape(network, 16, 16))
    options = {} if name != "edsr" else {"res_scale": 1.0}
    expected = type(network)(**{**_arguments(weights.model), **options}).eval()
    expected.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(upscale(rebuilt, lr), upscale(expected, lr))


def _arguments(model):
    return {k: v for k, v in model.items() if k != "_target_"}


def test_a_file_with_other_inputs_than_outputs_is_refused(tmp_path):
    state = NETWORKS["edsr"](image_channels=1).state_dict()
    state["conv_last.weight"], state["conv_last.bias"] = torch.zeros(3, 4, 3, 3), torch.zeros(3)
    assert infer_edsr({k: tuple(v.shape) for k, v in state.items()}) is None
    torch.save({"params": state}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="no key format matches"):
        load_weights(tmp_path / "net.pth")


def test_a_file_for_rgb_states_no_number(tmp_path):
    torch.save({"params": NETWORKS["rrdbnet"]().state_dict()}, tmp_path / "net.pth")
    weights = load_weights(tmp_path / "net.pth")
    assert weights.channels == 3
    assert "image_channels" not in weights.model

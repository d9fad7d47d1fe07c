import pytest
import torch
import torch.nn.functional as F

from sr_train.models.edsr import EDSR

PARAMETERS = {  # Lim et al. 2017 and the authors' released weights, without the fixed mean shift
    (64, 16, 2): 1_369_859,
    (64, 16, 3): 1_554_499,
    (64, 16, 4): 1_517_571,
    (256, 32, 2): 40_729_603,
    (256, 32, 3): 43_680_003,
    (256, 32, 4): 43_089_923,
}


@pytest.mark.parametrize(("size", "count"), PARAMETERS.items())
def test_parameters_are_the_papers_to_the_unit(size, count):
    channels, blocks, scale = size
    with torch.device("meta"):
        network = EDSR(scale=scale, channels=channels, blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) == count


def test_state_dict_keys_are_basicsrs():
    with torch.device("meta"):
        keys = set(EDSR(scale=4, channels=64, blocks=16).state_dict())
        assert len(EDSR(scale=3, channels=64, blocks=16).state_dict()) == 72
    names = [f"body.{i}.{c}" for i in range(16) for c in ("conv1", "conv2")]
    names += ["conv_first", "conv_after_body", "upsample.0", "upsample.2", "conv_last"]
    assert keys == {f"{n}.{p}" for n in names for p in ("weight", "bias")}
    assert len(keys) == 74


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_forward_equals_the_paper_written_out(scale):
    torch.manual_seed(scale)
    network = EDSR(scale=scale, channels=8, blocks=3, res_scale=0.1)
    w = network.state_dict()

    def conv(x, name):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    lr = torch.rand(2, 3, 9, 7)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    head = conv((lr - mean) * 255, "conv_first")
    x = head
    for i in range(3):
        x = x + 0.1 * conv(F.relu(conv(x, f"body.{i}.conv1")), f"body.{i}.conv2")
    x = head + conv(x, "conv_after_body")
    for layer, step in {2: [(0, 2)], 3: [(0, 3)], 4: [(0, 2), (2, 2)]}[scale]:
        x = F.pixel_shuffle(conv(x, f"upsample.{layer}"), step)
    expected = conv(x, "conv_last") / 255 + mean
    actual = network(lr)
    assert actual.shape == (2, 3, 9 * scale, 7 * scale)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_an_unsupported_scale_is_refused():
    with pytest.raises(ValueError, match="scale=5 is not supported"):
        EDSR(scale=5)
    with pytest.raises(ValueError, match="channels=0"):
        EDSR(scale=2, channels=0)

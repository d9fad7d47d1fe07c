import pytest
import torch
import torch.nn.functional as F

from sr_train.models.msrresnet import MSRResNet


@pytest.mark.parametrize(("scale", "count", "tensors"), [(2, 1_369_859, 72), (3, 1_554_499, 72), (4, 1_517_571, 74)])
def test_parameters_and_tensors_are_basicsrs(scale, count, tensors):
    with torch.device("meta"):
        network = MSRResNet(scale=scale)
    assert sum(p.numel() for p in network.parameters()) == count
    names = {n.rpartition(".")[0] for n in network.state_dict()}
    ends = {"conv_first", "upconv1", "conv_hr", "conv_last"} | ({"upconv2"} if scale == 4 else set())
    assert names == {f"body.{i}.conv{j}" for i in range(16) for j in (1, 2)} | ends
    assert len(network.state_dict()) == tensors


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_forward_equals_its_description_written_out(scale):
    torch.manual_seed(scale)
    network = MSRResNet(scale=scale, channels=6, blocks=2)
    w = network.state_dict()

    def conv(x, name):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def lrelu(x):
        return torch.maximum(x, 0.1 * x)

    lr = torch.rand(2, 3, 8, 7)
    x = lrelu(conv(lr, "conv_first"))
    for i in range(2):
        x = x + conv(conv(x, f"body.{i}.conv1").clamp(min=0), f"body.{i}.conv2")
    for name, step in {2: [("upconv1", 2)], 3: [("upconv1", 3)], 4: [("upconv1", 2), ("upconv2", 2)]}[scale]:
        x = lrelu(F.pixel_shuffle(conv(x, name), step))
    x = conv(lrelu(conv(x, "conv_hr")), "conv_last")
    expected = x + F.interpolate(lr, size=(8 * scale, 7 * scale), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(lr), expected, atol=1e-6, rtol=1e-5)


def test_initial_weights_are_a_tenth_of_kaimings():
    torch.manual_seed(0)
    weight = MSRResNet(scale=4).body[0].conv1.weight
    assert weight.std().item() == pytest.approx(0.1 * (2 / (64 * 9)) ** 0.5, rel=0.02)
    assert MSRResNet(scale=4).conv_last.bias.abs().max() == 0


def test_an_unsupported_scale_is_refused():
    with pytest.raises(ValueError, match="scale=1 is not supported"):
        MSRResNet(scale=1)

import pytest
import torch
import torch.nn.functional as F

from sr_train.models.srresnet import SRResNet


def test_parameters_are_the_papers_to_the_unit():
    with torch.device("meta"):
        assert sum(p.numel() for p in SRResNet(scale=4).parameters()) == 1_549_462


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_forward_equals_the_paper_written_out(scale):
    torch.manual_seed(scale)
    network = SRResNet(scale=scale, channels=6, blocks=2).eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    w = network.state_dict()

    def conv(x, name):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def bn(x, name):
        mean, var, gain, bias = (
            w[f"{name}.{n}"].view(1, -1, 1, 1) for n in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias

    def prelu(x, name):
        return torch.where(x > 0, x, w[f"{name}.weight"] * x)

    lr = torch.rand(2, 3, 8, 7)
    head = x = prelu(conv(lr, "conv_first.0"), "conv_first.1")
    for i in range(2):
        y = prelu(bn(conv(x, f"body.{i}.conv1"), f"body.{i}.bn1"), f"body.{i}.prelu")
        x = x + bn(conv(y, f"body.{i}.conv2"), f"body.{i}.bn2")
    x = head + bn(conv(x, "conv_after_body.0"), "conv_after_body.1")
    for layer, step in {2: [(0, 2)], 3: [(0, 3)], 4: [(0, 2), (3, 2)]}[scale]:
        x = prelu(F.pixel_shuffle(conv(x, f"upsample.{layer}"), step), f"upsample.{layer + 2}")
    expected = (conv(x, "conv_last") + 1) / 2
    with torch.no_grad():
        actual = network(lr)
    assert actual.shape == (2, 3, 8 * scale, 7 * scale)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_an_unsupported_scale_is_refused():
    with pytest.raises(ValueError, match="scale=8 is not supported"):
        SRResNet(scale=8)

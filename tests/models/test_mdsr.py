import pytest
import torch
import torch.nn.functional as F
from helpers import count

from sr_train.models.mdsr import MDSR

PARAMETERS = {  # of x2, x3 and x4 together: (blocks, shared tail) -> Lim et al. 2017 and the authors' released weights
    (16, False): 3_230_665,
    (16, True): 3_227_203,
    (80, False): 7_957_449,
    (80, True): 7_953_987,
}


@pytest.mark.parametrize(("size", "expected"), PARAMETERS.items())
def test_parameters_are_the_papers_to_the_unit(size, expected):
    with torch.device("meta"):
        network = MDSR(scales=[2, 3, 4], channels=64, blocks=size[0], shared_tail=size[1])
    assert count(network) == expected
    assert count(network.conv_first) == 1_792
    assert count(network.pre_process) == 1_229_568
    assert count(network.body) + count(network.conv_after_body) == {16: 1_218_624, 80: 5_945_408}[size[0]]
    assert count(network.upsample) == 775_488


@pytest.mark.parametrize("scales", [[2], [3], [4], [4, 2], [2, 3], [3, 4]])
def test_a_subset_of_scales_has_the_shared_part_and_its_own_branches(scales):
    with torch.device("meta"):
        network, single = MDSR(scales=scales, channels=64, blocks=16), MDSR(scales=[2], channels=64, blocks=16)
    ups = {2: 4 * 36_928, 3: 9 * 36_928, 4: 8 * 36_928}  # one convolution to 4F or 9F channels, two of them for x4
    shared = count(single) - ups[2] - 409_856 - 1_731
    assert count(network) == shared + sum(ups[s] + 409_856 + 1_731 for s in scales)


@pytest.mark.parametrize("shared_tail", [False, True])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_forward_equals_the_paper_written_out(scale, shared_tail):
    torch.manual_seed(scale)
    network = MDSR(scales=[2, 3, 4], channels=8, blocks=3, shared_tail=shared_tail)
    w = network.state_dict()

    def conv(x, name):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(x, name):
        return x + conv(F.relu(conv(x, f"{name}.conv1")), f"{name}.conv2")

    lr = torch.rand(2, 3, 9, 7)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    x = conv((lr - mean) * 255, "conv_first")
    for i in range(2):
        assert w[f"pre_process.{scale}.{i}.conv1.weight"].shape == (8, 8, 5, 5)
        x = block(x, f"pre_process.{scale}.{i}")
    skip = x  # the skip begins after the pre-processing
    for i in range(3):
        x = block(x, f"body.{i}")
    x = skip + conv(x, "conv_after_body")
    for layer, step in {2: [(0, 2)], 3: [(0, 3)], 4: [(0, 2), (2, 2)]}[scale]:
        x = F.pixel_shuffle(conv(x, f"upsample.{scale}.{layer}"), step)
    expected = conv(x, "conv_last" if shared_tail else f"conv_last.{scale}") / 255 + mean
    actual = network(lr, scale)
    assert actual.shape == (2, 3, 9 * scale, 7 * scale)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    branch = network.at(scale)
    assert (branch.scale, branch.multiple_of) == (scale, 1)
    assert torch.equal(branch(lr), actual)


def test_only_the_branch_that_ran_gets_gradients():
    network = MDSR(scales=[2, 3, 4], channels=4, blocks=1)
    network(torch.rand(1, 3, 6, 6), 3).sum().backward()
    for name, parameter in network.named_parameters():
        owner = [part for part in name.split(".")[:2] if part.isdigit() and not name.startswith("body")]
        assert (parameter.grad is not None) == (owner in ([], ["3"])), name


def test_scale_is_optional_with_one_branch_and_unknown_scales_are_refused():
    torch.manual_seed(0)
    single = MDSR(scales=[3], channels=4, blocks=1)
    lr = torch.rand(1, 3, 6, 6)
    assert single.scale == 3
    assert torch.equal(single(lr), single(lr, 3))
    with pytest.raises(ValueError, match=r"scale=None: this MDSR has branches for 2, 4"):
        MDSR(scales=[2, 4], channels=4, blocks=1)(lr)
    with pytest.raises(ValueError, match="scale=3: this MDSR has branches for 2, 4"):
        MDSR(scales=[2, 4], channels=4, blocks=1).at(3)
    for scales, message in (([], "scales=\\[\\]: expected"), ([2, 2], "once"), ([2, 5], "scale=5 is not supported")):
        with pytest.raises(ValueError, match=message):
            MDSR(scales=scales, channels=4)

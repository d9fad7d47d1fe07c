"""The EMA: its numbers by an independent loop, and its counter on the host."""

import pytest
import torch
from torch import nn

from sr_train.tasks.averaging import Average, averaged_copy


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3))


def change(net, step):
    """Change weights and statistics; one buffer is replaced by another tensor, as ``to()`` does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
    net[1].running_mean = torch.randn(4, generator=generator)
    net[1].num_batches_tracked += 1


def test_the_average_equals_a_loop_over_all_tensors_bit_for_bit():
    net = network()
    average = averaged_copy(net, 0.9)
    expected = {}
    for t in range(120):
        change(net, t)
        average.update_parameters(net)
        for name, value in net.state_dict().items():
            if t == 0 or not value.is_floating_point():
                expected[name] = value.clone()
            else:
                expected[name].lerp_(value, 1 - min(0.9, (1 + t) / (10 + t)))
    found = average.module.state_dict()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    assert found["1.num_batches_tracked"] == 120
    assert average.state_dict()["n_averaged"] == 120


def test_a_small_network_follows_the_recursion_of_the_paper():
    net = nn.Linear(1, 1, bias=False)
    average, expected = Average(net, decay=0.9), 0.0
    for t in range(1, 200):
        nn.init.constant_(net.weight, float(t))
        average.update_parameters(net)
        decay = min(0.9, t / (9 + t)) if t > 1 else 0.0
        expected = decay * expected + (1 - decay) * t
    assert float(average.module.weight) == pytest.approx(expected, rel=1e-5)


def test_the_counter_continues_from_a_state_also_in_the_same_object():
    whole, parts = network(), network()
    a, b = averaged_copy(whole, 0.999), averaged_copy(parts, 0.999)
    for t in range(6):
        change(whole, t)
        a.update_parameters(whole)
    for t in (0, 1, 2):
        change(parts, t)
        b.update_parameters(parts)
    kept = {k: v.clone() for k, v in b.state_dict().items()}
    assert "n_averaged" in kept
    b.update_parameters(network())  # of another network, and then back
    b.load_state_dict(kept)
    for t in (3, 4, 5):
        change(parts, t)
        b.update_parameters(parts)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


class Away(Average):
    """An average on the host of a network that is on another device, as far as it knows."""

    def _is_away(self, currents):
        return True


def test_an_average_on_the_host_is_the_same_bit_for_bit_and_stays_there():
    net = network()
    a, b = Average(net, decay=0.9), Away(net, decay=0.9, on_host=True)
    for t in range(4):
        change(net, t)
        a.update_parameters(net)
        b.update_parameters(net)
        change(net, t + 10)  # the next step may begin before the copy is averaged
        change(net, t)
        if t == 1:
            b.settle()  # for a validation
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    kept = {k: v.clone() for k, v in b.state_dict().items()}
    b.update_parameters(net)
    b.load_state_dict(kept)
    assert all(torch.equal(v, kept[k]) for k, v in b.state_dict().items()), (
        "a copy under way belongs to the weights before"
    )
    assert nn.Sequential(b).to("meta")[0].module[0].weight.device.type == "cpu"
    assert nn.Sequential(a).to("meta")[0].module[0].weight.device.type == "meta"

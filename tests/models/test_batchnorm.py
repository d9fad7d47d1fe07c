import pytest
import torch
import torch.multiprocessing as mp
from nets.batchnorm_worker import batch, layer, run, work
from torch import nn

from sr_train.models.batchnorm import local_layers, synchronize, synchronized_buffers
from sr_train.models.srresnet import SRResNet

CASES = {
    "fp32": {},
    "channels last": {"format": torch.channels_last},
    "far from zero": {"offset": 30.0},
    "bf16": {"dtype": torch.bfloat16},
    "bf16, channels last": {"dtype": torch.bfloat16, "format": torch.channels_last},
    "not affine": {"options": {"affine": False}},
    "bf16, not affine": {"dtype": torch.bfloat16, "options": {"affine": False}},
    "no running statistics": {"options": {"track_running_stats": False}},
    "cumulative average": {"options": {"momentum": None}},
    "one dimension": {"kind": nn.BatchNorm1d, "options": {"eps": 1e-3}},
}
CASES = {
    name: {"kind": nn.BatchNorm2d, "options": {}, "dtype": torch.float32, "format": torch.contiguous_format, **case}
    for name, case in CASES.items()
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Results of all cases, one list per process."""
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, args=(str(folder), list(CASES.values())), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_unequal_batches_equal_batchnorm_over_the_whole_batch(two_processes, name):
    case, number = CASES[name], list(CASES).index(name)
    expected = run(layer(case), *batch(case), case["dtype"])
    bf16, ranks = case["dtype"] is torch.bfloat16, [results[number] for results in two_processes]
    assert all(found.keys() == expected.keys() for found in ranks)
    for key, value in expected.items():
        if key in ("out", "gradient of x"):
            found = torch.cat([r[key] for r in ranks])
        else:
            found = ranks[0][key]
            assert torch.equal(found, ranks[1][key]), "all processes have the same bits"
        assert found.dtype == value.dtype
        rounding = 2**-7 if found.dtype is torch.bfloat16 or (bf16 and "gradient" in key) else 1e-5
        assert (found - value).float().norm() <= rounding * value.float().norm(), key


@pytest.mark.slow
def test_one_process_evaluates_alone(two_processes):
    case = next(iter(CASES.values()))
    assert torch.equal(two_processes[0][-1]["evaluated"], layer(case).eval()(batch(case)[0]))


def test_without_other_processes_it_is_batchnorm():
    case = CASES["fp32"]
    plain, norm = layer(case), layer(case)
    synchronize(norm)
    expected, found = run(plain, *batch(case), torch.float32), run(norm, *batch(case), torch.float32)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


class OwnForward(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


class OwnName(nn.BatchNorm2d):
    """A class with the forward of BatchNorm."""


def test_layers_stay_the_same_objects_with_the_same_state():
    network = SRResNet(scale=2, channels=4, blocks=1)
    network.body.append(OwnName(4))
    network.body.append(OwnForward(4))
    before = {name: (id(m), id(m.weight)) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    keys = list(network.state_dict())
    assert local_layers(network) == 5
    assert synchronize(network) == 4
    after = {name: (id(m), id(m.weight)) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert after == before
    assert list(network.state_dict()) == keys
    assert isinstance(network.body[1], OwnName)
    assert type(network.body[2]) is OwnForward
    assert local_layers(network) == 1
    assert synchronize(network) == 0, "a second call changes nothing"
    shared = synchronized_buffers(network)
    assert "body.0.bn1.running_var" in shared
    assert len(shared) == 4 * 3

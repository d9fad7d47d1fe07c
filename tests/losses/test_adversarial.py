import math
import os
import subprocess
import sys

import pytest
import torch

from sr_train.losses.adversarial import RelativisticAverage, StandardGAN


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


REAL, FAKE = [1.5, -0.3, 0.8], [-0.7, 0.2, -2.0]


@pytest.fixture
def logits():
    return torch.tensor(REAL).view(3, 1), torch.tensor(FAKE).view(3, 1)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_the_standard_losses_are_the_papers_equations(logits):
    loss = StandardGAN()
    expected = mean(-math.log(sigmoid(x)) for x in REAL) + mean(-math.log(1 - sigmoid(x)) for x in FAKE)
    assert loss.discriminator(*logits).item() == pytest.approx(expected, rel=1e-6)
    expected = mean(-math.log(sigmoid(x)) for x in FAKE)
    assert loss.generator(None, logits[1]).item() == pytest.approx(expected, rel=1e-6)


def test_the_relativistic_losses_are_half_the_papers_equations(logits):
    real = [sigmoid(x - mean(FAKE)) for x in REAL]  # D_Ra(x_r, x_f), eq. 1
    fake = [sigmoid(x - mean(REAL)) for x in FAKE]
    loss = RelativisticAverage()
    expected = mean(-math.log(p) for p in real) + mean(-math.log(1 - p) for p in fake)  # eq. 2
    assert loss.discriminator(*logits).item() == pytest.approx(expected / 2, rel=1e-6)
    expected = mean(-math.log(1 - p) for p in real) + mean(-math.log(p) for p in fake)  # eq. 3
    assert loss.generator(*logits).item() == pytest.approx(expected / 2, rel=1e-6)


def test_gradients_flow_through_the_means_except_to_the_real_logits_in_g():
    real, fake = (torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in (REAL, FAKE))
    RelativisticAverage().discriminator(real, fake).backward()
    for values, gradient, sign in ((REAL, real.grad, -1), (FAKE, fake.grad, 1)):
        other = FAKE if values is REAL else REAL
        # d/dx_i of its own term and, through the mean, of all of the other's: both push the same way
        through = mean(sigmoid(-sign * (x - mean(values))) for x in other)
        expected = [sign * (sigmoid(sign * (x - mean(other))) + through) / (2 * len(values)) for x in values]
        assert gradient.tolist() == pytest.approx(expected, rel=1e-5)
    real.grad = None
    RelativisticAverage().generator(real, fake).backward()
    assert real.grad is None


def test_extreme_and_half_precision_logits_stay_finite():
    for loss in (StandardGAN(), RelativisticAverage()):
        for dtype in (torch.float32, torch.bfloat16):
            real, fake = torch.full((2, 1), -1e4, dtype=dtype), torch.full((2, 1), 1e4, dtype=dtype)
            for value in (loss.generator(real, fake), loss.discriminator(real, fake)):
                assert value.dtype == torch.float32
                assert torch.isfinite(value)


def test_the_relativistic_generator_needs_the_real_logits():
    assert RelativisticAverage.needs_real
    assert not StandardGAN.needs_real
    with pytest.raises(ValueError, match="needs the logits of the real images"):
        RelativisticAverage().generator(None, torch.zeros(2, 1))


STEP = """
# One step of G and D on a batch, by one process or shared by two under ddp, in one backward: their gradients, to a file.
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from sr_train.losses.adversarial import RelativisticAverage

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Conv2d(3, 3, 3, padding=1)
        self.d = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(72, 1))
        self.loss = RelativisticAverage()

    def forward(self, lr, hr):
        sr = self.g(lr)
        frozen = {k: v.detach() for k, v in self.d.named_parameters()}
        real, fake = (functional_call(self.d, frozen, (x,)) for x in (hr, sr))
        return self.loss.generator(real, fake) + self.loss.discriminator(self.d(hr), self.d(sr.detach()))


torch.manual_seed(0)
step = Step()
for p in step.parameters():
    p.data.mul_(3)  # logits far enough apart that a local mean would show
lr, hr = torch.rand(2, 8, 3, 8, 8)
hr = hr * torch.linspace(0, 3, 8).view(8, 1, 1, 1)
share = slice(rank * 8 // world, (rank + 1) * 8 // world)
run = step if world == 1 else DistributedDataParallel(step)
for _ in range(2):  # ddp rebuilds its buckets after the first
    step.zero_grad()
    loss = run(lr[share], hr[share])
    loss.backward()
torch.save({"loss": loss.detach(), **{n: p.grad for n, p in step.named_parameters()}}, f"{folder}/{world}_{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_global_batch(tmp_path):
    script = tmp_path / "step.py"
    script.write_text(STEP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(world), str(tmp_path)], env=environment)
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    one, first, second = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("1_0", "2_0", "2_1"))
    assert (first["loss"] - second["loss"]).abs() > 1e-3  # they saw different samples
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, one["loss"], atol=1e-6, rtol=0)
    for name in one.keys() - {"loss"}:
        if name != "d.3.bias":  # relative to a mean, a shift of all logits changes nothing
            assert one[name].abs().max() > 1e-3
        torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=1e-6)
        assert torch.equal(first[name], second[name])

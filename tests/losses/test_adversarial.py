import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from sr_train.losses.adversarial import Hinge, LeastSquares, RelativisticAverage, StandardGAN, Wasserstein


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
    for loss in (*(kind() for kind in LOSSES.values()), StandardGAN(real_label=0.9)):
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


def by_hand(name, real, fake, label=1.0):
    """(G's loss, D's loss, accuracy), each logit visited in a loop; a pixel counts as a logit."""
    r, f = ([float(x) for x in np.asarray(v).ravel()] for v in (real, fake))
    if name == "vanilla":
        d = mean(-label * math.log(sigmoid(x)) - (1 - label) * math.log(1 - sigmoid(x)) for x in r)
        d += mean(-math.log(1 - sigmoid(x)) for x in f)
        return mean(-math.log(sigmoid(x)) for x in f), d, (mean(x > 0 for x in r) + mean(x < 0 for x in f)) / 2
    if name == "ragan":
        a, b = [sigmoid(x - mean(f)) for x in r], [sigmoid(x - mean(r)) for x in f]
        g = (mean(-math.log(1 - p) for p in a) + mean(-math.log(p) for p in b)) / 2
        d = (mean(-math.log(p) for p in a) + mean(-math.log(1 - p) for p in b)) / 2
        return g, d, (mean(x > mean(f) for x in r) + mean(x < mean(r) for x in f)) / 2
    if name == "lsgan":
        d = mean((x - label) ** 2 for x in r) + mean(x**2 for x in f)
        right = (mean(abs(x - label) < abs(x) for x in r) + mean(abs(x) < abs(x - label) for x in f)) / 2
        return mean((x - 1) ** 2 for x in f), d, right
    if name == "hinge":
        d = mean(max(0, 1 - x) for x in r) + mean(max(0, 1 + x) for x in f)
        return -mean(f), d, (mean(x > 0 for x in r) + mean(x < 0 for x in f)) / 2
    middle = (mean(r) + mean(f)) / 2
    return -mean(f), mean(f) - mean(r), (mean(x > middle for x in r) + mean(x < middle for x in f)) / 2


LOSSES = {
    "vanilla": StandardGAN, "ragan": RelativisticAverage, "lsgan": LeastSquares, "hinge": Hinge, "wgan": Wasserstein,
}  # fmt: skip
SMOOTH = [(name, {"real_label": 0.9}) for name in ("vanilla", "lsgan")]
SHAPES = [(8, 1), (2, 1, 4, 5)]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in LOSSES), *SMOOTH])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_loss_is_its_formula_over_all_logits(name, options, shape):
    rng = np.random.default_rng(1)
    real, fake = rng.normal(0.3, 1, shape), rng.normal(0.1, 1, shape)
    loss = LOSSES[name](**options)
    r, f = torch.from_numpy(real), torch.from_numpy(fake)
    g, d, right = by_hand(name, real, fake, options.get("real_label", 1.0))
    assert loss.generator(r if loss.needs_real else None, f).item() == pytest.approx(g, rel=1e-12)
    assert loss.discriminator(r, f).item() == pytest.approx(d, rel=1e-12)
    assert loss.accuracy(r, f).item() == pytest.approx(right, rel=1e-6)
    assert 0 < right < 1
    low = [v.float() for v in (r, f)]
    assert loss.discriminator(*low).item() == pytest.approx(d, rel=1e-5)


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in LOSSES), *SMOOTH])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_finite_differences(name, options, shape):
    torch.manual_seed(0)
    loss = LOSSES[name](**options)
    real, fake = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert gradcheck(loss.discriminator, (real, fake))
    assert gradcheck(lambda f: loss.generator(real.detach(), f), (fake,))


def test_detached_means_halve_the_paths_of_the_gradient_in_d_only():
    torch.manual_seed(0)
    real, fake = (torch.randn(4, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    attached, detached = RelativisticAverage(), RelativisticAverage(detach_means=True)
    assert torch.equal(attached.discriminator(real, fake), detached.discriminator(real, fake))
    found = torch.autograd.grad(detached.discriminator(real, fake), (real, fake))
    r, f = real.detach().numpy().ravel(), fake.detach().numpy().ravel()
    expected = [
        [-sigmoid(-(x - f.mean())) / (2 * len(r)) for x in r],
        [sigmoid(x - r.mean()) / (2 * len(f)) for x in f],
    ]
    for made, wanted in zip(found, expected, strict=True):
        assert made.flatten().tolist() == pytest.approx(wanted, rel=1e-12)
    ours, theirs = (torch.autograd.grad(loss.generator(real, fake), fake)[0] for loss in (attached, detached))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [StandardGAN, LeastSquares])
@pytest.mark.parametrize("label", [0.5, 1.1, -1.0])
def test_a_label_that_is_no_smoothed_1_is_refused(kind, label):
    with pytest.raises(ValueError, match=f"real_label={label} must be above 0.5 and at most 1"):
        kind(real_label=label)


STEP = """
# One step of G and D on a batch, by one process or shared by two under ddp, in one backward: their gradients, to a file.
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from sr_train.losses.adversarial import Hinge, LeastSquares, RelativisticAverage, StandardGAN, Wasserstein

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
        self.others = [RelativisticAverage(detach_means=True), StandardGAN(), LeastSquares(), Hinge(), Wasserstein()]
        self.map = nn.Conv2d(3, 1, 3)  # logits of regions, for the other losses

    def forward(self, lr, hr):
        sr = self.g(lr)
        frozen = {k: v.detach() for k, v in self.d.named_parameters()}
        real, fake = (functional_call(self.d, frozen, (x,)) for x in (hr, sr))
        total = self.loss.generator(real, fake) + self.loss.discriminator(self.d(hr), self.d(sr.detach()))
        real, fake = self.map(hr), self.map(sr)
        return total + sum(loss.generator(real, fake) + loss.discriminator(real, fake) for loss in self.others)


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

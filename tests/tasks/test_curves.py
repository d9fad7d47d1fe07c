import pytest
import torch

from sr_train.tasks.curves import Constant, CosineRestarts, MultiStep, check_covers, try_optimizer


def _rates(scheduler, optimizer, steps):
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)


def test_multistep_equals_the_scheduler_of_torch(optimizer):
    curve = MultiStep(milestones=[5, 12], gamma=0.5)
    theirs = _rates(torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 12], 0.5), optimizer, 20)
    assert [4e-4 * curve(t) for t in range(20)] == pytest.approx(theirs, rel=1e-12)


def test_one_cosine_period_equals_the_scheduler_of_torch(optimizer):
    curve = CosineRestarts(periods=[20], floor=1e-7 / 4e-4)
    theirs = _rates(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, 1e-7), optimizer, 20)
    assert [4e-4 * curve(t) for t in range(20)] == pytest.approx(theirs, rel=1e-6)


def test_a_weight_of_half_restarts_at_half_and_the_end_stays_at_the_floor():
    curve = CosineRestarts(periods=[10, 20], weights=[1, 0.5], floor=1e-7 / 4e-4)
    assert curve(0) == pytest.approx(1)
    assert 4e-4 * curve(10) == pytest.approx(2.0e-4, rel=1e-3)
    assert curve(9) < curve(10) > curve(11)
    assert curve(30) == curve(10**6) == curve.floor


def test_constant_is_constant():
    assert {Constant()(t) for t in (0, 1, 10**6)} == {1.0}


def test_invalid_curves_are_refused():
    with pytest.raises(ValueError, match="increasing steps"):
        MultiStep(milestones=[10, 5])
    with pytest.raises(ValueError, match="expected lists of the same length"):
        CosineRestarts(periods=[5, 5], weights=[1])


def test_periods_that_end_before_the_stage_are_refused_with_the_sum():
    check_covers(CosineRestarts(periods=[1000, 1000]), 2000)
    check_covers(CosineRestarts(periods=[1000, 1000]), 1500)
    check_covers(Constant(), 10**6)
    message = (
        r"curve.periods=\[1000,1000\]: periods sum to 2000, trainer.max_steps=3000: .* for the last 1000 steps; "
        r"give curve.periods=\[1000,1000,1000\] \(.*\), or trainer.max_steps=2000"
    )
    with pytest.raises(ValueError, match=message):
        check_covers(CosineRestarts(periods=[1000, 1000]), 3000)
    message = r"task.discriminator_curve.periods=\[10,5,5\] task.discriminator_curve.weights=\[1,0.5,0.5\] "
    with pytest.raises(ValueError, match=message):
        check_covers(CosineRestarts(periods=[10, 5], weights=[1, 0.5]), 20, key="task.discriminator_curve")


def test_an_optimizer_is_tested_with_the_real_shapes_and_with_a_step():
    groups = [{"params": [torch.nn.Parameter(torch.empty(4, 3, 2, 2, device="meta"))], "suffix": ""}]
    seen = []

    class Sees(torch.optim.SGD):
        def __init__(self, params, **kwargs):
            super().__init__(params, **kwargs)
            seen.append([tuple(p.shape) for group in self.param_groups for p in group["params"]])

    try_optimizer(Sees, groups, rate=0.1, device=torch.device("cpu"))
    assert seen == [[(4, 3, 2, 2)], [(1, 1, 1, 1)]]
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        try_optimizer(torch.optim.SparseAdam, groups, rate=0.1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "curve",
    [Constant(warmup=4), MultiStep(milestones=[2, 6], warmup=4), CosineRestarts(periods=[10], warmup=4)],
    ids=lambda c: type(c).__name__,
)
def test_a_warm_up_is_basicsrs_ramp_times_the_schedule(curve):
    plain = [curve.factor(step) for step in range(10)]
    # BasicSR: rate / warmup_iter * current_iter for current_iter < warmup_iter; iterations count from 1
    ramp = [current / 4 if current < 4 else 1 for current in range(1, 11)]
    assert [curve(step) for step in range(10)] == pytest.approx([a * b for a, b in zip(plain, ramp, strict=True)])


def test_a_negative_warm_up_is_refused():
    with pytest.raises(ValueError, match=r"curve\.warmup=-1"):
        Constant(warmup=-1)

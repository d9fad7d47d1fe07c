"""Refused steps: what they leave unchanged, and when the host learns of them."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from sr_train.tasks import guard as guards
from sr_train.tasks.curves import Constant
from sr_train.tasks.guard import Guard, NonFiniteError, skips_on_device, spread
from sr_train.tasks.pixel import PixelTask

SGD = {"fused": True, "momentum": 0.9}


class Network(nn.Module):
    scale, multiple_of = 1, 1

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int32))

    def forward(self, lr):
        self.calls = self.calls + 1  # another tensor
        return self.layers(lr)


def make(optimizer, patience=10, **options):
    torch.manual_seed(0)
    built = lambda groups, lr: optimizer(groups, lr=lr, **options)  # noqa: E731
    return PixelTask(model=Network(), loss=nn.L1Loss(), optimizer=built, rate=1e-2, curve=Constant(), patience=patience)


def fit(task, bad=(), *, steps=6, where="hr", value=float("nan"), **options):
    """Train; the images of the steps ``bad`` contain one value that is not finite."""
    generator = torch.Generator().manual_seed(1)
    data = []
    for step in range(1, steps + 1):
        batch = {k: torch.rand(2, 3, 8, 8, generator=generator) for k in ("lr", "hr")}
        if step in bad:
            batch[where][1, 0, 0, 0] = value
        data.append({**batch, "key": [f"{step}/a", f"{step}/b"], "suspects": [f"{step}/b"] * (step in bad), "scale": 1})
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, max_steps=steps, **options,
    )  # fmt: skip
    trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=None))
    return task


class States(L.Callback):
    """Keeps network and optimizer after each step."""

    def __init__(self):
        self.kept = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        states = trainer.optimizers[0].state_dict()["state"]
        flat = {f"{i}.{k}": v.clone() for i, state in states.items() for k, v in state.items()}
        self.kept.append({**flat, **{k: v.clone() for k, v in pl_module.model.state_dict().items()}})


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {"fused": True}),
        (torch.optim.AdamW, {"fused": True, "amsgrad": True}),
        (torch.optim.Adam, {}),
        (torch.optim.SGD, SGD),
    ],
    ids=["fused Adam", "fused AdamW", "Adam", "fused SGD"],
)
@pytest.mark.parametrize("where", ["lr", "hr"])
def test_a_refused_step_changes_neither_weights_nor_statistics_nor_the_optimizer(optimizer, options, where):
    states = States()
    task = fit(make(optimizer, **options), (3, 4), where=where, callbacks=[states])
    after = states.kept
    assert equal(after[1], after[2])
    assert equal(after[1], after[3])
    changed = {k for k in after[3] if not torch.equal(after[3][k], after[4][k])}
    assert {"layers.0.weight", "layers.1.running_mean", "layers.1.num_batches_tracked", "calls"} <= changed
    assert task.events == [(s, "refused: loss not finite", f"{s}/b") for s in (3, 4)]
    assert (task.refused, task.guard.in_a_row) == (2, 0)


def test_the_first_step_may_be_refused():
    """Nothing then is left of it in later steps, as if it had not been."""
    for optimizer, options in ((torch.optim.Adam, {"fused": True}), (torch.optim.SGD, SGD)):
        states = States()
        task = fit(make(optimizer, **options), (1,), callbacks=[states])
        assert task.refused == 1
        assert all(torch.isfinite(v).all() for v in states.kept[-1].values())
        start = make(optimizer).model.state_dict()
        assert equal(start, {k: states.kept[0][k] for k in start})


def test_the_decision_on_the_device_equals_the_decision_on_the_host(monkeypatch):
    ends = []
    for decides in (skips_on_device, lambda optimizer: False):
        monkeypatch.setattr(guards, "skips_on_device", decides)
        task = fit(make(torch.optim.Adam, fused=True), (2, 5))
        ends.append({**task.state_dict(), "steps": torch.tensor(task.refused)})
    assert equal(*ends)


def test_only_fused_adam_and_adamw_decide_on_the_device():
    class Own(torch.optim.Adam):
        """Its step may ignore found_inf."""

    kinds = [(torch.optim.Adam, {"fused": True}), (torch.optim.AdamW, {"fused": True}), (torch.optim.Adam, {}),
             (torch.optim.SGD, SGD), (Own, {"fused": True})]  # fmt: skip
    assert [skips_on_device(kind([nn.Parameter(torch.zeros(1))], lr=1e-3, **options)) for kind, options in kinds] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("delay", [0, 2])
def test_patience_ends_the_run_with_the_step_that_exhausted_it(monkeypatch, delay):
    """With a delay, as on a GPU, the run ends some steps later: they change nothing of the message."""
    monkeypatch.setattr(guards, "_DELAY", {"cpu": delay})
    ended = []

    class Steps(L.Callback):
        def on_exception(self, trainer, pl_module, exception):
            ended.append(trainer.global_step + 1)

    task = make(torch.optim.Adam, patience=2, fused=True)
    with pytest.raises(NonFiniteError, match=r"step 4: .* in 2 steps in a row; .*\. Last images: 4/b\. Try") as error:
        fit(task, (1, 3, 4), steps=8, callbacks=[Steps()])
    assert "events.csv lists the images" in str(error.value)
    assert ended == [4 + delay]
    assert [e.step for e in task.events] == [1, 3, 4]


@pytest.mark.parametrize("delay", [0, 2, None])
def test_no_refused_step_is_missing_in_a_checkpoint_or_at_the_end(monkeypatch, tmp_path, delay):
    monkeypatch.setattr(guards, "_DELAY", {"cpu": delay})

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    task = fit(make(torch.optim.Adam, fused=True), (2, 3, 6), callbacks=[Saves()])
    kept = [torch.load(tmp_path / f"{s}.ckpt", weights_only=True)["guard"] for s in range(1, 7)]
    assert [k["refused"] for k in kept] == [0, 1, 2, 2, 2, 3]
    assert [k["in_a_row"] for k in kept] == [0, 1, 2, 0, 0, 1]
    assert [e.step for e in task.events] == [2, 3, 6]
    again = make(torch.optim.Adam, fused=True)
    again.on_load_checkpoint({"guard": kept[-1]})
    assert (again.refused, again.guard.in_a_row) == (3, 1)


def test_a_loss_that_is_finite_leaves_its_gradient_as_it_is_and_another_makes_it_nan():
    for bad in (0.0, float("inf"), float("nan")):
        x = torch.linspace(-1, 1, 5, requires_grad=True)
        (x.square().sum() * 3).backward()
        expected, x.grad = x.grad, None
        loss = x.square().sum() * 3 + bad
        spread(loss)
        loss.backward()
        assert torch.equal(x.grad, expected) if bad == 0 else bool(torch.isnan(x.grad).all())


def test_a_fused_optimizer_continues_from_a_checkpoint_of_one_that_is_not(tmp_path):
    """As in checkpoints of earlier versions. Their group says that it is not fused."""
    fit(make(torch.optim.Adam), steps=3).trainer.save_checkpoint(tmp_path / "old.ckpt")
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    assert content["optimizer_states"][0]["param_groups"][0]["fused"] is None
    task = make(torch.optim.Adam, fused=True)
    task.on_load_checkpoint(content)
    optimizer = task.configure_optimizers()
    optimizer.load_state_dict(content["optimizer_states"][0])
    assert skips_on_device(optimizer)
    assert {int(s["step"]) for s in optimizer.state.values()} == {3}


@pytest.mark.parametrize("fused", [True, None])
def test_the_scaler_of_16_mixed_skips_what_overflows_and_clips_the_unscaled_gradient(fused):
    norms = []

    class Norms(L.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_post_hook(lambda optimizer, *_: norms.append(self.norm(optimizer)))

        def norm(self, optimizer):
            grads = [p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            return float(torch.cat(grads).norm()) if grads else 0.0

    states, scaler = States(), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    task = fit(
        make(torch.optim.Adam, fused=fused), (3,), value=float("inf"), gradient_clip_val=1e-3, callbacks=[states, Norms()],
        plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)],
    )  # fmt: skip
    assert task.refused == 1
    assert equal(states.kept[1], states.kept[2])
    assert not equal(states.kept[2], states.kept[3])
    assert float(task.numbers["train/grad_norm"]) < 10  # 1,000 if it were scaled
    assert [n for n in norms if n > 0] == pytest.approx([1e-3] * (5 if fused is None else 6), rel=1e-2)


def test_statistics_of_another_shape_are_left():
    network, guard = Network(), Guard(3)
    guard.begin({"lr": torch.zeros(1), "hr": torch.zeros(1), "key": ["a"], "scale": 1}, [network])
    network.calls = torch.ones(3)
    network.layers[1].running_mean.fill_(7)
    assert guard.judge(1, torch.tensor(float("nan")), alone=True) == 1
    assert network.calls.tolist() == [1, 1, 1]
    assert network.layers[1].running_mean.tolist() == [0] * 4
    guard.look()
    assert guard.events == [(1, "refused: loss not finite", "a")]

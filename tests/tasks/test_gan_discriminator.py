"""Updates of the discriminator alone, its own options of the optimizer, frozen networks, and penalties in a step."""

from functools import partial

import lightning as L
import pytest
import torch
from helpers import equal
from torch import nn

from sr_train.losses.adversarial import RelativisticAverage, StandardGAN
from sr_train.losses.gan import GANLoss
from sr_train.losses.penalties import R1, WGANGP
from sr_train.models.batchnorm import synchronize
from sr_train.runs.checkpoints import list_checkpoints, read_checkpoint
from sr_train.tasks.curves import Constant
from sr_train.tasks.gan import GANTask
from sr_train.tasks.gan_discriminator import uniform

ADAM = partial(torch.optim.Adam, betas=(0.9, 0.999))


class Generator(nn.Module):
    scale, multiple_of = 2, 1

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1)
        )
        self.up = nn.PixelShuffle(2)

    def forward(self, lr):
        return self.up(self.layers(lr))


def discriminator():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(8, 1, 3, 2, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip


def loss():
    return GANLoss(adversarial=StandardGAN(), pixel=nn.L1Loss(), weights={"pixel": 0.1, "adversarial": 1.0})


def task(critic=discriminator, criterion=loss, **more):
    torch.manual_seed(0)
    given = {"rate": 1e-3, "curve": Constant(), "optimizer": ADAM, **more}
    return GANTask(model=Generator(), discriminator=critic(), loss=criterion(), **given)


def batches(count, size=4):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "lr": torch.rand(size, 3, 6, 6, generator=generator),
            "hr": torch.rand(size, 3, 12, 12, generator=generator),
            "key": [f"{i}/{j}" for j in range(size)],
            "scale": 2,
        }
        for i in range(count)
    ]


def fit(module, data, steps, accumulate=1, **options):
    torch.manual_seed(7)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=1, max_steps=steps, accumulate_grad_batches=module.schedule.steps * accumulate, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    assert trainer.global_step == steps
    return module


def same(a, b):
    return equal(a.state_dict(), b.state_dict())


def by_hand(data, *, steps=1, first=0, betas=(0.9, 0.999), penalty=None, clip=None):
    """Two optimizers: D alone for ``first`` steps and in all but the last batch of a step, then G and D on one batch."""
    torch.manual_seed(0)
    g, d = (n.to(memory_format=torch.channels_last) for n in (Generator(), discriminator()))
    criterion = loss()
    step_g, step_d = torch.optim.Adam(g.parameters(), lr=1e-3), torch.optim.Adam(d.parameters(), lr=1e-3, betas=betas)
    for number, batch in enumerate(data):
        step, part = divmod(number, steps)
        both = step >= first and part == steps - 1
        kept = {k: v.clone() for k, v in g.named_buffers()}
        with torch.set_grad_enabled(both):
            sr = g(batch["lr"])
        step_g.zero_grad()
        if both:
            d.requires_grad_(False)
            criterion.generator(sr, batch["hr"], real_logits=None, fake_logits=d(sr))[0].backward()
            d.requires_grad_(True)
        else:
            for name, buffer in g.named_buffers():
                buffer.copy_(kept[name])
        step_d.zero_grad()
        d_loss, _ = criterion.discriminator(d(batch["hr"]), d(sr.detach()))
        (d_loss if penalty is None else d_loss + penalty(d, batch["hr"])).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(d.parameters(), clip)
        step_d.step()
        if both:
            step_g.step()
    return g, d


@pytest.mark.parametrize(("steps", "first"), [(1, 0), (2, 0), (1, 2), (2, 2)])
def test_updates_equal_a_loop_of_two_optimizers_bit_for_bit(steps, first):
    data = batches(5 * steps)
    made = fit(task(discriminator_steps=steps, discriminator_first=first), data, 5)
    g, d = by_hand(data, steps=steps, first=first)
    assert same(made.model, g)
    assert same(made.discriminator, d)
    assert made.ema is not None
    assert int(made.ema.state_dict()["n_averaged"]) == 5 - first
    assert not made.guard.events


def test_three_updates_in_two_micro_batches_equal_whole_batches():
    whole = batches(6)
    halves = [
        {"lr": b["lr"][i : i + 2], "hr": b["hr"][i : i + 2], "key": b["key"][i : i + 2], "scale": 2}
        for b in whole
        for i in (0, 2)
    ]
    found = []
    for data, accumulate in ((whole, 1), (halves, 2)):
        made = task(discriminator_steps=3, optimizer=partial(torch.optim.SGD, momentum=0.9), rate=0.1)
        made.model.layers[1].eval()  # BatchNorm's statistics are over a micro-batch
        found.append(fit(made, data, 2, accumulate).state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_a_generator_that_is_not_updated_yet_has_no_state_of_the_optimizer():
    made = task(discriminator_first=3)
    before = {k: v.clone() for k, v in made.state_dict().items() if not k.startswith("discriminator.")}
    fit(made, batches(2), 2)
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in before.items())
    (optimizer,) = made.trainer.optimizers
    assert {id(p) for p in optimizer.state} == {id(p) for p in made.discriminator.parameters()}
    assert made.watch.state_dict()["filled"] == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_a_frozen_generator_stays_the_same_and_the_discriminator_learns(steps):
    made = task(trainable=[], discriminator_steps=steps)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    fit(made, batches(3 * steps), 3)
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("discriminator."), name
    _, d = by_hand(batches(3 * steps), steps=steps, first=3)
    assert same(made.discriminator, d)


def critic_with_buffers():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3, 2, 1))
    return nn.Sequential(spectral, nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(144, 1))


def test_a_frozen_discriminator_is_a_fixed_function():
    made = task(critic_with_buffers, discriminator_trainable=[])
    before = {k: v.clone() for k, v in made.state_dict().items()}
    data = batches(3)
    fit(made, data, 3)
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("discriminator."), name
    assert [group["suffix"] for group in made.parameter_groups()] == [""]
    torch.manual_seed(0)
    g, d = Generator().to(memory_format=torch.channels_last), critic_with_buffers().eval().requires_grad_(False)
    adam = torch.optim.Adam(g.parameters(), lr=1e-3)
    for batch in data:
        adam.zero_grad()
        sr = g(batch["lr"])
        loss().generator(sr, batch["hr"], real_logits=None, fake_logits=d(sr))[0].backward()
        adam.step()
    torch.testing.assert_close(made.model.state_dict(), g.state_dict())


def test_a_part_of_the_discriminator_can_be_frozen():
    made = task(discriminator_trainable=["2.*"])
    before = {k: v.clone() for k, v in made.discriminator.state_dict().items()}
    fit(made, batches(2), 2)
    changed = {k for k, v in made.discriminator.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"2.weight", "2.bias"}


def test_the_discriminators_options_and_clip_equal_an_optimizer_of_its_own_bit_for_bit():
    options = {"betas": [0, 0.9]}
    made = fit(task(discriminator_optimizer=options, discriminator_clip=1e-3), batches(4), 4)
    g, d = by_hand(batches(4), betas=(0.0, 0.9), clip=1e-3)
    assert same(made.model, g)
    assert same(made.discriminator, d)
    _, unclipped = by_hand(batches(4), betas=(0.0, 0.9))
    made = fit(task(discriminator_optimizer=options, discriminator_clip=0), batches(4), 4, gradient_clip_val=1e-3)
    assert made.clip_of(made.model, 1e-3) == 1e-3
    assert not same(made.discriminator, unclipped)  # its images come from a generator that is clipped
    assert made.clip_of(made.discriminator, 1e-3) == 0


def test_a_penalty_every_second_step_has_twice_the_weight():
    def twice(d, hr):
        nonlocal step
        step += 1
        images = hr.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(d(images).sum(), images, create_graph=True)
        return 2 * 10 * gradient.square().sum((1, 2, 3)).mean() / 2 if step % 2 == 0 else 0

    step = 0
    made = fit(task(penalty=R1(every=2)), batches(4), 4)
    g, d = by_hand(batches(4), penalty=twice)
    for one, two in ((made.model, g), (made.discriminator, d)):
        torch.testing.assert_close(one.state_dict(), two.state_dict())
    assert not same(made.discriminator, by_hand(batches(4))[1])
    assert "train/penalty" in made.numbers
    assert "train/penalty" not in fit(task(penalty=R1(every=2)), batches(3), 3).numbers


class Seen:
    """A penalty of a user's: it keeps the numbers that it gets."""

    weight, every = 1.0, 1

    def __init__(self):
        self.numbers = []

    def __call__(self, discriminator, real, fake, uniform):
        self.numbers += uniform.tolist()
        return discriminator(fake).square().mean()


def test_numbers_for_penalties_depend_on_the_position_alone():
    seen = Seen()
    fit(task(penalty=seen, discriminator_steps=2), batches(4), 2)
    assert seen.numbers == uniform(0, "main", range(16)).tolist()
    assert uniform(0, "main", [5]) == uniform(0, "main", range(16))[5]
    assert uniform(1, "main", [5]) != uniform(0, "main", [5]) != uniform(0, "gan", [5])
    many = uniform(0, "gan", range(4000))
    assert many.min() >= 0
    assert many.max() < 1
    ordered = many.sort().values
    assert (ordered - torch.linspace(0, 1, 4000)).abs().max() < 1.95 / 4000**0.5  # Kolmogorov-Smirnov, 0.1 %


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_update_that_is_not_finite_is_refused_alone(precision):
    data = batches(4)
    data[2]["hr"][1, 0, 0, 0] = float("nan")
    data[2]["suspects"] = ["2/1"]
    made = fit(task(discriminator_steps=2, penalty=WGANGP()), data, 2, precision=precision)
    assert made.events == [(2, "refused: loss not finite", "2/1")]
    assert all(bool(torch.isfinite(v).all()) for v in made.state_dict().values())
    others = fit(task(discriminator_steps=2, penalty=WGANGP()), [*data[:2], data[3], data[3]], 2, precision=precision)
    assert not same(made.discriminator, others.discriminator)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"discriminator_steps": 0}, r"task\.discriminator_steps=0: expected an integer of at least 1"),
        ({"discriminator_first": -1}, r"task\.discriminator_first=-1: expected a number of steps"),
        ({"discriminator_trainable": [], "trainable": []}, "freeze both networks"),
        ({"discriminator_trainable": ["9.*"]}, r"task\.discriminator_trainable: '9\.\*' matches no parameter"),
        ({"discriminator_trainable": [], "discriminator_steps": 2}, r"discriminator_steps=2 has no effect with"),
        ({"discriminator_first": 5, "trainable": []}, r"discriminator_first=5 has no effect with task\.trainable=\[\]"),
        ({"discriminator_clip": -1}, r"task\.discriminator_clip=-1 must be positive, 0 for no limit"),
        (
            {"discriminator_optimizer": {"beta": [0, 1]}},
            "has no option 'beta' .* choose from betas, eps, weight_decay, amsgrad",
        ),
        ({"discriminator_optimizer": {"lr": 1}}, "no option 'lr' .* give task.discriminator_rate"),
        (
            {"discriminator_optimizer": {"betas": [0, 1]}},
            "discriminator_optimizer=.*: Invalid beta parameter at index 1",
        ),
        ({"discriminator_clip": 1.0, "discriminator_trainable": []}, r"task\.discriminator_clip has no effect"),
        ({"penalty": nn.Identity()}, r"task\.penalty: Identity needs attributes weight and every"),
        ({"penalty": R1(), "discriminator_trainable": []}, "task.penalty has no effect"),
        ({"penalty": WGANGP(), "critic": critic_with_buffers}, "WGANGP needs a discriminator without BatchNorm"),
    ],
)
def test_options_without_a_meaning_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        task(**given)


def test_a_penalty_is_refused_if_its_gradient_cannot_pass_batchnorm_over_processes():
    made = task(critic_with_buffers, penalty=R1())
    synchronize(made.discriminator)  # as with several processes
    with pytest.raises(ValueError, match=r"give trainer\.sync_batchnorm=false, or a discriminator without BatchNorm"):
        fit(made, batches(1), 1)


SMALL = (
    "experiment=esrgan_x4", "stage=gan", "init.stage=null", "loss=gan", "data=toy", "sets=[]", "data.workers=0", "data.batch=2",
    "data.lr_patch=8", "model.blocks=1", "model.channels=4", "model.growth=2", "task.discriminator.size=32",
    "task.discriminator.channels=2", "trainer.accelerator=cpu", "trainer.precision=32", "logger=csv", "record.every=1",
    "checkpoint.every=1", "curve=constant", "task.discriminator_first=2", "task.discriminator_steps=2",
    "task.penalty={_target_: sr_train.losses.penalties.R1, every: 2}", "task.discriminator_clip=1",
)  # fmt: skip


def test_a_run_resumes_bit_for_bit_in_each_phase_and_takes_changed_options_by_force(invoke, tmp_path):
    options = "task.discriminator_optimizer={betas: [0, 0.99]}"
    for name, lengths in (("whole", [4]), ("parts", [1, 3, 4])):
        for length in lengths:
            done = invoke("sr-train", *SMALL, options, f"name={name}", f"trainer.max_steps={length}")
            assert done.returncode == 0, done.stderr
    assert "discriminator: 2 updates per step, each on a new batch, alone in the first 2 steps\n" in done.stdout
    assert "penalty 10 R1 every 2 steps\n" in done.stdout
    folders = [tmp_path / "runs" / name / "gan" for name in ("whole", "parts")]
    found = [read_checkpoint(list_checkpoints(f / "checkpoints")[0][1]).content for f in folders]
    assert equal(found[0]["state_dict"], found[1]["state_dict"])
    states = [content["optimizer_states"][0]["state"] for content in found]
    assert states[0].keys() == states[1].keys()
    assert all(equal(states[0][i], states[1][i]) for i in states[0])
    rows = [[r for r in (f / "metrics.csv").read_text().splitlines() if ",speed/" not in r] for f in folders]
    assert rows[0] == rows[1]
    changed = "task.discriminator_optimizer={betas: [0.5, 0.99]}"
    done = invoke("sr-train", *SMALL, changed, "name=parts", "trainer.max_steps=5", "resume=force")
    assert done.returncode == 0, done.stderr
    assert "5,task.optimizer: discriminator: betas [0.0 0.99] -> [0.5 0.99]," in (folders[1] / "events.csv").read_text()
    content = read_checkpoint(list_checkpoints(folders[1] / "checkpoints")[0][1]).content
    groups = content["optimizer_states"][0]["param_groups"]
    assert [list(g["betas"]) for g in groups] == [[0.9, 0.999], [0.5, 0.99]]


def test_a_penalty_of_a_users_is_checked_at_the_start(invoke, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "class Flat:\n    weight, every = 1.0, 1\n\n    def __call__(self, discriminator, real, fake, uniform):\n"
        "        return discriminator(real)\n"
    )
    own = [option for option in SMALL if "penalty" not in option]
    done = invoke("sr-train", *own, "task.penalty={_target_: mine.Flat}", "trainer.max_steps=1")
    assert done.returncode == 2
    assert "task.penalty: Flat returns a tensor [2, 1]; expected one number, the mean over the batch" in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_relativistic_loss_works_with_every_option():
    def relativistic():
        return GANLoss(adversarial=RelativisticAverage(), pixel=nn.L1Loss(), weights={"pixel": 1.0, "adversarial": 1.0})

    made = task(criterion=relativistic, discriminator_steps=2, discriminator_first=1, penalty=R1(every=2))
    assert made.described() == [
        "discriminator: 2 updates per step, each on a new batch, alone in the first step", "penalty 10 R1 every 2 steps",
    ]  # fmt: skip
    fit(made, batches(6), 3)
    assert made.refused == 0

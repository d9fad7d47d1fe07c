import warnings
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

from sr_train.losses.adversarial import RelativisticAverage, StandardGAN
from sr_train.losses.gan import GANLoss
from sr_train.runs.checkpoints import list_checkpoints, read_checkpoint
from sr_train.tasks.curves import Constant, MultiStep
from sr_train.tasks.gan import GANTask, frozen


class Generator(nn.Module):
    scale, multiple_of = 2, 1

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, lr):
        return self.layers(lr)


def discriminator(batch_norm=True):
    middle = [nn.BatchNorm2d(8)] if batch_norm else []
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        *middle,
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 1, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def loss(adversarial=RelativisticAverage):
    return GANLoss(adversarial=adversarial(), pixel=nn.L1Loss(), weights={"pixel": 0.1, "adversarial": 1.0})


def task(adversarial=RelativisticAverage, batch_norm=True, **more):
    torch.manual_seed(0)
    given = {"rate": 1e-3, "curve": Constant(), "optimizer": torch.optim.Adam, **more}
    return GANTask(model=Generator(), discriminator=discriminator(batch_norm), loss=loss(adversarial), **given)


def batches(steps, size=4):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "lr": torch.rand(size, 3, 6, 6, generator=generator),
            "hr": torch.rand(size, 3, 12, 12, generator=generator),
            "key": [f"{step}/{i}" for i in range(size)],
            "scale": 2,
        }
        for step in range(steps)
    ]


def fit(module, data, **options):
    torch.manual_seed(7)
    options = {"max_steps": len(data), "accumulate_grad_batches": 1, "precision": "32-true", **options}
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    return module


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def by_hand(adversarial, data, rate, rate_d):
    """The form in every GAN tutorial: two optimizers, one after the other on one batch."""
    torch.manual_seed(0)
    g, d = (n.to(memory_format=torch.channels_last) for n in (Generator(), discriminator()))
    criterion = loss(adversarial)
    step_g, step_d = (torch.optim.Adam(n.parameters(), lr=r) for n, r in ((g, rate), (d, rate_d)))
    for batch in data:
        d.requires_grad_(False)
        sr = g(batch["lr"])
        real = d(batch["hr"]).detach() if criterion.needs_real else None
        g_loss, _ = criterion.generator(sr, batch["hr"], real_logits=real, fake_logits=d(sr))
        step_g.zero_grad()
        g_loss.backward()
        step_g.step()
        d.requires_grad_(True)
        d_loss, _ = criterion.discriminator(d(batch["hr"]), d(sr.detach()))
        step_d.zero_grad()
        d_loss.backward()
        step_d.step()
    return g, d


@pytest.mark.parametrize("adversarial", [StandardGAN, RelativisticAverage])
def test_a_step_equals_two_manual_optimizers_bit_for_bit(adversarial):
    data = batches(5)
    made = fit(task(adversarial, discriminator_rate=3e-4), data)
    g, d = by_hand(adversarial, data, 1e-3, 3e-4)
    assert made.trainer.global_step == 5
    assert equal(state(made.model), state(g))
    # BatchNorm's running averages in D are read by nothing; they see HR once a step here, and twice in the other form.
    parameters = dict(made.discriminator.named_parameters())
    assert equal(parameters, dict(d.named_parameters()))


def test_both_networks_are_trained_and_only_the_generator_is_averaged():
    made = task()
    before = state(made)
    fit(made, batches(2))
    moved = {k for k, v in state(made).items() if not torch.equal(v, before[k])}
    assert all(f"model.{k}" in moved for k, _ in made.model.named_parameters())
    assert all(f"discriminator.{k}" in moved for k, _ in made.discriminator.named_parameters())
    assert made.ema is not None
    assert made.ema.module.state_dict().keys() == made.model.state_dict().keys()
    assert {"train/generator", "train/discriminator", "train/pixel", "train/adversarial", "train/real_logit",
            "train/fake_logit", "train/accuracy", "train/grad_norm", "train/grad_norm_d"} <= made.numbers.keys()  # fmt: skip


def test_the_generators_loss_does_not_reach_the_discriminators_parameters():
    network, image = discriminator(), torch.rand(2, 3, 12, 12, requires_grad=True)
    network[0].bias.requires_grad_(False)  # what was frozen stays so
    with frozen(network):
        logits = network(image)
    logits.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network[0].parameters()] == [True, False]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_discriminators_gradient_is_that_of_its_own_loss(precision):
    """Whatever the other loss sends through it: autocast keeps casts of parameters, which nothing freezes."""
    batch = batches(1)[0]
    found = {}

    class Watch(L.Callback):
        def on_after_backward(self, trainer, module):
            found.update({k: p.grad.clone() for k, p in module.discriminator.named_parameters()})

    sgd = partial(torch.optim.SGD, momentum=0.0)
    fit(task(optimizer=sgd, rate=1e-9), [batch], precision=precision, callbacks=[Watch()])
    fresh = task()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true", cache_enabled=False):
        sr = fresh.model(batch["lr"]).float().detach()
        d_loss, _ = fresh.loss.discriminator(fresh.discriminator(batch["hr"]), fresh.discriminator(sr))
    d_loss.backward()
    for name, parameter in fresh.discriminator.named_parameters():
        assert torch.equal(found[name], parameter.grad), name


def test_each_network_has_its_own_rate_and_curve():
    late = MultiStep(milestones=[2], gamma=0.1)
    rates = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append([g["lr"] for g in trainer.optimizers[0].param_groups])

    fit(task(rate=1e-3, discriminator_rate=1e-4, discriminator_curve=late), batches(4), callbacks=[Watch()])
    assert rates == [pytest.approx(r) for r in [[1e-3, 1e-4]] * 2 + [[1e-3, 1e-5]] * 2]
    rates.clear()
    fit(task(rate=1e-3, curve=late), batches(4), callbacks=[Watch()])
    assert rates == [pytest.approx(r) for r in [[1e-3, 1e-3]] * 2 + [[1e-4, 1e-4]] * 2]
    with pytest.raises(ValueError, match="discriminator_rate=0 must be positive"):
        task(discriminator_rate=0)


def test_two_micro_batches_of_two_equal_a_batch_of_four():
    whole = batches(3)
    halves = [
        {"lr": b["lr"][i : i + 2], "hr": b["hr"][i : i + 2], "key": b["key"][i : i + 2], "scale": 2}
        for b in whole
        for i in (0, 2)
    ]
    sgd = partial(
        torch.optim.SGD, momentum=0.9
    )  # Adam divides rounding by rounding where a gradient is next to nothing
    a = fit(task(StandardGAN, batch_norm=False, optimizer=sgd, rate=0.1), whole)
    b = fit(
        task(StandardGAN, batch_norm=False, optimizer=sgd, rate=0.1), halves, max_steps=3, accumulate_grad_batches=2
    )
    assert b.trainer.global_step == 3
    start = state(task(StandardGAN, batch_norm=False))
    assert not torch.allclose(a.state_dict()["discriminator.0.weight"], start["discriminator.0.weight"], atol=1e-4)
    for key, value in state(a).items():
        torch.testing.assert_close(b.state_dict()[key], value, rtol=1e-5, atol=1e-7)


def test_each_network_is_clipped_by_its_own_norm():
    norms = {}

    class Watch(L.Callback):
        def on_train_start(self, trainer, module):
            trainer.optimizers[0].register_step_post_hook(lambda optimizer, *_: self.note(optimizer))

        def note(self, optimizer):
            for group in optimizer.param_groups:
                grads = [p.grad.flatten() for p in group["params"] if p.grad is not None]
                if grads:
                    norms[group["suffix"]] = torch.cat(grads).norm().item()

    made = task()
    with torch.no_grad():
        made.discriminator[0].weight.mul_(1e-3)  # before BatchNorm: gradients a thousand times as large
    fit(made, batches(2), gradient_clip_val=0.01, callbacks=[Watch()])
    before = {s: float(made.numbers[f"train/grad_norm{s}"]) for s in ("", "_d")}
    assert before["_d"] > 10 * before[""] > 2 * 0.01
    assert norms == {"": pytest.approx(0.01, rel=1e-3), "_d": pytest.approx(0.01, rel=1e-3)}
    fit(made, batches(2), gradient_clip_val=0.01, gradient_clip_algorithm="value")


@pytest.mark.parametrize("where", ["lr", "hr"])
def test_a_step_that_is_not_finite_changes_neither_network_nor_their_statistics(where):
    made = task(ema=None)
    data = batches(1)
    data[0][where][2, 0, 0, 0] = float("nan")
    data[0]["suspects"] = ["0/2"]  # as the loader finds
    before = state(made)
    fit(made, data)
    assert made.refused == 1
    assert equal(state(made), before)
    assert made.events == [(1, "refused: loss not finite", "0/2")]


def test_bf16_trains_both():
    made = task()
    before = state(made)
    fit(made, batches(2), precision="bf16-mixed")
    assert made.refused == 0
    for name in ("model.layers.0.weight", "discriminator.0.weight"):
        assert not torch.equal(before[name], made.state_dict()[name]), name
    assert float(made.numbers["train/grad_norm_d"]) > 0


def test_a_discriminator_that_has_won_is_reported_once(monkeypatch):
    monkeypatch.setattr("sr_train.tasks.gan_watch.WINDOW", 3)
    monkeypatch.setattr("sr_train.tasks.gan_watch._EVERY", 1)
    made = task()
    monkeypatch.setattr(made.loss.adversarial, "accuracy", lambda real, fake: torch.tensor(1.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(made, batches(9))
    said = [str(w.message) for w in caught if "discriminator has won" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("step 3: the discriminator has won: over the last 3 steps it was right for 100.0%")
    assert "task.discriminator_rate" in said[0]
    kept = {}
    made.on_save_checkpoint(kept)
    again = task()
    again.on_load_checkpoint(kept)
    assert again.watch.state_dict()["said"] == made.watch.state_dict()["said"]
    assert "won" in again.watch.state_dict()["said"]


def test_accuracy_measures_what_the_loss_trains():
    real, fake = torch.tensor([[5.0], [3.0]]), torch.tensor([[2.0], [-1.0]])
    assert float(StandardGAN().accuracy(real, fake)) == 0.75
    assert float(RelativisticAverage().accuracy(real, fake)) == 1
    assert float(RelativisticAverage().accuracy(real + 100, fake + 100)) == 1


def test_a_loss_for_one_network_is_refused():
    with pytest.raises(ValueError, match="needs a loss for two networks, not L1Loss: loss=gan, srgan or esrgan"):
        GANTask(model=Generator(), discriminator=discriminator(), loss=nn.L1Loss(), optimizer=torch.optim.Adam, rate=1e-4,
                curve=Constant())  # fmt: skip


SMALL = (
    "experiment=esrgan_x4", "data=toy", "sets=[toy]", "data.workers=0", "data.batch=4", "data.lr_patch=8", "model.blocks=1",
    "model.channels=8", "model.growth=4", "gan.task.discriminator.size=32", "gan.task.discriminator.channels=4",
    "trainer.accelerator=cpu", "trainer.precision=32", "logger=csv", "validate.pictures=0", "record.every=1",
)  # fmt: skip


def test_a_gan_stage_resumes_bit_for_bit(invoke, tmp_path, tiny_vgg):
    vgg = f"loss.perceptual.extractor.weights={tiny_vgg}"
    for name, lengths in (("whole", [6]), ("parts", [3, 6])):
        for length in lengths:
            done = invoke(
                "sr-train", *SMALL, vgg, f"name={name}", "psnr.trainer.max_steps=2", f"gan.trainer.max_steps={length}"
            )
            assert done.returncode == 0, done.stderr
    assert "from step 3" in done.stdout
    found = [
        read_checkpoint(list_checkpoints(tmp_path / "runs" / n / "gan" / "checkpoints")[0][1])
        for n in ("whole", "parts")
    ]
    states = [c.content["state_dict"] for c in found]
    assert equal(*states)
    assert any(k.startswith("discriminator.bn") for k in states[0])
    assert not any("perceptual" in k for k in states[0])
    one, two = (c.content["optimizer_states"][0]["state"] for c in found)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[i][k], two[i][k]) for i in one for k in one[i])
    rows = [
        [
            r
            for r in (tmp_path / "runs" / n / "gan" / "metrics.csv").read_text().splitlines()
            if not any(k in r for k in (",speed/", ",toy/"))
        ]
        for n in ("whole", "parts")
    ]
    assert rows[0] == rows[1]


def test_a_file_initializes_only_the_generator_of_a_gan_stage(invoke, tmp_path):
    more = ("loss.perceptual=null", "trainer.max_steps=1", "task.rate=1e-9", "stage=gan")
    first = invoke("sr-train", *SMALL, "loss.perceptual=null", "trainer.max_steps=1", "name=a")
    assert first.returncode == 0, first.stderr
    done = invoke("sr-train", *SMALL, *more, "init.weights=runs/a/gan/weights.safetensors", "name=b")
    assert done.returncode == 0, done.stderr
    a, b = (
        read_checkpoint(list_checkpoints(tmp_path / "runs" / n / "gan" / "checkpoints")[0][1]).content["state_dict"]
        for n in ("a", "b")
    )
    averaged = {k: v for k, v in a.items() if k.startswith("ema.module.")}
    for key, value in averaged.items():
        torch.testing.assert_close(b[key.replace("ema.module", "model")], value, rtol=0, atol=1e-7)
    assert any(not torch.allclose(a[k], b[k]) for k in a if k.startswith("discriminator.conv"))


def test_errors_of_a_gan_stage_are_reported_before_the_first_stage(invoke, tmp_path, monkeypatch):
    done = invoke("sr-train", *SMALL, "gan.task.discriminator.size=64", "trainer.max_steps=1")
    assert done.returncode == 2
    assert (
        "stage gan: task.discriminator.size=64, but HR patches have 32 px (scale 4 x data.lr_patch 8): give "
        in done.stderr
    )
    assert "gan.data.lr_patch=16 or gan.task.discriminator.size=32" in done.stderr
    done = invoke("sr-train", *SMALL, "gan.task.discriminator.size=48", "gan.data.lr_patch=12", "trainer.max_steps=1")
    assert "discriminator size=48 is not supported" in done.stderr

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for check in ("check=false", "check=true"):
        done = invoke("sr-train", *SMALL, "trainer.max_steps=1", check)
        assert done.returncode == 1
        for text in ("stage gan: vgg19", "cannot be downloaded", "loss.perceptual.extractor.weights=vgg19-dcbb9e9d.pth",
                     f"copy it to {tmp_path / 'cache'}", "loss.perceptual=null"):  # fmt: skip
            assert text in done.stderr, text
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_check_runs_a_gan_stage(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, "loss.perceptual=null", "trainer.max_steps=2", "check=true")
    assert done.returncode == 0, done.stderr
    assert "stage gan: RRDBNet x4" in done.stdout
    assert "nothing was changed" in done.stdout
    assert not (tmp_path / "runs").exists()

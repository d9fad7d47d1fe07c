import pytest
from omegaconf import OmegaConf

from sr_train.config.check import OWN
from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.console import ConfigError


def test_precedence_is_groups_experiment_stage_command_line():
    composed = plan(["experiment=quickstart_edsr", "name=a/b", "x2.data.batch=8", "trainer.max_steps=7"])
    stage, other = composed.stages
    assert (other.name, other.config["scale"], other.config["data"]["batch"]) == ("x4", 4, 16)
    config = stage.config
    assert composed.name == "a/b"
    assert str(stage.folder) == "runs/a/b/x2"
    assert config["task"]["_target_"].endswith("PixelTask")  # group
    assert config["task"]["rate"] == 3e-3  # experiment
    assert config["scale"] == config["model"]["scale"] == config["data"]["scale"] == 2  # stage
    assert (config["data"]["batch"], config["trainer"]["max_steps"]) == (8, 7)  # typed
    assert config["curve"]["periods"] == [7]  # resolved from what was typed


def test_without_an_experiment_there_is_one_stage_main():
    composed = plan(["data=toy", "model=edsr", "scale=3", "sets=[toy]"])
    assert [s.name for s in composed.stages] == ["main"]
    assert composed.stages[0].config["model"] == {
        "_target_": "sr_train.models.edsr.EDSR", "scale": 3, "channels": 256, "blocks": 32, "res_scale": 0.1,
        "image_channels": 3,
    }  # fmt: skip


def test_a_callback_can_be_added_on_the_command_line():
    spec = "callbacks.stats={_target_: lightning.pytorch.callbacks.DeviceStatsMonitor}"
    stage = plan(["experiment=quickstart_edsr", spec]).stages[0]
    assert stage.config["callbacks"]["stats"]["_target_"].endswith("DeviceStatsMonitor")
    with pytest.raises(ConfigError, match="cpu_stat"):
        plan(["experiment=quickstart_edsr", spec.replace("}", ", cpu_stat: true}")])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("trainer.max_stesp=5", "no stage has this key; did you mean max_steps"),
        ("trainr.max_steps=5", "no stage has 'trainr'; did you mean trainer"),
        ("sede=1", "did you mean seed"),
        ("trainer.max_epochs=3", "no stage has this key"),  # sr-train's own: it would be ignored
        ("model.blocks=many", 'model.blocks="many": expected an integer'),
        ("trainer.max_steps=1.5", r"trainer.max_steps=1.5: expected an integer"),
        ("data.augment=perhaps", "expected true or false"),
        ("resume=sometimes", "expected 'auto' or 'force' or 'never'"),
        ("task.optimizer.betas=1", r"task.optimizer.betas=1: expected a list"),
        ("model=edsr_basline", "edsr_basline"),
        ("experiment=quikstart", "quikstart"),
        ("stage=x3", "stage=x3: there is no such stage; stages are x2"),
        ("model.channels", "not KEY=VALUE"),
        ("seed=1,2", "add -m"),
        ("~trainer.precision", "keys cannot be deleted"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_name(typed, message):
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=quickstart_edsr", typed] if not typed.startswith("experiment") else [typed])


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=quickstart_edsr", "trainer.max_stesp=5", "modl.blocks=2", "data.wrkers=1"])
    for key in ("trainer.max_stesp", "modl", "data.wrkers"):
        assert sum(problem.startswith(key) for problem in caught.value.problems) == 1, caught.value.problems


def test_an_experiment_file_with_a_typo_is_refused(tmp_path, monkeypatch):
    from sr_train.config import stage_config

    real = stage_config.compose_config

    def compose_with_typos(name, overrides):
        config = real(name, overrides)
        from omegaconf import OmegaConf, open_dict

        with open_dict(config):
            if any(o.startswith("experiment=") for o in overrides):
                config.sede = 3
                OmegaConf.update(config, "model.chanels", 3, force_add=True)
                OmegaConf.update(config, "stages.x2", {"scale": 2, "trainer.max_stpes": 3}, force_add=True)
        return config

    for module in ("plan", "stage_config"):
        monkeypatch.setattr(f"sr_train.config.{module}.compose_config", compose_with_typos)
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=quickstart_edsr"])
    assert "stage x2: unknown key 'trainer.max_stpes'; did you mean max_steps" in str(caught.value)


def test_missing_values_are_named():
    with pytest.raises(ConfigError, match=r"data\.train has no value"):
        plan(["data=base"])


@pytest.mark.parametrize(
    "answers",
    [
        {
            "gan.loss.weights.adversaril=1": "perceptual, adversarial, pixel; did you mean gan.loss.weights.adversarial?",
            "gan.loss.wieghts.adversarial=1": "stage gan has no 'loss.wieghts'; did you mean gan.loss.weights?",
            "loss.wieghts.adversarial=1": "no stage has 'loss.wieghts'; did you mean loss.weights?",
            "gann.loss.weights.pixel=1": "no stage has 'gann'; did you mean gan?",
            "gan={loss: l1}": "is a stage; give its keys as gan.KEY=VALUE",
            "hydra.run.dir=x": "give paths.runs=DIR and name=NAME",
            "hydra/launcher=x": "keys of Hydra are allowed in sweeps only: add -m",
            "ckpt_path=x": "to continue a run, run the same command again (see resume=); to start from other weights, give",
            "trainer.fast_dev_run=true": "check=true tests every stage",
            "trainer.max_epochs=3": "trainer.max_steps=N",
            "discriminator=srgan": "stage psnr is PixelTask, which has no discriminator: give gan.discriminator=srgan",
        },
        {
            "sets=toy,set5": "sets=toy,set5: give a list, sets=[toy,set5]",
            "init.skip=a,b": "give a list, init.skip=[a,b]",
            "gan.validate.protocols=y,rgb": "give a list, gan.validate.protocols=[y,rgb]",
            "psnr.curve.periods=1,2": "add -m; for a list, give psnr.curve.periods=[1,2]",
            "seed=1,2": "several values need a sweep: add -m",
        },
        {
            "stage=psnr,gan": "stage=psnr,gan: give a list, stage=[psnr,gan]",
            "model=1e3": "model=1e3: there is no such model",
        },
        {
            "data.train=d/rgb": "expected a list of sources, e.g. 'data.train=[{hr: d/rgb}]'",
            "sets.mine=d/rgb": "expected a mapping, e.g. 'sets.mine={hr: d/rgb}'",
        },
        {
            "callbacks.c={_target_: lightning.pytorch.callbacks.ModelCheckpoint}": "not used; give checkpoint.every=STEPS",
            "callbacks.p={_target_: lightning.pytorch.callbacks.TQDMProgressBar}": "sr-train prints its own progress",
        },
        {
            "model={channels: 4}": "replaces all of model, so it needs a _target_; to set single keys, give model.channels=4"
        },
        {"stages={1e3: {scale: 2}}": "YAML reads the name 1000.0 as a float"},
    ],
    ids=lambda answers: next(iter(answers)),
)
def test_wrong_arguments_are_answered_with_the_right_ones(answers):
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=quickstart", *answers])
    for typed, message in answers.items():
        assert any(message in problem for problem in caught.value.problems), f"{typed}: {caught.value.problems}"


def test_names_stay_strings_as_typed():
    composed = plan(["name=1e3", "stages={2: {scale: 2}, 4: {scale: 4}}", "stage=[2]"])
    assert (composed.name, composed.selected) == ("1e3", ("2",))
    assert str(composed.stages[0].folder) == "runs/1e3/2"
    assert plan(["name=true"]).stages[0].config["name"] == "true"


def test_a_typed_mapping_replaces_and_a_single_key_merges():
    sgd = "task.optimizer={_target_: torch.optim.SGD, _partial_: true}"
    edsr = "{_target_: sr_train.models.edsr.EDSR, scale: 4, blocks: 2}"
    composed = plan(
        ["scale=4", sgd, "task.optimizer.momentum=0.9", "model.channels=8", f"model={edsr}", "validate={every: 7}"]
    )
    config = composed.stages[0].config
    assert config["task"]["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9}
    assert config["model"] == {"_target_": "sr_train.models.edsr.EDSR", "scale": 4, "blocks": 2, "channels": 8}
    assert config["validate"]["every"] == 7
    assert config["validate"]["protocols"] == ["y", "rgb"]  # what conf/train.yaml has
    entries = f"stages={{main: {{model: {edsr}, task: {{ema: null}}}}}}"
    config = plan(["scale=4", entries, "loss.reduction=sum"]).stages[0].config
    assert set(config["model"]) == {
        "_target_",
        "scale",
        "blocks",
    }  # of a stage as well, but a plain mapping is shorthand
    assert (config["task"]["ema"], config["task"]["rate"]) == (None, 1e-4)
    assert config["loss"] == {"_target_": "torch.nn.L1Loss", "reduction": "sum"}


def test_another_optimizer_drops_the_options_that_only_the_recipes_optimizer_has():
    composed = plan(["experiment=quickstart", "optimizer=adam", "psnr.task.rate=1e-3"])
    task = composed.stages[1].config["task"]
    assert (task["optimizer"]["_target_"], task["discriminator_optimizer"]) == ("torch.optim.Adam", None)
    assert "stage gan: task.rate=0.007 was chosen for the optimizer muon" in composed.notes
    assert not any(note.startswith("stage psnr: task.rate") for note in composed.notes)


def test_another_option_of_a_group_drops_the_recipes_values_of_that_group():
    composed = plan(["experiment=quickstart", "gan.discriminator=srgan", "gan.task.discriminator.channels=8"])
    assert composed.stages[1].config["task"]["discriminator"] == {
        "_target_": "sr_train.models.discriminators.SRGANDiscriminator", "size": 96, "channels": 8, "image_channels": 3
    }  # fmt: skip
    assert composed.stages[1].config["task"]["rate"] == 7e-3  # the task is the recipe's
    (note,) = composed.notes
    assert (
        "stage gan: discriminator=srgan instead of patch; these settings of the recipe are not used: "
        "task.discriminator.channels=32, task.discriminator.layers=2, task.discriminator.norm=spectral" in note
    )
    composed = plan(["experiment=quickstart_edsr", "stage=x2", "model=edsr", "data=toy", "trainer=cpu"])
    config = composed.stages[0].config
    assert (config["model"]["blocks"], config["model"]["channels"]) == (32, 256)
    assert (config["data"]["lr_patch"], config["trainer"]["max_steps"]) == (
        24,
        2000,
    )  # where and on what is not the recipe
    (note,) = composed.notes
    assert "model=edsr instead of edsr_baseline; these settings of the recipe are not used: " in note
    same = plan(["experiment=quickstart_edsr", "model=edsr_baseline", "task.optimizer=adamw"])
    assert same.stages[0].config["model"]["blocks"] == 8
    assert same.stages[0].config["task"]["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert same.stages[0].config["task"]["rate"] == 3e-3
    assert same.notes == ()


def test_only_the_nearest_names_are_suggested():
    from sr_train.config.folders import near

    assert near("max_stesp", ["max_steps", "max_time", "devices"]) == "; did you mean max_steps?"
    assert near("lagger", ["logger", "lager"]) == "; did you mean lager or logger?"
    assert near("zzz", ["logger"]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# @package _global_\nmodel: {blocks: 1\nscale: 2\n",
            r"bad\.yaml, line \d+, column \d+: cannot be read as YAML",
        ),
        ("# @package _global_\ndata:\n\tbatch: 2\n", r"bad\.yaml, line 3, column 1: cannot be read as YAML"),
        ("scale: 2\n", r"experiment=bad: its YAML needs the first line '# @package _global_'"),
        ("", r"experiment=bad: its YAML needs the first line '# @package _global_'"),
    ],
)
def test_an_experiment_file_without_a_global_package_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "bad.yaml").write_text(text)
    monkeypatch.setenv("SR_CONF", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=bad"])


def test_every_key_of_the_train_config_has_a_type():
    """A key without one would accept any value: ``requeue=abc`` would mean true."""
    config = OmegaConf.to_container(OmegaConf.load(conf_folder() / "train.yaml"))
    assert isinstance(config, dict)
    own = {"defaults", "hydra", "name", "stage", "stages", "folder"}  # checked where a plan is composed
    keys = {
        f"{key}.{name}" if isinstance(node, dict) else str(key)
        for key, node in config.items()
        if key not in own
        for name in (node if isinstance(node, dict) else [key])
    }
    assert keys <= set(OWN), sorted(keys - set(OWN))
    with pytest.raises(ConfigError, match='requeue="abc": expected true or false'):
        plan(["experiment=quickstart_edsr", "requeue=abc"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "gan.loss.weights.perceptual=1",
            r"the loss of stage gan has no term perceptual; its terms are adversarial, pixel\. To add a term, choose a loss "
            r"that has it, e\.g\. gan\.loss=esrgan, or give gan\.loss\.perceptual=\{_target_: CLASS\}",
        ),
        (
            "gan.loss.weights.pixl=1",
            r"has no term pixl; its terms are adversarial, pixel; did you mean gan.loss.weights.pixel\?",
        ),
    ],
)
def test_a_weight_of_a_term_that_the_loss_lacks_is_refused(typed, message):
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=quickstart", "gan.loss=gan", typed])


def test_a_mapping_typed_whole_replaces_and_a_single_key_is_added():
    key = "gan.loss.perceptual.layers"
    (_, gan) = plan(["experiment=quickstart", "gan.loss=esrgan", f"{key}={{conv1_2: 0.1}}"]).stages
    assert gan.config["loss"]["perceptual"]["layers"] == {"conv1_2": 0.1}
    (_, gan) = plan(["experiment=quickstart", "gan.loss=esrgan", f"{key}.conv1_2=0.1"]).stages
    assert gan.config["loss"]["perceptual"]["layers"] == {"conv5_4": 1.0, "conv1_2": 0.1}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ("experiment=quickstart gan.adversarial=hinge", "Hinge"),
        ("experiment=quickstart stage=gan adversarial=lsgan", "LeastSquares"),
        ("experiment=quickstart gan.loss.adversarial=wgan", "Wasserstein"),
        ("experiment=quickstart gan.loss=esrgan gan.adversarial=vanilla", "StandardGAN"),
        ("experiment=quickstart", "StandardGAN"),
        ("experiment=quickstart gan.loss=gan", "RelativisticAverage"),
        ("experiment=msrgan_x4", "StandardGAN"),
        ("experiment=msrgan_x4 gan.loss=gan", "RelativisticAverage"),
        ("stages={gan:{task:gan,loss:srgan,adversarial:hinge,discriminator:patch}}", "Hinge"),
    ],
)
def test_an_adversarial_loss_is_chosen_by_name(arguments, kind):
    loss = plan(arguments.split()).stages[-1].config["loss"]
    assert loss["adversarial"] == {"_target_": f"sr_train.losses.adversarial.{kind}"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "gan.adversarial=hing",
            "no such adversarial loss; did you mean hinge. There are hinge, lsgan, ragan, vanilla, wgan",
        ),
        ("adversarial=hinge", "the loss of stage psnr is L1Loss, which has no adversarial: give gan.adversarial=hinge"),
        ("gan.adversarial=null", "adversarial=null: choose from hinge, lsgan, ragan, vanilla, wgan"),
        ("gan.adversarial=hinge gan.loss.adversarial.real_label=0.9", "has no 'loss.adversarial.real_label'"),
        (
            "gan.discriminator=patch gan.task.discriminator.norm=group",
            "expected 'batch' or 'instance' or 'spectral' or 'none'",
        ),
    ],
)
def test_a_wrong_adversarial_loss_or_discriminator_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=quickstart", *arguments.split()])


def test_a_loss_file_of_the_user_with_its_own_adversarial_term(tmp_path, monkeypatch):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "_target_: sr_train.losses.gan.GANLoss\nadversarial: {_target_: sr_train.losses.adversarial.Hinge}\n"
        "weights: {adversarial: 1.0}\n"
    )
    monkeypatch.setenv("SR_CONF", str(tmp_path))
    composed = plan(["experiment=quickstart", "gan.loss=mine"])
    assert composed.stages[1].config["loss"]["adversarial"]["_target_"].endswith(".Hinge")
    with pytest.raises(ConfigError, match=r"contains its adversarial; give gan.loss.adversarial=\{_target_: CLASS\}"):
        plan(["experiment=quickstart", "gan.loss=mine", "gan.adversarial=wgan"])

import pytest

from sr_train.stages import ConfigError, plan


def test_stages_are_composed_in_the_order_groups_experiment_stage_typed():
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
        "_target_": "sr_train.models.edsr.EDSR", "scale": 3, "channels": 256, "blocks": 32, "res_scale": 0.1
    }  # fmt: skip


def test_a_callback_of_ones_own_is_named_on_the_command_line():
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
        ("model.blocks=many", 'model.blocks="many": expected a whole number'),
        ("trainer.max_steps=1.5", r"trainer.max_steps=1.5: expected a whole number"),
        ("data.augment=perhaps", "expected true or false"),
        ("resume=sometimes", "expected 'auto' or 'force' or 'never'"),
        ("task.optimizer.betas=1", r"task.optimizer.betas=1: expected a list"),
        ("model=edsr_basline", "edsr_basline"),
        ("experiment=quikstart", "quikstart"),
        ("stage=x3", "stage=x3: there is no such stage; they are x2"),
        ("model.channels", "not KEY=VALUE"),
        ("seed=1,2", "add -m"),
        ("~trainer.precision", "nothing can be deleted"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_name(typed, message):
    with pytest.raises(ConfigError, match=message):
        plan(["experiment=quickstart_edsr", typed] if not typed.startswith("experiment") else [typed])


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=quickstart_edsr", "trainer.max_stesp=5", "modl.blocks=2", "data.wrkers=1"])
    assert len(caught.value.problems) == 3


def test_an_experiment_file_with_a_typo_is_refused(tmp_path, monkeypatch):
    import sr_train.stages as stages

    real = stages.compose_config

    def compose_with_typos(name, overrides):
        config = real(name, overrides)
        from omegaconf import OmegaConf, open_dict

        with open_dict(config):
            if any(o.startswith("experiment=") for o in overrides):
                config.sede = 3
                OmegaConf.update(config, "model.chanels", 3, force_add=True)
                OmegaConf.update(config, "stages.x2", {"scale": 2, "trainer.max_stpes": 3}, force_add=True)
        return config

    monkeypatch.setattr(stages, "compose_config", compose_with_typos)
    with pytest.raises(ConfigError) as caught:
        plan(["experiment=quickstart_edsr"])
    assert "stage x2: unknown key 'trainer.max_stpes'; did you mean max_steps" in str(caught.value)


def test_missing_values_are_named():
    with pytest.raises(ConfigError, match=r"data\.train has no value"):
        plan(["data=base"])


def test_only_the_nearest_names_are_suggested():
    from sr_train.stages import near

    assert near("max_stesp", ["max_steps", "max_time", "devices"]) == "; did you mean max_steps?"
    assert near("lagger", ["logger", "lager"]) == "; did you mean lager or logger?"
    assert near("zzz", ["logger"]) == ""

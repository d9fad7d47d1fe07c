from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from helpers import small_edvr
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

import sr_train.training.parallel as parallel
from sr_train.config.plan import plan
from sr_train.console import UsageError
from sr_train.models.batchnorm import local_layers
from sr_train.training.parallel import check_timeout, prepare_networks, processes, statistics_notes, strategy_of
from sr_train.training.stage import build_task
from sr_train.training.trainer import build_trainer, check_deterministic

SRGAN = (
    "experiment=srgan_x4", "stage=gan", "gan.init.stage=null", "data=toy", "sets=[toy]", "gan.model.channels=4",
    "gan.model.blocks=1", "gan.loss.perceptual=null", "gan.task.discriminator.channels=4", "trainer.accelerator=cpu",
    "trainer.precision=32",
)  # fmt: skip


def config_of(*arguments, stage=-1):
    return plan(list(arguments)).stages[stage].config


@pytest.fixture(scope="module")
def gan_config():
    return config_of(*SRGAN)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"devices": 1}, 1), ({"devices": "2", "num_nodes": 3}, 6), ({"devices": [0, 2]}, 2), ({"devices": "0,3,"}, 2),
        ({"devices": -1}, 4), ({"devices": "auto", "num_nodes": 2}, 2), ({"devices": "auto", "accelerator": "cpu"}, 1), ({}, 1),
    ],
)  # fmt: skip
def test_processes_are_counted(monkeypatch, options, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes(options) == count


@pytest.mark.parametrize("name", ["auto", "ddp", "ddp_find_unused_parameters_false"])
def test_ddp_is_an_object_with_our_options(gan_config, name):
    options = {**gan_config["trainer"], "strategy": name, "devices": 2, "timeout": 90.5}
    strategy = strategy_of({**gan_config, "trainer": options})
    assert isinstance(strategy, DDPStrategy)
    assert strategy._timeout == timedelta(seconds=90.5)
    assert strategy._ddp_kwargs == {
        "find_unused_parameters": False, "static_graph": True, "gradient_as_bucket_view": True
    }  # fmt: skip


def test_other_strategies_are_left_to_lightning(gan_config):
    for given in ("auto", "single_device", "ddp_spawn", DDPStrategy()):
        assert strategy_of({**gan_config, "trainer": {"strategy": given, "devices": 1}}) is given


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": {"strategy": "ddp_find_unused_parameters_true"}},
        {"trainer": {"strategy": "ddp", "accumulate_grad_batches": 2}},
        {"scales": [2, 3]},
        {"model": {"_target_": "mine.Net"}},
        {"task": {"_target_": "mine.Task"}},
        {"task": {"_target_": "sr_train.tasks.gan.GANTask", "discriminator": {"_target_": "mine.Discriminator"}}},
    ],
)
def test_the_graph_is_not_static(gan_config, change):
    config = {**gan_config, "trainer": {"strategy": "ddp"}, **change}
    assert strategy_of(config)._ddp_kwargs["static_graph"] is False


@pytest.mark.parametrize("timeout", [0, 0.5, -1, float("nan"), float("inf"), 1e12])
def test_the_timeout_is_at_least_a_second(timeout):
    with pytest.raises(UsageError, match=r"trainer.timeout=.*: expected seconds, a number of at least 1, e.g. 1800"):
        check_timeout({"timeout": timeout})


def test_keys_that_are_not_lightnings_reach_the_strategy_of_the_trainer(gan_config, tmp_path):
    options = {**gan_config["trainer"], "devices": 2, "sync_batchnorm": True, "timeout": 7}
    trainer = build_trainer({**gan_config, "trainer": options, "logger": {}}, [], tmp_path)
    assert trainer.strategy._timeout == timedelta(seconds=7)
    assert trainer.strategy._layer_sync is None, "Lightning's own conversion raises on a CPU"


@pytest.mark.parametrize(
    ("given", "line", "local"),
    [
        ("auto", "BatchNorm: statistics over all 2 devices", 0),
        (True, "BatchNorm: statistics over all 2 devices", 0),
        (False, r"BatchNorm: statistics over each device's images (trainer.sync_batchnorm=false)", 10),
    ],
)
def test_both_networks_of_a_gan_are_synchronized_but_not_the_ema(gan_config, given, line, local):
    task = build_task(gan_config, "gan", None)
    assert prepare_networks(task, given, 1) is None
    assert prepare_networks(task, given, 2) == line
    assert local_layers(task.model) + local_layers(task.discriminator) == local
    assert local_layers(task.ema) == 3
    kept = {name for name, _ in task.named_buffers()} - set(task._ddp_params_and_buffers_to_ignore)
    assert not [name for name in kept if name.startswith("ema.")]
    assert len(kept) == 3 * local, "ddp broadcasts the statistics of local layers only"


def test_a_network_without_batchnorm_has_no_line(gan_config):
    config = config_of("experiment=quickstart_edsr", "stage=x2", "model.channels=4", "model.blocks=1", stage=0)
    task = build_task(config, "x2", None)
    assert prepare_networks(task, "auto", 2) is None
    before = {"trainer": {"accumulate_grad_batches": 1}}
    assert statistics_notes(task, before, {"trainer": {"accumulate_grad_batches": 2}}) == []


def test_a_note_reports_other_statistics_where_a_stage_continues(gan_config):
    task = build_task(gan_config, "gan", None)
    now = {"trainer": {**gan_config["trainer"], "accumulate_grad_batches": 4}}
    assert statistics_notes(task, None, now) == []
    assert statistics_notes(task, gan_config, gan_config) == []
    assert statistics_notes(task, gan_config, now) == [
        "BatchNorm's statistics are over a different number of images from here on (trainer.accumulate_grad_batches: 1 -> 4)"
    ]


def test_buffers_of_process_0_are_shared_before_a_validation(monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, source: sent.append((id(tensor), source)))
    network = nn.BatchNorm2d(2)
    parallel.share_buffers(SimpleNamespace(world_size=1), network)
    assert not sent
    parallel.share_buffers(SimpleNamespace(world_size=2), network)
    assert sent == [(id(buffer), 0) for buffer in network.buffers()]


def test_deterministic_is_refused_where_the_alignment_is_trained_on_cuda():
    network, cuda = small_edvr(), torch.device("cuda")
    check_deterministic({"deterministic": True}, network, torch.device("cpu"))
    check_deterministic({"deterministic": "warn"}, network, cuda)
    with pytest.raises(
        ValueError, match=r"deterministic=true: EDVR's deformable convolution .* give .*deterministic=warn"
    ):
        check_deterministic({"deterministic": True}, network, cuda)
    network.requires_grad_(False)  # as in the stage that trains the attention alone
    check_deterministic({"deterministic": True}, network, cuda)

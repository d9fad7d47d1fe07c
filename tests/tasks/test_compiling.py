import pytest
import torch
from torch import nn

from sr_train.data.dataset import EvalImage
from sr_train.models import contract
from sr_train.models.rrdbnet import RRDBNet
from sr_train.tasks.compiling import compile_network, outermost, uncompiled
from sr_train.training.stage import build_task


def compiled(network):
    return [name for name, module in network.named_modules() if module._compiled_call_impl is not None]


def test_blocks_are_compiled_and_a_network_without_blocks_as_a_whole():
    network = RRDBNet(scale=4, channels=4, growth=2, blocks=3)
    compile_network(network)
    assert compiled(network) == ["body.0", "body.1", "body.2"]
    assert not [name for name in network.state_dict() if "orig_mod" in name]
    plain = nn.Conv2d(1, 1, 1)
    compile_network(plain)
    assert compiled(plain) == [""]


def test_a_block_within_a_block_is_compiled_with_it():
    class Block(nn.Sequential):
        checkpoint_unit = True

    inner = Block()
    outer, alone = Block(nn.Sequential(inner)), Block()
    assert outermost(contract.checkpoint_units(nn.Sequential(outer, alone))) == [outer, alone]


def test_validation_without_an_ema_runs_the_uncompiled_network(plan_of_small_edsr):
    """A compiled program of every image's size would take minutes."""
    config = {**plan_of_small_edsr, "task": {**plan_of_small_edsr["task"], "compile": True, "ema": None}}
    task, calls = build_task(config, "x2", None), []
    assert task.averaged() is task.model
    for block in contract.checkpoint_units(task.model):
        assert block._compiled_call_impl is not None
        block._compiled_call_impl = lambda x: calls.append(x) or x
    task.model(torch.rand(1, 3, 8, 8))
    assert len(calls) == 2
    lr = torch.zeros(3, 8, 9, dtype=torch.uint8)
    sr = task.upscale(EvalImage(**{**dict.fromkeys(EvalImage._fields), "lr": lr, "scale": 2, "set": "s", "key": "k"}))
    assert sr.shape == (3, 16, 18)
    assert len(calls) == 2
    task.model(torch.rand(1, 3, 8, 8))
    assert len(calls) == 4, "training goes on with the compiled blocks"


def test_an_error_of_a_validation_leaves_the_blocks_compiled():
    network = RRDBNet(scale=4, channels=4, growth=2, blocks=1)
    compile_network(network)
    with pytest.raises(ZeroDivisionError), uncompiled(network):
        _ = 1 / len(compiled(network))
    assert compiled(network) == ["body.0"]


@pytest.fixture
def plan_of_small_edsr():
    from sr_train.config.plan import plan

    small = ["experiment=quickstart_edsr", "stage=x2", "model.channels=4", "model.blocks=2"]
    return plan(small).stages[0].config

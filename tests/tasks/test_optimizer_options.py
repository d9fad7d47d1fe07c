"""Options of the optimizer of a checkpoint and of the command that continues."""

import torch
from torch import nn

from sr_train.tasks.optimizer_options import apply_options, options_of


def adam(**options):
    return torch.optim.Adam(nn.Linear(1, 1).parameters(), **options)


def test_only_options_that_differ_between_the_commands_are_replaced():
    started, own = options_of(adam(betas=(0.9, 0.99))), options_of(adam(betas=(0.5, 0.99)))
    groups = [{**started[0], "d": 7.0, "lr": 3.0, "params": [0]}]
    started[0]["d"] = own[0]["d"] = 1.0  # a number of its state among the options, as Prodigy has
    assert apply_options(groups, started, own) == ["betas [0.9, 0.99] -> [0.5, 0.99]"]
    assert groups[0]["betas"] == (0.5, 0.99)
    assert (groups[0]["d"], groups[0]["lr"], groups[0]["params"]) == (7.0, 3.0, [0])


def test_a_list_equals_a_tuple_and_true_is_not_one():
    started, own = options_of(adam(betas=(0.9, 0.999))), options_of(adam())
    own[0]["betas"] = [0.9, 0.999]
    assert apply_options([dict(started[0])], started, own) == []
    own[0]["weight_decay"], started[0]["weight_decay"] = True, 1
    assert apply_options([dict(started[0])], started, own) == ["weight_decay 1 -> True"]


def test_a_checkpoint_without_the_options_of_its_command_takes_torchs_options():
    own = options_of(adam(eps=1e-4))
    group = {**options_of(adam())[0], "d": 7.0}
    own[0]["d"] = 1.0
    assert apply_options([group], None, own) == ["eps 1e-08 -> 0.0001"]
    assert group["d"] == 7.0


def test_fused_is_always_that_of_the_command_and_no_change():
    group, own = options_of(adam())[0], options_of(adam(fused=True))
    assert apply_options([group], options_of(adam()), own) == []
    assert group["fused"] is True


def test_a_fused_optimizer_continues_a_checkpoint_without_it_and_keeps_its_counter_on_the_device():
    """The counter of foreach is on the host, that of fused on the device; meta stands for a device that is not there."""
    earlier = adam(foreach=True)
    for parameter in earlier.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    earlier.step()
    state = earlier.state_dict()
    apply_options(state["param_groups"], None, options_of(adam(fused=True)))
    network = nn.Linear(1, 1)
    same = torch.optim.Adam(network.parameters(), fused=True)
    same.load_state_dict(state)
    assert [float(s["step"]) for s in same.state.values()] == [1, 1]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    same.step()
    assert [float(s["step"]) for s in same.state.values()] == [2, 2]
    away = torch.optim.Adam(nn.Linear(1, 1, device="meta").parameters(), lr=1e-3)
    away.load_state_dict(state)
    assert {v.device.type for s in away.state.values() for v in s.values()} == {"meta"}

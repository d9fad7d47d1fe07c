"""A step of a stage on a GPU that is not there: torch's fake tensors have shapes and devices, and no values."""

import torch
from torch._subclasses import FakeTensorMode

from sr_train.tasks.tensors import Buffers
from sr_train.training.step_memory import empty_batch, make_fake, outline_task


def rehearse(config, scale=None, **options):
    """Run forward, losses, guard, optimizer and EMA of a stage's task with fake tensors on ``cuda``. Return the loss.

    FakeTensorMode has no backward pass on CUDA without a GPU, so the gradients are empty.
    """
    task = outline_task(config, **options)
    with FakeTensorMode():
        make_fake(task, "cuda")
        task.train()
        batch = empty_batch(config, "cuda", scale)
        kept = Buffers(task.networks())
        loss = task.training_step(batch, 0)
        assert loss.device.type == "cuda"
        assert all(number.device.type == "cuda" for number in task.numbers.values())
        kept.restore(~torch.isfinite(loss))
        optimizer = task.configure_optimizers()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        if task.ema is not None:
            task.ema._updates = 1
            task.ema.update_parameters(task.model)
    return loss

"""Work of each of two processes in tests/models/test_batchnorm.py; spawned processes have to import it."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from sr_train.models.batchnorm import synchronize

SHARES = (5, 3)  #: images of each process


def layer(case):
    """Return a BatchNorm with random parameters and running statistics."""
    torch.manual_seed(0)
    norm = case["kind"](7, **case["options"])
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return norm


def batch(case):
    """Return the whole batch and the gradient of the loss with respect to the output."""
    generator = torch.Generator().manual_seed(1)
    shape = (sum(SHARES), 7) if case["kind"] is nn.BatchNorm1d else (sum(SHARES), 7, 5, 6)
    x, of_out = (torch.randn(shape, generator=generator) for _ in range(2))
    x = 3 * x + case.get("offset", 0)
    return x.to(memory_format=case["format"]) if x.ndim == 4 else x, of_out


def run(norm, x, of_out, dtype):
    """Return output, gradients and running statistics of one step, with autocast unless ``dtype`` is float32."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not torch.float32):
        out = norm(x.to(dtype))
    out.backward(of_out.to(out.dtype))
    gradients = {f"gradient of {name}": p.grad for name, p in norm.named_parameters()}
    return {"out": out.detach(), "gradient of x": x.grad, **gradients, **norm.state_dict()}


def work(rank, folder, cases):
    """Compute all cases with this process's images; write the results to a file of the rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=60), world_size=2, rank=rank)
    results = []
    for case in cases:
        norm = layer(case)
        assert synchronize(norm) == 1
        x, of_out = (t.split(SHARES)[rank] for t in batch(case))
        found = run(norm, x, of_out, case["dtype"])
        for name, p in norm.named_parameters():  # ddp averages, which is this sum for a mean over all images
            dist.all_reduce(p.grad)
            found[f"gradient of {name}"] = p.grad
        results.append(found)
    if rank == 0:  # alone: in eval mode nothing is communicated
        norm = layer(cases[0]).eval()
        synchronize(norm)
        results.append({"evaluated": norm(batch(cases[0])[0])})
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()

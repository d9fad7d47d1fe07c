"""``torch.compile`` and recomputation of a network's repeated blocks, and evaluation without compiled blocks."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from sr_train.models import contract


def recompute_activations(network: nn.Module) -> int:
    """Let the backward pass compute each block again from the block's input, to save memory.

    Return the number of blocks. The blocks are modules with the attribute ``checkpoint_unit``. Raise ValueError if the
    network has no such block.
    """
    blocks = contract.checkpoint_units(network)
    if not blocks:
        raise ValueError(
            f"task.recompute=true: {type(network).__name__} has no blocks with an attribute checkpoint_unit; leave it out"
        )
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # pyright: ignore[reportAttributeAccessIssue]
    return len(blocks)


def compile_network(network: nn.Module) -> None:
    """Let ``torch.compile`` compile the blocks of a network when they are first run.

    Blocks are modules with the attribute ``checkpoint_unit``. A network without blocks is compiled as a whole. Equal
    blocks share one compiled program, so 23 blocks are compiled almost as fast as one block. For another size of the
    input, only one block is compiled again. Names of parameters do not change.
    """
    for module in outermost(contract.checkpoint_units(network)) or [network]:
        module.compile()  # pyright: ignore[reportUnknownMemberType]


def outermost(blocks: list[nn.Module]) -> list[nn.Module]:
    """Return the blocks that no other block contains."""
    inside = {id(m) for block in blocks for m in block.modules() if m is not block}
    return [block for block in blocks if id(block) not in inside]


@contextmanager
def uncompiled(network: nn.Module) -> Generator[None]:
    """Run a network without its compiled programs inside the ``with`` block.

    In a validation every image has another size, so torch would compile the network for every image.
    """
    modules: list[Any] = list(network.modules())
    compiled = [(m, m._compiled_call_impl) for m in modules if m._compiled_call_impl is not None]
    try:
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, program in compiled:
            module._compiled_call_impl = program

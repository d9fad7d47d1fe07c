"""``torch.compile`` of a network's repeated blocks, and evaluation without it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sr_train.models import contract


def compile_network(network: nn.Module) -> None:
    """Compile the blocks of a network (``checkpoint_unit``), or all of it if it has none, when they are first run.

    Equal blocks share one compiled program, so a network of 23 blocks is compiled almost as fast as one of them, and another
    size of the input compiles one block again. Names of parameters do not change.
    """
    for module in outermost(contract.checkpoint_units(network)) or [network]:
        module.compile()  # pyright: ignore[reportUnknownMemberType]


def outermost(blocks: list[nn.Module]) -> list[nn.Module]:
    """Return the blocks that no other block contains."""
    inside = {id(m) for block in blocks for m in block.modules() if m is not block}
    return [block for block in blocks if id(block) not in inside]


@contextmanager
def uncompiled(network: nn.Module) -> Generator[None]:
    """Run a network without its compiled programs: every image of a validation has another size to compile for."""
    modules: list[Any] = list(network.modules())
    compiled = [(m, m._compiled_call_impl) for m in modules if m._compiled_call_impl is not None]
    try:
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, program in compiled:
            module._compiled_call_impl = program

"""Bad checkpoints, configs and metrics: refused by name, with a remedy."""

import pytest
from spoil import (
    EVAL,
    LONGER,
    RUN,
    TRAIN,
    Case,
    both,
    check,
    checkpoint,
    cut,
    folder,
    halve,
    hostile,
    nothing,
    of_wider_network,
    remove,
    rewrite,
    text,
    unfinished,
)

CASES = [
    Case(
        "all checkpoints cut",
        LONGER,
        checkpoint(halve),
        1,
        "no checkpoint can be read (2 tried); resume=never renames the folder and starts from scratch",
    ),
    Case(
        "checkpoints of another network",
        LONGER,
        checkpoint(of_wider_network),
        1,
        "does not fit this command; nothing was changed: model.*: model.conv_first.weight: [8, 3, 3, 3] in the checkpoint",
    ),
    Case(
        "checkpoints that would run code",
        LONGER,
        checkpoint(hostile),
        1,
        "refused: it contains more than tensors and plain values",
    ),
    Case(
        "checkpoints of another step",
        LONGER,
        checkpoint(rewrite(global_step=99)),
        1,
        "was written at step 99: the file belongs to another run or was renamed",
    ),
    Case(
        "checkpoints whose weights are none",
        LONGER,
        checkpoint(rewrite(state_dict=[1])),
        1,
        "not a checkpoint of sr-train",
    ),
    Case(
        "checkpoints without loops",
        LONGER,
        checkpoint(rewrite(loops={})),
        1,
        "step_00000004.ckpt: cannot be restored; nothing was changed (KeyError: 'fit_loop')",
    ),
    Case(
        "checkpoints of another optimizer",
        LONGER,
        checkpoint(rewrite(optimizer_states=[{"state": {}, "param_groups": []}])),
        1,
        "task.rate_scale: the checkpoint has parameter groups (none); this command (the others)",
    ),
    Case(
        "a checkpoint for weights",
        (*EVAL, f"weights={RUN}/checkpoints/step_00000004.ckpt"),
        nothing,
        1,
        f"is a checkpoint to resume training from; give the folder of its stage, {RUN}",
    ),
    Case("config damaged", LONGER, text(RUN / "config.yaml", "a: [1"), 1, f"{RUN}/config.yaml: cannot be read"),
    Case(
        "config binary", LONGER, text(RUN / "config.yaml", b"\xff\xfe\x00\x80"), 1, f"{RUN}/config.yaml: cannot be read"
    ),
    Case("config a list", LONGER, text(RUN / "config.yaml", "- 1"), 1, f"{RUN}/config.yaml: is not a config"),
    Case(
        "config gone when scored",
        (*EVAL, f"weights={RUN}"),
        both(unfinished, remove(RUN / "config.yaml")),
        1,
        f"{RUN}: has no checkpoint yet",
    ),
    Case(
        "config without a model when scored",
        (*EVAL, f"weights={RUN}"),
        both(unfinished, text(RUN / "config.yaml", "name: x")),
        1,
        f"{RUN}/config.yaml: damaged, because the name of the network, run or stage is missing",
    ),
    Case(
        "metrics a folder",
        LONGER,
        both(unfinished, remove(RUN / "metrics.csv"), folder(RUN / "metrics.csv")),
        1,
        f"{RUN}/metrics.csv: Is a directory",
    ),
    Case(
        "finished weights damaged",
        TRAIN,
        cut(RUN / "weights.safetensors"),
        1,
        f"{RUN}/weights.safetensors: not a readable safetensors or torch file",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)

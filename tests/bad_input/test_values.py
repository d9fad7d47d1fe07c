"""Bad values: refused by name, with a remedy."""

import pytest
from spoil import EVAL, TRAIN, UPSCALE, Case, check, nothing

CASES = [
    Case(
        "text for a number",
        (*TRAIN, "trainer.max_steps=many"),
        nothing,
        2,
        'trainer.max_steps="many": expected an integer',
    ),
    Case("fraction for a number", (*TRAIN, "data.batch=2.5"), nothing, 2, "data.batch=2.5: expected an integer"),
    Case("list for a number", (*TRAIN, "scale=[2]"), nothing, 2, "scale=[2]: expected an integer"),
    Case(
        "negative batch",
        (*TRAIN, "data.batch=-4", "name=n"),
        nothing,
        2,
        "data.batch=-4: expected an integer of at least 1",
    ),
    Case("negative rate", (*TRAIN, "task.rate=-1", "name=n"), nothing, 2, "task.rate=-1 must be positive"),
    Case("negative scale", (*TRAIN, "scale=-2", "name=n"), nothing, 2, "scale=-2: expected an integer of at least 1"),
    Case(
        "negative interval",
        (*TRAIN, "record.every=-1", "name=n"),
        nothing,
        2,
        "record.every=-1: expected an integer of at least 1",
    ),
    Case(
        "one checkpoint kept",
        (*TRAIN, "checkpoint.keep=1", "name=n"),
        nothing,
        2,
        "checkpoint.keep=1: expected an integer of at least 2",
    ),
    Case(
        "a later stage's rate",
        ("sr-train", "experiment=quickstart_edsr", *TRAIN[3:], "x4.task.rate=-1", "name=n"),
        nothing,
        2,
        "task.rate=-1 must be positive",
    ),
    Case(
        "a later stage's best",
        ("sr-train", "experiment=quickstart_edsr", *TRAIN[3:], "x4.validate.best=a/y/psnr", "name=n"),
        nothing,
        2,
        "validate.best=a/y/psnr is not measured",
    ),
    Case(
        "a later stage's typo",
        ("sr-train", "experiment=quickstart_edsr", *TRAIN[3:], "x4.task.rte=1"),
        nothing,
        2,
        "did you mean x4.task.rate?",
    ),
    Case(
        "negative weight",
        (*TRAIN[:-2], "data.train=[{hr: hr, weight: -1}]", "name=n"),
        nothing,
        1,
        "weight=-1: expected a positive number",
    ),
    Case(
        "source without hr",
        (*TRAIN[:-2], "data.train=[{lr: lr}]", "name=n"),
        nothing,
        1,
        "expected a source, {hr: ..., lr: ..., degrade: ..., list: ..., weight: ...}",
    ),
    Case(
        "unknown protocol in training",
        (*TRAIN, "sets=[toy]", "validate.protocols=[psnr]", "name=n"),
        nothing,
        2,
        "choose from y, y_matlab, rgb, div2k",
    ),
    Case(
        "unknown protocol in scoring",
        (*EVAL, "weights=net.safetensors", "protocols=[y,lab]"),
        nothing,
        2,
        "choose from y, y_matlab, rgb, div2k",
    ),
    Case("unknown set in training", (*TRAIN, "sets=[set99]"), nothing, 2, "there is no such set; did you mean"),
    Case(
        "unknown set in scoring",
        (*EVAL, "weights=net.safetensors", "sets=[set99]"),
        nothing,
        2,
        "there is no such set; did you mean set5",
    ),
    Case("no yaml", (*TRAIN, "data.train=[{hr: hr"), nothing, 2, "not KEY=VALUE"),
    Case("no key", ("sr-eval", "net.safetensors"), nothing, 2, "'net.safetensors': not KEY=VALUE"),
    Case(
        "negative tile",
        (*UPSCALE, "input=hr", "tile=-1"),
        nothing,
        2,
        "tile=-1: expected auto, null for the whole image, or an integer of at least 1",
    ),
    Case(
        "negative scale in scoring",
        ("sr-eval", "weights=bicubic", "hr=hr", "scale=-2"),
        nothing,
        2,
        "scale=-2: expected an integer of at least 1",
    ),
    Case(
        "scale of a million",
        ("sr-eval", "weights=bicubic", "hr=hr", "scale=1000000"),
        nothing,
        1,
        "pixels are too few for scale 1000000",
    ),
    Case(
        "negative scales",
        ("sr-prepare", "images=hr", "store=y.lmdb", "scales=[-2]"),
        nothing,
        2,
        "expected different integers of at least 2",
    ),
    Case(
        "scale twice",
        ("sr-prepare", "images=hr", "store=y.lmdb", "scales=[2,2]"),
        nothing,
        2,
        "expected different integers of at least 2",
    ),
    Case(
        "unknown arithmetic",
        ("sr-prepare", "images=hr", "store=y.lmdb", "arithmetic=exact"),
        nothing,
        2,
        "float, uint8, uint8_replicate",
    ),
    Case(
        "no device",
        (*EVAL[:1], "hr=hr", "weights=net.safetensors", "device=abacus"),
        nothing,
        1,
        "device=abacus: cannot be used here",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)

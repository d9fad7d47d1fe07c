"""Bad weights: refused by name, with a remedy."""

import pickle

import pytest
from spoil import (
    EVAL,
    TRAIN,
    UPSCALE,
    Case,
    Payload,
    check,
    cut,
    evil_module,
    nothing,
    other_network,
    pickled,
    text,
    weights,
)

CASES = [
    Case(
        "weights cut",
        (*EVAL, "weights=net.safetensors"),
        cut("net.safetensors"),
        1,
        "net.safetensors: not a readable safetensors or torch file",
    ),
    Case(
        "weights of another scale",
        (*EVAL, "weights=x3.safetensors", "scale=2"),
        nothing,
        1,
        "scale=2, but x3.safetensors is a network for x3",
    ),
    Case(
        "start from another scale",
        (*TRAIN, "init.weights=x3.safetensors", "name=n"),
        nothing,
        1,
        "upsample.0.weight: [36, 4, 3, 3] in the source, [16, 4, 3, 3] in the network",
    ),
    Case(
        "start from another network",
        (*TRAIN, "init.weights=w.safetensors", "name=n"),
        other_network,
        1,
        "match; list the tensors to re-initialize, e.g. init.skip=",
    ),
    Case(
        "start from nowhere",
        (*TRAIN, "init.weights=none.safetensors", "name=n"),
        nothing,
        1,
        "none.safetensors: there is no such file",
    ),
    Case(
        "nan in weights",
        (*EVAL, "weights=w.safetensors"),
        weights(state=lambda s: {k: v * float("nan") for k, v in s.items()}),
        1,
        "NaN or infinity",
    ),
    Case(
        "tensors missing",
        (*EVAL, "weights=w.safetensors"),
        weights(state=lambda s: dict(list(s.items())[1:])),
        1,
        "w.safetensors: 1 tensor does not match",
    ),
    Case(
        "huge arguments",
        (*EVAL, "weights=w.safetensors"),
        weights(channels=10**12),
        1,
        "w.safetensors: model.channels=1000000000000 is beyond 10000",
    ),
    Case(
        "huge but plausible arguments",
        (*EVAL, "weights=w.safetensors"),
        weights(channels=9999, blocks=9999),
        1,
        "w.safetensors: 40003 tensors do not match sr_train.models.edsr.EDSR: body.0.conv1.bias: [4], expected [9999]",
    ),
    Case(
        "huge scale",
        (*UPSCALE[:2], "weights=w.safetensors", "input=hr", "output=o"),
        weights(scale=10**6),
        1,
        "is not an integer from 1 to 16",
    ),
    Case(
        "header of another version",
        (*EVAL, "weights=w.safetensors"),
        weights(header={"version": "9"}),
        1,
        "w.safetensors: has version 9",
    ),
    Case(
        "header that is no json",
        (*EVAL, "weights=w.safetensors"),
        weights(header={"model": "{"}),
        1,
        "w.safetensors: damaged header",
    ),
    Case(
        "header nested without end",
        (*EVAL, "weights=w.safetensors"),
        weights(header={"model": "[" * 100_000}),
        1,
        "w.safetensors: damaged header",
    ),
    Case(
        "target of os",
        (*EVAL, "weights=w.safetensors"),
        weights(_target_="os.mkdir", path="executed"),
        1,
        "names the network 'os.mkdir'; only networks of sr_train.models",
    ),
    Case(
        "target within an argument",
        (*EVAL, "weights=w.safetensors"),
        weights(channels={"_target_": "os.mkdir", "path": "executed"}),
        1,
        "must be plain values",
    ),
    Case(
        "target of a module at hand",
        (*EVAL, "weights=w.safetensors"),
        evil_module,
        1,
        "names the network 'evil.Net'; only networks of sr_train.models",
    ),
    Case(
        "target beside the networks",
        (*EVAL, "weights=w.safetensors"),
        weights(_target_="sr_train.models.edsr.torch.load"),
        1,
        "w.safetensors: this version of sr-train has no network 'sr_train.models.edsr.torch.load'",
    ),
    Case(
        "a pickle that would run code",
        (*EVAL, "weights=p.pth"),
        pickled("p.pth"),
        1,
        "p.pth: refused: it contains more than tensors",
    ),
    Case(
        "a pickle in old clothes",
        (*EVAL, "weights=p.safetensors"),
        lambda p: (p / "p.safetensors").write_bytes(pickle.dumps(Payload(), protocol=4)),
        1,
        "p.safetensors: refused: it is a Python pickle of protocol 4",
    ),
    Case(
        "a start that would run code", (*TRAIN, "init.weights=p.pth", "name=n"), pickled("p.pth"), 1, "p.pth: refused"
    ),
    Case(
        "a pickle that asks for gigabytes",
        (*EVAL, "weights=p.pth"),
        text("p.pth", b"\x80\x02X\xff\xff\xff\xffabc"),
        1,
        "p.pth: refused: it is a Python pickle of protocol 2",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)

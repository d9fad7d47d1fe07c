"""Networks meet their contract, and only ``models/contract.py`` reads its members by name."""

import ast
import typing
from pathlib import Path

import pytest
import torch
from torch import nn

import sr_train
from sr_train.losses import gan
from sr_train.models import contract
from sr_train.models.bicubic import Bicubic
from sr_train.models.edsr import EDSR
from sr_train.models.edvr import EDVR
from sr_train.models.mdsr import MDSR
from sr_train.models.msrresnet import MSRResNet
from sr_train.models.rrdbnet import RRDBNet
from sr_train.models.srresnet import SRResNet

ROOT = Path(sr_train.__file__).parent
SMALL = {"channels": 4, "blocks": 2}
VIDEO = {"channels": 8, "frames": 3, "groups": 2, "front_blocks": 2, "back_blocks": 2}
NETWORKS = {
    "bicubic": lambda: Bicubic(scale=3),
    "edsr": lambda: EDSR(scale=2, **SMALL),
    "srresnet": lambda: SRResNet(scale=3, **SMALL),
    "msrresnet": lambda: MSRResNet(scale=2, **SMALL),
    "rrdbnet": lambda: RRDBNet(scale=2, growth=2, **SMALL),
    "rrdbnet_x1": lambda: RRDBNet(scale=1, growth=2, **SMALL),
    "mdsr": lambda: MDSR(scales=[2, 3], **SMALL),
    "mdsr_one": lambda: MDSR(scales=[3], **SMALL),
    "edvr": lambda: EDVR(**VIDEO),
    "edvr_plain": lambda: EDVR(tsa=False, predeblur=True, **VIDEO),
    "edvr_hr_in": lambda: EDVR(scale=1, hr_in=True, **VIDEO),
}


def members(module):
    """Return the names of the members in a module's Protocols."""
    protocols = [v for v in vars(module).values() if getattr(v, "_is_protocol", False) and v is not typing.Protocol]
    return {n for p in protocols for n in (*vars(p), *p.__annotations__) if not n.startswith("_")}


def test_no_other_file_reads_members_of_the_contract_by_name():
    names = (members(contract) | members(gan)) - {"forward"}
    assert {"scale", "frames", "fuse", "joins_frames", "checkpoint_unit", "alarm", "needs_real"} < names
    scripts = (ROOT.parent / "scripts").rglob("*.py")
    for path in {*ROOT.rglob("*.py"), *scripts} - {ROOT / "models" / "contract.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                asked = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
                assert asked not in names, f"{path}:{node.lineno}: {asked}: ask sr_train.models.contract"


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


@torch.no_grad()
def test_outputs_have_the_stated_scale_and_inputs_the_stated_multiple(network):
    contract.check(network, "here")
    side = 12 // contract.multiple_of(network) * contract.multiple_of(network) or contract.multiple_of(network)
    lr = torch.rand(contract.input_shape(network, side, side + contract.multiple_of(network)))
    assert lr.ndim == (4 if contract.frames(network) is None else 5)
    for scale in contract.scales(network):
        branch = contract.branch(network, scale)
        assert contract.scale(branch) == scale
        assert contract.multiple_of(branch) == contract.multiple_of(network)
        sr = branch(lr)
        assert list(sr.shape) == [1, 3, side * scale, (side + contract.multiple_of(network)) * scale]
        if contract.branches(network):
            assert torch.equal(sr, network(lr, scale))


@torch.no_grad()
def test_features_of_single_frames_fused_are_the_network(network):
    served = contract.per_frame(network)
    assert (served is None) == (contract.frames(network) is None)
    if served is not None:
        assert served.frames == 2 * served.center + 1
        lr = torch.rand(contract.input_shape(network, 16, 16))
        levels = [served.features(frame) for frame in lr.unbind(1)]
        fused = served.fuse({k: torch.stack([x[k] for x in levels], 1) for k in levels[0]}, lr[:, served.center])
        torch.testing.assert_close(fused, network(lr))


def test_convolutions_that_join_frames_take_the_same_channels_from_each(network):
    count = contract.frames(network)
    assert bool(contract.joins_frames(network)) == (count is not None)
    for name in contract.joins_frames(network):
        conv = network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert conv.in_channels % count == 0


@torch.no_grad()
def test_blocks_with_a_zero_end_are_identities(network):
    units = contract.checkpoint_units(network)
    assert bool(units) == any(p.requires_grad for p in network.parameters())
    for block in network.modules():
        end = contract.residual_end(block)
        if end is not None:
            assert block in units
            for parameter in block.get_submodule(end).parameters():
                parameter.zero_()
            x = torch.rand(1, next(p for p in block.parameters() if p.ndim == 4).shape[1], 6, 6)
            assert torch.equal(block(x), x)


def test_numbers_are_scalars_and_the_alarm_is_silent_on_a_new_network(network):
    if isinstance(network, contract.Watched):
        network.train()(torch.rand(contract.input_shape(network, 16, 16)))
        numbers = network.numbers()
        assert numbers
        assert all(x.ndim == 0 and not x.requires_grad for x in numbers.values())
        assert network.alarm() is None
    assert isinstance(network, contract.Watched) == isinstance(network, EDVR)


class Odd(nn.Module):
    """A network with the given attributes."""

    def __init__(self, **stated):
        super().__init__()
        for name, value in stated.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({}, "here needs an attribute scale"),
        ({"scale": 2.0, "multiple_of": 1}, "here needs an attribute scale"),
        ({"scale": 2}, "here needs an attribute multiple_of"),
        ({"scales": [2, 3], "multiple_of": 1}, r"here has scales and needs a method at\(scale\)"),
    ],
)
def test_the_error_for_a_missing_member_contains_its_name(stated, message):
    with pytest.raises(ValueError, match=message):
        contract.check(Odd(**stated), "here")

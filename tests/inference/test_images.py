import math

import pytest
import torch
from torch import nn

from sr_train.inference.images import super_resolve, super_resolve_bands
from sr_train.inference.tiling import (
    WHOLE,
    TileError,
    bytes_per_pixel,
    plan_tiles,
    receptive_radius,
    smaller,
    whole_if_small,
)
from sr_train.models.bicubic import Bicubic
from sr_train.models.edsr import EDSR
from sr_train.models.msrresnet import MSRResNet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return EDSR(scale=2, channels=8, blocks=2, res_scale=1.0).eval()


class Aligned(nn.Module):
    """A network that needs sizes in multiples of 4: space to depth, a convolution, and back."""

    scale, multiple_of = 2, 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(48, 48 * 4, 3, padding=1)

    def forward(self, lr):
        return nn.functional.pixel_shuffle(self.conv(nn.functional.pixel_unshuffle(lr, 4)), 8)


class Averaging(nn.Module):
    """A network whose every pixel depends on the whole image."""

    scale, multiple_of = 1, 1

    def forward(self, lr):
        return lr - 0.1 * lr.mean((-1, -2), keepdim=True)


def test_the_receptive_field_equals_the_count_of_convolutions():
    # conv_first, two a block, conv_after_body, one a step of the upsampler, conv_last on the upscaled image
    assert receptive_radius(EDSR(scale=2, channels=4, blocks=2, res_scale=1.0).eval()) == 1 + 4 + 1 + 1 + 1
    assert receptive_radius(EDSR(scale=2, channels=2, blocks=16, res_scale=1.0).eval()) == 1 + 32 + 1 + 1 + 1
    assert receptive_radius(Bicubic(scale=2)) == 2
    assert receptive_radius(Averaging()) is None
    radius = receptive_radius(Aligned().eval())
    assert radius is not None
    assert 7 <= radius <= 8 + 4  # a convolution of 3 on a grid of 4


@pytest.mark.parametrize("tile", [1, 7, 16, 50, 200])
@pytest.mark.parametrize("size", [(61, 43), (9, 40), (1, 5)])
def test_tiles_give_the_result_of_the_whole_image(network, tile, size):
    lr = torch.rand(3, *size)
    tiling = plan_tiles(network, tile=tile)
    assert tiling.exact
    whole = super_resolve(network, lr)
    assert whole.shape == (3, size[0] * 2, size[1] * 2)
    assert (super_resolve(network, lr, tiling=tiling) - whole).abs().max() < 1e-5


def test_tiles_of_a_network_on_a_grid_give_the_result_of_the_whole_image():
    torch.manual_seed(0)
    network = Aligned().eval()
    lr = torch.rand(3, 64, 88)
    for tile in (4, 10, 24):
        tiled = super_resolve(network, lr, tiling=plan_tiles(network, tile=tile))
        assert (tiled - super_resolve(network, lr)).abs().max() < 1e-5
    with pytest.raises(TileError, match="give tile=4 or more"):
        plan_tiles(network, tile=3)


def test_tiles_smaller_than_the_receptive_field_are_blended_and_not_exact(network):
    lr = torch.rand(3, 64, 64)
    whole = super_resolve(network, lr)
    tiling = plan_tiles(network, tile=20, overlap=4)
    assert (tiling.exact, tiling.blend) == (False, 2)
    difference = (super_resolve(network, lr, tiling=tiling) - whole).abs()
    hard = (super_resolve(network, lr, tiling=plan_tiles(network, tile=20, overlap=0)) - whole).abs()
    assert 0 < difference.mean() < hard.mean() / 3
    averaging = plan_tiles(Averaging(), tile=100)
    assert not averaging.exact
    assert averaging.blend == 48


@pytest.mark.parametrize("width", [97, 100, 143, 192, 193, 385])
def test_the_weights_of_blended_tiles_add_up_to_one(width):
    class Identity(nn.Module):
        scale, multiple_of = 3, 1

        def forward(self, lr):
            return lr.repeat_interleave(3, -1).repeat_interleave(3, -2)

    lr = torch.rand(3, 150, width)
    tiling = plan_tiles(Identity(), tile=96, overlap=96)._replace(blend=48, exact=False)
    tiled = super_resolve(Identity(), lr, tiling=tiling)
    assert (tiled - super_resolve(Identity(), lr)).abs().max() < 1e-6


def test_bands_come_from_the_top_down_and_count_every_pixel(network):
    lr = torch.rand(3, 50, 40)
    pixels = []
    bands = list(super_resolve_bands(network, lr, tiling=plan_tiles(network, tile=16), done=pixels.append))
    assert [first for first, _ in bands] == [0, 24, 50, 74]
    assert sum(band.shape[1] for _, band in bands) == 100
    assert sum(pixels) == 50 * 40


def test_the_ensemble_is_the_mean_of_eight_augmented_outputs(network):
    lr = torch.rand(3, 20, 31)
    expected = []
    for k in range(4):
        for flipped in (False, True):
            x = torch.rot90(lr, k, (1, 2))
            x = x.flip(2) if flipped else x
            y = super_resolve(network, x)
            y = y.flip(2) if flipped else y
            expected.append(torch.rot90(y, -k, (1, 2)))
    mean = torch.stack(expected).mean(0)
    assert (super_resolve(network, lr, ensemble=True) - mean).abs().max() < 1e-5
    tiled = super_resolve(network, lr, ensemble=True, tiling=plan_tiles(network, tile=12))
    assert (tiled - mean).abs().max() < 1e-5
    assert (super_resolve(Bicubic(scale=2), lr, ensemble=True) - super_resolve(Bicubic(scale=2), lr)).abs().max() < 1e-6


def test_auto_chooses_tiles_that_fit_into_memory():
    network = EDSR(scale=2, channels=16, blocks=1, res_scale=1.0).eval()
    need = bytes_per_pixel(network)
    assert need == 16 * 4 * 4 * 2 + 16 * 4  # the upsampler's output, shuffled, next to its input
    for memory in (4 << 20, 64 << 20):
        tiling = plan_tiles(network, memory=memory)
        assert tiling.tile is not None
        assert (tiling.tile + 2 * tiling.overlap) ** 2 * need < memory
    assert plan_tiles(network, memory=1).tile == 32
    small = plan_tiles(network, memory=4 << 20)
    assert whole_if_small(small, 20, 30) == WHOLE
    assert whole_if_small(small, 2000, 3000) == small


def test_tiles_shrink_to_a_minimum():
    tiling = plan_tiles(EDSR(scale=2, channels=4, blocks=1, res_scale=1.0).eval(), tile=500)
    sides = []
    while tiling is not None:
        sides.append(tiling.tile)
        tiling = smaller(tiling, 3000, 4000)
    assert sides == [500, 240, 112, 48]


@pytest.mark.parametrize("wrong", [{"tile": 0}, {"tile": "big"}, {"tile": 64, "overlap": -1}, {"tile": 1.5}, {"tile": True},
                                   {"tile": 8, "overlap": 1.5}, {"tile": 8, "overlap": False}, {"overlap": None}])  # fmt: skip
def test_wrong_tiles_are_refused(network, wrong):
    with pytest.raises(TileError, match="expected"):
        plan_tiles(network, **wrong)
    with pytest.raises(TileError, match="too small for an overlap of 200"):
        plan_tiles(Averaging(), tile=10, overlap=200)


def test_bf16_stays_near_fp32(network):
    lr = torch.rand(3, 32, 32)
    difference = (super_resolve(network, lr, precision="bf16") - super_resolve(network, lr)).abs().max()
    assert 0 < difference < 0.05


def test_inputs_are_padded_to_the_networks_multiple():
    torch.manual_seed(0)
    network = MSRResNet(scale=3, channels=4, blocks=1).eval()
    assert super_resolve(network, torch.rand(3, 1, 1)).shape == (3, 3, 3)
    assert math.isfinite(float(super_resolve(Aligned().eval(), torch.rand(3, 5, 2)).sum()))

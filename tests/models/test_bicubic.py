import numpy as np
import pytest
import torch

from sr_train.data.images import read_image
from sr_train.data.toy import toy_files
from sr_train.metrics.functional import quantize
from sr_train.models.bicubic import Bicubic
from sr_train.resampling import ARITHMETICS, imresize


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_network_gives_the_pixels_of_imresize(arithmetic, scale):
    image = read_image(toy_files("chelsea")["chelsea"])[100:140, 100:151]
    sr = Bicubic(scale=scale, arithmetic=arithmetic)(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    ours = quantize(sr[0]).permute(1, 2, 0).numpy().astype(np.uint8)
    theirs = imresize(image, scale, arithmetic=arithmetic)
    assert ours.shape == theirs.shape
    different = ours != theirs  # float32 input may tip a tie of the float arithmetic
    assert different.mean() < (1e-4 if arithmetic == "float" else 1e-12)


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(ValueError, match="float, uint8, uint8_replicate"):
        Bicubic(scale=2, arithmetic="matlab")  # pyright: ignore[reportArgumentType]

"""Networks that spandrel recognizes, in our contract. Needs the extra "spandrel"; spandrel's own call is the reference."""

import sys

import pytest
import torch
from helpers import equal

from sr_train.inference.images import super_resolve
from sr_train.inference.tiling import plan_tiles
from sr_train.models.spandrel import SpandrelNetwork, class_of
from sr_train.weights.file import Weights, load_weights, pack, save_weights, unpack
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network

SMALL = (
    "data=toy", "sets=[]", "data.workers=0", "data.batch=2", "trainer.accelerator=cpu", "trainer.precision=32", "logger=csv",
    "validate.pictures=0", "model=spandrel", "model.file=net.pth", "name=sp",
)  # fmt: skip
PIXEL = (*SMALL, "experiment=edsr_baseline_x2", "data.lr_patch=12", "checkpoint.every=1")


def architecture(path):
    pytest.importorskip("spandrel")
    return class_of(f"spandrel.architectures.{path}")


def compact(scale=2):
    return architecture("Compact.__arch.SRVGG.SRVGGNetCompact")(num_feat=8, num_conv=2, upscale=scale)


def swinir(scale=2):
    kind = architecture("SwinIR.__arch.SwinIR.SwinIR")
    sizes = {"img_size": 16, "window_size": 8, "depths": [2], "num_heads": [2], "embed_dim": 12, "mlp_ratio": 2}
    return kind(upscale=scale, upsampler="nearest+conv" if scale == 4 else "pixelshuffledirect", **sizes)


def span(scale=2):
    kind = architecture("SPAN.__arch.span.SPAN")
    return kind(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=scale)


def plksr(scale=2):
    return architecture("PLKSR.__arch.PLKSR.PLKSR")(dim=16, n_blocks=2, upscaling_factor=scale)


def omnisr(scale=4):
    return architecture("OmniSR.__arch.OmniSR.OmniSR")(up_scale=scale)


NETWORKS = {"compact": compact, "swinir": swinir, "span": span, "plksr": plksr, "omnisr": omnisr}


def saved(path, network, wrap=lambda state: {"params_ema": {f"module.{k}": v for k, v in state.items()}}):
    torch.save(wrap(network.state_dict()), path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_output_of_spandrels_own_call(tmp_path, name):
    spandrel = pytest.importorskip("spandrel")
    torch.manual_seed(0)
    path = saved(tmp_path / "net.pth", NETWORKS[name]())
    expected = spandrel.ModelLoader().load_from_state_dict({"params_ema": load_weights(path).state}["params_ema"])
    weights = unpack(pack(load_weights(path), where="net"), where="net")  # through the header of a weights file
    network = build_network(weights, where="net")
    assert isinstance(network, SpandrelNetwork)
    assert weights.origin["layout"] == f"spandrel's {expected.architecture.name}"
    assert weights.origin["wrapper"].startswith("params_ema")
    for height, width in ((16, 24), (19, 33), (9, 11)):
        lr = torch.rand(1, 3, height, width)
        with torch.no_grad():
            found = network(lr).clamp(0, 1)
        assert found.shape == (1, 3, height * network.scale, width * network.scale)
        if min(height, width) >= network.minimum:  # smaller images: spandrel mirrors them, ours repeats the border
            torch.testing.assert_close(found, expected(lr), atol=1e-6, rtol=1e-5)


def test_names_are_those_of_spandrels_class_and_open_there_again(tmp_path):
    spandrel = pytest.importorskip("spandrel")
    network = swinir()
    weights = load_weights(saved(tmp_path / "net.pth", network))
    assert list(weights.state) == list(network.state_dict())
    save_weights(tmp_path / "net.safetensors", weights)
    lr = torch.rand(1, 3, 16, 16)
    again = spandrel.ModelLoader().load_from_file(tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(again(lr), build_network(weights, where="net")(lr).clamp(0, 1))


def test_tiles_equal_the_whole_image_and_are_blended_for_windows_of_attention(tmp_path):
    torch.manual_seed(0)
    lr = torch.rand(3, 100, 130)
    for make, exact in ((compact, True), (span, True), (plksr, True), (swinir, False), (lambda: swinir(4), False)):
        network = build_network(load_weights(saved(tmp_path / "net.pth", make())), where="net")
        tiling = plan_tiles(network, tile=96, overlap="auto")
        assert tiling.exact == exact, network.inner
        if exact:
            whole = super_resolve(network, lr)
            torch.testing.assert_close(super_resolve(network, lr, tiling=tiling), whole, atol=1e-5, rtol=1e-5)


def test_buffers_parameters_and_mode_are_those_of_one_network():
    network = SpandrelNetwork(
        scale=2, network="spandrel.architectures.Compact.__arch.SRVGG.SRVGGNetCompact",
        hyperparameters={"num_feat": 8, "num_conv": 2, "upscale": 2},
    ) if compact() else None  # fmt: skip
    assert network is not None
    network.double().eval()
    assert not network.inner.training
    assert all(p.dtype is torch.float64 for p in network.inner.parameters())
    assert not any(name.startswith("inner") for name in network.state_dict())
    assert network(torch.rand(1, 3, 4, 4).double()).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("path", "arguments", "reason"),
    [
        ("SCUNet.__arch.SCUNet.SCUNet", {}, "is a network for Restoration and not for SR"),
        ("Compact.__arch.SRVGG.SRVGGNetCompact", {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_conv": 2, "upscale": 2},
         "has 1 input and 1 output channels; only RGB is supported"),
    ],
)  # fmt: skip
def test_networks_that_are_not_for_sr_of_rgb_are_refused_with_the_reason(tmp_path, path, arguments, reason):
    path = saved(tmp_path / "net.pth", architecture(path)(**arguments))
    with pytest.raises(WeightsError, match=rf"net\.pth: spandrel recognizes .*, which {reason}"):
        load_weights(path)


def test_a_header_can_name_networks_of_spandrel_only(tmp_path):
    for name in (
        "os.mkdir",
        "spandrel.ModelLoader",
        "spandrel.architectures.SwinIR.SwinIRArch",
        "spandrel.architectures.x();",
    ):
        with pytest.raises(ValueError, match=r"expected a class of|is not a network|has no network|not installed"):
            class_of(name)


def test_without_spandrel_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    torch.save({"layers.0.attn.weight": torch.zeros(4, 4), "norm.weight": torch.zeros(4)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r'no key format matches .*install it: pip install "\.\[spandrel\]"'):
        load_weights(tmp_path / "net.pth")
    model = {"_target_": "sr_train.models.spandrel.SpandrelNetwork", "scale": 2, "hyperparameters": {},
             "network": "spandrel.architectures.SPAN.__arch.span.SPAN"}  # fmt: skip
    with pytest.raises(WeightsError, match=r'SpandrelNetwork cannot be built .*pip install "\.\[spandrel\]"'):
        build_network(Weights(model, {}), where="net")


def test_commands_open_evaluate_upscale_train_and_continue(invoke, tmp_path, photographs):
    saved(tmp_path / "net.pth", compact())
    done = invoke("sr-eval", "weights=net.pth", "hr=photographs", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert "layout: spandrel's RealESRGAN Compact" in done.stdout
    done = invoke("sr-upscale", "weights=net.pth", "input=photographs/0000.png", "output=out", "device=cpu", "tile=32")
    assert done.returncode == 0, done.stderr
    for steps in (1, 2):
        done = invoke("sr-train", *PIXEL, f"trainer.max_steps={steps}", "task.rate=1e-9")
        assert done.returncode == 0, done.stderr
    assert "from step 1 (step_00000001.ckpt) to step 2" in done.stdout
    trained, first = load_weights(tmp_path / "runs/sp/x2/weights.safetensors"), load_weights(tmp_path / "net.pth")
    assert trained.model == first.model
    assert trained.state.keys() == first.state.keys()
    for name, value in first.state.items():  # it started from the file
        torch.testing.assert_close(trained.state[name], value, rtol=0, atol=1e-6)
    assert invoke("sr-eval", "weights=runs/sp/x2", "hr=photographs", "device=cpu").returncode == 0
    (tmp_path / "runs/sp/x2/weights.safetensors").unlink()  # from its checkpoint
    done = invoke("sr-eval", "weights=runs/sp/x2", "hr=photographs", "device=cpu")
    assert done.returncode == 0, done.stderr
    done = invoke("sr-train", *PIXEL, "trainer.max_steps=1", "name=other", "init.weights=net.pth")
    assert done.returncode == 0, done.stderr
    assert "net.pth: layout: spandrel's RealESRGAN Compact" in done.stdout


def test_the_scale_of_the_file_is_compared(invoke, tmp_path):
    saved(tmp_path / "net.pth", compact(4))
    done = invoke("sr-train", *PIXEL, "trainer.max_steps=1")
    assert done.returncode != 0
    assert "model.file=net.pth is a network for x4; give scale=4" in done.stderr


def test_a_gan_is_trained(invoke, tmp_path):
    saved(tmp_path / "net.pth", compact(4))
    done = invoke(
        "sr-train", *SMALL, "experiment=esrgan_x4", "stage=gan", "init.weights=net.pth", "loss=gan", "data.lr_patch=8",
        "task.discriminator.size=32", "task.discriminator.channels=4", "trainer.max_steps=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    start, trained = load_weights(tmp_path / "net.pth"), load_weights(tmp_path / "runs/sp/gan/weights.safetensors")
    assert trained.model == start.model
    assert not equal(trained.state, start.state)

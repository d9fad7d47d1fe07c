"""BasicSR's names and shapes are written out here, not taken from our networks."""

import os
import pickle
import zipfile

import pytest
import torch
from helpers import equal
from safetensors.torch import save_file

from sr_train.data.images import read_image, write_image
from sr_train.data.toy import toy_files
from sr_train.models.edsr import EDSR
from sr_train.models.msrresnet import MSRResNet
from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError
from sr_train.weights.network import build_network


def _tensors(convolutions):
    """{name: (outputs, inputs)} -> random weights and biases of 3x3 convolutions."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (outputs, inputs) in convolutions.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    return state


def _body(f, blocks):
    return {f"body.{i}.conv{j}": (f, f) for i in range(blocks) for j in (1, 2)}


def edsr(scale, f=4, blocks=2):
    up = {2: {"upsample.0": (4 * f, f)}, 3: {"upsample.0": (9 * f, f)},
          4: {"upsample.0": (4 * f, f), "upsample.2": (4 * f, f)}}  # fmt: skip
    return _tensors({"conv_first": (f, 3), **_body(f, blocks), "conv_after_body": (f, f), **up[scale],
                     "conv_last": (3, f)})  # fmt: skip


def msrresnet(scale, f=4, blocks=2):
    up = {2: {"upconv1": (4 * f, f)}, 3: {"upconv1": (9 * f, f)}, 4: {"upconv1": (4 * f, f), "upconv2": (4 * f, f)}}
    return _tensors({"conv_first": (f, 3), **_body(f, blocks), **up[scale], "conv_hr": (f, f), "conv_last": (3, f)})


def _save(path, content, **options):
    torch.save(content, path, **options)
    return path


def _load(path):
    weights = load_weights(path)
    return weights, build_network(weights, where=str(path))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("tensors", "reference"), [(edsr, EDSR), (msrresnet, MSRResNet)])
def test_the_network_and_its_arguments_are_read_from_names_and_shapes(tmp_path, tensors, reference, scale):
    state = tensors(scale, f=5, blocks=3)
    weights, network = _load(_save(tmp_path / "net.pth", {"params": state}))
    extra = {"res_scale": 1.0} if reference is EDSR else {}
    expected = reference(scale=scale, channels=5, blocks=3, **extra).eval()
    expected.load_state_dict(state)
    assert type(network) is reference
    assert weights.model == {
        "_target_": f"{reference.__module__}.{reference.__name__}", "scale": scale, "channels": 5, "blocks": 3, **extra
    }  # fmt: skip
    assert (weights.origin["file"], weights.origin["layout"]) == ("net.pth", f"BasicSR's {reference.__name__}")
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        assert network(lr).shape == (1, 3, 7 * scale, 9 * scale)
        assert torch.equal(network(lr), expected(lr))


@pytest.mark.parametrize(("channels", "res_scale"), [(256, 0.1), (64, 1.0)])
def test_residual_scaling_is_the_papers_and_reported_as_assumed(tmp_path, channels, res_scale):
    weights = load_weights(_save(tmp_path / "net.pth", edsr(2, f=channels, blocks=1)))
    assert weights.model["res_scale"] == res_scale
    assert f"res_scale={res_scale:g} for {channels} channels" in weights.origin["assumed"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", ["", "params", "params_ema", "state_dict"])
def test_all_wrappers_are_removed(tmp_path, wrapper, prefix, legacy):
    state = edsr(2)
    content = {f"{prefix}{k}": v for k, v in state.items()}
    content = {wrapper: content, "iter": 5, "note": ["a"]} if wrapper else {**content, "epoch": 3, "meta": {"x": None}}
    path = _save(tmp_path / "net.any", content, _use_new_zipfile_serialization=not legacy)
    weights, _ = _load(path)
    assert equal(weights.state, state)
    assert weights.origin.get("wrapper", "") == " > ".join(filter(None, (wrapper, prefix.rstrip("."))))


def test_the_ema_is_preferred(tmp_path):
    state = edsr(2)
    raw = {k: v + 1 for k, v in state.items()}
    assert equal(load_weights(_save(tmp_path / "a.pth", {"params": raw, "params_ema": state})).state, state)
    assert equal(load_weights(_save(tmp_path / "b.pth", {"params": raw, "params_ema": None})).state, raw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_become_float32_copies(tmp_path, dtype):
    path = _save(tmp_path / "net.pth", {k: v.to(dtype) for k, v in edsr(2).items()})
    weights, _ = _load(path)
    path.write_bytes(b"")  # the tensors must not be a view of the file
    assert all(v.dtype is torch.float32 for v in weights.state.values())
    assert equal(weights.state, {k: v.to(dtype).float() for k, v in edsr(2).items()})


def test_parameters_in_channels_last_memory_load(tmp_path):
    state = {k: torch.nn.Parameter(v.to(memory_format=torch.channels_last) if v.dim() == 4 else v)
             for k, v in msrresnet(4).items()}  # fmt: skip
    weights = load_weights(_save(tmp_path / "net.pth", state))
    assert equal(weights.state, msrresnet(4))
    assert all(v.is_contiguous() and not v.requires_grad for v in weights.state.values())


def test_a_bare_safetensors_file_is_matched_with_the_key_formats(tmp_path):
    save_file({f"module.{k}": v for k, v in msrresnet(4).items()}, tmp_path / "net.safetensors")
    weights, network = _load(tmp_path / "net.safetensors")
    assert isinstance(network, MSRResNet)
    assert equal(weights.state, msrresnet(4))


class _Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_not_run(tmp_path, protocol):
    path, marker = tmp_path / "bomb.pth", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"params": edsr(2), "x": _Bomb(marker)}, protocol=protocol))
    with pytest.raises(WeightsError, match=r"bomb\.pth: (refused|not a readable)"):
        load_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_code_next_to_tensors_is_reported_and_not_run(tmp_path, legacy):
    marker = tmp_path / "executed"
    content = {"params": edsr(2), "x": _Bomb(marker)}
    path = _save(tmp_path / "bomb.pth", content, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"bomb\.pth: refused.*needs \w+\.system\), and loading.*run code"):
        load_weights(path)
    assert not marker.exists()


def test_a_pickled_network_is_refused(tmp_path):
    path = _save(tmp_path / "whole.pth", EDSR(scale=2, channels=4, blocks=1))
    with pytest.raises(
        WeightsError, match=r"it needs sr_train\.models\.edsr\.EDSR\).*only the network's state_dict\(\)"
    ):
        load_weights(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, legacy):
    data = _save(tmp_path / "net.pth", edsr(2, blocks=1), _use_new_zipfile_serialization=not legacy).read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, 40), *range(40, len(data), len(data) // 40), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"cut\.pth: "):
            load_weights(path)


def test_a_changed_byte_is_found_by_its_checksum(tmp_path):
    state = edsr(2)
    path = _save(tmp_path / "net.pth", state)
    data, tensor = path.read_bytes(), state["conv_after_body.weight"].numpy().tobytes()
    at = data.index(tensor)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(WeightsError, match=r"net\.pth: damaged: the checksum of"):
        load_weights(path)


def test_archives_that_grow_when_unpacked_are_refused(tmp_path):
    with (
        zipfile.ZipFile(_save(tmp_path / "net.pth", edsr(2))) as old,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(WeightsError, match=r"packed\.pth: is a compressed archive"):
        load_weights(tmp_path / "packed.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_larger_than_its_file_is_refused_before_it_is_copied(tmp_path, legacy):
    state = edsr(2)
    state["conv_first.weight"] = torch.zeros(1).expand(10**8, 10**4)
    path = _save(tmp_path / "net.pth", state, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"need 4,000,000,\d+,\d+ bytes, but the file has"):
        load_weights(path)


@pytest.mark.parametrize(
    "value", [torch.zeros(4, 3, 3, 3).to_sparse(), torch.zeros(4, 3, 3, 3, dtype=torch.int8), torch.zeros(4, device="meta"),
              torch.zeros(4, dtype=torch.complex64), torch.zeros(4, 3, 3, 3, dtype=torch.int64)],
    ids=["sparse", "int8", "meta", "complex", "int64"],
)  # fmt: skip
def test_tensors_of_another_kind_are_refused(tmp_path, value):
    path = _save(tmp_path / "net.pth", {**edsr(2), "conv_first.weight": value})
    with pytest.raises(WeightsError, match=r"tensor conv_first\.weight is .*expected a plain floating-point"):
        load_weights(path)


@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_tensors_that_are_not_finite_in_float32_are_refused(tmp_path, value):
    state = {k: v.double() for k, v in edsr(2).items()}
    state["conv_last.bias"][1] = value
    with pytest.raises(WeightsError, match=r"1 tensor contains NaN or infinity: conv_last\.bias"):
        load_weights(_save(tmp_path / "net.pth", state))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "contains a list; expected a network's state dict"),
        (torch.zeros(1), "contains a Tensor"),
        ({}, "contains no named tensors.*its keys: none"),
        ({"epoch": 1, "optimizers": [], "params": {}}, "contains no named tensors.*its keys: epoch, optimizers, params"),
        ({1: torch.zeros(1)}, "contains no named tensors"),
        ({"x": torch.zeros(1)}, r"no key format matches its 1 tensor \(x \[1\]\); known key formats are BasicSR's EDSR, "),
        ({**edsr(2), "conv_first.weight": torch.zeros(4, 1, 3, 3)}, "no key format matches its"),
        ({**edsr(2), "conv_first.weight": torch.tensor(1.0)}, "no key format matches its"),
        ({**edsr(2), "upsample.0.weight": torch.zeros(20, 4, 3, 3)}, "no key format matches its"),
        ({**msrresnet(2), "upconv2.weight": torch.zeros(36, 4, 3, 3)}, "no key format matches its"),
    ],
)  # fmt: skip
def test_the_error_without_a_matching_key_format_lists_the_tensors(tmp_path, content, message):
    with pytest.raises(WeightsError, match=rf"net\.pth: .*{message}"):
        load_weights(_save(tmp_path / "net.pth", content))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_a_network_with_integer_buffers_matches_no_key_format(tmp_path, dtype):
    swinir = {
        "conv_first.weight": torch.zeros(60, 3, 3, 3),
        "layers.0.residual_group.blocks.0.attn.relative_position_index": torch.zeros(64, 64, dtype=dtype),
        "layers.0.residual_group.blocks.0.attn.qkv.weight": torch.zeros(180, 60),
    }
    found = (
        r"no key format matches its 3 tensors \(conv_first\.weight \[60, 3, 3, 3\], layers\.0.* \[64, 64\], layers.*\);"
    )
    for content in (swinir, {"params": swinir}):
        with pytest.raises(WeightsError, match=found):
            load_weights(_save(tmp_path / "swinir.pth", content))


def test_all_shapes_are_compared_after_a_key_format_matches(tmp_path):
    state = edsr(2)
    state["wings.weight"] = torch.zeros(1)
    state["body.1.conv2.bias"] = torch.zeros(5)
    path = _save(tmp_path / "net.pth", state)
    with pytest.raises(
        WeightsError, match=r"2 tensors do not match.*body\.1\.conv2\.bias: \[5\], expected \[4\]; wings"
    ):
        _load(path)


def test_files_without_weights_are_named(tmp_path):
    path = tmp_path / "net.pth"
    path.write_text("quota exceeded\n" * 9)
    with pytest.raises(WeightsError, match=r"net\.pth: not a readable safetensors or torch file"):
        load_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.txt", "hello")
    with pytest.raises(WeightsError, match=r"net\.pth: not a readable torch file"):
        load_weights(path)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(WeightsError, match=r"folder\.pth: is a folder"):
        load_weights(tmp_path / "folder.pth")


SMALL = (
    "experiment=edsr_baseline_x2", "data=toy", "sets=[]", "model.blocks=1", "model.channels=8", "data.workers=0",
    "data.batch=2", "data.lr_patch=12", "trainer.accelerator=cpu", "trainer.precision=32", "trainer.max_steps=1",
    "logger=csv", "validate.pictures=0", "name=small",
)  # fmt: skip


def test_sr_eval_scores_a_basicsr_file(invoke, tmp_path):
    (tmp_path / "hr").mkdir()
    write_image(tmp_path / "hr" / "a.png", read_image(next(iter(toy_files("astronaut").values())))[60:108, 100:148])
    _save(tmp_path / "net.pth", {"params_ema": edsr(2)})
    done = invoke("sr-eval", "weights=net.pth", "hr=hr", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert (
        "net.pth (x2; layout: BasicSR's EDSR; taken from: params_ema; assumed: res_scale=1 for 4 channels"
        in done.stdout
    )


def test_sr_train_starts_from_a_basicsr_file_and_its_own_checkpoint_is_no_weights_file(invoke, tmp_path):
    _save(tmp_path / "net.pth", {"params": edsr(2, f=8, blocks=1)})
    done = invoke("sr-train", *SMALL, "init.weights=net.pth", "task.rate=1e-9")
    assert done.returncode == 0, done.stderr
    assert "starts from net.pth:" in done.stdout
    trained = load_weights(next(tmp_path.glob("runs/small/*/weights.safetensors"))).state
    assert trained.keys() == edsr(2, f=8, blocks=1).keys()
    for name, value in edsr(2, f=8, blocks=1).items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)
    checkpoint = next(tmp_path.glob("runs/small/*/checkpoints/*.ckpt"))
    with pytest.raises(
        WeightsError, match=rf"to resume training from; give the folder of its stage, {checkpoint.parents[1]}"
    ):
        load_weights(checkpoint)

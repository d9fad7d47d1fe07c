"""Files that hold no readable weights: each kind is named, with what to do, and nothing in it is run."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

from sr_train.weights.file import load_weights
from sr_train.weights.foreign.base import WeightsError

STATE = {"a.weight": torch.ones(2, 2)}


def image(suffix):
    return cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def zipped(*names, content=b"x"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def script():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def numpys(save, value):
    buffer = io.BytesIO()
    save(buffer, value)
    return buffer.getvalue()


SAFE = to_bytes(STATE)
HEADER = int.from_bytes(SAFE[:8], "little")

#: suffix, content, message
KINDS = {
    "empty": (".pth", b"", "is empty; download or copy it again"),
    "html": (".pth", b"<!DOCTYPE html><html>404</html>", "is a web page, not a file of tensors.*download the file again"),
    "git lfs": (".pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.*git lfs pull"),
    "openvino": (".xml", b'<?xml version="1.0"?><net name="x"></net>', "an XML file .a network of OpenVINO.; give the"),
    "json": (".json", b'{"lr": 1}', "it is JSON; give the weights file"),
    "index": (".json", b'{"weight_map": {"a": "b"}}', "it is the index of weights in several files; give one file"),
    "text": (".pth", b"quota exceeded\n", "it is text .'quota exceeded'.; give a weights file"),
    "png": (".pth", image(".png"), "it is a PNG image; give a weights file; images belong to input="),
    "jpeg": (".pth", image(".jpg"), "it is a JPEG image"),
    "webp": (".pth", image(".webp"), "it is a WebP image"),
    "tiff": (".pth", image(".tiff"), "it is a TIFF image"),
    "pdf": (".pth", b"%PDF-1.7\n", "it is a PDF document; download the weights file"),
    "gzip": (".pth", b"\x1f\x8b\x08\0\0\0\0\0\0\0", "it is a gzip archive; unpack it"),
    "7zip": (".pth", b"7z\xbc\xaf\x27\x1c\0\0\0\0", "it is a 7-Zip archive; unpack it"),
    "rar": (".pth", b"Rar!\x1a\x07\x01\0\0\0", "it is a RAR archive; unpack it"),
    "tar": (".pth", tarred("net.pth"), "it is a tar archive; unpack it"),
    "torch's tar": (".pth", tarred("sys_info", "pickle", "storages", "tensors"), "torch file from before .*tar.*write it"),
    "zip": (".pth", zipped("photo.txt"), r"it is a zip archive of other files \(photo.txt\); unpack it"),
    "zip of weights": (".zip", zipped("x/net.pth"), "is a zip archive of weights files.*unpack it"),
    "torchscript": (".pt", script(), r"is a TorchScript program.*not run here.*torch\.save\(network\.state_dict"),
    "pt2": (".pt2", zipped("e/models/model.json"), r"is a program of torch\.export"),
    "torch.package": (".pt", zipped("p/.data/extern_modules"), r"is a package of torch\.package"),
    "keras": (".keras", zipped("config.json", "model.weights.h5"), "is a network of Keras"),
    "npz": (".npz", numpys(np.savez, np.zeros(3)), r"is a file of numpy \(\.npz\), not a file of weights"),
    "npy": (".npy", numpys(np.save, np.zeros(3)), r"it is a numpy array \(\.npy\)"),
    "onnx": (".pth", b"\x08\x08\x12\x07pytorch\x1a\x032.0", r"it is an ONNX network; give the \.pth file"),
    "tensorrt": (".engine", b"ftrt\0\0\0\0" + bytes(40), r"it is an engine of TensorRT.*give the \.pth"),
    "other tensorrt": (".plan", b"\x01\xff\xfe\x03" * 20, "it is an engine of TensorRT"),
    "tensorflow index": (".index", b"\0\x01\xfe" * 30 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "is a checkpoint of TensorFlow"),
    "tensorflow list": ("", b'model_checkpoint_path: "m-1"\n', "it is the list of checkpoints of TensorFlow"),
    "tflite": (".tflite", b"\x1c\0\0\0TFL3" + bytes(20), "it is a TensorFlow Lite network"),
    "hdf5": (".h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "it is an HDF5 file"),
    "gguf": (".gguf", b"GGUF\x03\0\0\0" + bytes(20), "it is a GGUF file"),
    "ncnn": (".param", b"7767517\n3 3\nInput x 0 1 x\n", "it is a network of ncnn"),
    "zeros": (".pth", bytes(5000), "it is a file of zero bytes, as an unfinished download leaves"),
    "pickle 4": (".pkl", pickle.dumps({"a": 1}, protocol=4), "refused: it is a Python pickle of protocol 4.*could run code"),
    "pickle 2": (".pkl", pickle.dumps({"a": 1}, protocol=2), "refused: it is a Python pickle of protocol 2"),
    "pickle 0": (".pkl", pickle.dumps({"a": 1}, protocol=0), "refused: it is a Python pickle of protocol 0"),
    "torch with protocol 4": (".pth", saved(STATE, pickle_protocol=4), r"written with pickle protocol 4.*trust.*torch\.save\("),
    "whole network": (
        ".pth", saved(torch.nn.Linear(1, 1)),
        r"it needs torch\.nn\.modules\.linear\.Linear.*torch\.load\('f\.pth', weights_only=False\)\.state_dict\(\), 'net\.pth'",
    ),
    "numpy beside tensors": (
        ".pth", saved({"state_dict": STATE, "psnr": np.float64(3)}), r"it needs numpy.*weights_only=False\)\[\"state_dict\"\]",
    ),
    "training state": (".state", saved({"epoch": 1, "optimizers": [], "schedulers": []}), "the state of a training.*net_g_"),
    "safetensors, header cut": (".safetensors", SAFE[: HEADER // 2], "it is cut within its header.*download it again"),
    "safetensors, tensors cut": (".safetensors", SAFE[:-4], f"missing: its tensors need {len(SAFE)} bytes, the file has"),
    "safetensors, bad header": (".safetensors", struct.pack("<Q", 9) + b'{"a": 1,}', "header of this safetensors file is"),
    "safetensors, no offsets": (".safetensors", struct.pack("<Q", 9) + b'{"a": [1]', "header of this safetensors file is"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_foreign_content_has_its_message(tmp_path, kind):
    suffix, content, message = KINDS[kind]
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"f{suffix}: .*{message}"):
        load_weights(path)


def test_there_are_more_than_30_kinds():
    assert len(KINDS) > 30
    assert len({message for _, _, message in KINDS.values()}) > 30


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("where", ["alone", "in a wrapper", "zip", "script", "npz", "beside"])
def test_nothing_in_a_file_is_run_while_its_kind_is_found(tmp_path, protocol, where):
    marker = tmp_path / "executed"
    bomb = pickle.dumps({"state_dict": {"generator.x": Payload(marker)}, "ema": STATE}, protocol=protocol)
    contents = {
        "alone": pickle.dumps(Payload(marker), protocol=protocol),
        "in a wrapper": bomb,
        "zip": zipped("net/data.pkl", "net/version", content=bomb),
        "script": zipped("net/data.pkl", "net/constants.pkl", "net/code/x.py", content=bomb),
        "npz": zipped(
            "a.npy", content=b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': ()}\n" + bomb
        ),
        "beside": saved({"params": STATE, "optimizer": Payload(marker)}, pickle_protocol=max(2, protocol)),
    }
    for name in ("net.pth", "net.engine", "net.onnx", "net.safetensors"):
        (tmp_path / name).write_bytes(contents[where])
        with pytest.raises(WeightsError, match=rf"{name}: "):
            load_weights(tmp_path / name)
    assert not marker.exists()
    pickle.loads(contents["alone"]) if where == "alone" else None
    assert marker.exists() == (where == "alone")  # the payload works


def test_json_is_not_parsed_without_end(tmp_path):
    path = tmp_path / "net.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()[:-1] + b"[" * 100_000
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(WeightsError, match=r"net\.safetensors: .*header of this safetensors file is damaged"):
        load_weights(path)

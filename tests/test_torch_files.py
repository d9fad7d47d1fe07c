import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sr_train.torch_files import TorchFileError, read_tensors, read_torch
from sr_train.weights.file import load_weights

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
def test_tensors_are_read_from_either_kind_of_file(tmp_path, kind):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save({**STATE, "step": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    read = read_tensors(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[k], v) for k, v in STATE.items())


class Harm:
    def __reduce__(self):
        return (print, ("run",))


def test_a_file_without_tensors_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(TorchFileError, match=r"missing\.pth: there is no such file"):
        read_tensors(tmp_path / "missing.pth")
    contents = {
        "text.pth": b"hello",
        "text.safetensors": b"hello there",
        "harm.pth": pickle.dumps(Harm(), protocol=2),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TorchFileError, match=f"{name}: (not a readable safetensors or torch file|refused)"):
            read_tensors(tmp_path / name)
    torch.save({"a": Harm()}, tmp_path / "harm2.pth")
    with pytest.raises(TorchFileError, match=r"harm2\.pth: refused: it contains more than tensors"):
        read_tensors(tmp_path / "harm2.pth")
    assert capsys.readouterr().out == ""
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="contains a list"):
        read_tensors(tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>404</html>", "is a web page, not a file of tensors"),
        (b"\xef\xbb\xbf\n<html><body>log in</body></html>", "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "is a Git LFS pointer.*run git lfs pull",
        ),
        (b"", "is empty; download or copy it again"),
    ],
)
@pytest.mark.parametrize("read", [read_tensors, load_weights])
def test_leftovers_of_a_failed_download_are_recognized(tmp_path, read, content, message):
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            read(tmp_path / name)


@pytest.mark.parametrize("read", [read_tensors, load_weights])
def test_a_web_address_is_refused(read):
    for given in ("https://example.org/net.pth", Path("https://example.org/net.pth")):
        with pytest.raises((ValueError, OSError), match=r"https://example\.org/net\.pth: is a web address; download"):
            read(given)
    with pytest.raises((ValueError, OSError), match=r"x:y\.pth: there is no such file"):
        read("x:y.pth")


@pytest.mark.parametrize("name", ["sr-eval", "sr-train"])
def test_a_web_address_has_exit_code_2(invoke, name):
    typed = {
        "sr-eval": ["weights=https://example.org/a.pth", "sets=[toy]"],
        "sr-train": ["init.weights=https://example.org/a.pth"],
    }
    done = invoke(name, *typed[name])
    assert done.returncode == 2, done.stderr
    assert "https://example.org/a.pth: is a web address" in done.stderr


@pytest.mark.parametrize("read", [read_tensors, read_torch, load_weights])
def test_every_reader_checks_the_archive(tmp_path, read):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(500.0)}, path)
    whole = path.read_bytes()
    at = whole.index(torch.arange(100.0, 110.0).numpy().tobytes())
    for content, message in {
        whole[: len(whole) // 2]: "damaged or truncated",
        whole[:at] + b"x" + whole[at + 1 :]: "damaged: the checksum of",
        b"": "is empty",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.pth: {message}"):
            read(path)


def test_a_tensor_that_is_no_plain_array_is_refused_by_name(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "x.pth")
    with pytest.raises(TorchFileError, match="the tensors need 4,000,000,000 bytes"):
        read_tensors(tmp_path / "x.pth")
    torch.save({"a": torch.zeros(2, 2).to_sparse()}, tmp_path / "x.pth")
    with pytest.raises(TorchFileError, match=r"tensor a is .*sparse"):
        read_tensors(tmp_path / "x.pth")

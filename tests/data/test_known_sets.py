"""Known data sets: every packing is recognized, as a folder and in archives, and every file of conf/data and conf/sets works."""

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from sr_train.config.build import build
from sr_train.config.compose import compose_command, compose_config
from sr_train.config.folders import conf_folder
from sr_train.console import UsageError
from sr_train.data.draws import PositionSampler
from sr_train.data.images import BadFilesError, decode_image
from sr_train.data.known.hints import known_command
from sr_train.data.known.make import make_known
from sr_train.data.known.request import SETS, read_request
from sr_train.data.store.reader import Store
from tests.data.known_trees import DIV2K, PACKINGS, REDS4, SET5, content, div2k, images, pack, reds, unpack
from tests.stores import dump

BAR = lambda total, what, unit: nullcontext(SimpleNamespace(update=lambda n: None))  # noqa: E731

FORMATS = ("a.zip", "a.tar", "a.tar.gz")


def make(dataset, root, folder, **values):
    """Make the stores of a set as sr-prepare does."""
    scales, arithmetic = values.pop("scales", None), values.pop("arithmetic", None)
    config = {
        **compose_command("prepare", []), "dataset": dataset, "root": root if isinstance(root, list) else str(root),
        "paths": {"data": str(folder)}, "partial": True, **values,
    }  # fmt: skip
    return make_known(read_request(config, arithmetic=arithmetic, workers=1, scales=scales), BAR)


def pixels(tree):
    """Map the pixels of every image of a tree to its path."""
    return {
        decode_image(content(path, what), path).tobytes(): path for path, what in tree.items() if not isinstance(what, str)
    }


# -- packings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKINGS)
def test_every_packing_is_recognized_as_a_folder_and_in_archives(name, tmp_path, capsys):
    dataset, kind, tree = PACKINGS[name]
    first = make(dataset, unpack(tree, tmp_path / "folder"), tmp_path / "stores", kind=kind)
    assert first
    known = pixels(tree)
    for path in first:
        store = Store(path)
        keys = store.keys()
        assert store.verify(1, keys[0]) is None
        for key in keys:
            origin = known[store.read(1, key).tobytes()]
            number = key.rpartition("/")[2][-4:]
            assert number.lower() in origin.lower(), f"{path.name}: {key} was made of {origin}"
    lr = [made for path in first for made in Store(path).made.values()]
    capsys.readouterr()
    for archive in FORMATS:  # the same images in an archive: nothing is left to do, so they were found under the same names
        root = pack(tree, tmp_path / archive.partition(".")[2] / archive).parent
        assert make(dataset, root, tmp_path / "stores", kind=kind) == first
        assert capsys.readouterr().out.count("already complete") == len(first)
        assert [p.name for p in root.iterdir()] == [archive], "a copy was left in the user's folder"
    assert make(dataset, root / archive, tmp_path / "again", kind=kind)
    assert [made for path in first for made in Store(tmp_path / "again" / path.name).made.values()] == lr
    for path in first:
        records = [{k: (r.shape, r.crc) for k, r in Store(f / path.name).records[1].items()} for f in (tmp_path / "stores", tmp_path / "again")]
        assert records[0] == records[1]

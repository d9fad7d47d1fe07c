"""Known data sets: every packing is recognized, in folders and archives, and every file of conf/data and conf/sets works."""

import hashlib
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from sr_train.config.build import build
from sr_train.config.compose import compose_command
from sr_train.config.folders import conf_folder
from sr_train.config.plan import plan
from sr_train.console import ConfigError, UsageError
from sr_train.data.degrade import reduce_image
from sr_train.data.draws import PositionSampler
from sr_train.data.images import BadFilesError, decode_image
from sr_train.data.known.hints import known_command
from sr_train.data.known.make import make_known
from sr_train.data.known.recognize import recognize
from sr_train.data.known.request import SETS, read_request
from sr_train.data.module import SRData
from sr_train.data.pairs import Pairs
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.format import StoreError
from sr_train.data.store.reader import Store
from sr_train.data.video.module import ClipData
from sr_train.evaluation.items import _sets
from sr_train.inference.network import Network
from sr_train.models.bicubic import Bicubic
from sr_train.resampling import imresize
from tests.data.known_trees import DIV2K, PACKINGS, REDS4, SET5, content, div2k, images, pack, reds, unpack
from tests.nets.tiny_video import TinyVideo
from tests.stores import Kill, dump, interrupt

BAR = lambda total, what, unit: nullcontext(SimpleNamespace(update=lambda n: None))  # noqa: E731


def make(dataset, root, folder, **values):
    """Make the stores of a set as sr-prepare does."""
    scales, arithmetic = values.pop("scales", None), values.pop("arithmetic", None)
    config = {
        **compose_command("prepare", []), "dataset": dataset, "root": str(root) if isinstance(root, Path) else root,
        "paths": {"data": str(folder)}, "partial": True, **values,
    }  # fmt: skip
    return make_known(read_request(config, arithmetic=arithmetic, workers=1, scales=scales), BAR)


def keys_of(path):
    return Store(path).keys()


def pixels(tree):
    """Map the pixels of every image of a tree to its path."""
    return {
        decode_image(content(path, what), path).tobytes(): path
        for path, what in tree.items()
        if not isinstance(what, str)
    }


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """All stores of all sets."""
    folder = tmp_path_factory.mktemp("known")
    chosen = {(dataset, kind): tree for dataset, kind, tree in reversed(PACKINGS.values()) if dataset != "reds4"}
    for number, ((dataset, kind), tree) in enumerate(chosen.items()):
        make(dataset, unpack(tree, folder / f"root{number}"), folder, kind=kind)
    return folder


# -- packings --------------------------------------------------------------------------------------------------------

#: scales of LR that a packing has, if these are not all: a crop for each scale fits the largest HR only at some scales
GIVEN = {
    "set5 of HAT": {2, 4}, "set5 of SelfExSR": {2, 4}, "set5 of RCAN": {2, 4}, "set5 as whole images": set(),
    "b100 of Berkeley": set(), "urban100 of SelfExSR": {4}, "vimeo90k as downloaded": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKINGS)
def test_every_packing_is_recognized_as_a_folder_and_in_archives(name, tmp_path, capsys):
    dataset, kind, tree = PACKINGS[name]
    first = make(dataset, unpack(tree, tmp_path / "folder"), tmp_path / "stores", kind=kind)
    assert first
    known = pixels(tree)
    for path in first:
        store = Store(path)
        for key in keys_of(path):
            origin = known[store.read(1, key).tobytes()].lower()
            clip, _, frame = key.lower().rpartition("/")
            assert frame in origin
            assert clip in origin or f"{int(clip) - 240:03d}/" in origin
            for scale, made in store.made.items():
                if made == "given":
                    assert store.read(scale, key).tobytes() in known
        if store.made:
            assert {s for s, made in store.made.items() if made == "given"} == GIVEN.get(name, set(store.made))
    capsys.readouterr()
    for archive in (
        "a.zip",
        "a.tar",
        "a.tar.gz",
    ):  # nothing is left to do, as the same images are found under the same names
        root = pack(tree, tmp_path / archive.partition(".")[2] / archive).parent
        assert make(dataset, root, tmp_path / "stores", kind=kind) == first
        assert capsys.readouterr().out.count("already complete") == len(first)
        assert [p.name for p in root.iterdir()] == [archive], "something was left in the user's folder"
    make(dataset, root / archive, tmp_path / "again", kind=kind)
    for path in first:
        one, other = Store(path), Store(tmp_path / "again" / path.name)
        assert one.made == other.made
        assert all(np.array_equal(one.read(s, k), other.read(s, k)) for s in one.scales for k in keys_of(path))
    assert not list((tmp_path / "stores").glob(".*"))


def test_lr_that_is_not_there_is_made_in_the_arithmetic_of_the_packing(tmp_path, capsys):
    for hr, arithmetic in (("Set5/HR/{n}.png", "uint8_replicate"), ("Set5/GTmod12/{n}.png", "float")):
        folder = tmp_path / arithmetic
        root = unpack(images(hr, "", SET5), folder / "root")
        make("set5", root, folder, partial=False)
        store = Store(folder / "Set5.lmdb")
        assert set(store.made.values()) == {arithmetic}
        assert np.array_equal(store.read(3, "baby"), reduce_image(store.read(1, "baby"), 3, arithmetic))
        assert f"LR x2, x3, x4: made from HR by bicubic, arithmetic={arithmetic}" in capsys.readouterr().out
    make("set5", root, tmp_path / "typed", scales=[8], arithmetic="uint8")
    assert Store(tmp_path / "typed" / "Set5.lmdb").made == {8: "uint8"}


def test_splits_are_those_of_the_papers(tmp_path):
    every = {**PACKINGS["reds as downloaded"][2], **PACKINGS["reds blur"][2]}
    make("reds", unpack(every, tmp_path / "reds"), tmp_path)
    clips = {key.rpartition("/")[0] for key in keys_of(tmp_path / "REDS_train_sharp.lmdb")}
    assert clips == {"000", "001", "011", "015", "020", "239", "240", "269"}
    assert {key.rpartition("/")[0] for key in keys_of(tmp_path / "REDS4.lmdb")} == set(REDS4)
    make("vimeo90k", unpack(PACKINGS["vimeo90k as downloaded"][2], tmp_path / "vimeo"), tmp_path)
    assert {k[:10] for k in keys_of(tmp_path / "vimeo90k_train.lmdb")} == {"00001/0001", "00002/0003"}
    assert {k[:10] for k in keys_of(tmp_path / "vimeo90k_test.lmdb")} == {"00001/0002"}
    make("div2k", unpack(PACKINGS["div2k of EDSR"][2], tmp_path / "div2k"), tmp_path)
    assert keys_of(tmp_path / "DIV2K_train.lmdb") == list(DIV2K[:2])
    assert keys_of(tmp_path / "DIV2K_valid.lmdb") == list(DIV2K[2:])


# -- what is refused -------------------------------------------------------------------------------------------------


def refused(dataset, root, tmp_path, **values):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        make(dataset, root, tmp_path / "stores", **{"partial": False, **values})
    assert not list((tmp_path / "stores").glob("*.lmdb*"))
    return str(caught.value)


def test_an_incomplete_set_names_what_is_missing_and_the_archive(tmp_path):
    root = unpack(
        images("DIV2K_valid_HR/{n}.png", "", [f"{n:04d}" for n in range(801, 901) if n not in (803, 850)]),
        tmp_path / "a",
    )
    text = refused("div2k", root, tmp_path)
    assert "DIV2K, 0801-0900: 2 of 100 images missing: 0803, 0850; they are in" in text
    assert (
        "DIV2K_valid_HR.zip (449.0 MB, MD5 9fcdda83005c5e5997799b69f955ff88) from https://data.vision.ee.ethz.ch/"
        in text
    )
    text = refused("set5", unpack(images("Set5/HR/{n}.png", "", SET5[:3]), tmp_path / "b"), tmp_path)
    assert "Set5: 3 images, expected 5; they are in" in text
    lacking = images("Set5/HR/{n}.png", "Set5/LR_bicubic/X{s}/{n}x{s}.png", SET5)
    del lacking["Set5/LR_bicubic/X2/headx2.png"]
    text = refused("set5", unpack(lacking, tmp_path / "c"), tmp_path)
    assert re.search(
        r"Set5, LR x2: 1 of 5 missing in .*/Set5/LR_bicubic/X2 \(head\); they are in\n *benchmark.tar", text
    )


def test_missing_clips_and_frames_are_named_with_their_archive():
    """Whole sets of 27,000 frames, as listings without files."""
    plan = SETS["reds"].stores[0]
    frames = [f"{n:08d}" for n in range(100)]
    train = {f"/d/train/train_sharp/{c:03d}/{f}.png": Path() for c in range(240) for f in frames}
    val = {f"/d/val/val_sharp/{c:03d}/{f}.png": Path() for c in range(30) for f in frames}
    found = recognize(plan, {**train, **val}, plan.expected.names, (4,), partial=False)
    assert not found.problems
    assert len(found.hr) == 27_000
    (problem,) = recognize(plan, train, plan.expected.names, (4,), partial=False).problems
    assert (
        "30 of 270 clips missing: 240, 241, 242, ...; they are in\n    val_sharp.zip (4.3 GB, SHA-256 53f6ce4791ed"
        in problem
    )
    assert "train_sharp.zip" not in problem
    del train["/d/train/train_sharp/007/00000050.png"]
    (problem,) = recognize(plan, {**train, **val}, plan.expected.names, (4,), partial=False).problems
    assert "1 clip with another number of frames (007 has 99 of 100)" in problem
    assert "    train_sharp.zip (34.3 GB, SHA-256 620294c1c3f2" in problem
    assert "val_sharp" not in problem


def test_images_of_another_size_are_refused(tmp_path):
    root = unpack({f"kodim{n:02d}.png": (40, 30) for n in range(1, 25)}, tmp_path / "a")
    text = refused("kodak", root, tmp_path)
    assert "Kodak: 24 images of another size than 768x512 or 512x768, e.g. kodim01 with 40x30" in text


def test_two_copies_are_both_named_and_none_is_chosen(tmp_path):
    root = tmp_path / "root"
    for copy in ("old", "new"):
        unpack(images("benchmark/Set5/HR/{n}.png", "", SET5), root / copy)
    text = refused("set5", root, tmp_path)
    assert "Set5: found in 2 places; give the one that you mean as root=" in text
    assert f"{root}/old/benchmark/Set5/HR (EDSR, 5 files, e.g. {root}/old/benchmark/Set5/HR/baby.png)" in text
    assert f"{root}/new/benchmark/Set5/HR" in text
    assert make("set5", root / "old", tmp_path / "stores")
    mixed = unpack(
        {**images("Set5/HR/{n}.png", "", SET5), **images("Set5/GTmod12/{n}.png", "", SET5)}, tmp_path / "mixed"
    )
    with pytest.raises(BadFilesError, match=r"(?s)found in 2 places.*\(BasicSR, 5 files.*\(EDSR, 5 files"):
        make("set5", mixed, tmp_path / "other")
    assert make("set5", [str(mixed / "Set5" / "HR")], tmp_path / "other")


def test_several_roots_make_one_set(tmp_path, capsys):
    tree = div2k()
    hr = {p: s for p, s in tree.items() if "_HR/" in p}
    parts = [
        pack(hr, tmp_path / "a" / "DIV2K_HR.zip"),
        unpack({p: tree[p] for p in tree.keys() - hr.keys()}, tmp_path / "b"),
    ]
    make("div2k", list(map(str, parts)), tmp_path)
    assert f"  HR: 2 images in {tmp_path}/a/DIV2K_HR.zip/DIV2K_train_HR (DIV2K_HR.zip)\n" in capsys.readouterr().out
    assert Store(tmp_path / "DIV2K_train.lmdb").made == dict.fromkeys((2, 3, 4), "given")


def test_roots_without_the_set_are_refused(tmp_path):
    assert "there is no such folder or archive" in refused("div2k", tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    text = refused("div2k", tmp_path / "empty", tmp_path)
    assert "empty: contains no files; put the archives of DIV2K there:\n  DIV2K_train_HR.zip (3.5 GB, MD5" in text
    wrong = unpack(images("Set5/HR/{n}.png", "", SET5), tmp_path / "wrong")
    text = refused("div2k", wrong, tmp_path)
    assert "no file has a path of DIV2K (the names of folders and files count, not those of archives); it is in" in text
    assert "DIV2K_valid_LR_bicubic_X4.zip (31.5 MB, MD5 21962de700c8d368c6ff83314480eff0)" in text
    lists = {p: s for p, s in PACKINGS["vimeo90k as downloaded"][2].items() if not p.endswith("trainlist.txt")}
    text = refused("vimeo90k", unpack(lists, tmp_path / "vimeo"), tmp_path, partial=True)
    assert "the list of its clips, sep_trainlist.txt, is not there; it is in vimeo_septuplet.zip (82 GB" in text


def test_damaged_archives_are_named_with_what_to_download(tmp_path):
    whole = pack(div2k(), tmp_path / "whole" / "DIV2K_train_HR.zip").read_bytes()
    contents = {
        "half": (whole[: len(whole) // 2], "DIV2K_train_HR.zip"),
        "page": (b"<!DOCTYPE html><html>Sign in", "web page"),
    }
    for name, (data, message) in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "DIV2K_train_HR.zip").write_bytes(data)
        text = refused("div2k", tmp_path / name, tmp_path)
        assert message in text
        assert "; DIV2K_train_HR.zip (3.5 GB, MD5 bdc2d9338d4e574fe81bf7d158758658) from https://" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "div2"}, "dataset=div2: expected one of div2k, flickr2k, df2k, "),
        ({"root": None}, "dataset=div2k needs root=DIR"),
        ({"kind": "blur"}, "kind=blur: DIV2K has the kinds of LR bicubic, unknown, mild, difficult, wild"),
        ({"kind": "mild", "scales": [2]}, r"scales=\[2\]: dataset=div2k kind=mild has LR of scales=\[4\]"),
        ({"images": "hr"}, "images= cannot be used with dataset=div2k"),
        ({"partial": "some"}, "partial='some': expected true or false"),
        ({"lr": "LR"}, "lr= cannot be used with dataset=div2k"),
        ({"skip_bad": True}, "skip_bad=true cannot be used with dataset=div2k; partial=true"),
    ],
)
def test_wrong_values_are_refused(values, message, tmp_path):
    with pytest.raises((UsageError, ConfigError), match=message):
        make(**{"dataset": "div2k", "root": tmp_path, "folder": tmp_path, **values})


# -- checksums -------------------------------------------------------------------------------------------------------


def test_verify_compares_sizes_and_checksums_of_archives(tmp_path, monkeypatch, capsys):
    path = pack(images("Set5/HR/{n}.png", "", SET5), tmp_path / "root" / "benchmark.tar")
    with pytest.raises(
        BadFilesError, match=r"(?s)1 archive other than published.*MD5 is \w+; benchmark.tar \(250 MB, MD5 4ace41d3"
    ):
        make("set5", path.parent, tmp_path / "stores", verify=True)
    known = SETS["set5"]
    right = known.stores[0].archives[0]._replace(md5=hashlib.md5(path.read_bytes()).hexdigest())
    for archive, message in (
        (right, "checksums of 1 archive agree: benchmark.tar"),
        (right._replace(size=12), "benchmark.tar: has 30,720 bytes, published are 12"),
    ):
        plan = known.stores[0]._replace(archives=(archive,), lr_archives={})
        monkeypatch.setitem(SETS, "set5", known._replace(stores=(plan,)))
        if archive.size:
            make("set5", path.parent, tmp_path / "stores")
            assert f"note: {path.parent}/{message}" in capsys.readouterr().out
            with pytest.raises(BadFilesError, match=message):
                make("set5", path.parent, tmp_path / "stores", verify=True)
        else:
            make("set5", path.parent, tmp_path / "stores", verify=True)
            assert message in capsys.readouterr().out


def test_the_page_of_data_sets_has_the_checksums_of_the_table():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    shown = dict(re.findall(r"^\| `(\S+)` \| (?:SHA-256 )?([0-9a-f]{32,64}) \|$", page, re.MULTILINE))
    plans = [p for known in SETS.values() for plans in (known.stores, *known.kinds.values()) for p in plans]
    sums = {a.name: a.md5 or a.sha256 for plan in plans for a in plan.all_archives() if a.md5 or a.sha256}
    assert shown == sums
    assert (
        shown["DIV2K_valid_LR_bicubic_X4.zip"] == "21962de700c8d368c6ff83314480eff0"
    )  # of torchSR and of this page before
    assert shown["benchmark.tar"] == "4ace41d33c2384b97e6b320cd0afd6ba"


# -- again, after a kill, with more scales ---------------------------------------------------------------------------


def test_a_killed_command_goes_on_with_the_stores_that_are_not_finished(tmp_path, monkeypatch, capsys):
    root = unpack(reds("sharp_bicubic"), tmp_path / "root")
    paths = make("reds", root, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, StoreBuilder, "build", 1)
        with pytest.raises(Kill):
            make("reds", root, tmp_path / "killed")
    assert [p.name for p in (tmp_path / "killed").glob("*.lmdb")] == ["REDS_train_sharp.lmdb"]
    capsys.readouterr()
    make("reds", root, tmp_path / "killed")
    assert re.search(r"REDS_train_sharp\.lmdb: 56 images, LR x4, [\d.]+ MB; already complete", capsys.readouterr().out)
    for path in paths:
        assert dump(path) == dump(tmp_path / "killed" / path.name)


def test_more_scales_are_added_and_what_is_there_is_kept(tmp_path, capsys):
    root = unpack(images("Set5/HR/{n}.png", "Set5/LR_bicubic/X{s}/{n}x{s}.png", SET5, scales=(2,)), tmp_path / "root")
    (path,) = make("set5", root, tmp_path, scales=[2, 3])
    before = dump(path)
    unpack({f"Set5/LR_bicubic/X{s}/{n}x{s}.png": 48 // s for n in SET5 for s in (3, 4)}, root)
    capsys.readouterr()
    make("set5", root, tmp_path)
    assert (
        f"LR x3 in the store was made with arithmetic=uint8_replicate and is kept; delete {path}"
        in capsys.readouterr().out
    )
    assert Store(path).made == {2: "given", 3: "uint8_replicate", 4: "given"}
    assert dump(path) == before
    make("set5", root, tmp_path, scales=[2])
    assert "already complete" in capsys.readouterr().out


# -- messages about missing stores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "scales", "command"),
    [
        ("DIV2K_train", [2, 4], "sr-prepare dataset=div2k root=DIR scales=[2,4]"),
        ("DIV2K_train", [], "sr-prepare dataset=div2k root=DIR"),
        ("DIV2K_train_unknown_X3", [4], "sr-prepare dataset=div2k kind=unknown root=DIR scales=[3]"),
        ("Flickr2K", [2], "sr-prepare dataset=flickr2k root=DIR scales=[2]"),
        ("REDS_train_sharp", [4], "sr-prepare dataset=reds root=DIR scales=[4]"),
        ("REDS_train_blur", [], "sr-prepare dataset=reds kind=blur root=DIR"),
        ("kodak24", [], "sr-prepare dataset=kodak root=DIR"),
        ("UDM10", [4], "sr-prepare dataset=udm10 kind=bicubic root=DIR scales=[4]"),
        ("UDM10", [], "sr-prepare dataset=udm10 root=DIR"),
        ("UDM10_BD_X4", [], "sr-prepare dataset=udm10 root=DIR scales=[4]"),
        ("ours", [2], None),
    ],
)
def test_a_store_of_a_known_set_has_its_command(store, scales, command):
    assert known_command(f"somewhere/{store}.lmdb", scales) == command


def test_missing_stores_and_scales_are_reported_with_the_command(datasets, tmp_path):
    reds, own = str(tmp_path / "REDS_train_sharp.lmdb"), str(tmp_path / "x.lmdb")
    with pytest.raises(StoreError, match=r"make the store with sr-prepare dataset=reds root=DIR scales=\[4\]$"):
        ClipData(train=[{"hr": reds, "lr": reds}], scale=4, lr_patch=8)
    with pytest.raises(StoreError, match=r"sr-prepare images=DIR store=.*x\.lmdb scales=\[2,3\] arithmetic=uint8$"):
        SRData(train=[{"hr": own, "lr": own}], scales=[2, 3], lr_patch=8, arithmetic="uint8")
    config = {**compose_command("evaluate", ["sets=[set5]", f"paths.data={tmp_path}"])}
    with pytest.raises(StoreError, match=r"make the store with sr-prepare dataset=set5 root=DIR scales=\[3\]$"):
        _sets(config, [Network(Bicubic(scale=3), 3, "bicubic")], None)
    set5, clips = str(datasets / "Set5.lmdb"), str(datasets / "REDS_train_blur.lmdb")
    with pytest.raises(
        StoreError, match=r"LR of scales \[2, 3, 4\], not of 8; run sr-prepare dataset=set5 root=DIR scales=\[8\]"
    ):
        Pairs(set5, lr=set5, scale=8)
    with pytest.raises(
        StoreError, match=r"contains no LR, and LR of scale 4 is needed; run sr-prepare dataset=reds kind=blur"
    ):
        Pairs(clips, lr=clips, scale=4)


# -- the files of conf/ ----------------------------------------------------------------------------------------------


def files(group):
    return sorted(p.stem for p in (conf_folder() / group).glob("*.yaml") if not p.stem.startswith("base"))


def scale_of(name):
    return 1 if name.endswith(("_blur", "_blur_comp")) else 4


def opened(datasets, *arguments):
    small = ["data.batch=2", "data.workers=0", "data.lr_patch=8", f"paths.data={datasets}", "name=x"]
    return build(plan([*arguments, *small]).stages[0].config["data"])


@pytest.mark.parametrize("name", files("data"))
def test_every_data_set_trains_one_step_on_its_prepared_stores(name, datasets):
    scale = scale_of(name)
    data = opened(datasets, f"data={name}", "sets=[]", f"scale={scale}", *(["data.frames=5"] if scale == 1 else []))
    batch = next(iter(data.loader(PositionSampler(2))))
    lr, hr = (batch[key].float() / 255 for key in ("lr", "hr"))
    assert hr.shape[-1] == lr.shape[-1] * scale == 8 * scale
    frames = lr.shape[1] if lr.ndim == 5 else 1
    assert frames == {"vimeo90k": 7}.get(name, 5 if lr.ndim == 5 else 1)
    network = TinyVideo(scale=scale, frames=frames)
    before = [p.clone() for p in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters())
    (network(lr.reshape(2, frames, 3, 8, 8)) - hr).abs().mean().backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("name", files("sets"))
def test_every_set_is_scored_on_its_prepared_stores(name, datasets):
    scale = scale_of(name)
    config = {
        **compose_command("evaluate", [f"sets=[{name}]", f"paths.data={datasets}"]),
        "scale": scale,
        "weights": "bicubic",
    }
    network = Network(Bicubic(scale=scale), scale, "bicubic")
    ((key, images),) = _sets(config, [network], None).items()
    assert key == name
    lr, hr = images.whole(0)
    lr = lr[len(lr) // 2] if lr.ndim == 4 else lr
    assert hr.shape[:2] == (lr.shape[0] * scale, lr.shape[1] * scale)
    guess = imresize(lr, scale, arithmetic="uint8") if scale > 1 else lr
    assert 5 < peak_signal_noise_ratio(hr, guess) < 100

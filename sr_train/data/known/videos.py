"""Table of the video sets: REDS, Vimeo-90K, Vid4, UDM10 and SPMCS."""

from __future__ import annotations

from sr_train.data.known.table import Archive, Expected, KnownSet, Layout, StorePlan, numbered

# -- REDS ------------------------------------------------------------------------------------------------------------

_REDS_PAGE = "https://seungjunnah.github.io/Datasets/reds.html"

_REDS_FILES = {  # name -> bytes and SHA-256, recorded by TensorFlow Datasets
    "train_sharp": (34261573976, "620294c1c3f23ed26c5ea228633770469c0b28e57d31eb41dc77deb401c6681b"),
    "train_sharp_bicubic": (2652551733, "ff20eac3c20cd401d1380f9c36830f726d9fba6e926f247c99895eb82c7bebfe"),
    "train_blur": (28287365503, "415c360c0d71d2d89af099b3c64e76bca7e1d8317750f8e056e02ebaab957bb8"),
    "train_blur_bicubic": (2416495641, "457171a9beafa8c5afd7ebb12e9dc9b5248da596027ef078f1a61d42d1d339e8"),
    "train_blur_comp": (22775753809, "cd78437b5505bd445955a24ae2cf00187540ca3a6f405e2113cadebdb4666493"),
    "val_sharp": (4273865704, "53f6ce4791ed3cfca747ff8982ba29b6e8b7cc1927eed742458f45ed93a1a279"),
    "val_sharp_bicubic": (330490885, "f8d89c1f3b5f15d972352b2243f5860c3ec7ca7a1222cf5026ac9f4a50442ada"),
    "val_blur": (3541630366, "23bf86ec4c0ac836ad286507484825a68dd903f3834ceef49fb16f2070c57b77"),
    "val_blur_bicubic": (300309402, "66b7ce8e2a4fda18773daf1329be9a01d6b8cbfc88f4f345b81ef1a0727c5d37"),
    "val_blur_comp": (2806159829, "9b5bfb5d60d47a9b5dec0a87f945f3d69a40a9aaeb9daa018fd4a40b1e4829b7"),
}

_REDS4 = frozenset(["000", "011", "015", "020"])

_REDS_CLIPS = Expected(270, numbered(0, 269, 3), frames=100, sizes=frozenset([(1280, 720)]))

_REDS_FRAMES = r"(?P<clip>\d{3})/(?P<frame>\d{8})"


def _reds_archives(kind: str, splits: tuple[str, ...] = ("train", "val")) -> tuple[Archive, ...]:
    clips = {"train": numbered(0, 239, 3), "val": numbered(240, 269, 3)}
    facts = {split: _REDS_FILES[f"{split}_{kind}"] for split in splits}
    return tuple(
        Archive(f"{split}_{kind}.zip", _REDS_PAGE, size, sha256=sha, holds=clips[split])
        for split, (size, sha) in facts.items()
    )


def _reds_layouts(kind: str, *, scale: int = 1) -> tuple[Layout, ...]:
    """Return the layouts of a kind; clips of val are renamed to 240-269 as BasicSR does, and may be renamed already."""
    middle = rf"(?:X{scale}/)?" if scale > 1 else ""
    four = "GT" if kind == "sharp" else kind
    return (
        Layout("REDS", rf"train_{kind}(?:_part\d)?/{middle}{_REDS_FRAMES}", scale=scale),
        Layout("REDS", rf"val_{kind}/{middle}{_REDS_FRAMES}", scale=scale, offset=240),
        Layout("REDS", rf"REDS4/{four}/{middle}{_REDS_FRAMES}", scale=scale),
    )


_REDS = StorePlan(
    name="REDS_train_sharp",
    title="REDS, 240 clips of train and 30 of val (as 240-269)",
    hr=_reds_layouts("sharp"),
    expected=_REDS_CLIPS,
    archives=_reds_archives("sharp"),
    lr=_reds_layouts("sharp_bicubic", scale=4),
    lr_archives={4: _reds_archives("sharp_bicubic")},
    clips=True,
    scales=(4,),
)

_REDS4_PLAN = _REDS._replace(
    name="REDS4",
    title="REDS4, clips 000, 011, 015 and 020 of train",
    expected=_REDS_CLIPS._replace(number=4, names=_REDS4),
    archives=_reds_archives("sharp", ("train",)),
    lr_archives={4: _reds_archives("sharp_bicubic", ("train",))},
)


def _reds_kind(kind: str, *, four: bool = False) -> StorePlan:
    plan = _REDS4_PLAN if four else _REDS
    scale = 4 if kind.endswith("bicubic") else 1
    size = frozenset((w // scale, h // scale) for w, h in _REDS_CLIPS.sizes)
    archives = _reds_archives(kind, ("train",) if four else ("train", "val"))
    return plan._replace(
        name=("REDS4_" if four else "REDS_train_") + kind + ("_X{scale}" if scale > 1 else ""),
        title=f"{plan.title}, {kind}",
        hr=_reds_layouts(kind, scale=scale),
        expected=plan.expected._replace(sizes=size),
        archives=() if scale > 1 else archives,
        lr=(),
        lr_archives={scale: archives} if scale > 1 else {},
        scales=(scale,) if scale > 1 else (),
        lr_only=True,
    )


_REDS_KINDS = ("blur", "blur_comp", "blur_bicubic")

_REDS_TERMS = "CC BY 4.0 on the author's Hugging Face page snah/REDS"


_TRAIN = "sr-train data={} model=edvr_m scale={}"

_EVAL = "sr-eval weights=bicubic scale=4 sets=[{}] protocols=[{}]"

_DEBLUR = " model.predeblur=true model.hr_in=true"

# -- Vimeo-90K -------------------------------------------------------------------------------------------------------

_VIMEO = Archive("vimeo_septuplet.zip", "http://toflow.csail.mit.edu/", about="82 GB, training and test clips")

_VIMEO_TEST = Archive("vimeo_super_resolution_test.zip", "http://toflow.csail.mit.edu/", about="6 GB, test clips only")

_SEPTUPLET = r"(?P<clip>\d{5}/\d{4})/(?P<frame>im[1-7])"

_VIMEO_SIZE = frozenset([(448, 256)])

_VIMEO_TRAIN = StorePlan(
    name="vimeo90k_train",
    title="Vimeo-90K, training septuplets",
    hr=(
        Layout("septuplet", rf"(?<!LRx4/)sequences/{_SEPTUPLET}"),
        Layout("MMagic", rf"GT/{_SEPTUPLET}"),
    ),
    expected=Expected(64612, frames=7, sizes=_VIMEO_SIZE, listed="sep_trainlist.txt"),
    archives=(_VIMEO,),
    lr=(
        Layout("septuplet", rf"vimeo_septuplet_matlabLRx(?P<scale>\d)/sequences/{_SEPTUPLET}"),
        Layout("MMagic", rf"BIx(?P<scale>\d)/{_SEPTUPLET}"),
    ),
    clips=True,
    scales=(4,),
)

_VIMEO_T = _VIMEO_TRAIN._replace(
    name="vimeo90k_test",
    title="Vimeo-90K, test septuplets",
    hr=(*_VIMEO_TRAIN.hr, Layout("TOFlow's test", rf"target/{_SEPTUPLET}")),
    lr=(*_VIMEO_TRAIN.lr, Layout("TOFlow's test", rf"low_resolution/{_SEPTUPLET}", scale=4)),
    expected=Expected(7824, frames=7, sizes=_VIMEO_SIZE, listed="sep_testlist.txt"),
    archives=(_VIMEO, _VIMEO_TEST),
    lr_archives={4: (_VIMEO_TEST,)},
)

# -- test sets of few clips ------------------------------------------------------------------------------------------

_VID4_FRAMES = {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}

_VID4_ARCHIVE = Archive(
    "Vid4.zip",
    "https://drive.google.com/file/d/1ZuvNNLgR85TV_whJoHM7uVb-XW1y70DW",
    about="136 MB",
)

_FRAME = r"(?P<frame>[^/]*\d)"


def _folders(clip: str, before: str, inside: str, family: str, *, scale: int = 1) -> tuple[Layout, ...]:
    """Return the layouts ``BEFORE/CLIP/FRAME`` and ``CLIP/INSIDE/FRAME``."""
    return (
        Layout(family, rf"{before}/(?P<clip>{clip})/{_FRAME}", scale=scale),
        Layout(family, rf"(?P<clip>{clip})/{inside}/{_FRAME}", scale=scale),
    )


def _few_hr(clip: str, title: str) -> tuple[Layout, ...]:
    return (
        *_folders(clip, "(?:GT|HR|vid4_HR)", r"(?:truth|GT|HR|original|hr_?\d*)", title),
        Layout(title, rf"(?P<clip>{clip})/hr_?(?P<frame>\d+)"),
        Layout(title, rf"{title}/(?P<clip>{clip})/(?P<frame>(?:Frame )?\d+)"),
    )


def _few_lr(clip: str, title: str) -> tuple[Layout, ...]:
    return (
        *_folders(clip, r"BIx(?P<scale>\d)", r"(?:input|BIx)(?P<scale>\d)", title),
        *_folders(clip, "LR", r"(?:LR|lr_?\d*)", title, scale=4),
        Layout(title, rf"(?P<clip>{clip})/lr_?(?P<frame>\d+)", scale=4),
    )


def _few_bd(clip: str, title: str) -> tuple[Layout, ...]:
    return _folders(clip, r"BDx(?P<scale>\d)", r"(?:blur|BDx)(?P<scale>\d)", title)


def _few(title: str, clip: str, expected: Expected, archive: Archive) -> StorePlan:
    return StorePlan(
        name=title,
        title=title,
        hr=_few_hr(clip, title),
        expected=expected,
        archives=(archive,),
        lr=_few_lr(clip, title),
        lr_archives={4: (archive,)},
        clips=True,
        scales=(4,),
    )


def _blurred(plan: StorePlan, clip: str) -> StorePlan:
    """Return the plan of the LR images that were made by a Gaussian and sampling (BD)."""
    return plan._replace(
        name=f"{plan.name}_BD_X{{scale}}",
        title=f"{plan.title}, LR by blurring and sampling (BD)",
        hr=_few_bd(clip, plan.name),
        expected=plan.expected._replace(sizes=frozenset()),
        archives=(),
        lr=(),
        lr_only=True,
    )


_VID4_CLIP = "|".join(_VID4_FRAMES)

_VID4 = _few("Vid4", _VID4_CLIP, Expected(4, frozenset(_VID4_FRAMES), frames=_VID4_FRAMES), _VID4_ARCHIVE)

_UDM10_CLIP = "archpeople|archwall|auditorium|band|caffe|camera|clap|lake|photography|polyflow"

_UDM10 = _few(
    "UDM10",
    _UDM10_CLIP,
    Expected(10, frozenset(_UDM10_CLIP.split("|"))),
    Archive("UDM10.zip", "https://drive.google.com/file/d/1G4V4KZZhhfzUlqHiSBBuWyqLyIOvOs0W (study only)"),
)

_SPMCS_CLIP = rf"(?!(?:{_UDM10_CLIP}|{_VID4_CLIP})/)[^/]+"

_SPMCS = _few("SPMCS", _SPMCS_CLIP, Expected(30, frames=31), Archive("SPMCS.zip", "https://opendatalab.org.cn/SPMCS"))

VIDEO_SETS = {
    "reds": KnownSet(
        "REDS",
        _REDS_TERMS,
        (_REDS, _REDS4_PLAN),
        {kind: (_reds_kind(kind), _reds_kind(kind, four=True)) for kind in _REDS_KINDS},
        then=(
            ("REDS_train_sharp", _TRAIN.format("reds", 4)),
            ("REDS4", _EVAL.format("reds4", "rgb_full")),
            ("REDS_train_blur", _TRAIN.format("reds_blur", 1) + _DEBLUR),
            ("REDS_train_blur_comp", _TRAIN.format("reds_blur_comp", 1) + _DEBLUR),
            ("REDS_train_blur_bicubic_X4", _TRAIN.format("reds_blur_bicubic", 4) + " model.predeblur=true"),
        ),
    ),
    "reds4": KnownSet(
        "REDS4",
        _REDS_TERMS,
        (_REDS4_PLAN,),
        {kind: (_reds_kind(kind, four=True),) for kind in _REDS_KINDS},
        then=(
            ("REDS4", _EVAL.format("reds4", "rgb_full")),
            ("REDS4_blur_bicubic_X4", _EVAL.format("reds4_blur_bicubic", "rgb_full")),
        ),
    ),
    "vimeo90k": KnownSet(
        "Vimeo-90K",
        "videos of vimeo.com, no license is stated",
        (_VIMEO_TRAIN, _VIMEO_T),
        then=(
            ("vimeo90k_train", _TRAIN.format("vimeo90k", 4) + " model.frames=7"),
            ("vimeo90k_test", _EVAL.format("vimeo90k_t", "y_full")),
        ),
    ),
    "vid4": KnownSet(
        "Vid4",
        "no license is stated",
        (_VID4,),
        {"bd": (_blurred(_VID4, _VID4_CLIP),)},
        then=(("Vid4", _EVAL.format("vid4", "y_full")), ("Vid4_BD_X4", _EVAL.format("vid4_bd", "y_full"))),
    ),
    "udm10": KnownSet(
        "UDM10",
        "for study only",
        (_UDM10,),
        {"bd": (_blurred(_UDM10, _UDM10_CLIP),)},
        kind="bd",
        then=(("UDM10_BD_X4", _EVAL.format("udm10", "y_full")), ("UDM10", _EVAL.format("udm10_bicubic", "y_full"))),
    ),
    "spmcs": KnownSet(
        "SPMCS",
        "no license is stated",
        (_SPMCS,),
        then=(("SPMCS", _EVAL.format("spmcs", "y_full")),),
    ),
}

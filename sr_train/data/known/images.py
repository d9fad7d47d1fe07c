"""Table of the image sets: DIV2K, Flickr2K and the classic test sets.

Sizes and checksums were published by the authors or recorded by several projects (see docs/data.md).
"""

from __future__ import annotations

from sr_train.data.known.table import Archive, Expected, KnownSet, Layout, StorePlan, numbered
from sr_train.resampling import Arithmetic

_SCALES = (2, 3, 4)

_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"

_MARK = r"(?:[_-]?x(?P=scale))?(?:_LR)?"  # 0001x2, 0001_x2, 0001_LR, 0001

_DIV2K_FILES = {  # kind or HR -> name of the archive, MD5 and size of train and of valid
    "HR": ("HR", "bdc2d9338d4e574fe81bf7d158758658", 3530603713, "9fcdda83005c5e5997799b69f955ff88", 448993893),
    "bicubic_2": (
        "LR_bicubic_X2", "9a637d2ef4db0d0a81182be37fb00692", 925390592, "1512c9a3f7bde2a1a21a73044e46b9cb", 117763600,
    ),
    "bicubic_3": ("LR_bicubic_X3", "ad80b9fe40c049a07a8a6c51bfab3b6d", "428 MB", "18b1d310f9f88c13618c287927b29898", "54.5 MB"),
    "bicubic_4": ("LR_bicubic_X4", "76c43ec4155851901ebbe8339846d93d", "247 MB", "21962de700c8d368c6ff83314480eff0", "31.5 MB"),
    "bicubic_8": ("LR_x8", "613db1b855721b3d2b26f4194a1d22a6", "65.8 MB", "c5aeea2004e297e9ff3abfbe143576a5", "8.43 MB"),
    "unknown_2": ("LR_unknown_X2", "1396d023072c9aaeb999c28b81315233", "734 MB", "d319bd9033573d21de5395e6454f34f8", "93.4 MB"),
    "unknown_3": ("LR_unknown_X3", "4e651308aaa54d917fb1264395b7f6fa", "377 MB", "05184168e3608b5c539fbfb46bcade4f", "48.1 MB"),
    "unknown_4": ("LR_unknown_X4", "e3c7febb1b3f78bd30f9ba15fe8e3956", "209 MB", "8ac3413102bb3d0adc67012efb8a6c94", "26.7 MB"),
    "mild_4": ("LR_mild", "807b3e3a5156f35bd3a86c5bbfb674bc", "276 MB", "8c433f812ca532eed62c11ec0de08370", "35.3 MB"),
    "difficult_4": (
        "LR_difficult", "5a8f2b9e0c5f5ed0dac271c1293662f4", "263 MB", "1620af11bf82996bc94df655cb6490fe", "33.6 MB",
    ),
    "wild_4": ("LR_wild", "d00982366bffee7c4739ba7ff1316b3b", "1.08 GB", "aacae8db6bec39151ca5bb9c80bf2f6c", "34.7 MB"),
}  # fmt: skip

_DIV2K_SHA = {  # SHA-256 recorded by TensorFlow Datasets
    "DIV2K_train_HR": "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    "DIV2K_train_LR_bicubic_X2": "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    "DIV2K_valid_HR": "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    "DIV2K_valid_LR_bicubic_X2": "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
}


def _div2k_archive(split: str, entry: str) -> Archive:
    name, *facts = _DIV2K_FILES[entry]
    md5, size = facts[:2] if split == "train" else facts[2:]
    file = f"DIV2K_{split}_{name}"
    exact, about = (size, "") if isinstance(size, int) else (None, str(size))
    return Archive(f"{file}.zip", f"{_DIV2K}{file}.zip", exact, about, str(md5), _DIV2K_SHA.get(file, ""))


def _div2k_lr(kind: str) -> tuple[Layout, ...]:
    """Return the layouts of DIV2K's LR of a kind; EDSR's packing has the names of train for 0801-0900 too."""
    folder = rf"DIV2K_(?:train|valid)_LR_{kind}"
    scaled = (
        Layout("DIV2K", rf"{folder}[/_]x(?P<scale>[2348])/(?P<key>\d{{4}}){_MARK}"),
        Layout("DIV2K", rf"{folder}/(?P<key>\d{{4}})[_-]?x(?P<scale>[2348])"),
    )
    eight = Layout("DIV2K", rf"DIV2K_(?:train|valid)_LR_x(?P<scale>8)/(?P<key>\d{{4}}){_MARK}")
    return (*scaled, eight) if kind == "bicubic" else scaled


def _div2k_realistic(kind: str, copy: str = "") -> tuple[Layout, ...]:
    """Return the layouts of a realistic track: ``0001x4m``, ``0001x4d``, ``0001x4w`` or, with a copy, ``0001x4w1``."""
    folder, mark = rf"DIV2K_(?:train|valid)_LR_{kind}", rf"{kind[0]}{copy}"
    return (
        Layout("DIV2K", rf"{folder}(?:[/_]x4)?/(?P<key>\d{{4}})[_-]?x(?P<scale>[24]){mark}"),
        *(() if kind == "wild" else (Layout("DIV2K", rf"{folder}/(?P<key>\d{{4}})", scale=4),)),
    )


def _div2k(split: str) -> StorePlan:
    first, last = (1, 800) if split == "train" else (801, 900)
    place = "train" if split == "train" else "(?:valid|train)"  # EDSR and MMagic have 0801-0900 in DIV2K_train_HR
    return StorePlan(
        name=f"DIV2K_{split}",
        title=f"DIV2K, {first:04d}-{last:04d}",
        hr=(Layout("DIV2K", rf"DIV2K_{place}_HR/(?P<key>\d{{4}})(?:_HR)?"),),
        expected=Expected(last - first + 1, numbered(first, last, 4)),
        archives=(_div2k_archive(split, "HR"),),
        lr=_div2k_lr("bicubic"),
        lr_archives={s: (_div2k_archive(split, f"bicubic_{s}"),) for s in (2, 3, 4, 8)},
        scales=_SCALES,
    )


def _div2k_kind(split: str, kind: str, copy: str = "") -> StorePlan:
    plan = _div2k(split)
    scales = _SCALES if kind == "unknown" else (4,)
    return plan._replace(
        name=f"DIV2K_{split}_{kind}{copy}_X{{scale}}",
        title=f"{plan.title}, LR {kind}{copy}",
        hr=_div2k_lr(kind) if kind == "unknown" else _div2k_realistic(kind, copy),
        archives=(),
        lr=(),
        lr_archives={s: (_div2k_archive(split, f"{kind}_{s}"),) for s in scales},
        scales=scales,
        lr_only=True,
        optional=kind == "wild" and split == "train",  # it has four copies, or one
    )


_FLICKR2K = Archive(
    "Flickr2K.tar",
    "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
    about="about 20 GB with all LR",
    md5="5d3f39443d5e9489bff8963f8f26cb03",
)

_FLICKR2K_PLAN = StorePlan(
    name="Flickr2K",
    title="Flickr2K, 000001-002650",
    hr=(Layout("Flickr2K", r"Flickr2K(?:_train)?(?:_HR)?/(?:HR/)?(?P<key>\d{6})"),),
    expected=Expected(2650, numbered(1, 2650, 6)),
    archives=(_FLICKR2K,),
    lr=(
        Layout("Flickr2K", rf"Flickr2K(?:_train)?_LR_bicubic[/_]x(?P<scale>[2348])/(?P<key>\d{{6}}){_MARK}"),
        Layout("Flickr2K", r"Flickr2K(?:_train)?_LR_bicubic/(?P<key>\d{6})[_-]?x(?P<scale>[2348])"),
    ),
    lr_archives=dict.fromkeys((2, 3, 4), (_FLICKR2K,)),
    scales=_SCALES,
)

# -- the classic test sets -------------------------------------------------------------------------------------------

_BENCHMARK = Archive(
    "benchmark.tar",
    "https://cv.snu.ac.kr/research/EDSR/benchmark.tar (or a copy of it; the server does not always answer)",
    about="250 MB",
    md5="4ace41d33c2384b97e6b320cd0afd6ba",
)

_GTMOD = "HR images are cropped to multiples of {0} (GTmod{0}): scores differ from those of the whole images"

_PER_SCALE = "HR images are cropped to multiples of a scale, the largest crop of each image is used"


def _classic_hr(folder: str, name: str) -> tuple[Layout, ...]:
    """Return the layouts of HR images: those of EDSR, BasicSR, HAT, SelfExSR, RCAN, eugenesiow, and whole images alone."""
    return (
        Layout("EDSR", rf"{folder}/HR/(?P<key>{name})"),
        Layout("eugenesiow", rf"{folder}_HR/(?P<key>{name})"),
        Layout("BasicSR", rf"{folder}/GTmod12/(?P<key>{name})", arithmetic="float", note=_GTMOD.format(12)),
        Layout("HAT", rf"{folder}/GTmod(?P<scale>[2348])/(?P<key>{name})", arithmetic="float", note=_PER_SCALE),
        Layout("SelfExSR", rf"{folder}/image_SRF_(?P<scale>[2348])/(?P<key>.*?)_SRF_(?P=scale)_HR", note=_PER_SCALE),
        Layout("RCAN", rf"{folder}/(?:x[2348]/)?(?P<key>{name})_HR_x(?P<scale>[2348])", note=_PER_SCALE),
        Layout("whole images", rf"{folder}/(?:original/|GT/|images?/)?(?P<key>{name})(?:_GT|_HR)?"),
    )


def _classic_lr(folder: str, name: str) -> tuple[Layout, ...]:
    mark = r"(?:[_-]?x(?P=scale))?(?:_LR)?"
    return (
        Layout("EDSR", rf"{folder}/LR_bicubic/x(?P<scale>[2348])/(?P<key>{name}){mark}"),
        Layout("eugenesiow", rf"{folder}_LR_x(?P<scale>[2348])/(?P<key>{name}){mark}"),
        Layout("BasicSR", rf"{folder}/LRbicx(?P<scale>[2348])/(?P<key>{name})"),
        Layout("HAT", rf"{folder}/LRbicx(?P<scale>[2348])/(?P<key>{name})"),
        Layout("SelfExSR", rf"{folder}/image_SRF_(?P<scale>[2348])/(?P<key>.*?)_SRF_(?P=scale)_LR"),
        Layout("RCAN", rf"{folder}/(?:x[2348]/)?(?P<key>{name})_LRBI_x(?P<scale>[2348])"),
        Layout("whole images", rf"{folder}/(?P<key>{name})_LR_?x(?P<scale>[2348])"),
    )


def _classic(
    title: str,
    count: int,
    *,
    folder: str | None = None,
    name: str,
    archive: Archive,
    more: tuple[Layout, ...] = (),
    terms: str = "no license is stated",
    names: frozenset[str] = frozenset(),
    arithmetic: Arithmetic = "uint8_replicate",
) -> KnownSet:
    folder = folder or title
    plan = StorePlan(
        name=title,
        title=title,
        hr=(*_classic_hr(folder, name), *more),
        expected=Expected(count, names),
        archives=(archive,),
        lr=_classic_lr(folder, name),
        lr_archives=dict.fromkeys(_SCALES, (archive,)),
        arithmetic=arithmetic,
        scales=_SCALES,
    )
    return KnownSet(title, terms, (plan,), then=((title, _EVAL.format(title.lower())),))


_SET5 = "(?:baby|bird|butterfly|head|woman|img_?00[1-5])"

_SET14 = (
    "(?:baboon|barbara|bridge|coastguard|comic|face|flowers|foreman|lenna|lena|man|monarch|peppers?|ppt3|zebra|"
    r"img_?0(?:0\d|1[0-4]))"
)

_BSDS = (
    Layout("BSDS500", r"BSDS500/data/images/val/(?P<key>\d+)"),
    Layout("BSDS300", r"BSDS300/images/test/(?P<key>\d+)"),
)

_MANGA109 = Archive(
    "Manga109.zip", "BasicSR's drive folder 1gt5eT293esqY0yr1Anbm36EdnxWW_5oH (apply at www.manga109.org)"
)

_KODAK = StorePlan(
    name="kodak24",
    title="Kodak",
    hr=(Layout("Kodak", r"(?P<key>kodim\d\d)"),),
    expected=Expected(
        24,
        frozenset(f"kodim{n:02d}" for n in range(1, 25)),
        sizes=frozenset([(768, 512), (512, 768)]),
    ),
    archives=(Archive("kodim01.png ... kodim24.png", "http://r0k.us/graphics/kodak/", about="24 files, 15 MB"),),
)

_BSDS_TERMS = "non-commercial research and education"

_DIV2K_TERMS = "academic research only"

_EVAL = "sr-eval weights=bicubic scale=4 sets=[{}]"

_TRAIN = "sr-train data={} model=edsr_baseline scale={}"

_TRAIN_DIV2K = ("DIV2K_train", _TRAIN.format("div2k", 2))

_WILD = " 'data.train=[{hr: ${paths.data}/DIV2K_train.lmdb, lr: ${paths.data}/DIV2K_train_wild_X4.lmdb}]'"

IMAGE_SETS = {
    "div2k": KnownSet(
        "DIV2K",
        _DIV2K_TERMS,
        (_div2k("train"), _div2k("valid")),
        {
            "unknown": (_div2k_kind("train", "unknown"), _div2k_kind("valid", "unknown")),
            "mild": (_div2k_kind("train", "mild"), _div2k_kind("valid", "mild")),
            "difficult": (_div2k_kind("train", "difficult"), _div2k_kind("valid", "difficult")),
            "wild": (*(_div2k_kind("train", "wild", c) for c in ("1", "2", "3", "4", "")), _div2k_kind("valid", "wild")),
        },
        then=(
            _TRAIN_DIV2K,
            ("DIV2K_valid", _EVAL.format("div2k") + " protocols=[div2k]"),
            ("DIV2K_train_unknown_X2", _TRAIN.format("div2k_unknown", 2)),
            *((f"DIV2K_train_{kind}_X4", _TRAIN.format(f"div2k_{kind}", 4)) for kind in ("mild", "difficult")),
            ("DIV2K_train_wild1_X4", _TRAIN.format("div2k_wild", 4)),
            ("DIV2K_train_wild_X4", _TRAIN.format("base", 4) + _WILD),
        ),
    ),
    "flickr2k": KnownSet(
        "Flickr2K", "photographs of Flickr, no license file is known", (_FLICKR2K_PLAN,),
        then=(("Flickr2K", _TRAIN.format("flickr2k", 2)),),
    ),
    "df2k": KnownSet(
        "DF2K (DIV2K and Flickr2K)", _DIV2K_TERMS, (_div2k("train"), _div2k("valid"), _FLICKR2K_PLAN),
        then=(_TRAIN_DIV2K, ("Flickr2K", _TRAIN.format("df2k", 2))),
    ),
    "set5": _classic("Set5", 5, name=_SET5, archive=_BENCHMARK),
    "set14": _classic("Set14", 14, name=_SET14, archive=_BENCHMARK),
    "b100": _classic(
        "B100", 100, folder="(?:B100|BSDS?100)", name=r"(?:\d{3,6}|img_?\d{3})", archive=_BENCHMARK, more=_BSDS,
        terms=_BSDS_TERMS,
    ),
    "urban100": _classic("Urban100", 100, name=r"img_?\d{3}", archive=_BENCHMARK, terms="CC BY 4.0"),
    "manga109": _classic(
        "Manga109", 109, name=r"[^/]+?", archive=_MANGA109, terms="academic use, by application; no redistribution"
    ),
    "kodak": KnownSet(
        "Kodak", "released for unrestricted use", (_KODAK,), then=(("kodak24", _EVAL.format("kodak24")),)
    ),
}  # fmt: skip

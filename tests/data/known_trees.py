"""Miniature data sets with the true paths of every packing: a tree maps the path of a file to its size, or to its text."""

import functools
import io
import tarfile
import zipfile
import zlib

import cv2
import numpy as np

SIDE = 48  # of HR images: a multiple of 2, 3, 4 and 12


@functools.cache
def picture(path, width, height):
    """[h, w, 3] uint8: an image that only this path has; smooth, as bicubic images are."""
    random = np.random.default_rng(zlib.crc32(path.encode()))
    small = random.integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def content(path, what):
    if isinstance(what, str):
        return what.encode()
    size = what if isinstance(what, tuple) else (what, what)
    suffix = "." + path.rpartition(".")[2].lower()
    return cv2.imencode(suffix, picture(path, *size)[:, :, ::-1])[1].tobytes()


def unpack(tree, folder):
    """Write the files below a folder."""
    for path, what in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content(path, what))
    return folder


def pack(tree, archive):
    """Write the files into an archive; its suffix is the format."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path, what in tree.items():
                file.writestr(path, content(path, what))
        return archive
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as file:
        for path, what in tree.items():
            info = tarfile.TarInfo(path)
            info.size = len(content(path, what))
            file.addfile(info, io.BytesIO(content(path, what)))
    return archive


def images(hr, lr, names, scales=(2, 3, 4)):
    """Tree of HR images and their LR; {n} in the patterns is a name, {s} a scale."""
    tree = {hr.format(n=n): SIDE for n in names}
    return tree | {lr.format(n=n, s=s): SIDE // s for n in names for s in scales if lr}


def clips(*patterns, names, frames, scale=4):
    """Tree of clips; {c} in the patterns is a clip and {f} a frame, and the LR patterns follow that of HR."""
    return {
        pattern.format(c=c, f=f): SIDE // scale if number else SIDE
        for number, pattern in enumerate(patterns)
        for c in names
        for f in frames
    }


REDS4 = ("000", "011", "015", "020")
REDS = (*REDS4, "001", "239")
FRAMES = [f"{n:08d}" for n in range(7)]
SEPTET = [f"im{n}" for n in range(1, 8)]
LISTS = {"sep_trainlist.txt": "00001/0001\r\n00002/0003\r\n", "sep_testlist.txt": "00001/0002\n"}
VIMEO = ("00001/0001", "00001/0002", "00001/0009", "00002/0003")  # 0009 is in no list
SET5 = ("baby", "bird", "butterfly", "head", "woman")
DIV2K = ("0001", "0800", "0801", "0900")
SELF = [f"img_{n:03d}" for n in range(1, 6)]


def div2k(hr="DIV2K_{p}_HR/{n}.png", lr="DIV2K_{p}_LR_bicubic/X{s}/{n}x{s}.png", scales=(2, 3, 4)):
    tree = {}
    for part, names in (("train", DIV2K[:2]), ("valid", DIV2K[2:])):
        tree |= images(hr.replace("{p}", part), lr.replace("{p}", part), names, scales)
    return tree


def reds(kind, start="{p}/{p}_", inner="", scale=4):
    lr = f"{start}{kind}/{inner}{{c}}/{{f}}.png"
    tree = {}
    for part, names in (("train", REDS), ("val", ("000", "029"))):
        pair = [pattern.replace("{p}", part) for pattern in (f"{start}sharp/{{c}}/{{f}}.png", lr)]
        tree |= clips(*pair, names=names, frames=FRAMES, scale=scale)
    return tree


def vimeo(*patterns, lists="vimeo_septuplet/"):
    return clips(*patterns, names=VIMEO, frames=SEPTET) | {lists + name: text for name, text in LISTS.items()}


def per_scale(hr, lr, names, width=50, height=51):
    """Packings with a crop of HR for each scale."""
    tree = {}
    for s in (2, 3, 4):
        w, h = width - width % s, height - height % s
        tree |= {hr.format(n=n, s=s): (w, h) for n in names} | {lr.format(n=n, s=s): (w // s, h // s) for n in names}
    return tree


CALENDAR = ("calendar", "city", "foliage", "walk")
UDM10 = ("archpeople", "archwall", "auditorium", "band", "caffe", "camera", "clap", "lake", "photography", "polyflow")
NUMBERS = [f"{n:04d}" for n in range(7)]

#: name of a packing -> (dataset, kind or None, tree)
PACKINGS = {
    "div2k as downloaded": ("div2k", None, div2k()),
    "div2k unpacked into folders of the archives": (
        "div2k", None,
        div2k("DIV2K_{p}_HR/DIV2K_{p}_HR/{n}.png", "DIV2K_{p}_LR_bicubic_X{s}/DIV2K_{p}_LR_bicubic/X{s}/{n}x{s}.png"),
    ),
    "div2k of EDSR": (
        "div2k", None, images("DIV2K/DIV2K_train_HR/{n}.png", "DIV2K/DIV2K_train_LR_bicubic/X{s}/{n}x{s}.png", DIV2K)
    ),
    "div2k in upper case": ("div2k", None, div2k("DIV2K_{p}_HR/{n}.PNG", "DIV2K_{p}_LR_bicubic/x{s}/{n}_X{s}.PNG")),
    "div2k with folders _x2": ("div2k", None, div2k(lr="DIV2K_{p}_LR_bicubic_x{s}/{n}_LR.png")),
    "div2k with names alone": ("div2k", None, div2k(lr="DIV2K_{p}_LR_bicubic/X{s}/{n}.png")),
    "div2k unknown": ("div2k", "unknown", div2k(lr="DIV2K_{p}_LR_unknown/X{s}/{n}x{s}.png")),
    "div2k mild": ("div2k", "mild", div2k(lr="DIV2K_{p}_LR_mild/{n}x{s}m.png", scales=(4,))),
    "div2k difficult": ("div2k", "difficult", div2k(lr="DIV2K_{p}_LR_difficult/{n}x{s}d.png", scales=(4,))),
    "div2k wild": (
        "div2k",
        "wild",
        div2k(lr="")
        | {f"DIV2K_train_LR_wild/{n}x4w{c}.png": 12 for n in DIV2K[:2] for c in "1234"}
        | {f"DIV2K_valid_LR_wild/{n}x4w.png": 12 for n in DIV2K[2:]},
    ),
    "flickr2k of EDSR": (
        "flickr2k", None,
        images("Flickr2K/Flickr2K_HR/{n}.png", "Flickr2K/Flickr2K_LR_bicubic/X{s}/{n}x{s}.png", ("000001", "002650")),
    ),
    "flickr2k of NTIRE": (
        "flickr2k", None,
        images("Flickr2K_train_HR/{n}.png", "Flickr2K_train_LR_bicubic/X{s}/{n}x{s}.png", ("000001", "002650")),
    ),
    "set5 of EDSR": ("set5", None, images("benchmark/Set5/HR/{n}.png", "benchmark/Set5/LR_bicubic/X{s}/{n}x{s}.png", SET5)),
    "set5 of eugenesiow": ("set5", None, images("Set5_HR/{n}.png", "Set5_LR_x{s}/{n}.png", SET5)),
    "set5 of BasicSR": ("set5", None, images("Set5/GTmod12/{n}.png", "Set5/LRbicx{s}/{n}.png", SET5)),
    "set5 of HAT": ("set5", None, per_scale("Set5/GTmod{s}/{n}.png", "Set5/LRbicx{s}/{n}.png", SET5)),
    "set5 of SelfExSR": (
        "set5", None,
        per_scale("Set5/image_SRF_{s}/{n}_SRF_{s}_HR.png", "Set5/image_SRF_{s}/{n}_SRF_{s}_LR.png", SELF)
        | {f"Set5/image_SRF_2/{n}_SRF_2_bicubic.png": 48 for n in SELF},
    ),
    "set5 of RCAN": (
        "set5", None, per_scale("HR/Set5/x{s}/{n}_HR_x{s}.png", "LR/LRBI/Set5/x{s}/{n}_LRBI_x{s}.png", SET5)
    ),
    "set5 as whole images": ("set5", None, images("Set5/{n}_GT.bmp", "", SET5)),
    "set14 of EDSR": (
        "set14", None, images("Set14/HR/{n}.png", "Set14/LR_bicubic/X{s}/{n}x{s}.png", ("baboon", "ppt3", "zebra"))
    ),
    "b100 of EDSR": ("b100", None, images("B100/HR/{n}.png", "B100/LR_bicubic/X{s}/{n}x{s}.png", ("101085", "3096"))),
    "b100 of eugenesiow": ("b100", None, images("BSD100_HR/{n}.png", "BSD100_LR_x{s}/{n}.png", ("101085", "3096"))),
    "b100 of Berkeley": (
        "b100", None,
        {"BSR/BSDS500/data/images/val/101085.jpg": 48, "BSR/BSDS500/data/images/test/100007.jpg": 48},
    ),
    "urban100 of SelfExSR": (
        "urban100", None,
        {f"Urban100/image_SRF_4/img_001_SRF_4_{k}.png": n for k, n in (("HR", 48), ("LR", 12))}
        | {f"Urban100/image_SRF_2/img_001_SRF_2_{k}.png": n for k, n in (("HR", 24), ("LR", 12))},
    ),
    "urban100 of EDSR": ("urban100", None, images("Urban100/HR/{n}.png", "Urban100/LR_bicubic/X{s}/{n}x{s}.png", ("img001",))),
    "manga109 of EDSR's form": (
        "manga109", None, images("Manga109/HR/{n}.png", "Manga109/LR_bicubic/X{s}/{n}x{s}.png", ("ARMS", "YumeiroCooking"))
    ),
    "manga109 of BasicSR": ("manga109", None, images("Manga109/GTmod12/{n}.png", "Manga109/LRbicx{s}/{n}.png", ("ARMS",))),
    "kodak": ("kodak", None, images("kodak24/{n}.png", "", ("kodim01", "kodim24"))),
    "reds as downloaded": ("reds", None, reds("sharp_bicubic", inner="X4/")),
    "reds unpacked": ("reds", None, reds("sharp_bicubic", start="{p}_")),
    "reds regrouped": (
        "reds", None,
        clips("train_sharp/{c}/{f}.png", "train_sharp_bicubic/X4/{c}/{f}.png", names=(*REDS, "240", "269"), frames=FRAMES),
    ),
    "reds in parts": (
        "reds", None,
        {p.replace("train_sharp/", "train_sharp_part1/") if "/000/" in p else p: s
         for p, s in reds("sharp_bicubic", start="{p}_").items()},
    ),
    "reds blur": ("reds", "blur", reds("blur", scale=1)),
    "reds blur_comp": ("reds", "blur_comp", reds("blur_comp", scale=1)),
    "reds blur_bicubic": ("reds", "blur_bicubic", reds("blur_bicubic", inner="X4/")),
    "reds4 of BasicSR": (
        "reds4", None, clips("REDS4/GT/{c}/{f}.png", "REDS4/sharp_bicubic/{c}/{f}.png", names=REDS4, frames=FRAMES)
    ),
    "vimeo90k as downloaded": ("vimeo90k", None, vimeo("vimeo_septuplet/sequences/{c}/{f}.png")),
    "vimeo90k of BasicSR": (
        "vimeo90k", None,
        vimeo("vimeo_septuplet/sequences/{c}/{f}.png", "vimeo_septuplet_matlabLRx4/sequences/{c}/{f}.png"),
    ),
    "vimeo90k of MMagic": ("vimeo90k", None, vimeo("vimeo90k/GT/{c}/{f}.png", "vimeo90k/BIx4/{c}/{f}.png", lists="vimeo90k/")),
    "vimeo90k test of TOFlow": (
        "vimeo90k", None,
        clips("v/target/{c}/{f}.png", "v/low_resolution/{c}/{f}.png", names=("00001/0002",), frames=SEPTET)
        | clips("v/input/{c}/{f}.png", names=("00001/0002",), frames=SEPTET) | {"v/sep_testlist.txt": "00001/0002\n"},
    ),
    "vid4 of MMagic": (
        "vid4", None, clips("Vid4/GT/{c}/{f}.png", "Vid4/BIx4/{c}/{f}.png", names=CALENDAR, frames=FRAMES)
    ),
    "vid4 blurred": ("vid4", "bd", clips("Vid4/GT/{c}/{f}.png", "Vid4/BDx4/{c}/{f}.png", names=CALENDAR, frames=FRAMES)),
    "vid4 in folders hr and lr": (
        "vid4", None, clips("Vid4/{c}/hr/{f}.png", "Vid4/{c}/lr/{f}.png", names=CALENDAR, frames=FRAMES)
    ),
    "vid4 with names hr_01": (
        "vid4", None, clips("{c}/hr_{f}.png", "{c}/lr_{f}.png", names=CALENDAR, frames=[f"{n:02d}" for n in range(1, 8)])
    ),
    "udm10 of KAIR": (
        "udm10", None, clips("UDM10/GT/{c}/{f}.png", "UDM10/BDx4/{c}/{f}.png", names=UDM10, frames=NUMBERS)
    ),
    "udm10 of PFNL": ("udm10", None, clips("{c}/truth/{f}.png", "{c}/blur4/{f}.png", names=UDM10, frames=NUMBERS)),
    "udm10 bicubic": (
        "udm10", "bicubic", clips("UDM10/GT/{c}/{f}.png", "UDM10/BIx4/{c}/{f}.png", names=UDM10, frames=NUMBERS)
    ),
    "spmcs": (
        "spmcs", None,
        clips("{c}/truth/{f}.png", "{c}/input4/{f}.png", names=("car05_001", "hk004_001"),
              frames=[f"Frame {n:03d}" for n in range(7)]),
    ),
}  # fmt: skip

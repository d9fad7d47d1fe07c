"""Members of archives are read as files are; archives that are damaged, hostile or of another kind are refused by name."""

import copy
import gzip
import io
import multiprocessing
import os
import pickle
import stat
import struct
import tarfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stores import assert_same_store, picture, prepare

from sr_train.data.archives import ArchiveError, Member, discard_copies, header_of, list_archived, list_files
from sr_train.data.images import BadFilesError, ImageError, encode_image, read_header, write_image
from sr_train.data.packed import member as limits
from sr_train.data.sources import input_files, open_source
from sr_train.data.store.format import MissingStoreError
from sr_train.data.video.clips import clip_files

KINDS = ["stored.zip", "deflated.zip", "zip64.zip", "x.tar", "pax.tar", "x.tar.gz", "x.tgz"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "files"
    (folder / "set" / "more").mkdir(parents=True)
    for k in range(5):
        write_image(folder / "set" / f"{k:04d}.png", picture(k, 30 + k, 47 - k))
    write_image(folder / "set" / "more" / "deep.tiff", picture(10, 150, 160, dtype=np.uint16))
    write_image(folder / "set" / "more" / ("long" * 40 + ".bmp"), picture(11, 9, 9))
    (folder / "set" / "notes é.txt").write_text("hello")
    return folder


def pack(folder, path):
    """Pack a folder by the standard library, in the way that a name of KINDS states."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        method = zipfile.ZIP_STORED if path.name.startswith("stored") else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.comment = b"PK\5 a comment"
            for file in files:
                with archive.open(file.relative_to(folder).as_posix(), "w", force_zip64="64" in path.name) as member:
                    member.write(file.read_bytes())
        return path
    form = tarfile.PAX_FORMAT if path.name.startswith("pax") else tarfile.GNU_FORMAT
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz", format=form) as archive:
        archive.add(folder, ".")
    return path


def below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read_all(files):
    return {name: file.read_bytes() for name, file in files.items()}


# -- members are files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_as_the_files_that_were_packed(folder, tmp_path, kind):
    archive = pack(folder, tmp_path / kind)
    files = list_files(archive)
    assert list(files) == sorted(below(folder))
    assert read_all(files) == below(folder)
    for name, file in files.items():
        assert isinstance(file, Member)
        assert os.fspath(file) == str(file) == f"{archive}/{name}"
        assert file.stat().st_size == (folder / name).stat().st_size
        if not name.endswith(".txt"):
            assert file.header() == header_of(file) == read_header(folder / name)
    assert read_all(list_files(f"{archive}/set/more")) == below(folder / "set" / "more")
    assert list(tmp_path.glob(".*")) == ([] if "gz" not in kind else list(tmp_path.glob(f".{kind}-*.unpacked.tar")))
    discard_copies(files)
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("kind", ["deflated.zip", "x.tar", "x.tar.gz"])
def test_threads_and_other_processes_read_the_same_members(folder, tmp_path, kind):
    files, expected = list_files(pack(folder, tmp_path / kind)), below(folder)
    names = list(files) * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: files[name].read_bytes(), names)) == [expected[name] for name in names]
    assert read_all(pickle.loads(pickle.dumps(files))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert dict(zip(files, pool.map(Member.read_bytes, files.values()), strict=True)) == expected


def test_the_time_of_a_member_is_that_which_the_archive_states(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.png", (2019, 4, 3, 10, 20, 30)), b"a")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        entry = tarfile.TarInfo("a.png")
        entry.size, entry.mtime = 1, 1554286830
        archive.addfile(entry, io.BytesIO(b"a"))
    for name in ("x.zip", "x.tar"):
        (file,) = list_files(tmp_path / name).values()
        assert file.stat().st_mtime_ns == 1554286830 * 10**9


def test_archives_in_a_folder_appear_as_if_unpacked_there(folder, tmp_path):
    root = tmp_path / "root"
    (root / "down" / "set").mkdir(parents=True)
    for kind in ("deflated.zip", "x.tar"):
        pack(folder, root / "down" / kind)
    own = root / "down" / "set" / "0001.png"
    write_image(own, picture(77))
    for ignored in ("__MACOSX/._a.png", "set/Thumbs.db", ".hidden/a.png"):
        with zipfile.ZipFile(root / "down" / "deflated.zip", "a") as archive:
            archive.writestr(ignored, b"")
    files = list_files(root)
    assert sorted(files) == sorted(f"down/{name}" for name in below(folder))
    assert files["down/set/0001.png"] == own  # a file wins over members
    assert files["down/set/0002.png"].archive.path.name == "deflated.zip"  # and an archive over later ones
    files = list_files(root, ignore=lambda path: path.endswith((".zip", ".txt")))
    assert files["down/set/0002.png"].archive.path.name == "x.tar"
    assert "down/set/notes é.txt" not in files


def test_archives_with_different_images_of_one_path_are_refused(tmp_path):
    for name, content in (("a.zip", b"1"), ("b.zip", b"2")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("set/0001.png", content)
            archive.writestr("readme.txt", content)
    with pytest.raises(
        BadFilesError, match=r"different images of the same path.*\n.*0001\.png: .*a\.zip.* and .*b\.zip"
    ):
        list_files(tmp_path)


# -- images and clips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deflated.zip", "x.tar", "x.tar.gz"])
def test_a_store_of_an_archive_is_that_of_the_folder(folder, tmp_path, kind):
    (folder / "set" / "notes é.txt").unlink()
    prepare(folder / "set", tmp_path / "calm.lmdb")
    archive = pack(folder, tmp_path / kind)
    assert prepare(archive, tmp_path / "x.lmdb").written == 7
    assert prepare(archive, tmp_path / "x.lmdb") is None
    assert prepare(folder / "set", tmp_path / "x.lmdb") is None  # the contents are equal
    assert prepare(archive, tmp_path / "calm.lmdb") is None
    assert prepare(f"{archive}/set", tmp_path / "x.lmdb") is None
    assert not list(tmp_path.glob(".*"))
    prepare(archive, tmp_path / "y.lmdb")
    assert_same_store(tmp_path / "x.lmdb", tmp_path / "y.lmdb")


def test_a_changed_member_is_noticed(folder, tmp_path):
    archive = pack(folder, tmp_path / "x.zip")
    prepare(archive, tmp_path / "x.lmdb")
    size = (folder / "set" / "more" / ("long" * 40 + ".bmp")).stat().st_size
    write_image(folder / "set" / "more" / ("long" * 40 + ".bmp"), picture(12, 9, 9))
    assert (folder / "set" / "more" / ("long" * 40 + ".bmp")).stat().st_size == size
    pack(folder, archive)
    with pytest.raises(FileExistsError, match=r"1 image added, removed or changed \(more/long"):
        prepare(archive, tmp_path / "x.lmdb")


def test_folders_that_all_images_share_are_no_part_of_their_names(tmp_path):
    def names(*paths, **options):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for path in paths:
                archive.writestr(path, b"")
        return list(list_archived(tmp_path / "x.zip", **options))

    assert names("a/b/1.png", "a/b/2.png") == ["1", "2"]
    assert names("a/b/1.png", "a/b-c/2.png", "a/b/d/3.png") == ["b-c/2", "b/1", "b/d/3"]
    assert names("1.png", "a/2.png", "note.txt") == ["1", "a/2"]
    assert names("t/s/000/0.png", "t/s/001/0.png", clips=True) == ["000/0", "001/0"]
    assert names("t/s/000/0.png", "t/s/000/1.png", clips=True) == ["000/0", "000/1"]
    assert list(clip_files(tmp_path / "x.zip")) == ["000/0", "000/1"]
    assert list(input_files(tmp_path / "x.zip/t")) == ["s/000/0", "s/000/1"]
    with pytest.raises(BadFilesError, match=r"a\.png.* would both be 'a'"):
        names("a.png", "a.bmp")
    with pytest.raises(ValueError, match=r"x\.zip: no images in it"):
        names("a.txt")
    with pytest.raises(
        FileNotFoundError, match=r"x\.zip/b: there is no such folder in the archive; at its top are a\.txt"
    ):
        list_files(tmp_path / "x.zip" / "b")
    with pytest.raises(FileNotFoundError, match=r"y\.zip: there is no such folder or archive"):
        list_files(tmp_path / "y.zip")


def test_training_and_scores_name_the_command_that_makes_a_store(folder, tmp_path, monkeypatch):
    pack(folder, tmp_path / "x.zip")
    monkeypatch.chdir(tmp_path)
    for where, store in (("x.zip", r"x\.lmdb"), ("x.zip/set", r"set\.lmdb")):
        match = rf"do not read archives; run sr-prepare images={where} store={store} and give {store}"
        with pytest.raises(MissingStoreError, match=match):
            open_source(where)


# -- damage and attacks -----------------------------------------------------------------------------------------------


def test_a_truncated_archive_is_refused_wherever_it_ends(folder, tmp_path):
    for kind in ("deflated.zip", "x.tar", "x.tar.gz"):
        whole = pack(folder, tmp_path / kind).read_bytes()
        ends = [len(whole) // 9 * k for k in range(1, 9)] + [len(whole) - 30, 512 * 12]
        for end in ends:
            (tmp_path / kind).write_bytes(whole[:end])
            if kind == "x.tar" and end > len(whole) - 8000:  # in the padding that follows its end
                continue
            with pytest.raises(ArchiveError, match=rf"{kind}: truncated or damaged"):
                list_files(tmp_path / kind)


@pytest.mark.parametrize("kind", ["deflated.zip", "stored.zip"])
def test_a_flipped_bit_in_a_member_is_noticed(folder, tmp_path, kind):
    archive = pack(folder, tmp_path / kind)
    data = bytearray(archive.read_bytes())
    (at,) = [m.header_offset for m in zipfile.ZipFile(archive).infolist() if m.filename == "set/0002.png"]
    data[at + 600] ^= 4
    archive.write_bytes(data)
    with pytest.raises(ImageError, match=rf"{kind}: member 'set/0002\.png': damaged \("):
        list_files(archive)["set/0002.png"].read_bytes()


def test_a_damaged_member_is_one_bad_file_of_a_build(folder, tmp_path):
    archive = pack(folder, tmp_path / "x.zip")
    data = bytearray(archive.read_bytes())
    (at,) = [m.header_offset for m in zipfile.ZipFile(archive).infolist() if m.filename == "set/0002.png"]
    data[at + 1600] ^= 4
    archive.write_bytes(data)
    with pytest.raises(BadFilesError, match=r"1 bad file; .*\n.*member 'set/0002\.png': damaged"):
        prepare(archive, tmp_path / "x.lmdb")
    assert prepare(archive, tmp_path / "x.lmdb", skip_bad=True).written == 6


def bomb(path, stated, real):
    """A zip whose directory states another size than the member has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/a.png", bytes(real))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", stated)
    path.write_bytes(data)


def test_a_member_that_unpacks_to_another_size_is_refused(tmp_path):
    bomb(tmp_path / "x.zip", 1000, 50_000_000)
    with pytest.raises(ImageError, match="it unpacks to more than the 1000 bytes that the archive states"):
        list_files(tmp_path / "x.zip")["set/a.png"].read_bytes()
    bomb(tmp_path / "x.zip", 1001, 1000)
    with pytest.raises(ImageError, match="it unpacks to 1000 of 1001 bytes"):
        list_files(tmp_path / "x.zip")["set/a.png"].read_bytes()
    bomb(tmp_path / "x.zip", 1 << 30, 1000)
    with pytest.raises(ArchiveError, match=r"member 'set/a\.png' of \d+ bytes cannot unpack to 1073741824"):
        list_files(tmp_path / "x.zip")
    bomb(tmp_path / "x.zip", 0xF0000000, 1000)
    with pytest.raises(ArchiveError, match=r"member 'set/a\.png': states 4\.0 GB, more than the 2\.1 GB that are read"):
        list_files(tmp_path / "x.zip")


def test_a_zip_whose_members_share_their_data_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10_000))
        twin = copy.copy(archive.filelist[0])
        twin.filename = "b.png"
        archive.filelist.append(twin)
    with pytest.raises(ArchiveError, match="members overlap"):
        list_files(tmp_path / "x.zip")


def test_a_compressed_tar_that_grows_without_bounds_is_refused(tmp_path, monkeypatch):
    from sr_train.data.packed import tars

    monkeypatch.setattr(tars, "_ROOM", 1 << 20)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("a.png")
        entry.size = 40 << 20
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz: unpacks to more than 100 times its size"):
        list_files(tmp_path / "x.tar.gz")


def test_too_many_members_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MOST", 5)
    for kind in ("x.zip", "x.tar"):
        with pytest.raises(ArchiveError, match=rf"{kind}: has .* members; up to 5 are read"):
            list_files(pack(folder, tmp_path / kind))


@pytest.mark.parametrize(
    "name",
    ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "C:a.png", "a\\b.png", "a//b.png", "a/./b.png", ".."],
)
def test_paths_that_may_leave_the_archive_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, warnings.catch_warnings():
        archive.writestr("good.png", b"")
        archive.writestr(name, b"")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("good.png"))
        archive.addfile(tarfile.TarInfo(name))
    for kind in ("x.zip", "x.tar"):
        with pytest.raises(ArchiveError, match=rf"{kind}: member .*: its path is absolute"):
            list_files(tmp_path / kind)


def test_links_and_devices_are_left_out(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../secret.png")
        archive.writestr("folder/", b"")
        archive.writestr("a.png", b"a")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            entry = tarfile.TarInfo(f"{kind!r}.png")
            entry.type, entry.linkname = kind, "../secret.png"
            archive.addfile(entry)
        entry = tarfile.TarInfo("a.png")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"a"))
    for kind in ("x.zip", "x.tar"):
        assert read_all(list_files(tmp_path / kind)) == {"a.png": b"a"}


def _zip(**changes):
    """A zip with one member, with fields of its directory changed: {position: bytes}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("set/a.png", b"a" * 100)
    data = bytearray(out.getvalue())
    for field, value in changes.items():
        start, at = field.split("_")
        at = data.rindex({"entry": b"PK\1\2", "end": b"PK\5\6"}[start]) + int(at)
        data[at : at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.zip",
            _zip(entry_8=b"\1"),
            r"x\.zip: member 'set/a\.png': is encrypted; unpack the archive with its password",
        ),
        ("x.zip", _zip(entry_10=b"\x0e"), r"member 'set/a\.png': is compressed by lzma; stored and deflated members"),
        ("x.zip", _zip(entry_34=b"\2"), r"member 'set/a\.png': lies in another part of a split archive"),
        ("x.zip", _zip(end_4=b"\2"), r"x\.zip: this file is one part of a split archive; join the parts \(zip -s 0"),
        (
            "x.zip",
            _zip(entry_42=b"\xff\xff\0"),
            r"x\.zip: truncated or damaged \(members overlap, or lie beyond its end\)",
        ),
        ("x.zip", _zip(entry_20=b"\xff\xff\xff\xff"), r"member 'set/a\.png' has no zip64 sizes"),
        ("x.zip", _zip(end_16=b"\3"), r"its directory should end at byte"),
        ("x.zip", b"PK\7\x08PK\3\4" + bytes(600), r"is the first part of a split archive"),
        ("x.zip", b"\n<!DOCTYPE html><html>", r"x\.zip: is a web page and no archive"),
        ("x.tar", b"<html>Google Drive - Virus scan warning", r"x\.tar: is a web page and no archive"),
        ("x.rar", b"Rar!\x1a\7\1\0", r"x\.rar: is a rar archive; zip, tar and tar\.gz are read; unpack it"),
        ("x.zip", b"7z\xbc\xaf\x27\x1c", r"x\.zip: is a 7z archive"),
        ("x.zip", b"", r"x\.zip: is empty"),
        ("x.tgz", b"\x1f\x8b\x08" + bytes(40), r"x\.tgz: truncated or damaged"),
        ("x.tgz", gzip.compress(b"no tar"), r"x\.tgz: truncated or damaged"),
        ("x.tar", bytes(512), r"x\.tar: truncated or damaged|no images"),
        ("x.zip.001", _zip()[:50], r"x\.zip\.001: truncated or damaged"),
        ("x.zip", b"\x89PNG\r\n\x1a\n", r"x\.zip: is no zip, tar or tar\.gz archive \(it begins with"),
    ],
    ids=lambda value: (
        None if isinstance(value, str) else "content"
    ),  # archives contain the time; all processes need equal ids
)
def test_what_is_no_archive_or_of_another_kind_is_refused_by_its_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list_archived(tmp_path / name)


def test_archives_of_other_kinds_in_a_folder_are_named_in_a_warning(folder, capsys):
    (folder / "more.rar").write_bytes(b"Rar!")
    assert "more.rar" in list_files(folder)
    assert "more.rar: not read, archives of its kind are not; unpack it" in capsys.readouterr().err


def test_an_archive_that_changes_while_it_is_read_is_noticed(folder, tmp_path):
    archive = pack(folder, tmp_path / "x.zip")
    files = list_files(archive)
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("other.png", encode_image(picture(3, 300, 300), ".png"))
    with pytest.raises(ImageError, match=r"member 'set/0002\.png': (the archive was changed|damaged|cannot be read)"):
        files["set/0002.png"].read_bytes()

"""``sr-prepare dataset=NAME``: the stores of a known set, under the names that ``conf/data`` and ``conf/sets`` expect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_train.console import counted, say
from sr_train.data.archives import InputFile, Member, discard_copies
from sr_train.data.degrade import reduce_image
from sr_train.data.images import BadFilesError, Header, ImageError, decode_image
from sr_train.data.known.downloads import check_archives, list_roots
from sr_train.data.known.recognize import Found, Listing, absolute_listing, recognize, recognize_lr
from sr_train.data.known.request import Request
from sr_train.data.known.table import StorePlan, shown_bytes
from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.describe import describe_store
from sr_train.data.store.format import GIVEN
from sr_train.data.store.reader import Store
from sr_train.data.video.clips import unequal_sizes
from sr_train.resampling import Arithmetic

_SAMPLES = 6  # images that are decoded to estimate the time

_SAMPLE_SECONDS = 2.0

_LISTS = {  # other names of the same lists
    "sep_trainlist.txt": ("sep_trainlist.txt", "meta_info_Vimeo90K_train_GT.txt"),
    "sep_testlist.txt": ("sep_testlist.txt", "meta_info_Vimeo90K_test_GT.txt"),
}

Bar = Callable[[int, str, str], AbstractContextManager[Any]]  #: (total, what, unit) -> progress bar with ``update(n)``


class Job(NamedTuple):
    """One store to make."""

    found: Found
    path: Path
    builder: StoreBuilder
    made: tuple[int, ...]  #: scales whose LR images are made from HR
    arithmetic: Arithmetic


def make_known(request: Request, bar: Bar) -> list[Path]:
    """Make the stores of a known set that are not complete yet; return the paths of all of them.

    Args:
        request: the values of the command.
        bar: function that opens a progress bar.

    Raises:
        BadFilesError: lists everything that is missing or ambiguous.
        ValueError: an archive is damaged, or nothing of the set was found.
        OSError: the disk is too small.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    files = list_roots(request)
    listing: dict[str, InputFile] = {}
    for root, found in files.items():
        listing |= absolute_listing(root, found)
    try:
        check_archives(request, listing, bar)
        found = _find(request, listing)
        jobs = [_job(request, f) for f in found if f.layout is not None]
        say(f"dataset={request.name}: {request.known.title} ({request.known.terms})")
        for f in found:
            _say_found(request, f, next((job for job in jobs if job.found is f), None))
        _build(request, jobs, bar)
    finally:
        discard_copies(listing)
    made = {job.path.stem: job for job in jobs}
    say("next:")
    for name, command in request.known.then:
        if name in made and (made[name].builder.plan.scales or made[name].found.plan.lr_only or len(made) == 1):
            say(f"  {command}")
    return [job.path for job in jobs]


# -- what was found --------------------------------------------------------------------------------------------------


def _find(request: Request, listing: Listing) -> list[Found]:
    """Return what was found for each store. Raises BadFilesError that lists all problems."""
    found: list[Found] = []
    for plan in request.plans():
        names, lists = _names(plan, listing)
        if plan.lr_only:
            own = recognize_lr(plan, listing, names, request.scales_of(plan), partial=request.partial)
        else:
            own = [recognize(plan, listing, names, request.scales_of(plan), partial=request.partial)]
        for one in own:
            one.problems.extend(lists if one.hr else [])
        found += [one for one in own if one.layout is not None or one.problems or not plan.optional]
    problems = [problem for one in found for problem in one.problems]
    roots = ", ".join(map(str, request.roots))
    if problems:
        raise BadFilesError(f"{roots}: dataset={request.name} cannot be made", problems)
    if not any(one.layout for one in found):
        archives = dict.fromkeys(a for one in found for a in one.plan.all_archives())
        known = (
            f"no file has a path of {request.known.title} (the names of folders and files count, not those of archives)"
        )
        raise BadFilesError(f"{roots}: {known}; it is in", [str(archive) for archive in archives])
    return found


def _names(plan: StorePlan, listing: Listing) -> tuple[frozenset[str], list[str]]:
    """Return the names of the images or clips of a store, and problems of the list that contains them."""
    name = plan.expected.listed
    if not name:
        return plan.expected.names, []
    lists = {path: file for path, file in listing.items() if path.rpartition("/")[2] in _LISTS[name]}
    where = f"; it is in {plan.archives[0]}"
    if not lists:
        return frozenset(), [f"{plan.title}: the list of its clips, {name}, is not there{where}"]
    found = {path: _read_names(file) for path, file in lists.items()}
    first = next(iter(found.values()))
    if any(names != first for names in found.values()):
        return first, [f"{plan.title}: {' and '.join(found)} contain different names; move one away"]
    return first, [] if first else [f"{next(iter(found))}: contains no names of clips, e.g. 00001/0001{where}"]


def _read_names(file: InputFile) -> frozenset[str]:
    lines = file.read_bytes().decode("utf-8-sig", "replace").splitlines()
    return frozenset(line.split()[0].strip("/") for line in lines if line.strip() and not line.startswith("#"))


# -- plan of the work ------------------------------------------------------------------------------------------------


def _job(request: Request, found: Found) -> Job:
    """Return the work on one store. LR that a finished store has from another source than now is kept."""
    plan, path = found.plan, request.folder / f"{found.plan.name}.lmdb"
    layout = found.layout.arithmetic if found.layout else None
    arithmetic = request.arithmetic or layout or plan.arithmetic
    scales = () if plan.lr_only else request.scales_of(plan)
    wanted = {scale: GIVEN if scale in found.lr else arithmetic for scale in scales}
    made = Store(path).made if path.exists() else {}
    for scale, how in list(wanted.items()):
        if made.get(scale, how) != how:
            kept = "given" if made[scale] == GIVEN else f"made with arithmetic={made[scale]}"
            found.notes.append(f"LR x{scale} in the store was {kept} and is kept; delete {path} to make it again")
            del wanted[scale]
            found.lr.pop(scale, None)
            found.lr_places.pop(scale, None)
    builder = StoreBuilder(
        found.place,
        path,
        scales=list(wanted),
        arithmetic=arithmetic,
        workers=request.workers,
        files=found.hr,
        lr=found.lr,
        check=lambda headers: _check(plan, headers, partial=request.partial),
    )
    return Job(found, path, builder, tuple(s for s, how in wanted.items() if how != GIVEN), arithmetic)


def _check(plan: StorePlan, headers: Mapping[str, Header], *, partial: bool) -> list[str]:
    """Return messages for images of other sizes than those of the set, and for frames that differ from their clip."""
    problems = unequal_sizes(headers) if plan.clips else []
    sizes = plan.expected.sizes
    wrong = [k for k, h in headers.items() if sizes and (h.width, h.height) not in sizes]
    if wrong and not partial:
        size = " or ".join(f"{w}x{h}" for w, h in sorted(sizes, reverse=True))
        first = headers[wrong[0]]
        problems.append(
            f"{plan.title}: {counted(len(wrong), 'image')} of another size than {size}, e.g. {wrong[0]} with "
            f"{first.width}x{first.height}; partial=true accepts them"
        )
    return problems


def _say_found(request: Request, found: Found, job: Job | None) -> None:
    """Print what was found for a store, and what will be made."""
    plan = found.plan
    if job is None:
        say(f"{request.folder / plan.name}.lmdb: not made, nothing was found for it; it needs")
        for archive in plan.archives or plan.all_archives():
            say(f"  {archive}")
        return
    say(f"{job.path}: {plan.title}")
    clips = {name.rpartition("/")[0] for name in found.hr} if plan.clips else ()
    count = counted(len(found.hr), "frame" if plan.clips else "image")
    number = f"{counted(len(clips), 'clip')}, {count}" if plan.clips else count
    say(f"  {'LR' if plan.lr_only else 'HR'}: {number} in {found.place}{_archives(found.hr)}")
    for scale, place in sorted(found.lr_places.items()):
        say(f"  LR x{scale}: in {place}{_archives(found.lr[scale])}")
    if job.made:
        scales = ", ".join(f"x{s}" for s in job.made)
        say(f"  LR {scales}: made from HR by bicubic, arithmetic={job.arithmetic}")
        for archive in plan._replace(archives=()).all_archives(job.made):
            say(f"    the authors' LR is in {archive}")
    for note in found.notes:
        say(f"  note: {note}")


def _archives(files: Mapping[str, InputFile]) -> str:
    """Return the names of the archives that contain files, in brackets; empty for a folder."""
    names = sorted({file.archive.path.name for file in files.values() if isinstance(file, Member)})
    return f" ({', '.join(names)})" if names else ""


def _build(request: Request, jobs: Sequence[Job], bar: Bar) -> None:
    """Build the stores that are not complete. Raises OSError if the disk is too small for all of them."""
    todo: list[Job] = []
    for job in jobs:
        if job.builder.complete():
            say(f"{describe_store(job.path)}; already complete")
        else:
            todo.append(job)
    need, seconds, free = 0.0, 0.0, 0
    for job in todo:
        with bar(len(job.builder.inputs.files), f"{job.path.name}, headers", "image") as shown_bar:
            estimate = job.builder.estimate(shown_bar.update)
        need += estimate.pixels
        free = estimate.free
        seconds += _pace(job) * estimate.images / request.workers
    if todo:
        say(
            f"needs {shown_bytes(need)} of {shown_bytes(free)} that are free; about {_duration(seconds)} with "
            f"{counted(request.workers, 'worker')}"
        )
    partial = sum(file.stat().st_size for job in todo for file in job.builder.partial.glob("*"))
    if need > free + partial:
        raise OSError(f"{request.folder}: the stores need {shown_bytes(need)}, but only {shown_bytes(free)} are free")
    for job in todo:
        with bar(len(job.builder.inputs.files), job.path.name, "image") as shown_bar:
            report = job.builder.build(shown_bar.update)
        kept = f" ({report.kept} were already there)" if report.kept else ""
        say(f"{describe_store(job.path)}{kept}")


def _pace(job: Job) -> float:
    """Return the seconds that one thread needs for an image of a store, measured on a few images. Bad images count as none."""
    names = list(job.builder.inputs.files)
    chosen = np.unique(np.linspace(0, len(names) - 1, _SAMPLES).astype(int))
    start, done = time.perf_counter(), 0
    for name in [names[int(index)] for index in chosen]:
        try:
            image = decode_image(job.found.hr[name].read_bytes(), job.found.hr[name])
            for scale in job.made:
                reduce_image(image, scale, job.arithmetic)
            for files in job.found.lr.values():
                decode_image(files[name].read_bytes(), files[name])
        except (ImageError, OSError):  # reported by the build, which lists all of them
            continue
        done += 1
        if time.perf_counter() - start > _SAMPLE_SECONDS:
            break
    return (time.perf_counter() - start) / max(done, 1)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return counted(max(1, round(seconds)), "second")
    if seconds < 5400:
        return counted(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"

"""``sr-prepare``: make a store (an LMDB with decoded images for training) from a folder of images or of clips."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sr_train.cli.main import arithmetic_of, run, workers_of
from sr_train.console import UsageError, counted, expect


def _bar(total: int, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="image", file=sys.stderr, mininterval=0.2 if sys.stderr.isatty() else 10)


def _verify(path: str) -> int:
    from sr_train.data.images import BadFilesError
    from sr_train.data.store.reader import Store

    store = Store(path)
    problems: list[str] = []
    with _bar(sum(len(r) for r in store.records.values()), "verify") as bar:
        for scale in store.scales:
            for key in store.keys(scale):
                problem = store.verify(scale, key)
                problems += [problem] if problem else []
                bar.update(1)
    if problems:
        raise BadFilesError(
            f"{path}: {counted(len(problems), 'damaged image')}; delete the store and run sr-prepare again", problems
        )
    print(f"{path}: all checksums agree")
    return 0


def _describe(path: str) -> str:
    from sr_train.data.store.reader import Store

    store = Store(path)
    lr = "".join(f", LR x{s}" for s in store.scales if s != 1)
    size = (store.path / "data.mdb").stat().st_size / 1e6
    return f"{path}: {counted(len(store.keys()), 'image')}{lr}, {size:,.1f} MB"


def _folder(config: Mapping[str, Any], *, skip_bad: bool) -> str | None:
    """Return the value of ``images=`` or ``clips=``; None if neither is given.

    Raise UsageError for keys that cannot be used together.
    """
    images, clips = config["images"], config["clips"]
    if images is not None and clips is not None:
        raise UsageError("give images=DIR or clips=DIR, not both")
    if images is None and clips is None and config["list"] is not None:
        raise UsageError("list= needs images=DIR or clips=DIR")
    if clips is not None and skip_bad:
        raise UsageError(
            "skip_bad=true cannot be used with clips=, because a clip needs all of its frames; leave out whole clips with list="
        )
    return None if images is None and clips is None else str(images if clips is None else clips)


def _clips(folder: str, names: str | None) -> dict[str, Any]:
    """Return the options of :class:`StoreBuilder` for clips: the files to store, and a check of their sizes."""
    from sr_train.data.lists import read_clip_list
    from sr_train.data.video.clips import clip_files, split_key, unequal_sizes

    files = clip_files(folder, None if names is None else read_clip_list(names))
    clips = len({split_key(key)[0] for key in files})
    print(f"{folder}: {counted(clips, 'clip')}, {counted(len(files), 'frame')}, no frame is missing", flush=True)
    return {"files": files, "check": unequal_sizes}


def prepare(arguments: list[str]) -> int:
    """Run ``sr-prepare``: build, complete or verify a store (LMDB of images)."""
    from sr_train.config.compose import compose_command

    config = compose_command("prepare", arguments)
    path = expect(config, "store", str, "the path of the store, NAME.lmdb")
    scales = expect(config, "scales", list, "a list of integers, e.g. [2,3,4]")
    if any(isinstance(s, bool) or not isinstance(s, int) for s in scales):
        raise UsageError(f"scales={scales}: expected integers, e.g. scales=[2,3,4]")
    if any(s < 2 for s in scales) or len(set(scales)) < len(scales):
        raise UsageError(f"scales={scales}: expected different integers of at least 2, e.g. scales=[2,3,4]")
    arithmetic = arithmetic_of(config)
    verify = expect(config, "verify", bool, "true or false")
    skip_bad = expect(config, "skip_bad", bool, "true or false")
    workers = workers_of(config["workers"])
    folder = _folder(config, skip_bad=skip_bad)
    if folder is None:
        if not verify:
            raise UsageError("give images=DIR or clips=DIR to make a store, or verify=true to check one")
        return _verify(path)
    from sr_train.data.images import limit_pixels
    from sr_train.data.store.builder import StoreBuilder
    from sr_train.data.store.reader import Store

    limit_pixels(config["max_pixels"])
    options = {"scales": scales, "arithmetic": arithmetic, "workers": workers, "skip_bad": skip_bad}
    listed = None if config["list"] is None else str(config["list"])
    options |= {"listed": listed} if config["clips"] is None else _clips(folder, listed)
    builder = StoreBuilder(folder, path, **options)
    if builder.complete():
        left_out = Store(path).summary.get("skipped", [])
        if left_out:
            names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
            print(f"{path}: made without {counted(len(left_out), 'bad image')}: {names}", file=sys.stderr)
        print(f"{_describe(path)}; already complete, nothing to do")
        return _verify(path) if verify else 0
    with _bar(len(builder.inputs.files), "headers") as bar:
        estimate = builder.estimate(bar.update)
    print(
        f"{counted(estimate.images, 'image')}, about {estimate.pixels / 1e6:,.1f} MB of pixels; "
        f"{estimate.free / 1e9:,.1f} GB are free",
        flush=True,
    )
    with _bar(len(builder.inputs.files), "pixels") as bar:
        report = builder.build(bar.update)
    for problem in report.skipped:
        print(f"left out: {problem}", file=sys.stderr)
    kept = f" ({report.kept} were already there)" if report.kept else ""
    print(f"{_describe(path)}{kept}")
    return _verify(path) if verify else 0


def main() -> None:
    """Entry point of ``sr-prepare``."""
    run("sr-prepare", "prepare", prepare)


if __name__ == "__main__":
    main()

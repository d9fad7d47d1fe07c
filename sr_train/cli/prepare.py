"""``sr-prepare``: make a store (an LMDB with decoded images for training) from a folder of images or of clips."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sr_train.cli.main import arithmetic_of, run, workers_of
from sr_train.console import UsageError, counted, expect


def _bar(total: int, what: str, unit: str = "image") -> Any:
    from tqdm import tqdm

    seconds = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", file=sys.stderr, mininterval=seconds)


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


def _folder(config: Mapping[str, Any], *, skip_bad: bool) -> str | None:
    """Return the value of ``images=`` or ``clips=``; None if neither is given.

    Raise UsageError for keys that cannot be used together.
    """
    images, clips = config["images"], config["clips"]
    if images is not None and clips is not None:
        raise UsageError("give images=DIR or clips=DIR, not both")
    for key in ("list", "lr"):
        if images is None and clips is None and config[key] is not None:
            raise UsageError(f"{key}= needs images=DIR or clips=DIR")
    if config["lr"] is not None and not config["scales"]:
        raise UsageError("lr= needs the scales of the LR images, e.g. lr='LR_bicubic/X{scale}' scales=[2,3,4]")
    if clips is not None and skip_bad:
        raise UsageError(
            "skip_bad=true cannot be used with clips=, because a clip needs all of its frames; leave out whole clips with list="
        )
    return None if images is None and clips is None else str(images if clips is None else clips)


def _inputs(folder: str, path: str, config: Mapping[str, Any], scales: list[int]) -> dict[str, Any]:
    """Return the options of :class:`StoreBuilder`: the files to store, their LR files, and a check of the frames of clips."""
    from pathlib import Path

    from sr_train.data.lists import read_clip_list
    from sr_train.data.sources import input_files
    from sr_train.data.store.given import given_lr
    from sr_train.data.video.clips import clip_files, split_key, unequal_sizes

    copies, clips = Path(path).absolute().parent, config["clips"] is not None
    listed = None if config["list"] is None else str(config["list"])
    if clips:
        files = clip_files(folder, None if listed is None else read_clip_list(listed), copies=copies)
        number = len({split_key(key)[0] for key in files})
        print(f"{folder}: {counted(number, 'clip')}, {counted(len(files), 'frame')}, no frame is missing", flush=True)
        options: dict[str, Any] = {"files": files, "check": unequal_sizes}
    elif config["lr"] is None:
        return {"listed": listed}
    else:
        files = input_files(folder, listed, copies=copies)
        options = {"files": files}
    if config["lr"] is None:
        return options
    return options | {"lr": given_lr(files, str(config["lr"]), scales, clips=clips, copies=copies)}


def _maker(config: Mapping[str, Any], scales: list[int]) -> Any:
    """Return the maker of LR of ``degrade=``, None for bicubic."""
    from sr_train.config.build import build
    from sr_train.data.degradation.maker import check_degradation
    from sr_train.data.degradation.whole import WholeMaker

    for key in ("dataset", "clips", "lr"):
        if config[key] is not None:
            raise UsageError(f"degrade= makes the LR of images=DIR; leave {key}= out")
    if not scales:
        raise UsageError("degrade= needs the scales of the LR images, e.g. scales=[4]")
    seed = expect(config, "seed", int, "an integer")
    if not config["degrade"]:
        return None
    degradation = build(config["degrade"])
    for scale in scales:
        check_degradation(degradation, "degrade", scale, 3)
    return WholeMaker(degradation, config["degrade"], seed=seed)


def _lr_folder(folder: str | None, config: Mapping[str, Any], maker: Any, scales: list[int], **options: Any) -> int:
    """Write the LR images of ``degrade=`` to the folder ``out=``."""
    from sr_train.data.store.lr_folder import LRFolder

    if folder is None or maker is None or len(scales) != 1 or config["store"] is not None:
        raise UsageError("out=FOLDER needs images=DIR, degrade=NAME (not bicubic) and one scale, and no store=")
    listed = None if config["list"] is None else str(config["list"])
    writer = LRFolder(folder, str(config["out"]), scale=scales[0], maker=maker, listed=listed, **options)
    if writer.complete():
        print(f"{writer.describe()}; already complete, nothing to do")
        return 0
    with _bar(len(writer.inputs.files), "headers") as bar:
        writer.estimate(bar.update)
    with _bar(len(writer.inputs.files), "pixels") as bar:
        text = writer.build(bar.update)
    for problem in writer.inputs.bad:
        print(f"left out: {problem}", file=sys.stderr)
    print(text)
    return 0


def _known(config: Mapping[str, Any], **options: Any) -> int:
    """Make the stores of ``dataset=``."""
    from sr_train.data.known.make import make_known
    from sr_train.data.known.request import read_request

    request = read_request(config, **options)
    paths = make_known(request, _bar)
    return max([_verify(str(path)) for path in paths if request.verify], default=0)


def _check(config: Mapping[str, Any], scales: list[int], workers: int) -> int:
    """Check the data sets of ``check=``, and return the exit code."""
    from sr_train.config.data_part import data_parts
    from sr_train.data.doctor.run import is_config, run_check
    from sr_train.data.doctor.specs import spec_of_path, specs_of_data
    from sr_train.data.images import limit_pixels

    path = expect(config, "check", str, "a folder, a store, an LMDB of BasicSR, or a YAML file")
    limit_pixels(config["max_pixels"])
    lr, listed = (None if config[key] is None else str(config[key]) for key in ("lr", "list"))
    if is_config(path):
        if lr is not None or listed is not None:
            raise UsageError(f"check={path}: lr= and list= are given in this file; leave them out")
        specs = [spec for part in data_parts(path, scales) for spec in specs_of_data(part)]
    else:
        specs = [spec_of_path(path, lr=lr, scales=scales, listed=listed)]
    return run_check(specs, workers=workers, out=None if config["out"] is None else str(config["out"])).code


def prepare(arguments: list[str]) -> int:
    """Run ``sr-prepare``: build, complete or verify stores (LMDBs of images), or check data sets."""
    from sr_train.config.compose import compose_command

    config = compose_command("prepare", arguments)
    scales = [] if config["scales"] is None else expect(config, "scales", list, "a list of integers, e.g. [2,3,4]")
    if any(isinstance(s, bool) or not isinstance(s, int) for s in scales):
        raise UsageError(f"scales={scales}: expected integers, e.g. scales=[2,3,4]")
    if any(s < 2 for s in scales) or len(set(scales)) < len(scales):
        raise UsageError(f"scales={scales}: expected different integers of at least 2, e.g. scales=[2,3,4]")
    arithmetic = "float" if config["arithmetic"] is None else arithmetic_of(config)
    verify = expect(config, "verify", bool, "true or false")
    skip_bad = expect(config, "skip_bad", bool, "true or false")
    workers = workers_of(config["workers"])
    if config["check"] is not None:
        return _check(config, scales, workers)
    if config["out"] is not None and not config.get("degrade"):
        raise UsageError("out= needs check=PATH or degrade=NAME")
    from sr_train.data.images import limit_pixels

    limit_pixels(config["max_pixels"])
    maker = _maker(config, scales) if config.get("degrade") is not None else None
    if config["dataset"] is not None:
        chosen = {key: None if config[key] is None else value for key, value in
                  (("scales", scales), ("arithmetic", arithmetic))}  # fmt: skip
        return _known(config, workers=workers, **chosen)
    for key in ("root", "kind", "partial"):
        if config[key]:
            raise UsageError(f"{key}= needs dataset=NAME, a known set")
    folder = _folder(config, skip_bad=skip_bad)
    if config["out"] is not None:
        return _lr_folder(folder, config, maker, scales, workers=workers, skip_bad=skip_bad)
    if config["store"] is None:
        raise UsageError(
            "store has no value; give store=NAME.lmdb, the path of the store, dataset=NAME for a known set, or check=PATH to "
            "check data sets"
        )
    path = expect(config, "store", str, "the path of the store, NAME.lmdb")
    if folder is None:
        if not verify:
            raise UsageError(
                "give images=DIR or clips=DIR to make a store, dataset=NAME for a known set, or verify=true to check one"
            )
        return _verify(path)
    from sr_train.data.store.builder import StoreBuilder
    from sr_train.data.store.describe import describe_store
    from sr_train.data.store.reader import Store

    options = {"scales": scales, "arithmetic": arithmetic, "workers": workers, "skip_bad": skip_bad, "maker": maker}
    builder = StoreBuilder(folder, path, **options, **_inputs(folder, path, config, scales))
    if builder.complete():
        left_out = Store(path).summary.get("skipped", [])
        if left_out:
            names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
            print(f"{path}: made without {counted(len(left_out), 'bad image')}: {names}", file=sys.stderr)
        print(f"{describe_store(path)}; already complete, nothing to do")
        return _verify(path) if verify else 0
    if builder.added:
        added = " and ".join(f"x{s}" for s in builder.added)
        print(f"{describe_store(path)}; LR {added} is added, the store can be read meanwhile", flush=True)
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
    print(f"{describe_store(path)}{kept}")
    return _verify(path) if verify else 0


def main() -> None:
    """Entry point of ``sr-prepare``."""
    run("sr-prepare", "prepare", prepare)


if __name__ == "__main__":
    main()

"""Given LR images of a store, paired with its HR images by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from sr_train.console import counted, warn
from sr_train.data.archives import InputFile
from sr_train.data.images import BadFilesError
from sr_train.data.pairing import hr_names, match_lr, shown_names, split_template
from sr_train.data.sources import at_scale, input_files


def given_lr(
    files: Mapping[str, InputFile],
    lr: str,
    scales: Sequence[int],
    *,
    clips: bool = False,
    copies: str | os.PathLike[str] | None = None,
) -> dict[int, dict[str, InputFile]]:
    """Return scale -> key of an HR image -> file of its LR image.

    Args:
        files: HR images by key.
        lr: source of the LR images: ``DIR/X{scale}``, an archive or a path inside one, or a template
            ``DIR/{stem}_LRBI_x{scale}``. ``{scale}`` is needed if there are several scales.
        scales: scales of the LR images.
        clips: the images are frames of clips.
        copies: folder of the decompressed copies of tar.gz archives.

    Raises:
        ValueError: one source is given for several scales.
        BadFilesError: lists HR images without LR, or with several.
    """
    if len(scales) > 1 and at_scale(lr, scales[0]) == at_scale(lr, scales[1]):
        raise ValueError(
            f"lr={lr}: is one source for scales {list(scales)}; write {{scale}} into it, e.g. lr='LR/X{{scale}}'"
        )
    keys = list(files)
    names = hr_names(keys)
    found: dict[int, dict[str, InputFile]] = {}
    for scale in scales:
        where, pattern = split_template(lr)
        where = at_scale(where, scale)
        low = input_files(where, clips=clips, copies=copies)
        matched = match_lr(names, low, scale=scale, where=where, pattern=pattern)
        problems = [*matched.ambiguous.values(), *matched.missing.values()]
        if problems:
            raise BadFilesError(
                f"{where}: {len(problems)} of {counted(len(names), 'HR image')} have no LR of x{scale}, or several; "
                "give their names by lr='DIR/{stem}x{scale}', or leave images out with list=FILE",
                problems,
            )
        if matched.extra:
            extra = f"{counted(len(matched.extra), 'LR file')} of no HR image, not used: {shown_names(matched.extra)}"
            warn(f"{where}: {extra}")
        found[scale] = {keys[names[name]]: low[file] for name, file in matched.names.items()}
    return found

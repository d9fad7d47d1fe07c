"""Removal of what programs wrap around a network's tensors: nested dicts, prefixes of names, and other networks next to it.

A wrapper (``{"params": {...}}``) and a prefix (``module.``) are the same here: one label on the way to the tensors. Labels
that all names share are removed, whatever they are. Where names differ in their first label, the labels are sorted:

- labels of networks, such as ``generator``, ``net_g``, ``params`` and everything with ``ema`` in it, lead to candidates;
- companions, such as ``discriminator``, ``perceptual_loss``, ``optimizer``, are set aside;
- other labels are parts of one network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sr_train.torch_files import is_dict

Tensors = dict[str, torch.Tensor]

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")

_EMA = {"ema", "averaged", "average", "avg", "swa", "shadow", "polyak"}

#: labels of a whole network without the word for its average, the best first; shared prefixes need no entry
_NETWORKS = (
    "", "generator", "gen", "net_g", "g", "params", "state_dict", "model_state_dict", "net_state_dict", "state", "model",
    "net", "network", "module", "weights", "online_model", "current_model_state",
)  # fmt: skip

_GENERATORS = {"generator", "gen", "net_g", "g", "params"}  # all of a network, whatever stands next to it

_SETTINGS = {"loops", "hyper", "config", "cfg", "args", "meta"}  # companions without networks

_COMPANIONS = {
    "discriminator", "disc", "discriminators", "critic", "loss", "losses", "criterion", "criteria", "perceptual", "percep",
    "vgg", "vgg19", "lpips", "dists", "metric", "metrics", "psnr", "ssim", "fid", "optimizer", "optimizers", "optim", "opt",
    "scheduler", "schedulers", "scaler", "sched", "lr", "preprocessor", "averaging", *_SETTINGS,
}  # fmt: skip

_COUNTERS = {
    "n_averaged",
    "step_counter",
    "initted",
    "step",
    "steps",
    "iter",
    "epoch",
    "decay",
    "num_updates",
    "global_step",
}

_DISCRIMINATOR = {"net_d", "d", "model_d", "netd"}

_STATISTICS = {"mean", "std"}  # of images; buffers of a training module

_DEEPEST = 8  # most levels of nested dicts

_LONGEST = 20  # most labels that are removed

_MOST = 100_000  # most entries; a dict that contains itself many times has no end


def words(label: str) -> list[str]:
    """Return the words of a label in lower case: ``netG_ema`` -> net, g, ema."""
    return [word.lower() for word in _WORDS.findall(label)]


def is_average(label: str) -> bool:
    """Return true for the label of averaged weights."""
    return bool(_EMA.intersection(words(label)))


def _base(label: str) -> str:
    """Return a label without its words for an average: ``generator_ema`` -> generator, ``params-ema`` -> params."""
    return "_".join(word for word in words(label) if word not in _EMA)


def _is_companion(label: str) -> bool:
    found = words(label)
    return bool(_COMPANIONS.intersection(found)) or _base(label) in _DISCRIMINATOR or label in _COUNTERS


def _is_network(label: str) -> bool:
    known = is_average(label) if _base(label) == "" else _base(label) in _NETWORKS
    return known and not _is_companion(label)


@dataclass
class Part:
    """Tensors that may be one network."""

    path: tuple[str, ...]  #: labels that were removed, the outermost first
    tensors: Tensors
    match: Any  #: result of the function that matches key formats; None if none of them fits
    companion: bool = False  #: stands next to the network that the file is for
    doubt: list[str] = field(default_factory=list[str])  #: labels next to this part whose meaning is unknown

    @property
    def average(self) -> bool:
        """True for averaged weights."""
        return any(map(is_average, self.path))

    @property
    def rank(self) -> tuple[bool, bool, bool, tuple[int, ...]]:
        """Sorting key, the preferred part first; equal only for labels that are unknown."""
        bases = [_base(label) for label in self.path]
        order = tuple(_NETWORKS.index(base) if base in _NETWORKS else len(_NETWORKS) for base in bases)
        return self.companion, self.match is None, not self.average, order

    @property
    def where(self) -> str:
        """The removed labels in one line: ``state_dict > generator``."""
        return " > ".join(self.path)


@dataclass
class Unwrapped:
    """All parts of a file, the preferred one first, and the labels of what is set aside."""

    parts: list[Part]
    aside: list[str] = field(default_factory=list[str])


class _Walk:
    def __init__(self, match: Callable[[Tensors], Any]) -> None:
        self.match = match
        self.aside: list[str] = []
        self.entries = 0

    def descend(self, node: Mapping[Any, Any], path: tuple[str, ...], above: frozenset[int]) -> Iterator[Part]:
        """Yield the parts in nested dicts. ``above`` has the dicts around this one, since a pickle may contain a circle."""
        self.entries += len(node)
        if id(node) in above or len(above) > _DEEPEST or self.entries > _MOST:
            return
        tensors = {k: v for k, v in node.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        yield from self.split(tensors, path)
        for label, inner in node.items():
            if isinstance(label, str) and is_dict(inner):
                if _is_companion(label):
                    yield from self.companion(label, self.descend(inner, (*path, label), above | {id(node)}))
                else:
                    yield from self.descend(inner, (*path, label), above | {id(node)})

    def companion(self, label: str, parts: Iterator[Part]) -> Iterator[Part]:
        if not _SETTINGS.intersection(words(label)):
            self.aside.append(label)
        for part in parts:
            part.companion = True
            yield part

    def split(self, tensors: Tensors, path: tuple[str, ...]) -> Iterator[Part]:
        """Yield the parts of one dict of tensors: all of it if it fits, else what is left without the first labels."""
        tensors = {k: v for k, v in tensors.items() if k not in _COUNTERS and not (v.dim() == 0 and "." not in k)}
        if not tensors:
            return
        whole = Part(path, tensors, self.match(tensors))
        groups = {} if whole.match is not None or len(path) > _LONGEST else _grouped(tensors)
        if len(groups) == 1:
            ((label, inner),) = groups.items()
            found = list(self.split(inner, (*path, label)))
        else:
            found = list(self.divide(groups, path))
        yield from found if any(part.match is not None for part in found) else [whole, *found]

    def divide(self, groups: Mapping[str, Tensors], path: tuple[str, ...]) -> Iterator[Part]:
        """Yield the networks in a dict whose names start with several prefixes.

        Nothing is yielded if the prefixes are parts of one network.
        """
        networks = [label for label in groups if _is_network(label)]
        beside = [label for label in groups if _is_companion(label)]
        others = [label for label in groups if label not in networks and label not in beside]
        if not networks and not (beside and len(others) == 1):
            return
        for label in networks or others:
            for part in self.split(groups[label], (*path, label)):
                if networks and others and _base(label) not in _GENERATORS:
                    part.doubt += others
                yield part
        for label in beside:
            yield from self.companion(label, self.split(groups[label], (*path, label)))
        self.aside += others if networks else []


def _grouped(tensors: Tensors) -> dict[str, Tensors]:
    """Return {part of the names before the first dot: {rest of the name: tensor}}; empty if a name has no dot."""
    groups: dict[str, Tensors] = {}
    for name, value in tensors.items():
        label, dot, rest = name.partition(".")
        if not dot and _STATISTICS.intersection(words(name)):
            continue
        if not dot or not rest:
            return {}
        groups.setdefault(label, {})[rest] = value
    return groups


def _swapped(content: dict[Any, Any]) -> dict[Any, Any]:
    """Return a checkpoint of MMEngine in which the averaged weights and the raw weights have the right keys.

    Its EMA hook swaps both dicts when it saves: ``state_dict`` has the averaged weights and ``ema_state_dict`` the raw ones.
    """
    meta = content.get("meta")
    saved = "message_hub" in content or (is_dict(meta) and "mmengine_version" in meta)
    if not (saved and is_dict(content.get("ema_state_dict")) and is_dict(content.get("state_dict"))):
        return content
    others = {k: v for k, v in content.items() if k not in ("state_dict", "ema_state_dict")}
    return {"state_dict (EMA)": content["state_dict"], "current_model_state": content["ema_state_dict"], **others}


def unwrap(content: dict[Any, Any], match: Callable[[Tensors], Any]) -> Unwrapped:
    """Return the parts of a file that may be networks, the preferred one first: averaged weights before raw ones.

    ``match`` returns something for tensors that a key format matches, else None.
    """
    walk = _Walk(match)
    parts = list(walk.descend(_swapped(content), (), frozenset()))
    return Unwrapped(sorted(parts, key=lambda part: part.rank), list(dict.fromkeys(walk.aside)))

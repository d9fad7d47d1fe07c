"""sr-train: train SRGAN, EDSR, MDSR, ESRGAN and EDVR from YAML files, with one command per recipe.

The public names are in ``__all__``. Each name is imported at its first use, so ``import sr_train`` is fast and imports
no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sr_train.config.plan import plan
    from sr_train.inference.images import super_resolve
    from sr_train.inference.upscaler import Upscaler, load
    from sr_train.resampling import imresize
    from sr_train.training.run import train
    from sr_train.weights.file import Weights, load_weights, save_weights
    from sr_train.weights.mixing import interpolate
    from sr_train.weights.network import build_network

__version__ = "0.1.0"
__all__ = [
    "Upscaler",
    "Weights",
    "build_network",
    "imresize",
    "interpolate",
    "load",
    "load_weights",
    "plan",
    "save_weights",
    "super_resolve",
    "train",
]
_MODULES = {
    "Upscaler": "inference.upscaler",
    "Weights": "weights.file",
    "build_network": "weights.network",
    "imresize": "resampling",
    "interpolate": "weights.mixing",
    "load": "inference.upscaler",
    "load_weights": "weights.file",
    "plan": "config.plan",
    "save_weights": "weights.file",
    "super_resolve": "inference.images",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sr_train' has no attribute {name!r}; public names are {', '.join(__all__)}")
    return getattr(import_module(f"sr_train.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

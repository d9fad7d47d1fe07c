"""Check of the login for Weights & Biases (W&B).

It reads only files and environment variables, and does not use the network.
"""

from __future__ import annotations

import configparser
import netrc
import os
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger


def check_login(logger: WandbLogger) -> None:
    """Raise ValueError if W&B has no login and needs one."""
    settings = _settings()
    mode = logger._wandb_init.get("mode") or settings.get("mode")
    if logger._offline or mode in ("offline", "dryrun", "disabled"):
        return
    if settings.keys() & {"api_key", "identity_token_file"}:
        return
    host = settings.get("base_url", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    for file in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if file is not None and netrc.netrc(file).authenticators(host):
                return
    raise ValueError(
        f"no login for {host}: run wandb login, set WANDB_API_KEY, or give WANDB_MODE=offline and send the run later with "
        "wandb sync"
    )


def _settings() -> dict[str, str]:
    """Return W&B's settings from the user's file, the current folder's file and the environment.

    A setting in the environment takes precedence over one in a file, and the current folder's file over the user's
    file.
    """
    folder = os.environ.get("WANDB_CONFIG_DIR", str(Path.home() / ".config" / "wandb"))
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error):
        parser.read([Path(folder) / "settings", Path(os.environ.get("WANDB_DIR", ".")) / "wandb" / "settings"])
    settings = dict(parser["default"]) if "default" in parser else {}
    names = ("mode", "api_key", "identity_token_file", "base_url")
    return {**settings, **{n: v for n in names if (v := os.environ.get(f"WANDB_{n.upper()}"))}}

"""Whether runs go to W&B at once: what its own settings say, and whether there is a key for the server that they name."""

from __future__ import annotations

import configparser
import netrc
import os
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_HOSTED: Final = ("api.wandb.ai", "api.forge.coreweave.com")  # one service under two names
_OLD_NAMES: Final = {"dryrun": "offline", "run": "online"}


def mode_of(wanted: str) -> str:
    """Return the mode of W&B: as wanted, or for `auto` as its environment says, else online where there is a key."""
    if wanted != "auto":
        return wanted
    said = os.environ.get("WANDB_MODE")
    return _OLD_NAMES.get(said, said) if said else "online" if has_key() else "offline"


def has_key() -> bool:
    """Tell whether there is a key to log in with; it is looked for, never shown."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = _host()
    with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
        known = netrc.netrc(os.environ.get("NETRC") or Path("~/.netrc").expanduser())
        return any(known.authenticators(name) for name in (_HOSTED if host in _HOSTED else (host,)))
    return False


def _host() -> str:
    """Return the server: what the environment says, else what `wandb login --host` wrote for the folder or for the user."""
    folder, user = os.environ.get("WANDB_DIR", ""), os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")
    url = os.environ.get("WANDB_BASE_URL")
    for place in (Path(folder) / "wandb", Path(user).expanduser()):
        url = url or _written(place / "settings")
    return urlsplit(url).netloc if url else _HOSTED[0]


def _written(path: Path) -> str | None:
    read = configparser.ConfigParser(interpolation=None)
    try:
        read.read(path, encoding="utf-8")
        return read.get("default", "base_url", fallback=None)
    except (OSError, configparser.Error, UnicodeDecodeError):
        return None

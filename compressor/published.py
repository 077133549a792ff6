"""Checkpoints as they were published: where their files lie, and which of them may be opened.

Whatever a checkpoint is named by, it ends as a folder on this disk before a library looks at it: what was checked is what is
read, and a repository of the Hub has no ways that a folder has not.
"""

from __future__ import annotations

import json
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from compressor import assets
from compressor.errors import AssetError, ConfigError, told_as

TEACHER: Final = "teacher.checkpoint"  # the option that a checkpoint comes from, unless told otherwise
# In the order in which transformers looks; each may be an index of shards.
_SAFE: Final = "model.safetensors"
_PICKLE: Final = "pytorch_model.bin"
_SETTINGS: Final = ("*.json", "*.txt", "*.model", "*.codes")  # of the model and of every kind of tokenizer
# Other forms of the model in folders of their own; and our record, which vouches for files that are not fetched.
_ELSEWHERE: Final = ("*/*", "compressor.json")
_SENDERS: Final = ("transformers_weights", "configuration_files")  # of weights, and of a config in place of this one
_NO_PICKLES: Final = "weights as safetensors; pickles may run code and are not opened"


def is_of_the_hub(checkpoint: str) -> bool:
    """Tell whether a checkpoint is named as one of the Hugging Face Hub: it is not packaged, no folder, and no path."""
    path = checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1
    return not (checkpoint in assets.model_names() or path or Path(checkpoint).is_dir())


def resolve(
    checkpoint: str,
    option: str = TEACHER,
    *,
    revision: str | None = None,
    allow_pickle: bool | None = None,
    weights: bool = True,
) -> Path:
    """Return the folder of a checkpoint: a packaged one and one of the Hub are fetched, or found where they were.

    Args:
        checkpoint: Packaged name, folder or Hub id.
        option: What the user typed to name it, for messages.
        revision: Of the Hub.
        allow_pickle: As in `weights_are_pickled`.
        weights: Whether a repository's weights are fetched too, or its settings alone.

    Raises:
        ConfigError: It looks like a path and nothing is there.
        AssetError: It cannot be fetched, or has no weights that may be opened.
    """
    if checkpoint in assets.model_names():
        return assets.fetch_model(checkpoint)
    if not is_of_the_hub(checkpoint):
        if not (folder := Path(checkpoint).expanduser()).is_dir():
            raise ConfigError(
                f"{option}={checkpoint}: there is no such folder",
                allowed=f"a folder, a Hub id, or a packaged model: {', '.join(assets.model_names())}",
            )
        return folder
    with readable(checkpoint, option):
        folder = _fetch(checkpoint, revision, _SAFE if weights else None)
        if not weights or _takes(folder, _SAFE):
            return folder
        if allow_pickle:
            return _fetch(checkpoint, revision, _PICKLE)
        names = [_PICKLE] if _takes(folder, _PICKLE) else _listed(checkpoint, revision)
    if names is None:
        raise AssetError(
            f"{option}={checkpoint}: its {_SAFE} is not kept here, and the Hub cannot be asked",
            hint="HF_HUB_OFFLINE=0, or a network",
        )
    raise _unopened(f"{option}={checkpoint}", option, allow_pickle, pickled=any(map(_is_pickle, names)))


def _fetch(repository: str, revision: str | None, weights: str | None) -> Path:
    """Fetch settings, and weights of one name, of a repository of the Hub; return their folder, the same for one commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    stem, _, ending = (weights or "").partition(".")
    wanted = [*_SETTINGS, *((weights, f"{stem}-*.{ending}") if weights else ())]
    try:
        found = snapshot_download(
            repository, revision=revision, allow_patterns=wanted, ignore_patterns=list(_ELSEWHERE)
        )
    except LocalEntryNotFoundError as error:
        kept = getattr(error, "snapshot_path", None)  # of what was fetched before, which may do
        if kept is None:
            raise
        return Path(str(kept))
    return Path(str(found))


def _listed(repository: str, revision: str | None) -> list[str] | None:
    """Return the names of a repository's files; None where the Hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        names: list[str] = HfApi().list_repo_files(repository, revision=revision)
    except Exception:  # of a connection, in the words of whatever library makes it
        return None
    return names


def _is_pickle(name: str) -> bool:
    return name in (_PICKLE, f"{_PICKLE}.index.json")


def _unopened(named: str, option: str, allow_pickle: bool | None, *, pickled: bool) -> AssetError:
    """Say that there are no safetensors, and what to type if pickles are there and may be trusted."""
    return AssetError(
        f"{named} has no {_SAFE}{f', only {_PICKLE}' if pickled else ''}",
        allowed=_NO_PICKLES,
        hint=f"{option.rpartition('.')[0]}.allow_pickle=true reads a {_PICKLE} that you trust, tensors only"
        if pickled and allow_pickle is False
        else "",
    )


def readable(checkpoint: str, option: str = TEACHER) -> AbstractContextManager[None]:
    """Return a context in which whatever a library raises over a checkpoint is an `AssetError` that names it."""

    def told(error: BaseException) -> AssetError:
        return AssetError(
            f"{option}={checkpoint} could not be loaded: {_said(error)}",
            allowed=f"a local folder, a reachable Hub id, or a packaged model: {', '.join(assets.model_names())}",
            hint="teacher=e5_small needs no Hub" if option == TEACHER else f"{option}=minilm-l6 needs no Hub",
        )

    return told_as(told)


def _said(error: BaseException) -> str:
    """Return what an error means; the Hub's own begin with a number and a request."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return "its owner gives access on its page, and HF_TOKEN says who asks"
    if "RepositoryNotFoundError" in kinds:
        return "there is no such repository on the Hub, or it is private and HF_TOKEN is needed"
    if "RevisionNotFoundError" in kinds:
        return "it has no such revision"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def weights_are_pickled(
    checkpoint: str, folder: Path, option: str = TEACHER, *, allow_pickle: bool | None = None
) -> bool:
    """Tell whether the weights that transformers will take are pickles; refuse those that may not be opened.

    Args:
        checkpoint: As it was named.
        folder: Where it lies.
        option: What the user typed to name it, for messages.
        allow_pickle: Whether pickles are taken where there are no safetensors; None where no option allows that.

    Raises:
        AssetError: It holds no weights, pickles that are not allowed, or an index of shards that names such or files
            elsewhere; or its config or an adapter sends the reader to other weights.
    """
    named = f"{option}={checkpoint}"
    with readable(checkpoint, option):
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sends = [name for name in _SENDERS if config.get(name) is not None]
    if (folder / "adapter_config.json").exists():
        raise AssetError(f"{named} is an adapter of another model", allowed="a whole model: the adapter merged into it")
    if sends:
        raise AssetError(
            f"{named}: {sends[0]} in its config.json sends its reader elsewhere", allowed="a config without"
        )
    if _takes(folder, _SAFE):
        for shard in _shards(checkpoint, folder, _SAFE, option):
            if Path(shard).suffix != Path(_SAFE).suffix:
                raise AssetError(f"{named}: its index names {shard}", allowed=_NO_PICKLES)
        return False
    pickled = _takes(folder, _PICKLE)
    if not (allow_pickle and pickled):
        raise _unopened(named, option, allow_pickle, pickled=pickled)
    for shard in _shards(checkpoint, folder, _PICKLE, option):
        with readable(checkpoint, option):
            member = _compressed(folder / shard)
        if member is not None:
            raise AssetError(f"{named}: {member} in {shard} is compressed", allowed="a file as torch.save writes it")
    return True


def _takes(folder: Path, weights: str) -> bool:
    """Tell whether transformers would take weights of this name."""
    return (folder / weights).is_file() or (folder / f"{weights}.index.json").is_file()


def _shards(checkpoint: str, folder: Path, weights: str, option: str) -> list[str]:
    """Return the names of the files that weights of this name are in.

    Raises:
        AssetError: Their index cannot be read, or names a file elsewhere.
    """
    if (folder / weights).is_file():
        return [weights]
    index = folder / f"{weights}.index.json"
    with readable(checkpoint, option):
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    for name in names:
        if Path(name).name != name:
            raise AssetError(f"{option}={checkpoint}: {index.name} names {name}", allowed="files of the same folder")
    return names


def _compressed(file: Path) -> str | None:
    """Return a compressed member of a file of `torch.save`: torch writes none, and unpacked they may be of any size."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return next((m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED), None)

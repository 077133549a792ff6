"""Damage to a checkpoint, a saved model and a run folder: cut, emptied, zeroed, flipped, swapped, gone."""

from __future__ import annotations

import logging
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "training"), str(Path(__file__).parent)]

import torch  # noqa: E402
from outcome import Outcome  # noqa: E402 - found through the lines above
from run_folders import Model, write_run  # noqa: E402

from compressor import store, trials  # noqa: E402
from compressor.artifact import CompressedModel, Form  # noqa: E402
from compressor.cells import cell  # noqa: E402
from compressor.compare.runs import is_tabled, load_runs  # noqa: E402
from compressor.config import TaskConfig  # noqa: E402
from compressor.errors import CompressorError  # noqa: E402
from compressor.tasks import build_task  # noqa: E402
from compressor.testing.tiny import tiny_bert, tiny_tokenizer  # noqa: E402
from compressor.training.checkpoint import Checkpoints, Snapshot  # noqa: E402

_PAGE = 4096
_STEP = "step-000000002-epoch-0000"

Hurt = Callable[[Path], None]


def damage(folder: Path, flips: int, *, seed: int = 0) -> list[Outcome]:
    """Damage a model, a checkpoint and a run in every way, and so many times by one bit; each must be noticed by its reader."""
    model, steps, runs = folder / "model", folder / "steps", folder / "runs"
    _save_model(model)
    for place, step in ((folder / "older", 1), (steps, 2)):
        _save_checkpoint(place, step)
    for name, right in (("run", 320), ("other", 310)):
        write_run(runs / name, Model(right=right))
    (older,), other = (folder / "older").iterdir(), runs / "other"
    readers = (("table", _tables), ("cell", _counts_as_finished), ("search", _is_told))
    return [
        _each("damaged model folder is refused", model, flips, seed, _loads),
        _each("damaged checkpoint is not used", steps / _STEP, flips, seed, _resumes, rival=older, whole_rival=True),
        _each("damaged run folder is refused by --verify", runs / "run", flips, seed, _verifies, rival=other),
        *(
            _each(f"damaged result is in no {where}", runs / "run", flips, seed, reader, rival=other, only=is_tabled)
            for where, reader in readers
        ),
    ]


def _save_model(folder: Path) -> None:
    task = build_task(TaskConfig(max_length=64), ("bad", "good"))
    torch.manual_seed(0)
    model = tiny_bert(layers=1, hidden=32, **task.config_overrides()).eval()
    artifact = CompressedModel(
        form=Form.torch, config=model.config, tokenizer=tiny_tokenizer(), head=task.head, module=model
    )
    store.save(artifact, folder)


def _save_checkpoint(folder: Path, step: int) -> None:
    parts = {
        "model": {"w": torch.randn(64, 64)},
        "optimizer": {"m": torch.randn(64, 64)},
        "rng": {"cpu": torch.arange(9) + step},
    }
    _checkpoints(folder).write(Snapshot(parts=parts, facts={"step": step, "epoch": 0}))


def _checkpoints(folder: Path) -> Checkpoints:
    silent = logging.getLogger("damage")
    silent.setLevel(logging.CRITICAL)
    return Checkpoints(folder, {"seed": 0}, silent)


def _loads(folder: Path) -> bool:
    store.load(folder)
    return True


def _resumes(folder: Path) -> bool:
    return _checkpoints(folder.parent).newest() is not None


def _verifies(folder: Path) -> bool:
    return bool(load_runs([folder], verify=True).runs)


def _tables(folder: Path) -> bool:
    return bool(load_runs([folder]).runs)


def _counts_as_finished(folder: Path) -> bool:
    found = cell._finished(folder) is not None
    cell.clear_failed(folder)
    return found or not folder.is_dir()


def _is_told(folder: Path) -> bool:
    return trials.outcome(folder).status == "ok"


def _each(
    promise: str,
    folder: Path,
    flips: int,
    seed: int,
    reader: Callable[[Path], bool],
    *,
    rival: Path | None = None,
    whole_rival: bool = False,
    only: Callable[[str], bool] = lambda name: True,
) -> Outcome:
    """Damage a copy at the same place, ask the reader, and put the whole one back.

    Args:
        rival: A folder of the same kind, whose files take the place of this one's.
        whole_rival: Whether it may not take the place as a whole either.
        only: Which files are damaged.
    """
    whole = folder.parent.with_name(f"{folder.parent.name}-whole")
    shutil.copytree(folder, whole)
    if not reader(folder):
        raise RuntimeError(f"{folder} cannot be read although nothing was done to it")
    tried, failures = 0, []
    hurts = [*_damages(whole, flips, random.Random(seed), only), *_swaps(whole, rival, only)]
    if whole_rival:
        hurts.append((f"all of {rival} in its place", lambda folder: _replace(folder, rival)))
    for words, hurt in hurts:
        _replace(folder, whole)
        hurt(folder)
        tried += 1
        try:
            if reader(folder):
                failures.append(f"{words}: read as if nothing were wrong")
        except CompressorError:
            pass
        except Exception as error:  # any other kind is a traceback in the user's face
            failures.append(f"{words}: {type(error).__name__}: {error}")
    _replace(folder, whole)
    shutil.rmtree(whole)
    return Outcome(promise, tried, tried - len(failures), tuple(failures))


def _replace(folder: Path, other: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(other, folder)


def _files(whole: Path, only: Callable[[str], bool]) -> list[str]:
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    return [name for name in names if only(name)]


def _swaps(whole: Path, rival: Path | None, only: Callable[[str], bool]) -> Iterator[tuple[str, Hurt]]:
    for name in [] if rival is None else _files(whole, only):
        if (rival / name).read_bytes() != (whole / name).read_bytes():
            yield (
                f"{name} of {rival.name}",
                lambda folder, name=name: (folder / name).write_bytes((rival / name).read_bytes()) and None,
            )


def _damages(whole: Path, flips: int, rng: random.Random, only: Callable[[str], bool]) -> Iterator[tuple[str, Hurt]]:
    names = _files(whole, only)
    for name in names:
        size = (whole / name).stat().st_size
        yield f"{name} deleted", lambda folder, name=name: (folder / name).unlink()
        for share in (0.0, 0.5, 0.99) if size else ():
            yield f"{name} cut at {share:.0%}", _changed(name, lambda b, share=share: b[: int(len(b) * share)])
        yield f"{name} with a byte more", _changed(name, lambda b: b + b"\0")
        for start in range(0, min(size, 4 * _PAGE), _PAGE):
            yield (
                f"{name} zeroed from {start}",
                _changed(name, lambda b, at=start: b[:at] + bytes(len(b[at : at + _PAGE])) + b[at + _PAGE :]),
            )
    for first, second in zip(names, names[1:], strict=False):
        yield f"{first} and {second} swapped", lambda folder, a=first, b=second: _swap(folder / a, folder / b)
    sizes = [(whole / name).stat().st_size for name in names]
    for name in rng.choices(names, sizes, k=flips):
        at, bit = rng.randrange((whole / name).stat().st_size), rng.randrange(8)
        yield f"{name}: bit {bit} of byte {at}", _changed(name, lambda b, at=at, bit=bit: _flipped(b, at, bit))


def _changed(name: str, change: Callable[[bytes], bytes]) -> Hurt:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def _swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)

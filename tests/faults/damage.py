"""Damage to a checkpoint and to a saved model: cut, emptied, zeroed, flipped, swapped, gone."""

from __future__ import annotations

import logging
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TRAINING = Path(__file__).parent.parent / "training"
sys.path[:0] = [str(TRAINING), str(Path(__file__).parent)]

import torch  # noqa: E402
from outcome import Outcome  # noqa: E402 - found through the lines above

from compressor import store  # noqa: E402
from compressor.artifact import CompressedModel, Form  # noqa: E402
from compressor.config import TaskConfig  # noqa: E402
from compressor.errors import CompressorError  # noqa: E402
from compressor.tasks import build_task  # noqa: E402
from compressor.testing.tiny import tiny_bert, tiny_tokenizer  # noqa: E402
from compressor.training.checkpoint import Checkpoints, Snapshot  # noqa: E402

_PAGE = 4096


def damage(folder: Path, flips: int, *, seed: int = 0) -> list[Outcome]:
    """Damage a saved model and a checkpoint in every way, and so many times by one bit; each must be noticed by its reader."""
    model, steps = folder / "model", folder / "steps"
    _save_model(model)
    _save_checkpoint(steps)
    return [
        _each("damaged model folder is refused", model, flips, seed, _loads),
        _each("damaged checkpoint is not used", steps / "step-000000001-epoch-0000", flips, seed, _resumes),
    ]


def _save_model(folder: Path) -> None:
    task = build_task(TaskConfig(max_length=64), ("bad", "good"))
    torch.manual_seed(0)
    model = tiny_bert(layers=1, hidden=32, **task.config_overrides()).eval()
    artifact = CompressedModel(
        form=Form.torch, config=model.config, tokenizer=tiny_tokenizer(), head=task.head, module=model
    )
    store.save(artifact, folder)


def _save_checkpoint(folder: Path) -> None:
    parts = {
        "model": {"w": torch.randn(64, 64)},
        "optimizer": {"m": torch.randn(64, 64)},
        "rng": {"cpu": torch.arange(9)},
    }
    _checkpoints(folder).write(Snapshot(parts=parts, facts={"step": 1, "epoch": 0}))


def _checkpoints(folder: Path) -> Checkpoints:
    silent = logging.getLogger("damage")
    silent.setLevel(logging.CRITICAL)
    return Checkpoints(folder, {"seed": 0}, silent)


def _loads(folder: Path) -> bool:
    store.load(folder)
    return True


def _resumes(folder: Path) -> bool:
    return _checkpoints(folder.parent).newest() is not None


def _each(promise: str, folder: Path, flips: int, seed: int, reader: Callable[[Path], bool]) -> Outcome:
    """Damage a copy at the same place, ask the reader, and put the whole one back."""
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole)
    if not reader(folder):
        raise RuntimeError(f"{folder} cannot be read although nothing was done to it")
    tried, failures = 0, []
    for words, hurt in _damages(whole, flips, random.Random(seed)):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        hurt(folder)
        tried += 1
        try:
            if reader(folder):
                failures.append(f"{words}: read as if nothing were wrong")
        except CompressorError:
            pass
        except Exception as error:  # any other kind is a traceback in the user's face
            failures.append(f"{words}: {type(error).__name__}: {error}")
    return Outcome(promise, tried, tried - len(failures), tuple(failures))


def _damages(whole: Path, flips: int, rng: random.Random) -> Iterator[tuple[str, Callable[[Path], None]]]:
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    for name in names:
        size = (whole / name).stat().st_size
        yield f"{name} deleted", lambda folder, name=name: (folder / name).unlink()
        for share in (0.0, 0.5, 0.99):
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


def _changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def _swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)

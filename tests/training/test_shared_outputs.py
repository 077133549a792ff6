"""What one cell computed another reads; what is damaged is computed again; a run of its own shares nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.training import shared_outputs
from compressor.training.shared_outputs import shared
from compressor.training.signals import TeacherSignals

SIGNALS = TeacherSignals(logits=True, hidden=(-1, 2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(shared_outputs.FOLDER, str(tmp_path / "shared"))
    return tmp_path / "shared"


def never():
    raise AssertionError("computed again")


def test_the_second_reads_what_the_first_computed(folder: Path) -> None:
    made = {"logits": torch.randn(5, 2), "3": torch.randn(7, 4).bfloat16()}
    assert shared("key", lambda: made) is made
    found = shared("key", never)
    assert found.keys() == made.keys() and all(torch.equal(found[k], made[k]) for k in made)
    with pytest.raises(AssertionError, match="computed again"):
        shared("another", never)


def test_a_damaged_file_is_not_believed(folder: Path) -> None:
    shared("key", lambda: {"logits": torch.zeros(4, 2)})
    file = folder / "key" / "outputs.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    again = shared("key", lambda: {"logits": torch.ones(4, 2)})
    assert torch.equal(again["logits"], torch.ones(4, 2))
    assert torch.equal(shared("key", never)["logits"], torch.ones(4, 2))


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shared_outputs.FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    shared("key", lambda: {"logits": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_a_teacher_is_run_once_for_all_cells(toy, folder: Path) -> None:
    first = toy.teacher(SIGNALS, key="same")
    first.fill()
    second = toy.teacher(SIGNALS, key="same")
    second.model.register_forward_pre_hook(lambda *_: never())
    second.fill()
    indices = [3, 50, 7, 0]
    batch = toy.train.batch(indices)
    one, two = first.for_batch(indices, batch), second.for_batch(indices, batch)
    assert torch.equal(one.logits, two.logits)
    assert one.hidden.keys() == two.hidden.keys()
    assert all(torch.equal(one.hidden[layer], two.hidden[layer]) for layer in one.hidden)

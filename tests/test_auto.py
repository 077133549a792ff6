"""Folders that no config of transformers can express load through its Auto classes after one import."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from compressor import store, surgery
from compressor.families import encoder_layers
from compressor.testing.house import TinyHouse

SCRIPT = """
import sys, numpy as np, torch
{first}
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
folder, inputs, out = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tensors = {{k: torch.from_numpy(v) for k, v in np.load(inputs).items()}}
with torch.inference_mode():
    np.save(out, model(**tensors).logits.numpy())
assert AutoModel.from_pretrained(folder).config.num_hidden_layers == 4
AutoTokenizer.from_pretrained(folder)("good film")
"""


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A saved model with another shape in each of two layers."""
    from dataclasses import replace

    place = tmp_path_factory.mktemp("cut")
    house = TinyHouse(place)
    layers = encoder_layers(house.teacher.model)
    surgery.keep_heads(house.teacher.model, layers[0], [1, 3])
    surgery.keep_neurons(house.teacher.model, layers[2], range(9))
    artifact = replace(house.teacher, module=house.teacher.model)
    store.save(artifact, place / "model")
    np.savez(place / "inputs.npz", **{k: v.numpy() for k, v in house.batch(artifact).inputs.items()})
    return place, house.logits(artifact)


def read(place, first):
    command = [sys.executable, "-c", SCRIPT.format(first=first)]
    arguments = [str(place / name) for name in ("model", "inputs.npz", "out.npy")]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)


def test_auto_classes_load_it_after_the_import(cut) -> None:
    place, logits = cut
    ended = read(place, "import compressor.auto")
    assert ended.returncode == 0, ended.stderr[-2000:]
    np.testing.assert_array_equal(np.load(place / "out.npy"), logits)


def test_without_the_import_it_is_refused_not_misread(cut) -> None:
    place, _ = cut
    ended = read(place, "")
    assert ended.returncode != 0
    assert "compressed-encoder" in ended.stderr


def test_the_store_reads_it_and_the_record_holds_the_shapes(cut) -> None:
    place, logits = cut
    house = TinyHouse(place / "again")
    again = store.load(place / "model")
    np.testing.assert_array_equal(house.logits(again), logits)
    record = json.loads((place / "model" / store.RECORD).read_text())
    assert record["layer_shapes"][0] == {"heads": 2, "neurons": 64}
    assert record["layer_shapes"][2] == {"heads": 4, "neurons": 9}
    assert json.loads((place / "model" / "config.json").read_text())["model_type"] == store.MODEL_TYPE


def test_another_task_is_refused(cut) -> None:
    from transformers import AutoModelForTokenClassification

    import compressor.auto  # noqa: F401
    from compressor.errors import Incompatible

    with pytest.raises(Incompatible, match="classification"):
        AutoModelForTokenClassification.from_pretrained(cut[0] / "model")

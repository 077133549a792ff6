from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor import commit, store
from compressor.artifact import Step
from compressor.config import MethodConfig, StudentConfig
from compressor.errors import PluginError, StoreError
from compressor.testing.house import Shorten, TinyHouse


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


@pytest.fixture
def saved(house, tmp_path):
    artifact = house.compress([Shorten(MethodConfig())], StudentConfig(layers=2))
    folder = tmp_path / "artifact"
    store.save(artifact, folder, house.registry(Shorten(MethodConfig())))
    return artifact, folder


def test_weights_config_labels_and_lineage_come_back(house, saved) -> None:
    artifact, folder = saved
    again = store.load(folder)
    for name, value in artifact.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    assert again.lineage == artifact.lineage and again.head == artifact.head
    assert again.config.num_hidden_layers == 2
    np.testing.assert_array_equal(house.logits(again), house.logits(artifact))


def test_an_ordinary_checkpoint_outlives_its_plugin(saved) -> None:
    _, folder = saved  # `shorten` is registered nowhere outside the test
    assert store.load(folder).lineage[0].method == "shorten"


def test_a_missing_plugin_with_structure_is_named_with_its_version(house, tmp_path) -> None:
    step = Step(method="vanished", distribution="some-plugin", version="9.8.7", config={}, structure={"kept": [1]})
    folder = tmp_path / "structured"
    artifact = house.teacher
    store.save(artifact, folder)
    record = json.loads((folder / store.RECORD).read_text())
    record["lineage"] = [
        {k: getattr(step, k) for k in ("method", "distribution", "version", "config", "structure", "notes", "seconds")}
    ]
    (folder / store.RECORD).write_text(json.dumps(record))
    (folder / commit.MANIFEST).unlink()
    again = tmp_path / "again"
    folder.rename(again.with_name("partial"))
    commit.commit(again.with_name("partial"), again)
    with pytest.raises(PluginError) as caught:
        store.load(again)
    assert "some-plugin 9.8.7" in str(caught.value) and "pip install 'some-plugin==9.8.7'" in str(caught.value)


def test_a_flipped_bit_is_found(saved) -> None:
    _, folder = saved
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        store.load(folder)


def test_another_schema_is_refused(saved, tmp_path) -> None:
    _, folder = saved
    record = json.loads((folder / store.RECORD).read_text())
    (folder / store.RECORD).write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        store.read_record(folder)


def test_a_taken_folder_is_left_alone(house, saved) -> None:
    artifact, folder = saved
    before = (folder / commit.MANIFEST).read_bytes()
    with pytest.raises(StoreError):
        store.save(artifact, folder)
    assert (folder / commit.MANIFEST).read_bytes() == before


def test_tied_weights_are_stored_once_and_stay_tied(house, tmp_path) -> None:
    module = house.teacher.model
    module.classifier.weight = torch.nn.Parameter(module.classifier.weight.detach().clone())
    shared = module.bert.encoder.layer[0].attention.self.query
    module.bert.encoder.layer[1].attention.self.query.weight = shared.weight
    before = house.logits(house.teacher)
    store.save(house.teacher, tmp_path / "tied")
    again = store.load(tmp_path / "tied")
    np.testing.assert_array_equal(house.logits(again), before)


def test_a_label_order_is_part_of_the_artifact(house, tmp_path) -> None:
    turned = replace(house.teacher, head=replace(house.teacher.head, label_names=("positive", "negative")))
    store.save(turned, tmp_path / "turned")
    assert store.load(tmp_path / "turned").head.label_names == ("positive", "negative")


def test_an_ordinary_checkpoint_is_saved_again_without_its_plugin(saved, tmp_path) -> None:
    _, folder = saved
    store.save(store.load(folder), tmp_path / "again")
    assert store.load(tmp_path / "again").lineage[0].method == "shorten"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_table_shared_with_the_head_is_stored_as_the_encoders(tmp_path, family) -> None:
    import transformers

    from compressor.weights import load_weights, save_weights

    shape = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = transformers.AutoConfig.for_model(family, **shape)
    model = transformers.AutoModelForMaskedLM.from_config(config)
    save_weights(model, tmp_path)
    config.save_pretrained(tmp_path)
    again = transformers.AutoModelForMaskedLM.from_config(config)
    load_weights(again, tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    with torch.no_grad():
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)
    plain, found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not [name for name in found["missing_keys"] if "embeddings" in name]
    assert torch.equal(plain.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    "changed",
    [{"form": "pickle"}, {"head": None}, {"lineage": "text"}, {"weights_of": 99}, {"layer_shapes": [{}] * 2}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_record_that_says_what_no_record_says_is_a_typed_error(saved, tmp_path, changed) -> None:
    _, folder = saved
    record = json.loads((folder / store.RECORD).read_text())
    (folder / store.RECORD).write_text(json.dumps(record | changed))
    (folder / commit.MANIFEST).unlink()
    commit.commit(folder, tmp_path / "again")
    with pytest.raises(StoreError, match="no model that we saved"):
        store.load(tmp_path / "again")


def test_loading_draws_no_random_numbers_and_leaves_the_generator_alone(saved, monkeypatch) -> None:
    drawn: list[torch.Size] = []
    for fill in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, fill, lambda tensor, *_, **__: drawn.append(tensor.shape))
    before = torch.get_rng_state()
    loaded = store.load(saved[1])
    assert not drawn and torch.equal(torch.get_rng_state(), before)
    assert all(torch.isfinite(p).all() for p in loaded.module.parameters())

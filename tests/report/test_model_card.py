"""The card of an exported model: written before the run folder is sealed, no part of the shipped weight, and true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_samples import HOSTILE
from test_results import make_result

from compressor import commit, store
from compressor.artifact import CompressedModel
from compressor.config import MethodConfig, RunConfig, StudentConfig, TaskConfig, TeacherConfig
from compressor.measure.size import measure_size
from compressor.report.model_card import model_card, write_model_cards
from compressor.results import RunResult
from compressor.testing.house import Shorten, TinyHouse


@pytest.fixture
def exported(tmp_path: Path) -> tuple[TinyHouse, CompressedModel, Path, RunResult]:
    """A run folder in the making with one saved model, and a result that names it."""
    house = TinyHouse(tmp_path)
    artifact = house.compress([Shorten(MethodConfig())], StudentConfig(layers=2))
    folder = tmp_path / "run"
    store.save(artifact, folder / "candidates" / "distill", house.registry(Shorten(MethodConfig())))
    result = make_result()
    teacher, _, distill = result.candidates
    result = replace(result, candidates=(replace(teacher, path=str(tmp_path / "cache")), distill))
    return house, artifact, folder, result


def test_a_card_is_added_and_the_folder_still_loads(exported) -> None:
    house, artifact, folder, result = exported
    place = folder / "candidates" / "distill"
    size = measure_size(place)
    write_model_cards(result, folder, RunConfig())
    commit.verify(place)
    assert "README.md" in commit.read_json(place / commit.MANIFEST)["files"]
    assert measure_size(place) == size, "a description is no weight that is shipped"
    np.testing.assert_array_equal(house.logits(store.load(place)), house.logits(artifact))
    assert [p.parent for p in folder.rglob("README.md")] == [place], "the teacher in the cache is not ours to write to"
    (place / "README.md").write_text("changed")
    with pytest.raises(Exception, match=r"README\.md"):
        commit.verify(place)


def test_a_card_says_what_it_is_and_how_to_load_it(exported) -> None:
    _, _, folder, result = exported
    text = model_card(result, result.candidates[1], folder / "candidates" / "distill", RunConfig())
    for told in (
        "# distill", "2 layers", "Teacher: e5-small", "rotten_tomatoes", '{"alpha": 0.5}', "90.0 \u00b12.0", "MIT",
        "\u00d71.98 (1.95 to 2.01) faster", "refused; RuntimeError: no such operation", "takes 68% of teacher's bytes",
        'AutoModelForSequenceClassification.from_pretrained("distill")', "re-loaded in a fresh process",
    ):  # fmt: skip
        assert told in text, told
    assert "import compressor.auto" not in text, "transformers alone loads this one"
    assert str(folder) not in text


def test_a_folder_that_transformers_cannot_build_says_so(exported) -> None:
    _, _, folder, result = exported
    place = folder / "candidates" / "distill"
    store._wrap_config(place)
    text = model_card(result, result.candidates[1], place, RunConfig())
    assert "import compressor.auto" in text and "2 layers" in text


def test_the_shown_code_loads_the_model(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    _, artifact, folder, result = exported
    place = folder / "candidates" / "distill"
    code = model_card(result, result.candidates[1], place, RunConfig()).split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(place.parent)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["model"].config.num_hidden_layers == 2
    assert len(names["tokenizer"]) == len(artifact.tokenizer)


@pytest.mark.parametrize(("form", "file"), [("onnx", "model.onnx"), ("openvino", "model.xml")])
def test_a_compiled_model_is_opened_by_its_runtime(exported, form: str, file: str) -> None:
    _, _, folder, result = exported
    place = folder / "candidates" / "distill"
    record = json.loads((place / store.RECORD).read_text())
    (place / store.RECORD).write_text(json.dumps(record | {"form": form}))
    (place / file).write_bytes(b"")
    text = model_card(result, result.candidates[1], place, RunConfig())
    assert f'"distill/{file}"' in text and "AutoModel" not in text


def test_unknown_terms_are_said_to_be_unknown_and_paths_stay_private(exported, tmp_path: Path) -> None:
    _, _, folder, result = exported
    (tmp_path / "my-teacher").mkdir()
    config = RunConfig(
        teacher=TeacherConfig(checkpoint=str(tmp_path / "my-teacher")),
        task=TaskConfig(source="file", train=str(tmp_path / "mine.csv"), name="mine"),
    )
    text = model_card(result, result.candidates[1], folder / "candidates" / "distill", config)
    assert "my-teacher: not known here" in text and "mine: not known here" in text
    assert str(tmp_path) not in text


def test_hostile_names_stay_text(exported) -> None:
    _, _, folder, result = exported
    odd = replace(result.candidates[1], name=HOSTILE)
    text = model_card(replace(result, task=HOSTILE), odd, folder / "candidates" / "distill", RunConfig())
    assert "<script>" not in text and "\x1b" not in text

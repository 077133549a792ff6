"""Which split of a source plays which role, with Hub and packages faked."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import yaml

from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError
from compressor.tasks.data import load_task

GLUE = sorted((Path(__file__).parents[2] / "conf" / "task" / "glue").glob("*.yaml"))


def texts(data) -> dict[str, set[str]]:
    return {name: {e.text for e in rows} for name, rows in {"train": data.train, **data.tests()}.items()}


@pytest.fixture
def hub(monkeypatch):
    """Fill the Hub with one data set whose texts name their split."""
    import datasets

    def fill(splits, columns=("text", None), *, label=None, count=80):
        text, pair = columns
        feature = label or datasets.ClassLabel(names=["no", "yes"])
        score = getattr(feature, "dtype", "") == "float32"
        whole = datasets.DatasetDict()
        for split in splits:
            rows = {text: [f"{split} {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
            features = {text: datasets.Value("string"), "label": feature}
            if pair:
                rows[pair], features[pair] = rows[text], datasets.Value("string")
            if score:
                rows["label"] = [i / 16 for i in range(count)]
            whole[split] = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: whole)

    return fill


@pytest.mark.parametrize("path", GLUE, ids=lambda p: p.stem)
def test_glue_chooses_on_train_and_reports_the_official_validation_set(hub, path) -> None:
    import datasets

    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    mnli = path.stem == "mnli"
    kinds = ["validation_matched", "validation_mismatched", "test_matched"] if mnli else ["validation", "test"]
    score = datasets.Value("float32") if settings["type"] == "regression" else None
    hub(["train", *kinds], (settings["text"], settings["text_pair"]), label=score)
    _, data = load_task(TaskConfig(**settings))
    found = {name: {t.split()[0] for t in rows} for name, rows in texts(data).items()}
    extra = {"validation_mismatched": {"validation_mismatched"}} if mnli else {}
    assert found == {"train": {"train"}, "test": {settings["test"]}, **extra}
    assert {e.text.split()[0] for e in data.validation} == {"train"}
    assert not {e.text for e in data.validation} & {e.text for e in data.train}
    assert len(data.train) + len(data.validation) == 80


def test_splits_of_a_role_s_name_are_taken(hub) -> None:
    hub(["train", "validation", "test"])
    _, data = load_task(TaskConfig(source="hub", dataset="some/set"))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [80, 80, 80]


def test_what_is_an_extra_test_is_nothing_else(hub) -> None:
    hub(["train", "dev", "more", "test"])
    _, data = load_task(TaskConfig(source="hub", dataset="some/set", validation="dev", extra_tests=["more"]))
    assert {t.split()[0] for t in texts(data)["more"]} == {"more"}


@pytest.mark.parametrize(
    "roles",
    [
        {"validation": "dev", "test": "dev"},
        {"test": "train"},
        {"test": "dev", "extra_tests": ["dev"]},
        {"train": "test", "test": "test"},
    ],
)
def test_one_split_has_one_role(hub, roles) -> None:
    hub(["train", "dev", "test"])
    with pytest.raises(ConfigError, match=r"task.\w+=(dev|train|test) is task.\w+ too"):
        load_task(TaskConfig(source="hub", dataset="some/set", **roles))


def test_packages_follow_the_same_rule(monkeypatch, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from compressor import assets

    files = {}
    for split in ("train", "validation", "test"):
        table = pa.table({"text": [f"{split} {i}" for i in range(60)], "label": [i % 2 for i in range(60)]})
        files[split] = tmp_path / f"{split}.parquet"
        pq.write_table(table, files[split])
    monkeypatch.setattr(assets, "fetch_table", lambda *args, **kwargs: files)
    _, data = load_task(TaskConfig(test="validation"))
    assert {e.text.split()[0] for e in data.validation} == {"train"}
    assert {e.text.split()[0] for e in data.test} == {"validation"}
    with pytest.raises(ConfigError, match="task.test=validation is task.validation too"):
        load_task(TaskConfig(validation="validation", test="validation"))
    with pytest.raises(DataError, match="row 2 of rotten_tomatoes, split train"):
        load_task(TaskConfig(label_names=["0"]))


def test_the_data_s_own_names_settle_what_an_index_means(hub) -> None:
    import datasets

    hub(["train"], label=datasets.ClassLabel(names=["1", "2"]))
    task, data = load_task(TaskConfig(source="hub", dataset="some/set"))
    assert task.label_names == ("1", "2")
    assert all(e.label == int(e.text.split()[1]) % 2 for e in data.train)
    hub(["train"])
    _, data = load_task(TaskConfig(source="hub", dataset="some/set", label_names=["yes", "no"]))
    assert all(e.label == 1 - int(e.text.split()[1]) % 2 for e in data.train)
    _, data = load_task(TaskConfig(source="hub", dataset="some/set", label_names=["bad", "good"]))
    assert all(e.label == int(e.text.split()[1]) % 2 for e in data.train)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", gzip.compress(b"text,label\n"), "compressed or an archive"),
        ("a.jsonl", b"PK\x03\x04", "compressed or an archive"),
        ("a.csv", b",".join([b"x"] * 9999) + b"\n", "9,999 columns"),
        ("a.jsonl", b'{"text": "[[", "label": 1}\n{"text": ' + b"[" * 9999, "line 2 is nested too deep"),
    ],
    ids=["gzip", "zip", "wide", "deep"],
)
def test_files_that_a_reader_would_unpack_or_die_of_are_refused(tmp_path, name, content, told) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        load_task(TaskConfig(source="file", train=str(tmp_path / name)))


def test_reading_a_file_tells_no_server_of_it(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(60)))
    load_task(TaskConfig(source="file", train=str(tmp_path / "a.csv")))
    assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS

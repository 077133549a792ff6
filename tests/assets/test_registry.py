"""The pins are well formed, and nothing here knows an address."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compressor import assets
from compressor.assets import registry, tables
from compressor.errors import ConfigError

SOURCE = Path(assets.__file__).parent
NAMES = (*assets.model_names(), *assets.table_names())


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_is_whole(name: str) -> None:
    asset = assets.find(name)
    digest = re.compile(r"[0-9a-f]{64}")
    assert asset.packages
    for package in asset.packages:
        assert digest.fullmatch(package.sha256)
        assert package.version in package.filename
        assert package.size_bytes > 0
        assert package.members
        for member in package.members.values():
            assert digest.fullmatch(member.sha256)
            assert not member.path.endswith((".pkl", ".bin", ".pt", ".pickle", ".sav"))
    assert bool(asset.weights_sha256) == (asset.kind == "model")
    assert bool(asset.rows) == (asset.kind == "table")


@pytest.mark.parametrize("name", NAMES)
def test_the_description_is_one_line_with_source_terms_and_fallback(name: str) -> None:
    line = assets.describe(name)
    asset = assets.find(name)
    assert "\n" not in line
    for part in (asset.title, asset.packages[0].title, asset.licence, asset.fallback):
        assert part in line


def test_the_default_teacher_is_called_a_re_export() -> None:
    assert assets.describe("e5-small").startswith("e5-small (re-export)")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        assets.fetch_model("e5_small")
    assert caught.value.hint == "e5-small"
    assert caught.value.allowed == ", ".join(assets.model_names())
    with pytest.raises(ConfigError):
        assets.fetch_table("e5-small")


@pytest.mark.parametrize("name", assets.table_names())
def test_research_only_data_asks_before_anything_is_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: object, **__: object) -> Path:
        raise InterruptedError

    monkeypatch.setattr(tables, "cached", fetched)
    asks = name in ("imdb", "imdb_sentences", "conll2003")
    assert assets.find(name).research_only == asks
    with pytest.raises(ConfigError if asks else InterruptedError) as caught:
        assets.fetch_table(name)
    if asks:
        assert "task.accept_licence=true" in str(caught.value)
    with pytest.raises(InterruptedError):
        assets.fetch_table(name, accept_licence=True)


def test_no_source_file_names_an_index() -> None:
    for path in SOURCE.glob("*.py"):
        assert not re.search(r"https?://|\.org\b|\.co\b|\.io\b", path.read_text()), path.name


def test_importing_is_light() -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'onnx', 'pyarrow', 'safetensors'}"
    code = f"import sys, compressor.assets; sys.exit(bool({heavy} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(SOURCE.parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_every_asset_has_a_builder() -> None:
    from compressor.assets import models

    assert set(models._BUILDERS) == set(assets.model_names())
    assert set(tables._BUILDERS) == set(assets.table_names())
    assert set(registry.ASSETS) == set(NAMES)

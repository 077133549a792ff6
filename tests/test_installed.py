"""Libraries in versions that do not do are named with what installs others; our own package's metadata says which do."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from compressor import installed
from compressor.errors import MissingExtra, WrongVersion
from compressor.runtimes import get_runtime
from compressor.runtimes.openvino import OpenVino

ASKED = [
    "torch>=2.10", "hydra-core<1.5,>=1.3.6", "safetensors>=0.8", "openvino>=2025.0; extra == 'openvino'",
    "wandb>=0.25; extra == 'wandb'", "wandb>=0.25; extra == 'test'", "colorama>=9; sys_platform == 'win32'",
]  # fmt: skip
FOUND = {"torch": "2.13.0+cpu", "hydra-core": "1.3.6", "safetensors": "0.8.0", "openvino": "2025.1", "wandb": "0.30"}


@pytest.fixture
def having(monkeypatch: pytest.MonkeyPatch):
    """Return what pretends that libraries have other versions; None: is not installed."""
    found: dict[str, str | None] = {}

    def version(name: str) -> str:
        if found.get(name) is None:
            raise metadata.PackageNotFoundError(name)
        return str(found[name])

    def have(**changed: str | None) -> None:
        found.update(FOUND | {name.replace("_", "-"): version for name, version in changed.items()})

    installed._asked.cache_clear()
    monkeypatch.setattr(metadata, "requires", lambda name: ASKED if name == installed.OURS else None)
    monkeypatch.setattr(metadata, "version", version)
    have()
    yield have
    installed._asked.cache_clear()


def test_what_is_installed_here_does() -> None:
    assert installed._asked(), "the tests run on an installed package"
    installed.require_base()
    installed.require({"openvino", "nncf", "torchao"})


def test_versions_that_do_pass(having) -> None:
    installed.require_base()
    having(torch="2.14.0.dev20260101")
    installed.require_base()
    assert installed.versions(["torch", "nothing"]) == {"torch": "2.14.0.dev20260101"}


@pytest.mark.parametrize(
    ("name", "found", "asked"),
    [("torch", "2.9.1+cu128", "torch>=2.10"), ("hydra-core", "1.5.0", "hydra-core<1.5,>=1.3.6")],
)
def test_a_library_too_old_or_too_new_is_named_with_what_installs_another(having, name, found, asked) -> None:
    having(**{name.replace("-", "_"): found})
    with pytest.raises(WrongVersion) as caught:
        installed.require_base()
    error = caught.value
    assert error.got == f"{name} {found} is installed, and {asked} is needed"
    assert error.hint == f"pip install '{asked}'" and error.exit_code == MissingExtra.exit_code


def test_all_that_is_wrong_is_named_at_once(having) -> None:
    having(torch="1.0", safetensors=None)
    with pytest.raises(WrongVersion) as caught:
        installed.require_base()
    assert caught.value.got == "torch 1.0 is installed, and torch>=2.10 is needed; safetensors is not installed"
    assert caught.value.hint == "pip install 'torch>=2.10' 'safetensors>=0.8'"


def test_an_extra_is_refused_where_it_is_used(having) -> None:
    having(wandb="0.1", openvino=None)
    installed.require_base()
    installed.require({"openvino", "torch"})
    with pytest.raises(WrongVersion, match="wandb 0.1 is installed") as caught:
        installed.require({"wandb"})
    assert caught.value.hint == "pip install 'wandb>=0.25'"


def test_a_runtime_too_old_is_left_out_and_says_so(having) -> None:
    having(openvino="2024.6")
    assert get_runtime("openvino").available() == "openvino 2024.6 is installed, and openvino>=2025.0 is needed"
    with pytest.raises(WrongVersion):
        OpenVino().load(Path(), form=None, threads=1)  # type: ignore[arg-type]


def test_code_that_is_not_installed_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    installed._asked.cache_clear()
    monkeypatch.setattr(metadata, "requires", nothing)
    installed.require_base()
    installed._asked.cache_clear()


def test_the_command_refuses_before_it_imports_anything_heavy(tmp_path: Path) -> None:
    info = tmp_path / "transformers-4.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.1\n")
    (tmp_path / "transformers.py").write_text("raise SystemExit('imported')\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    ended = subprocess.run(
        [sys.executable, "-m", "compressor", "method=distill", "student.layers=2"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 10, ended.stderr
    assert "WrongVersion: transformers 4.1 is installed, and transformers>=5" in ended.stderr
    assert "pip install 'transformers>=5" in ended.stderr and not (tmp_path / "outputs").exists()

"""Checkpoints of the Hub, fetched from a server that answers as the Hub does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hub_server import serving  # noqa: E402 - found through the line above

NAMES = "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "bpe.codes", "spiece.model"
OTHERS = "compressor.json", "README.md", "tf_model.h5", "onnx/config.json"
SETTINGS = {name: name.encode() for name in (*NAMES, *OTHERS)}  # equal files would be fetched once
WANTED = set(NAMES)
SAFE = {name: name.encode() for name in ("model.safetensors", "onnx/model.safetensors", "fp16.safetensors")}
PARTS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
SHARDS = {name: name.encode() for name in PARTS}
PICKLED = {name: name.encode() for name in ("pytorch_model.bin", "training_args.bin")}
CODE = """
import sys
from compressor.errors import AssetError
from compressor.published import resolve
try:
    folder = resolve(sys.argv[1], revision=sys.argv[2] or None, allow_pickle={"": None, "0": False, "1": True}[sys.argv[3]],
                     weights=sys.argv[4] == "weights")
except AssetError as error:
    print(error.got, "|", error.hint)
else:
    print(*sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
"""


def resolve(home: Path, endpoint: str, name: str, *, revision: str = "", allow: str = "0", weights: bool = True) -> str:
    """Resolve in a process of its own: the Hub's library reads its variables once."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", CODE, name, revision, allow, "weights" if weights else "settings"]
    ended = subprocess.run(command, env=plain | given, capture_output=True, text=True, check=False, timeout=180)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize(
    ("weights", "allow", "taken"),
    [
        (SAFE, "0", {"model.safetensors"}),
        (SHARDS, "", set(SHARDS)),
        ({**SAFE, **PICKLED}, "1", {"model.safetensors"}),
        (PICKLED, "1", {"pytorch_model.bin"}),
    ],
)
def test_settings_and_one_kind_of_weights_are_fetched(tmp_path: Path, weights, allow: str, taken: set[str]) -> None:
    with serving({**SETTINGS, **weights}) as hub:
        assert set(resolve(tmp_path, hub.address, "org/name", allow=allow).split()) == WANTED | taken
        assert set(hub.asked) == WANTED | taken


def test_settings_alone_cost_no_weights(tmp_path: Path) -> None:
    with serving({**SETTINGS, **SAFE}) as hub:
        assert set(resolve(tmp_path, hub.address, "org/name", weights=False).split()) == WANTED
        assert not set(hub.asked) & set(SAFE)


@pytest.mark.parametrize(
    ("allow", "hint"),
    [("0", "teacher.allow_pickle=true reads a pytorch_model.bin that you trust, tensors only"), ("", "")],
)
def test_pickles_that_are_not_allowed_are_named_and_not_fetched(tmp_path: Path, allow: str, hint: str) -> None:
    with serving({**SETTINGS, **PICKLED}) as hub:
        said = resolve(tmp_path, hub.address, "org/name", allow=allow)
        assert said == f"teacher.checkpoint=org/name has no model.safetensors, only pytorch_model.bin | {hint}".rstrip()
        assert not set(hub.asked) & set(PICKLED)


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        ("org/nothing", "", "there is no such repository on the Hub"),
        ("org/gated", "", "its owner gives access on its page"),
        ("org/name", "v9", "it has no such revision"),
    ],
)
def test_what_the_hub_refuses_is_told_in_words(tmp_path: Path, name: str, revision: str, told: str) -> None:
    with serving({**SETTINGS, **SAFE}) as hub:
        said = resolve(tmp_path, hub.address, name, revision=revision)
        assert said.startswith(f"teacher.checkpoint={name} could not be loaded: {told}")


def test_what_was_fetched_serves_without_a_network(tmp_path: Path) -> None:
    with serving({**SETTINGS, **SAFE}) as hub:
        address = hub.address
        resolve(tmp_path, address, "org/name", weights=False)
    assert "its model.safetensors is not kept here, and the Hub cannot be asked" in resolve(
        tmp_path, address, "org/name"
    )
    assert set(resolve(tmp_path, address, "org/name", weights=False).split()) == WANTED

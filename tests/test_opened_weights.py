"""Which weights of a checkpoint are opened: safetensors, pickles only where they are allowed, and none that lie elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from compressor import published, teacher
from compressor.assets import CACHE_ENV
from compressor.config import TaskConfig
from compressor.errors import AssetError
from compressor.tasks.data import load_task

sys.path.insert(0, str(Path(__file__).parent))

from toy_files import same_weights, write_checkpoint, write_data  # noqa: E402 - found through the line above


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_data(folder / "data.csv")
    write_checkpoint(folder / "encoder")
    return folder


@pytest.fixture
def loaded(place, monkeypatch):
    monkeypatch.setenv(CACHE_ENV, str(place / "cache"))
    return load_task(TaskConfig(name="toy", source="file", train=str(place / "data.csv")))


@pytest.fixture(scope="module")
def pickled(place):
    """The encoder as it was published before safetensors: whole, and in two shards."""
    from safetensors.torch import load_file

    folders = {name: place / f"pickled-{name}" for name in ("whole", "shards")}
    tensors = load_file(place / "encoder" / "model.safetensors")
    for folder in folders.values():
        shutil.copytree(place / "encoder", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(tensors, folders["whole"] / "pytorch_model.bin")
    shards = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        torch.save({n: t for n, t in tensors.items() if shards[n] == shard}, folders["shards"] / shard)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": shards}
    (folders["shards"] / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folders


@pytest.mark.parametrize("option", ["teacher.checkpoint", "method.checkpoint.checkpoint"])
def test_pickled_weights_are_refused_until_they_are_allowed(place, loaded, pickled, option) -> None:
    with pytest.raises(AssetError, match="safetensors") as caught:
        teacher.checkpoint_blueprint(str(pickled["whole"]), loaded[0], option=option, allow_pickle=False)
    assert caught.value.hint.startswith(f"{option.removesuffix('.checkpoint')}.allow_pickle=true")


def test_nobody_is_sent_to_a_switch_that_is_not_there_or_does_not_help(loaded, pickled, tmp_path) -> None:
    folder = Path(shutil.copytree(pickled["whole"], tmp_path / "none"))
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model.fp16.bin")
    for place, allow in ((pickled["whole"], None), (folder, False), (folder, True)):
        with pytest.raises(AssetError, match="has no model.safetensors") as caught:
            teacher.checkpoint_blueprint(str(place), loaded[0], allow_pickle=allow)
        assert caught.value.hint == ""


@pytest.mark.parametrize("form", ["whole", "shards"])
def test_allowed_pickles_give_the_weights_that_safetensors_give(place, loaded, pickled, form) -> None:
    folder = str(pickled[form])
    assert teacher.checkpoint_blueprint(folder, loaded[0], allow_pickle=True).layers
    torch.manual_seed(0)
    found = teacher.load_pretrained(folder, loaded[0], allow_pickle=True)[0]
    torch.manual_seed(0)
    assert same_weights(found, teacher.load_pretrained(str(place / "encoder"), loaded[0])[0])


def test_safetensors_are_taken_though_pickles_are_allowed(place, loaded, tmp_path) -> None:
    folder = Path(shutil.copytree(place / "encoder", tmp_path / "both"))
    (folder / "pytorch_model.bin").write_bytes(b"no weights")
    teacher.load_pretrained(str(folder), loaded[0], allow_pickle=True)


def test_an_allowed_pickle_is_no_leave_to_call_anything(place, loaded, pickled, tmp_path) -> None:
    folder = Path(shutil.copytree(pickled["whole"], tmp_path / "calls"))
    canary = tmp_path / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Calls(canary)))
    with pytest.raises(AssetError, match="could not be loaded"):
        teacher.load_pretrained(str(folder), loaded[0], allow_pickle=True)
    assert not canary.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert canary.exists()


@dataclass
class Calls:
    """Touches a file when it is read by plain pickle."""

    canary: Path

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_an_index_of_allowed_pickles_names_files_of_its_folder(loaded, pickled, tmp_path) -> None:
    folder = Path(shutil.copytree(pickled["shards"], tmp_path / "elsewhere"))
    index = {"weight_map": {"weight": "../pickled-whole/pytorch_model.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(AssetError, match="names .*pickled-whole"):
        teacher.load_pretrained(str(folder), loaded[0], allow_pickle=True)


@pytest.mark.parametrize("decoy", [False, True])
@pytest.mark.parametrize("form", ["whole", "shards"])
def test_compressed_members_of_allowed_pickles_are_refused(loaded, pickled, tmp_path, form, decoy) -> None:
    folder = Path(shutil.copytree(pickled[form], tmp_path / "bomb"))
    if decoy:  # a name that transformers does not take
        (folder / "other.safetensors").write_bytes(b"")
    file = sorted(folder.glob("*.bin"))[-1]
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(AssetError, match="is compressed"):
        teacher.load_pretrained(str(folder), loaded[0], allow_pickle=True)


@pytest.mark.parametrize("way", ["adapter_model.bin", "other.safetensors", "adapter", "another config"])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_checkpoint_that_sends_to_other_weights_is_refused(place, loaded, pickled, tmp_path, way, allowed) -> None:
    folder = Path(shutil.copytree(place / "encoder", tmp_path / "sends"))
    shutil.copy(pickled["whole"] / "pytorch_model.bin", folder / "adapter_model.bin")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    written = json.loads((folder / "config.json").read_text())
    if way == "adapter":
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(place / "encoder")}))
    elif way == "another config":
        (folder / "config.5.0.0.json").write_text(json.dumps(written | {"transformers_weights": "adapter_model.bin"}))
        (folder / "config.json").write_text(json.dumps(written | {"configuration_files": ["config.5.0.0.json"]}))
    else:
        (folder / "config.json").write_text(json.dumps(written | {"transformers_weights": way}))
    with pytest.raises(AssetError, match="elsewhere|is an adapter"):
        teacher.load_pretrained(str(folder), loaded[0], allow_pickle=allowed)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put folders where the Hub's library keeps what it fetched, and let it fetch no more."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def keep(folder: Path, name: str) -> str:
        kept, commit_id = tmp_path / "hub" / f"models--org--{name}", "0" * 40
        shutil.copytree(folder, kept / "snapshots" / commit_id)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(commit_id)
        return f"org/{name}"

    return keep


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        *(("bert-base-uncased", True), ("org/name", True), ("e5-small", False), ("./nothing", False)),
        *(("/a/b", False), ("~/b", False), ("a/b/c", False), (".", False)),
    ],
)
def test_what_is_named_as_a_repository_of_the_hub(checkpoint, expected) -> None:
    assert published.is_of_the_hub(checkpoint) is expected


def test_a_repository_of_the_hub_gives_what_its_folder_gives(place, loaded, hub) -> None:
    name = hub(place / "encoder", "encoder")
    assert teacher.checkpoint_blueprint(name, loaded[0]).layers
    torch.manual_seed(0)
    found = teacher.load_pretrained(name, loaded[0])[0]
    torch.manual_seed(0)
    assert same_weights(found, teacher.load_pretrained(str(place / "encoder"), loaded[0])[0])


@pytest.mark.parametrize("form", ["whole", "shards"])
def test_pickles_of_the_hub_are_opened_only_where_they_are_allowed(place, loaded, pickled, hub, form) -> None:
    name = hub(pickled[form], form)
    with pytest.raises(AssetError, match="has no model.safetensors") as caught:
        teacher.load_pretrained(name, loaded[0], allow_pickle=False)
    assert "teacher.allow_pickle=true" in caught.value.hint
    teacher.load_pretrained(name, loaded[0], allow_pickle=True)


def test_an_index_of_the_hub_that_names_a_pickle_is_refused(place, loaded, pickled, hub, tmp_path) -> None:
    folder = Path(shutil.copytree(pickled["whole"], tmp_path / "names"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(AssetError, match="names pytorch_model.bin"):
        teacher.load_pretrained(hub(folder, "names"), loaded[0], allow_pickle=False)


def test_no_model_is_handed_to_a_converter() -> None:
    """Where a repository has pickles alone, transformers sends its name and the user's token to a site that converts it."""
    code = "from compressor import telemetry; telemetry.silence()\nfrom transformers import modeling_utils as found\n"
    code += "print(found.is_env_variable_true('DISABLE_SAFETENSORS_CONVERSION'))"
    plain = {name: value for name, value in os.environ.items() if name != "DISABLE_SAFETENSORS_CONVERSION"}
    told = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True"]

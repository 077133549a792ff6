"""Tiny random encoders of every family, and a house whose teacher is one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_SIZES: Final = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
_OWN: Final[dict[str, dict[str, Any]]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "mpnet": {},
    "electra": {"embedding_size": 20},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "albert": {"embedding_size": 20},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "pooler_hidden_size": 32,
    },
}
FAMILIES: Final = tuple(_OWN)


def tiny_encoder(family: str, *, seed: int = 0, **overrides: Any) -> Any:
    """Return a random classifier of 3 layers x 32, 4 heads, FFN 64, with weights large enough to tell heads apart."""
    import torch
    import transformers

    torch.manual_seed(seed)
    sizes = {} if family == "distilbert" else _SIZES
    shared = {
        "vocab_size": len(tiny_tokenizer()),
        "max_position_embeddings": 80,
        "num_labels": 2,
        "initializer_range": 0.2,
    }
    config = transformers.AutoConfig.for_model(family, **{**shared, **sizes, **_OWN[family], **overrides})
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def tiny_inputs(batch: int = 3, length: int = 9) -> dict[str, Tensor]:
    """Return seeded tokens; every row but the first is padded."""
    import torch

    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, len(tiny_tokenizer()), (batch, length), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, length - row :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def house_of(folder: Path, module: Any) -> TinyHouse:
    """Return a house whose teacher is this model; its tokenizer gives only what every family's forward takes."""
    house = TinyHouse(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    house.teacher = replace(house.teacher, module=module, config=module.config, tokenizer=tokenizer)
    return house

"""A model's predictions on a split, in example order, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from compressor.config import Precision
from compressor.families import forward_inputs
from compressor.training.batching import EncodedSplit, length_sorted
from compressor.training.distributed import Ranks, join_ranks
from compressor.training.outputs import eval_mode, logits_of
from compressor.training.precision import autocast

# Padded tokens of a batch without gradients. More fills a CPU's cores no better and spills their caches (e5-small, 2
# cores: 4096 takes 15 % longer than 2048); a GPU needs more to be busy.
_CPU_TOKENS: Final = 2048
_GPU_TOKENS: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model predicts on a split and how good that is."""

    predictions: list[Any]
    scores: Mapping[str, float]


def evaluate(
    model: nn.Module,
    split: EncodedSplit,
    *,
    precision: Precision = Precision.fp32,
    device: str = "cpu",
    ranks: Ranks | None = None,
) -> Evaluation:
    """Predict every example of a labelled split once; the model's modes are left as they were."""
    ranks = ranks or join_ranks(device)
    found: list[tuple[int, Any]] = []
    with eval_mode(model), autocast(precision, ranks.device):
        for indices in length_sorted(split.lengths, pass_tokens(ranks.device)):
            own, counted = ranks.share(indices)
            if not counted:
                continue
            batch = split.batch(own).to(ranks.device)
            logits = logits_of(model(**forward_inputs(model, batch.inputs))).float()
            found += zip(own, split.task.predict(logits, batch), strict=True)
    predictions = [prediction for _, prediction in sorted(ranks.gather(found), key=lambda pair: pair[0])]
    references = split.task.references(split.examples)
    return Evaluation(predictions=predictions, scores=split.task.scores(predictions, references))


def pass_tokens(device: str) -> int:
    """Return how many padded tokens a batch without gradients should have."""
    return _GPU_TOKENS if device.startswith("cuda") else _CPU_TOKENS

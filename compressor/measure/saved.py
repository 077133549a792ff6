"""Whether the model on disk is the one that was in memory when it was saved."""

from __future__ import annotations

from compressor.artifact import CompressedModel
from compressor.errors import MeasureError
from compressor.families import forward_inputs
from compressor.measure.accuracy import AccuracyResult
from compressor.measure.workload import Replay

ROUNDED_TOLERANCE = 0.05  # logits where arithmetic is not float32 throughout: noise may turn the rounding of an integer
SAVED_TOLERANCE = 1e-4  # fp32 logits at other thread counts; at equal ones they are bit-equal (the conformance suite)


def require_saved_is_what_was_made(artifact: CompressedModel, scored: AccuracyResult) -> None:
    """Compare the logits of the model in memory with those of the scoring process, on the replayed texts.

    Raises:
        MeasureError: They differ, so the table would describe another model than the one that was made.
    """
    import torch

    if artifact.module is None or scored.replay is None:
        return
    replay, model = Replay.load(scored.replay), artifact.model
    device = next(model.parameters()).device
    allowed = SAVED_TOLERANCE if device.type == "cpu" else 1e-2
    if not scored.exact:
        allowed = ROUNDED_TOLERANCE
    with torch.inference_mode():
        for index, (inputs, expected) in enumerate(zip(replay.inputs, replay.expected, strict=True)):
            tensors = {k: torch.from_numpy(v).to(device) for k, v in inputs.items()}
            ours = replay.rows(index, model(**forward_inputs(model, tensors)).logits.float().cpu().numpy())
            if not abs(ours - expected).max() <= allowed:
                raise MeasureError(
                    f"'{scored.candidate.name}' re-loaded from disk gives other logits than the model that was saved: they "
                    f"differ by {abs(ours - expected).max():.1e}",
                    allowed=f"{allowed:.0e}",
                )

"""Torch to ONNX: one file, dynamic batch and length, checked against torch before anyone relies on it.

The graph-capturing exporter (`dynamo=True`) is used because the tracing one is wrong in silence here: with
transformers 5 it freezes "nothing is padded" into the graph, and logits of padded batches differ by 1e-1.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.errors import MeasureError
from compressor.families import forward_names

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

FILE = "model.onnx"
_TWO_GB = 2_000_000_000  # protobuf's limit; larger weights go into a second file
_TOLERANCE = 1e-4
_CHECKED_BATCHES, _CHECKED_LENGTHS = (1, 3), (5, 17, 64)


def export_onnx(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write `folder/model.onnx` and return its path.

    The inputs are those tokenizer tensors that the model's forward takes, [batch, sequence] int64; the output is
    `logits`. The model's mode is left as it was.

    Raises:
        MeasureError: The export failed, or its logits differ from torch's by more than 1e-4.
    """
    import onnx
    import torch

    from compressor.artifact import parameter_count

    names = [n for n in tokenizer.model_input_names if n in forward_names(model)]
    path = folder / FILE
    large = parameter_count(model) * 4 > _TWO_GB
    training = model.training
    model.eval()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        try:
            with _silence(), torch.no_grad():
                program = torch.onnx.export(
                    _logits_only(model, names),
                    tuple(_example(model, names, batch=2, length=9)[n] for n in names),
                    input_names=names,
                    output_names=["logits"],
                    dynamic_shapes=(tuple(axes for _ in names),),
                    dynamo=True,
                    verbose=False,
                )
                assert program is not None
                if large:
                    program.save(str(path), external_data=True)
                else:
                    proto = program.model_proto
                    _slim(proto)
                    onnx.save(proto, str(path))
        except Exception as error:  # the exporter raises kinds of many packages
            raise MeasureError(
                f"ONNX export of {type(model).__name__} failed: {_first_lines(error)}",
                hint="bench.runtimes=[torch] measures without an export",
            ) from error
        _check_against_torch(model, names, path)
    finally:
        model.train(training)
    return path


def _logits_only(model: nn.Module, names: list[str]) -> nn.Module:
    """Wrap the model so that it takes its tensors by position and returns a tensor."""
    from torch import nn

    class LogitsOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> Any:
            return self.model(**dict(zip(names, tensors, strict=True)), return_dict=True).logits

    return LogitsOnly().eval()


def _example(model: nn.Module, names: list[str], *, batch: int, length: int) -> dict[str, Tensor]:
    """Return seeded random tokens; every row but the first is padded, so that the mask is part of the graph."""
    import torch

    config: Any = model.config
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    pad = config.pad_token_id or 0
    low = min(pad + 1, config.vocab_size - 1)  # never the padding token: some families read positions off it
    ids = torch.randint(low, config.vocab_size, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    ids = torch.where(mask.bool(), ids, torch.full_like(ids, pad))
    tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: tensors[name] for name in names}


def _slim(proto: Any) -> None:
    """Drop what only the exporter's author needs.

    Intermediate shapes hold the traced sizes, which ONNX Runtime's quantiser takes at their word and then fails on;
    metadata repeats the Python stack of every node.
    """
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    for function in proto.functions:
        del function.value_info[:], function.metadata_props[:]


def _check_against_torch(model: nn.Module, names: list[str], path: Path) -> None:
    """Raise a MeasureError unless the file gives torch's logits on shapes it was not traced with."""
    import onnxruntime as ort
    import torch

    longest = getattr(model.config, "max_position_embeddings", None) or max(_CHECKED_LENGTHS)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for batch in _CHECKED_BATCHES:
        for length in sorted({min(n, int(longest) - 8) for n in _CHECKED_LENGTHS}):
            inputs = _example(model, names, batch=batch, length=length)
            with torch.inference_mode():
                expected = model(**inputs).logits.float().numpy()
            got = session.run(None, {n: t.numpy() for n, t in inputs.items()})[0]
            worst = np.abs(expected - got).max() if got.shape == expected.shape else np.inf
            if not worst <= _TOLERANCE:  # also catches NaN
                raise MeasureError(
                    f"the ONNX export of {type(model).__name__} differs from torch by {worst:.1e} "
                    f"(batch {batch}, length {length})",
                    allowed=f"at most {_TOLERANCE:.0e}",
                )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Swallow the exporter's prints, warnings and logs; what goes wrong arrives as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_lines(error: BaseException) -> str:
    """Quote the innermost cause, which names the operation; the exporter wraps it in advice to its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:400]}"

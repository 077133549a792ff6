"""The teacher's outputs, computed once and kept, or computed when needed, behind one interface.

Logits are kept (fp32). Hidden states are kept in bf16, for real tokens only, if all layers that the loss reads
fit the budget; attention maps and q, k, v are computed with each batch. Kept and fresh values agree within bf16. Where a
training step draws what the models see (a self-supervised task), everything is computed with each batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from compressor.config import Precision
from compressor.errors import Incompatible, TrainingError
from compressor.tasks.base import Batch, Task
from compressor.tokens import same_tokens
from compressor.training.batching import EncodedSplit, encode_split, length_sorted
from compressor.training.distributed import Ranks, join_ranks
from compressor.training.evaluate import pass_tokens
from compressor.training.outputs import eager_attention, eval_mode, run_model
from compressor.training.precision import autocast, resolve_precision
from compressor.training.progress import Progress, silent_progress
from compressor.training.shared_outputs import shared
from compressor.training.signals import Outputs, TeacherSignals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOGITS: Final = "logits"
HIDDEN_DTYPE: Final = torch.bfloat16  # of kept hidden states: half the memory, and what autocast computes with anyway


class TeacherOutputs:
    """A frozen teacher's outputs on the training examples.

    Args:
        model: The teacher.
        tokenizer: The teacher's tokenizer.
        split: The training examples as the student sees them.
        student_tokenizer: If it cuts text differently, only logits of sentence tasks are matched, example by example.
        signals: What the loss reads.
        cache_gb: Budget for hidden states, in 10^9 bytes.
        precision: As in `TrainConfig`.
        device: `cpu` or `cuda`.
        progress: Where `fill` shows its progress.
        key: What decides the outputs; under it the cells of a multirun share them.

    Raises:
        Incompatible: Token-level signals, or any signal of a token-level task, across tokenizers.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        split: EncodedSplit,
        student_tokenizer: PreTrainedTokenizerBase,
        signals: TeacherSignals,
        cache_gb: float = 4.0,
        precision: Precision = Precision.auto,
        device: str = "cpu",
        progress: Progress | None = None,
        key: str | None = None,
    ) -> None:
        self.same_tokens = same_tokens(student_tokenizer, tokenizer)
        require_alignable(split.task, signals, same_tokens=self.same_tokens)
        self.model = model
        self.split = split
        self.signals = signals
        self.cache_gb = cache_gb
        self.precision = resolve_precision(precision, device)
        self._tokenizer = tokenizer
        self._device = device
        self._progress = progress or silent_progress()
        self._key = key
        self._logits: Tensor | None = None  # [N, C], or [total tokens, C] for token tasks
        self._hidden: dict[int, Tensor] = {}  # layer -> [total tokens, D]

    @property
    def hidden_gb(self) -> float:
        """What the hidden states that the loss reads take, in 10^9 bytes."""
        width = int(self.model.config.hidden_size) if self.signals.hidden else 0  # type: ignore[union-attr,arg-type]
        return len(self.signals.hidden) * self.split.tokens * width * HIDDEN_DTYPE.itemsize / 1e9

    @property
    def keeps_hidden(self) -> bool:
        """Whether hidden states are kept rather than computed with each batch."""
        return bool(self.signals.hidden) and self.hidden_gb <= self.cache_gb and not self.split.task.self_supervised

    @property
    def online(self) -> TeacherSignals:
        """What is computed with each batch."""
        return TeacherSignals(
            logits=self.signals.logits and not self._keeps_logits,
            hidden=() if self.keeps_hidden else self.signals.hidden,
            attention=self.signals.attention,
            qkv=self.signals.qkv,
        )

    @property
    def notes(self) -> dict[str, str]:
        """Say what did not fit."""
        if not self.signals.hidden or self.keeps_hidden or self.split.task.self_supervised:
            return {}
        need = f"{self.hidden_gb:.1f} GB are needed, train.cache_gb={self.cache_gb:g}"
        return {"teacher_hidden_states": f"computed with each batch: {need}"}

    def fill(self) -> None:
        """Compute what is kept, once; a second call does nothing.

        Raises:
            TrainingError: The teacher's outputs are not finite.
        """
        kept = TeacherSignals(logits=self._keeps_logits, hidden=self.signals.hidden if self.keeps_hidden else ())
        if not kept or self._logits is not None or self._hidden:
            return
        ranks = join_ranks(self._device)
        if self._key is None or ranks.world > 1:
            self._compute(kept, ranks)
        else:
            self._take(shared(self._key, lambda: self._compute(kept, ranks)))

    def _compute(self, kept: TeacherSignals, ranks: Ranks) -> Mapping[str, Tensor]:
        """Run the teacher over all examples; return what is kept, by name."""
        seen = self._seen
        progress = self._progress if ranks.is_main else silent_progress()
        with progress.task("teacher outputs", len(seen)) as bar:
            for indices in length_sorted(seen.lengths, pass_tokens(ranks.device)):
                own, counted = ranks.share(indices)
                if counted:
                    batch = seen.batch(own)
                    outputs = self._run(batch.to(ranks.device), kept, ranks.device)
                    self._keep(own, batch.inputs["attention_mask"].bool(), outputs)
                bar.advance(len(indices))
        if ranks.world > 1:
            self._join(ranks)
        logits = {} if self._logits is None else {_LOGITS: self._logits}
        return logits | {str(layer): flat for layer, flat in self._hidden.items()}

    def _take(self, found: Mapping[str, Tensor]) -> None:
        self._logits = found.get(_LOGITS)
        self._hidden = {int(name): flat for name, flat in found.items() if name != _LOGITS}

    def for_batch(self, indices: Sequence[int], batch: Batch) -> Outputs:
        """Return the teacher's outputs for the examples at `indices`; positions of padding hold zeros in `hidden`.

        Args:
            indices: Places of the examples in the split.
            batch: The same examples as the student sees them.
        """
        device = str(batch.labels.device)
        online = self.online
        fresh = self._run(self._as_teacher_sees(indices, batch), online, device) if online else Outputs()
        mask = batch.inputs["attention_mask"].bool()
        logits = fresh.logits if online.logits else None
        if self._keeps_logits:
            assert self._logits is not None
            if self.split.task.token_level:
                logits = self._padded(self._logits, indices, mask)
            else:
                logits = self._logits[torch.as_tensor(indices)].to(device)
        kept = {layer: self._padded(flat, indices, mask).float() for layer, flat in self._hidden.items()}
        zeroed = {layer: h.float().masked_fill(~mask[..., None], 0.0) for layer, h in fresh.hidden.items()}
        return Outputs(logits=logits, hidden=kept | zeroed, attention=fresh.attention, qkv=fresh.qkv)

    @cached_property
    def _seen(self) -> EncodedSplit:
        """The examples with the teacher's inputs: a student's tokenizer may cut alike and tell two sentences not apart."""
        gives = set(self._tokenizer.model_input_names) - set(self.split.tokenizer.model_input_names)
        if self.same_tokens and not (gives and self.split.examples[0].text_pair is not None):
            return self.split
        return encode_split(self.split.task, self._tokenizer, self.split.examples)

    def _as_teacher_sees(self, indices: Sequence[int], batch: Batch) -> Batch:
        if self._seen is self.split:
            return batch
        own = self._seen.batch(indices).to(str(batch.labels.device))
        return replace(batch, inputs={**own.inputs, **batch.inputs})

    @property
    def _keeps_logits(self) -> bool:
        return self.signals.logits and not self.split.task.self_supervised

    def _run(self, batch: Batch, signals: TeacherSignals, device: str) -> Outputs:
        self.model.to(device)
        eager = eager_attention(self.model, bool(signals.attention))
        with eager, eval_mode(self.model), autocast(self.precision, device):
            found = run_model(self.model, batch.inputs, signals)
        logits = found.logits
        assert logits is not None
        if not torch.isfinite(logits).all():
            bad = int((~torch.isfinite(logits)).flatten(1).any(dim=1).nonzero()[0])
            raise TrainingError(
                f"the teacher's logits for example {batch.ids[bad]} are not finite ({self.precision} arithmetic)",
                hint="check the teacher; train.precision=fp32 if it overflows in bf16",
            )
        # Tensors of inference mode cannot be saved for a backward pass; clones made outside of it can.
        return Outputs(
            logits=logits.float().clone(),
            hidden={k: v.clone() for k, v in found.hidden.items()},
            attention={k: v.clone() for k, v in found.attention.items()},
            qkv={k: (q.clone(), a.clone(), v.clone()) for k, (q, a, v) in found.qkv.items()},
        )

    def _keep(self, indices: list[int], mask: Tensor, outputs: Outputs) -> None:
        rows = torch.from_numpy(self.split.token_rows(indices))
        if self.signals.logits:
            logits = outputs.logits
            assert logits is not None
            token_level = self.split.task.token_level
            if self._logits is None:
                size = self.split.tokens if token_level else len(self.split)
                self._logits = torch.zeros(size, logits.shape[-1])
            self._logits[rows if token_level else torch.tensor(indices)] = (
                logits.cpu()[mask] if token_level else logits.cpu()
            )
        for layer, hidden in outputs.hidden.items():
            if layer not in self._hidden:
                self._hidden[layer] = torch.zeros(self.split.tokens, hidden.shape[-1], dtype=HIDDEN_DTYPE)
            self._hidden[layer][rows] = hidden.cpu()[mask].to(HIDDEN_DTYPE)

    def _join(self, ranks: Ranks) -> None:
        """Add up what the ranks computed; each left zeros at the others' places."""
        if self._logits is not None:
            self._logits = ranks.sum(self._logits.to(ranks.device)).cpu()
        for layer, flat in self._hidden.items():
            self._hidden[layer] = ranks.sum(flat.to(ranks.device)).cpu()

    def _padded(self, flat: Tensor, indices: Sequence[int], mask: Tensor) -> Tensor:
        """Return [B, L, width] of the rows of `indices`, zero at padding."""
        rows = flat[torch.from_numpy(self.split.token_rows(indices))].to(mask.device)
        padded = rows.new_zeros(*mask.shape, flat.shape[-1])
        padded[mask] = rows
        return padded


def require_alignable(task: Task, signals: TeacherSignals, *, same_tokens: bool) -> None:
    """Refuse teacher outputs that mean nothing where teacher and student see different tokens.

    Raises:
        Incompatible: Token-level signals, or any signal of a token-level task, across tokenizers.
    """
    if same_tokens or not (signals.token_level or (signals and task.token_level)):
        return
    asked = ", ".join(sorted(signals.kinds() - {"logits"})) or "logits of a token-level task"
    raise Incompatible(
        f"the loss reads {asked}, but teacher and student have different tokenizers",
        allowed="logits of sentence-level tasks, which are matched by example",
        hint="a student with the teacher's tokenizer, or a method that reads logits only",
    )

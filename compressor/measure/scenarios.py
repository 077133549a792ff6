"""Scenarios beyond single calls on tokens, each on demand: with the tokenizer, in large batches, over batch size and length.

All are run by the experiment that times single calls; only what is replayed differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from compressor.measure.surface import Cell, surface_cells
from compressor.measure.workload import Workload, choose_workload

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compressor.config import BenchConfig
    from compressor.tasks.base import Example, Task

_LEAST_BATCHES: Final = 4  # of the throughput: a single one would be padded to the longest text of all


class Scenario(StrEnum):
    """What is timed."""

    end_to_end = "end_to_end"  # the same texts, and each call begins with them
    throughput = "throughput"  # more texts drawn alike, sorted by length, in batches
    surface = "surface"  # every batch size by every length


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted; nothing by default. `left_out` says what of it cannot be had."""

    end_to_end: bool = False
    throughput: Workload | None = None
    surface: tuple[Cell, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def replayed(self) -> tuple[Scenario, ...]:
        """Scenarios that replay batches of their own."""
        found = {Scenario.throughput: self.throughput is not None, Scenario.surface: bool(self.surface)}
        return tuple(scenario for scenario, wanted in found.items() if wanted)


NOTHING: Final = Plan()


def plan_scenarios(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    bench: BenchConfig,
    positions: Mapping[str, int | None],
    *,
    seed: int,
) -> Plan:
    """Choose texts and shapes of what `bench` asks for.

    Args:
        task: Tokenises, to know the lengths.
        tokenizer: The teacher's.
        examples: The test split; where it holds less than a batch, the batch is smaller.
        bench: The options.
        positions: The longest text that each model takes, in tokens; None where it knows no end.
        seed: Seed of the draw.
    """
    throughput = None
    if bench.throughput:
        batch = min(bench.throughput_batch, len(examples))
        throughput = choose_workload(
            task,
            tokenizer,
            examples,
            split="test",
            texts=max(bench.texts, _LEAST_BATCHES * batch),
            batch_size=batch,
            seed=seed,
        )
    cells, left_out = surface_cells(positions) if bench.surface else ((), ())
    return Plan(end_to_end=bench.end_to_end, throughput=throughput, surface=cells, left_out=left_out)

"""Measure what the measuring does to the measured: p50 within 0.5 %, p99 within 2 %, our parent process below 1 % of a core.

    python tests/benchmarks/observer_effect.py [--blocks 100] [--texts 20] [--layers 12] [--hidden 384]

One worker holds one model. In each block, in random order, the texts are called twice: asked for one by one, with the machine's
counters read before and after each dozen of blocks, questions encoded before and answers decoded after, as a run does it; and
in a loop of the worker's own, with nobody asking. The two see the same texts, in one process, in turn, so that what differs is
the observer. The default encoder has the layers of the default teacher. What the run's own guard says of the machine is printed
along: on a busy one these are no figures.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from compressor import store  # noqa: E402
from compressor.artifact import CompressedModel, Form  # noqa: E402
from compressor.compare.bootstrap import SpeedUp, speed_up  # noqa: E402
from compressor.config import BenchConfig, TaskConfig  # noqa: E402
from compressor.measure import noise, processes  # noqa: E402
from compressor.measure.rounds import _worker  # noqa: E402
from compressor.measure.talk import decoded, encoded  # noqa: E402
from compressor.measure.workload import Replay, numpy_inputs  # noqa: E402
from compressor.tasks import build_task  # noqa: E402
from compressor.testing.tiny import tiny_bert, tiny_examples, tiny_tokenizer  # noqa: E402

P50, P99, PARENT = 0.005, 0.02, 0.01
ROUND = 12  # blocks between two readings of the machine's counters, as in a run
LEAST_CALLS = 662  # from which a p99 is given


@dataclass(frozen=True, kw_only=True)
class Effect:
    """`p50` is how many times longer the median of an observed call takes, with its interval; the others are shares."""

    p50: SpeedUp
    p99: float | None  # of the observed over that of the unobserved, less 1
    parent: float  # processor time of our process over the time of the observed blocks
    calls: int
    call_ms: float
    complaints: tuple[str, ...]  # of the machine, as a run's guard has them


def observe(
    folder: Path, *, blocks: int, texts: int, layers: int, hidden: int, batch: int = 1, seed: int = 0
) -> Effect:
    """Save a random encoder, and call it observed and unobserved."""
    task = build_task(TaskConfig(max_length=64), ("bad", "good"))
    examples, tokenizer = tiny_examples(texts * batch), tiny_tokenizer()
    together = [examples[i : i + batch] for i in range(0, len(examples), batch)]
    model = tiny_bert(layers=layers, hidden=hidden, heads=max(1, hidden // 32), intermediate_size=4 * hidden).eval()
    artifact = CompressedModel(form=Form.torch, config=model.config, tokenizer=tokenizer, head=task.head, module=model)
    store.save(artifact, folder / "model")
    batches = tuple(numpy_inputs(task.collate(tokenizer, e, task.encode(tokenizer, e))) for e in together)
    Replay(inputs=batches, positions=(), expected=(np.zeros((batch, 2), np.float32),) * texts).save(
        folder / "replay.npz"
    )
    observed, alone = np.zeros((blocks, texts), np.int64), np.zeros((blocks, texts), np.int64)
    before = processes.OPENER, os.environ.get("PYTHONPATH")
    processes.OPENER = "looping_opener:load"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [before[1]])])
    rng = np.random.default_rng(seed)
    wall = used = 0.0
    conditions = noise.read()
    try:
        place = {"folder": str(folder / "model"), "form": "torch", "replay": str(folder / "replay.npz")}
        with _worker("torch", BenchConfig(timeout_s=300), folder, place) as worker:
            if why := worker.ask(do="load", arm="it", **place).get("refusal"):
                raise SystemExit(why)
            worker.ask(do="warm", arm="it", calls=50)
            worker.ask(do="begin")
            orders = [rng.permutation(texts).tolist() for _ in range(blocks)]
            questions = [[encoded(do="call", arm="it", text=text) for text in order] for order in orders]
            for block, order in enumerate(orders):
                for asked in rng.permutation([True, False]):
                    if not asked:
                        alone[block, order] = worker.ask(do="loop", arm="it", texts=order)["ns"]
                        continue
                    started, processor = time.perf_counter(), time.process_time()
                    if block % ROUND == 0:
                        noise.read()
                    said = [worker.say(question) for question in questions[block]]
                    if block % ROUND == ROUND - 1:
                        noise.read()
                    wall += time.perf_counter() - started
                    used += time.process_time() - processor
                    observed[block, order] = [decoded(answer)["ns"] for answer in said]
    finally:
        processes.OPENER = before[0]
        del os.environ["PYTHONPATH"]
        if before[1] is not None:
            os.environ["PYTHONPATH"] = before[1]
    complaints = noise.Conditions.during([(conditions, noise.read())]).complaints()
    p99 = None
    if observed.size >= LEAST_CALLS:
        p99 = float(np.quantile(observed, 0.99) / np.quantile(alone, 0.99)) - 1
    # A speed-up of the unobserved over the observed: how many times longer the observed takes.
    return Effect(
        p50=speed_up(alone, observed, seed=seed),
        p99=p99,
        parent=used / wall,
        calls=observed.size,
        call_ms=float(np.median(alone)) / 1e6,
        complaints=tuple(complaints),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("blocks", 100), ("texts", 20), ("layers", 12), ("hidden", 384)):
        parser.add_argument(f"--{name}", type=int, default=value)
    wanted = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as scratch:
        found = observe(Path(scratch), **wanted)
    low, high = found.p50.ci95.low - 1, found.p50.ci95.high - 1
    word = "met" if max(abs(low), abs(high)) < P50 else "not shown" if low < P50 and high > -P50 else "MISSED"
    print(
        f"p50 {found.p50.ratio - 1:+.2%} (95 % CI {low:+.2%}..{high:+.2%}), n={found.calls}  target {P50:.1%}: {word}"
    )
    if found.p99 is None:
        print(f"p99 n too small (need {LEAST_CALLS})")
    else:
        print(f"p99 {found.p99:+.2%}  target {P99:.0%}: {'met' if abs(found.p99) < P99 else 'MISSED'}")
    for complaint in found.complaints:
        print(f"the machine: {complaint}")
    print(f"a call takes {found.call_ms:.1f} ms")
    print(f"parent {found.parent:.2%} of a core  target {PARENT:.0%}: {'met' if found.parent < PARENT else 'MISSED'}")


if __name__ == "__main__":
    main()

"""Test the latency instrument as one tests an instrument: on equal models, on known slowdowns, and on a disturbed machine.

    python tests/benchmarks/instrument.py [--trials 100] [--out instrument.jsonl] [--only NAME ...] [--model FOLDER]

Every trial is a whole run of `measure_latency` in fresh processes, judged as a run judges it, which compares several candidates
with one teacher: of a tiny encoder in 54 loads, for its calls of a millisecond or two are noisy, and loading costs little; with
`--model`, of a saved model in the loads of `bench=quick`. What is done is appended to the output file, and a second call goes
on where the first one stopped, on a processor of the same kind, with the same names and the same code that measures. With one
name, `--only slower-2`, there are three arms, whose order does not move (`compressor/measure/schedule.py`). Printed at the end,
for each test: how often which verdict was given, how far the estimates lie from the truth, and whether the target is met.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from compressor import store
from compressor.artifact import CompressedModel, Form
from compressor.compare.verdicts import LatencyVerdict, compare_latency
from compressor.config import BenchConfig, TaskConfig
from compressor.keys import key_of, own_code
from compressor.measure import processes
from compressor.measure.accuracy import AccuracyResult, measure_accuracies
from compressor.measure.candidate import Candidate
from compressor.measure.environment import environment
from compressor.measure.examples import write_examples
from compressor.measure.latency import measure_latency
from compressor.measure.workload import choose_workload
from compressor.tasks import build_task
from compressor.testing.tiny import tiny_bert, tiny_examples, tiny_tokenizer
from compressor.timing import judge_rounds

MEASURING = ("measure", "runtimes", "compare", "timing.py")
SLOWDOWNS = {"equal": 1.0, "slower-1": 1.01, "slower-2": 1.02, "slower-5": 1.05}
TINY = BenchConfig(runtimes=["torch"], loads=54, blocks=270, texts=6, warmup_calls=1, timeout_s=120)
QUICK = BenchConfig(runtimes=["torch"])


@contextmanager
def slowing() -> Iterator[None]:
    """Have measuring processes open models by `slowed_opener`, which lies beside this file."""
    places, opener = os.environ.get("PYTHONPATH"), processes.OPENER
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [places])])
    processes.OPENER = "slowed_opener:load"
    try:
        yield
    finally:
        processes.OPENER = opener
        del os.environ["PYTHONPATH"]
        if places is not None:
            os.environ["PYTHONPATH"] = places


def tiny() -> CompressedModel:
    """Return an encoder of two layers, whose arithmetic takes most of a call."""
    task = build_task(TaskConfig(), ("bad", "good"))
    overrides = {k: v for k, v in task.config_overrides().items() if k != "num_labels"}
    model = tiny_bert(layers=2, hidden=256, num_labels=2, **overrides).eval()
    return CompressedModel(
        form=Form.torch, config=model.config, tokenizer=tiny_tokenizer(), head=task.head, module=model
    )


def prepare(folder: Path, artifact: CompressedModel, bench: BenchConfig) -> dict[str, AccuracyResult]:
    """Save a classifier of two classes under one name for each slowdown, and score it."""
    task = build_task(TaskConfig(max_length=64), tuple(artifact.config.id2label.values()))
    examples = tiny_examples(200)
    for name, factor in {"base": 1.0, **SLOWDOWNS}.items():
        store.save(artifact, folder / f"{name}@{factor}")
    splits = {"test": write_examples(folder / "test.jsonl", examples)}
    work = choose_workload(task, artifact.tokenizer, examples, split="test", texts=bench.texts, batch_size=1, seed=0)
    candidates = [Candidate(n, folder / f"{n}@{f}") for n, f in {"base": 1.0, **SLOWDOWNS}.items()]
    found = measure_accuracies(candidates, splits, task, folder / "jobs", bench=bench, workload=work)
    return {one.candidate.name: one for one in found}


def trial(
    scored: dict[str, AccuracyResult], names: Sequence[str], seed: int, bench: BenchConfig
) -> dict[str, LatencyVerdict]:
    """Compare the encoder with itself, and with itself slowed down, in one run as a user compares several candidates."""
    with tempfile.TemporaryDirectory() as work:
        models = [scored["base"], *(scored[name] for name in names)]
        run = measure_latency(models, bench, Path(work), seed=seed, judge=judge_rounds("base", seed))
    found = run.runtimes[0]
    if found.refusals or found.null is None:
        raise SystemExit(f"refused: {found.refusals or 'the null arm'}")
    loads = found.timed["base"].samples_ns, found.null.samples_ns
    return {
        name: compare_latency(
            found.timed[name].samples_ns, loads, null=loads, names=(name, "base"), runtime="torch", seed=seed
        )
        for name in names
    }


def burst(parent: int, seed: int) -> None:
    """Compute for 0.05 to 0.5 s, rest for as long, and so on, while the parent lives."""
    rng = np.random.default_rng(seed)
    while os.getppid() == parent:
        busy = time.monotonic() + rng.uniform(0.05, 0.5)
        while time.monotonic() < busy:
            np.linalg.svd(rng.normal(size=(60, 60)))
        time.sleep(rng.uniform(0.05, 0.5))


@contextmanager
def bursty_load(wanted: bool) -> Iterator[None]:
    """Keep every core busy now and then while the body runs."""
    cores = (os.cpu_count() or 1) if wanted else 0
    loads = [multiprocessing.Process(target=burst, args=(os.getpid(), i)) for i in range(cores)]
    for load in loads:
        load.start()
    try:
        yield
    finally:
        for load in loads:
            load.terminate()
            load.join()


def right(name: str, word: str) -> bool | None:
    """Tell whether a verdict is right; None: it claims nothing."""
    if word == "inconclusive":
        return None
    return word in {"equal": ("equivalent",), "slower-1": ("slower", "equivalent")}.get(name, ("slower",))


def summary(name: str, loaded: bool, rows: list[dict]) -> str:
    words = Counter(r["word"] for r in rows)
    ratios, nulls = np.array([r["ratio"] for r in rows]), np.array([r["null"] for r in rows])
    truth = 1 / SLOWDOWNS[name]
    n, wrong = len(rows), sum(right(name, r["word"]) is False for r in rows)
    if loaded:
        target, met = "no wrong verdict", wrong == 0
    elif name == "equal":
        inside = float((np.abs(nulls - 1) <= 0.01).mean())
        target = f"at most 2 % claims, null within 1 % in 98 %: {inside:.0%}"
        met = words["faster"] + words["slower"] <= 0.02 * n and inside >= 0.98
    elif name == "slower-1":
        target, met = "never the wrong sign", words["faster"] == 0
    else:
        near = float((np.abs(ratios - truth) <= 0.005).mean())
        target = f"named in 95 %, half a point from the truth in 95 % ({near:.0%}), never the wrong sign"
        met = words["slower"] >= 0.95 * n and words["faster"] == 0 and near >= 0.95
    seconds = np.median([r["seconds"] for r in rows])
    return (
        f"{name:<9} {'bursty' if loaded else 'alone':<7} n={n:<4} {dict(words)}  ratio {np.median(ratios):.4f} "
        f"({ratios.min():.4f}..{ratios.max():.4f}, truth {truth:.4f})  null {nulls.min():.4f}..{nulls.max():.4f}  "
        f"{seconds:.1f} s a comparison  target: {target}: {'met' if met else 'MISSED'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("instrument.jsonl"))
    parser.add_argument(
        "--model", type=Path, help="a folder that compressor saved, of two classes; else a tiny encoder"
    )
    parser.add_argument("--only", nargs="+", choices=list(SLOWDOWNS), default=list(SLOWDOWNS))
    parser.add_argument("--load", choices=["alone", "bursty", "both"], default="both")
    arguments = parser.parse_args()
    bench, model = (TINY, "tiny") if arguments.model is None else (QUICK, arguments.model.name)
    slowing_code = Path(__file__).with_name("slowed_opener.py").read_text()
    names = [name for name in SLOWDOWNS if name in arguments.only]
    state = key_of(  # what other code did, or in other company, says nothing about these
        {
            "code": [own_code(MEASURING), slowing_code],
            "settings": asdict(bench),
            "processor": environment(threads=1)["cpu"],
            "model": model,
            "names": names,
        }
    )
    done = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    known = {(r["trial"], r["loaded"]) for r in done if r.get("state") == state}
    kinds = [k for k in (False, True) if arguments.load in ("both", "bursty" if k else "alone")]
    with tempfile.TemporaryDirectory() as scratch, slowing():
        scored = prepare(Path(scratch), tiny() if arguments.model is None else store.load(arguments.model), bench)
        for number in range(arguments.trials):
            for loaded in kinds:
                if (number, loaded) in known:
                    continue
                started = time.monotonic()
                with bursty_load(loaded):
                    found = trial(scored, names, number, bench)
                seconds = (time.monotonic() - started) / len(found)
                rows = [
                    {"trial": number, "name": name, "loaded": loaded, "word": verdict.word.value}
                    | {"ratio": verdict.speed_up.ratio, "ci95": [verdict.speed_up.ci95.low, verdict.speed_up.ci95.high]}
                    | {"null": verdict.null_ratio, "state": state, "seconds": seconds}
                    for name, verdict in found.items()
                ]
                done += rows
                with arguments.out.open("a") as out:  # at once: a trial is there with all its names, or not at all
                    out.write("".join(json.dumps(row) + "\n" for row in rows))
    for name in names:
        for loaded in kinds:
            if rows := [r for r in done if (r["name"], r["loaded"], r.get("state")) == (name, loaded, state)]:
                print(summary(name, loaded, rows))


if __name__ == "__main__":
    main()

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from toy_task import Toy

from compressor.training.journal import Journal, read
from compressor.training.progress import silent_progress

CLOSE = {
    "hard": {"abs": 3e-6, "rel": 0.0},
    "soft": {"abs": 1e-7, "rel": 5e-3},
}  # the sums' order differs, and nothing else
PROGRAM = """
import hashlib, json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from toy_task import Toy, distillation_loss, sha256_of
from compressor.training.distributed import join_ranks
from compressor.training.journal import Journal
from compressor.training.progress import silent_progress
from compressor.training.signals import TeacherSignals

toy = Toy(examples=90)  # the last batch is odd, so that the ranks' shares differ
toy.settings.batch_size = 15
model = toy.model(dropout=0.0)
signals = TeacherSignals(logits=True, hidden=(2,))
options = {"teacher": toy.teacher(signals), "checkpoints": Path(sys.argv[2]) / "stage",
           "progress": Journal(silent_progress(), Path(sys.argv[2]) / "curve.jsonl")}
_, result = toy.fit(model, distillation_loss, options=options, learning_rate=1e-3)
ranks = join_ranks("cpu")
found = {"sha": sha256_of(model), "score": result.best_score, "world": ranks.world,
         "train": [epoch.train for epoch in result.epochs],
         "weights": {k: v.tolist() for k, v in model.state_dict().items()}}
(Path(sys.argv[2]) / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
"""


def test_two_processes_train_one_model(tmp_path, toy_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launch, str(program), toy_path, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2))
    assert one["world"] == two["world"] == 2
    assert one == two
    assert [p.name for p in (tmp_path / "stage").iterdir()] == ["finished"]

    from toy_task import distillation_loss

    from compressor.training.signals import TeacherSignals

    toy = Toy(examples=90)
    toy.settings.batch_size = 15
    model = toy.model(dropout=0.0)
    teacher = toy.teacher(TeacherSignals(logits=True, hidden=(2,)))
    options = {"teacher": teacher, "progress": Journal(silent_progress(), tmp_path / "alone.jsonl")}
    _, alone = toy.fit(model, distillation_loss, options=options, learning_rate=1e-3)
    assert set(one["weights"]) == set(model.state_dict())
    for name, mine in model.state_dict().items():
        values = torch.tensor(one["weights"][name], dtype=mine.dtype)
        torch.testing.assert_close(mine, values, rtol=1e-3, atol=1e-4, msg=lambda told, name=name: f"{name}: {told}")
    for epoch, mine in zip(one["train"], alone.epochs, strict=True):
        assert epoch == pytest.approx(mine.train, abs=1e-4)
    curves = [read(tmp_path / name) for name in ("curve.jsonl", "alone.jsonl")]
    steps = [[line for line in curve if "soft" in line] for curve in curves]
    assert [line["step"] for line in steps[0]] == list(range(1, alone.steps + 1))
    hard = [line["hard"] for line in steps[1]]
    assert max(hard) - min(hard) > 1000 * CLOSE["hard"]["abs"], "a flat curve would show nothing"
    for together, mine in zip(*steps, strict=True):
        for term, close in CLOSE.items():
            assert together[term] == pytest.approx(mine[term], **close), (term, mine["step"])

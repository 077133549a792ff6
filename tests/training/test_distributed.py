from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from toy_task import Toy

PROGRAM = """
import hashlib, json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from toy_task import Toy, distillation_loss, sha256_of
from compressor.training.distributed import join_ranks
from compressor.training.signals import TeacherSignals

toy = Toy(examples=90)  # the last batch is odd, so that the ranks' shares differ
toy.settings.batch_size = 15
model = toy.model(dropout=0.0)
signals = TeacherSignals(logits=True, hidden=(2,))
options = {"teacher": toy.teacher(signals), "checkpoints": Path(sys.argv[2]) / "stage"}
_, result = toy.fit(model, distillation_loss, options=options, learning_rate=1e-3)
ranks = join_ranks("cpu")
found = {"sha": sha256_of(model), "score": result.best_score, "world": ranks.world, "train": result.epochs[-1].train,
         "weights": {k: v.flatten()[:4].tolist() for k, v in model.state_dict().items()}}
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
    _, alone = toy.fit(model, distillation_loss, options={"teacher": teacher}, learning_rate=1e-3)
    for name, values in one["weights"].items():
        mine = model.state_dict()[name].flatten()[:4]
        torch.testing.assert_close(mine, torch.tensor(values, dtype=mine.dtype), rtol=1e-3, atol=1e-4, msg=name)
    for name, value in alone.epochs[-1].train.items():
        assert abs(value - one["train"][name]) < 1e-4

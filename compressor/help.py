"""`python -m compressor --help`: what can be typed, third-party methods included."""

from __future__ import annotations

import re
from pathlib import Path

from compressor import assets, registry
from compressor.config import INITS, RUNTIMES
from compressor.groups import conf_folder

OURS = "encoder-compressor"
_NAME = 24  # columns of a name

USAGE = """\
Compress a transformer encoder and compare the result with its teacher, measured on your task and machine.

  python -m compressor method=distill student.layers=6           one run, one table
  python -m compressor method=[distill,int8_dynamic] student.layers=6
  python -m compressor -m 'method=[],distill' student.layers=3,6  every combination, one table at the end
  python -m compressor.compare FOLDER...                         finished runs from anywhere as one table
"""

OPTIONS = f"""\
Common options (all of them, with their values: python -m compressor --cfg job)
  teacher=NAME | teacher=checkpoint teacher.checkpoint=HUB_ID_OR_FOLDER    teacher.train.epochs=N
  task=NAME | task=glue/sst2 | task=hub task.dataset=ID | task=file task.train=FILE task.text=COLUMN task.label=COLUMN
  task.unlabelled=imdb_sentences     transfer text for distillation    task.accept_licence=true
  student.layers=N  student.hidden_size=N  student.intermediate_size=N  student.heads=N
  student.init={"|".join(INITS)}|[1,3,5]
  train.epochs=N  train.batch_size=N  train.learning_rate=X  train.precision=auto|fp32|bf16
  bench.runtimes=[torch,onnxruntime,openvino]  (also {", ".join(RUNTIMES[3:6])};
                                       on a GPU {", ".join(RUNTIMES[6:])})
  bench.device=cpu|cuda  bench.threads=N
  bench.baselines=[finetune]  bench.margin=0.01  bench=quick|standard|publish
  bench.end_to_end=true | bench.throughput=true | bench.surface=true       also: calls that begin with the raw text; texts a
                                       second in batches of bench.throughput_batch; p50 over batch sizes and lengths
  bench.keep_texts=false               keeps no test texts in the run folder (report.html shows those that flipped)
  bench.padded=true                    splits speed-ups from a teacher on texts padded to task.max_length on
  bench.price_per_hour=X               adds to the report what each model cost to make
  -m hydra/sweeper=optuna 'student.layers=range(2,11)'  hydra.sweeper.trials=N  hydra.sweeper.within=POINTS
                                       hydra.sweeper.drop_hopeless=true ends a trial that is far behind after an epoch
  tracking=wandb  tracking.project=NAME  tracking.mode=auto|online|offline    a copy of the finished run
  seed=N  device=auto|cpu|cuda  hydra.run.dir=FOLDER
  -m: cell.timeout_s=S  cell.memory_gb=X  limits of each cell     hydra.sweep.dir=FOLDER
      cell.stall_s=1800 ends a cell that neither prints nor computes, cell.silent_s=14400 one that computes and prints nothing
Environment: COMPRESSOR_CACHE (default ~/.cache/compressor) holds fetched weights, teachers and checkpoints.
Exit codes: 0 ok, 2 option, 3 incompatible, 4 data, 5 fetching, 6 training, 7 folder or disk, 8 plugin, 9 measuring,
  10 missing extra, 11 a cell of a multirun ended from outside (time, memory, signal), 130 interrupted (the same command goes on
  from the last checkpoint). Hydra's own help: --hydra-help
"""


def print_help() -> None:
    """Print the usage and everything that is registered."""
    print(USAGE)
    methods = registry.load()
    print("Methods")
    for name, entry in sorted(methods.methods.items()):
        guest = "" if entry.distribution == OURS else f"  [{entry.distribution} {entry.version}]"
        print(f"  {name:<{_NAME}} {entry.summary}{guest}")
    for name, error in sorted(methods.broken.items()):
        print(f"  {name:<{_NAME}} BROKEN: {error.got}")
    groups = (("teacher", "Teachers"), ("task", "Tasks"), ("experiment", "Experiments"), ("suite", "Suites"))
    for group, title in groups:
        print(f"\n{title}")
        for name, summary in options(group):
            print(f"  {name:<{_NAME}} {summary}")
    print(f"\nPackaged weights: {', '.join(assets.model_names())}; packaged data: {', '.join(assets.table_names())}\n")
    print(OPTIONS)


def options(group: str) -> list[tuple[str, str]]:
    """Return the YAML choices of a group with the first sentence of the comment that heads each."""
    root = conf_folder() / group
    found = []
    for path in sorted(root.rglob("*.yaml")):
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        summary = next((c[2:] for c in comments if not c.startswith("# @package")), "")
        sentence = re.split(r"(?<=[.]) (?=[A-Z])", summary)[0]  # "et al. 2019" ends none
        found.append((Path(path.relative_to(root)).with_suffix("").as_posix(), sentence))
    return found

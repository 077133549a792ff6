"""Scores that are kept: a committed model's predictions on equal examples are computed once, not in every run.

Only what a clock has no part in is kept: predictions, the tokenised workload, the ONNX export. The key holds the model's
manifest, the examples, the job, our code and the libraries, so that whatever could change a logit makes a new entry. The
teacher of a sweep is scored once in this way, and timed anew in every cell.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compressor import commit
from compressor.errors import StoreError
from compressor.keys import key_of, own_code
from compressor.measure.environment import packages, processor

Work = Callable[[Path], dict[str, Any]]  # runs the job in a folder and returns its answer
_CODE = ("measure", "runtimes", "tasks", "store.py", "surgery.py", "weights.py", "families.py", "tokens.py")


def keep(job: Mapping[str, Any], model: Path, root: Path, workdir: Path, work: Work) -> tuple[dict[str, Any], Path]:
    """Return a job's answer and the folder of its files: from the cache, or by doing the work and keeping it.

    Args:
        job: What decides the answer; `splits`, `workload` and `throughput` name files, which are hashed by content.
        model: The candidate's folder; one that is not committed is not kept.
        root: The cache.
        workdir: Where the work is done if it must be.
        work: Does it.
    """
    if not (model / commit.MANIFEST).is_file():
        return work(workdir), workdir
    final = root / _key(job, model)
    try:
        commit.verify(final)
        return dict(commit.read_json(final / "result.json")), final
    except (StoreError, OSError):
        pass
    answer = work(workdir)
    if not commit.is_complete(final):
        commit.set_aside(final)
        with commit.partial_folder(final, keep_existing=True) as partial:
            shutil.copytree(workdir, partial, dirs_exist_ok=True)
    return answer, final


def _key(job: Mapping[str, Any], model: Path) -> str:
    names = ("kind", "form", "task", "label_names", "batch_size", "threads")
    workloads = [job["workload"], job["throughput"]]
    return key_of(
        {
            **{name: job[name] for name in names},
            "exported": job["export_to"] is not None,
            "model": commit.sha256_file(model / commit.MANIFEST),
            "splits": {name: commit.sha256_file(Path(path)) for name, path in job["splits"].items()},
            "workloads": [w and [commit.sha256_file(Path(w["file"])), w["batches"]] for w in workloads],
            "surface": job["surface"],
            "code": own_code(_CODE),
            "packages": packages(),
            "processor": processor(),
        }
    )

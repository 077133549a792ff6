"""Run in a fresh process: load a saved artifact, run it on saved inputs, write the logits.

python -m compressor.testing.reload FOLDER INPUTS.npz OUT.npy [MODULE:CLASS of an unregistered method]
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np


def main(folder: Path, inputs: Path, out: Path, extra: str | None) -> None:
    """Load, run, write."""
    import torch

    from compressor import store
    from compressor.registry import RegisteredMethod, load
    from compressor.tasks.base import Batch
    from compressor.testing.house import NAME, run_artifact

    registry = load()
    if extra is not None:
        module, _, name = extra.partition(":")
        method = getattr(importlib.import_module(module), name)
        registry.methods[NAME] = RegisteredMethod(name=NAME, method=method, distribution="under-test", version="0")
    artifact = store.load(folder, registry)
    tensors = {k: torch.from_numpy(v) for k, v in np.load(inputs).items()}
    batch = Batch(inputs=tensors, labels=torch.zeros(0), positions=None, ids=())
    np.save(out, run_artifact(artifact, batch))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)

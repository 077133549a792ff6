"""Keep third-party noise off the terminal; what matters is said by us, in our words."""

from __future__ import annotations

import logging
import os
import warnings

from compressor.telemetry import silence


def quiet_libraries() -> None:
    """Silence progress bars, advice and warnings of the libraries; errors still raise."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    silence()
    warnings.simplefilter("ignore")
    # Before transformers is imported: it imports these where they are installed, and they talk while they load.
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("torch.onnx", "onnxscript", "onnx_ir", "nncf", "accelerate", "filelock", "urllib3", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)

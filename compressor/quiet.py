"""Keep third-party noise off the terminal; what matters is said by us, in our words."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

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
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("torch.onnx", "onnxscript", "onnx_ir", "nncf", "accelerate", "filelock", "urllib3", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Outliving:
    """A stream that goes on into nowhere when its reader has gone: `| head`, `| tee` that was killed, a closed terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what the stream's coding has, and `?` for what it has not."""
        coding = self._stream.encoding or "utf-8"
        self._try(lambda: self._stream.write(text.encode(coding, errors="replace").decode(coding)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Let no cell of a sweep end because nobody reads what this process prints, or a terminal lacks a letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Outliving):
            setattr(sys, name, _Outliving(stream))

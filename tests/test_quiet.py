from __future__ import annotations

import subprocess
import sys

import pytest


def test_libraries_say_nothing_while_they_load() -> None:
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    code = (
        "from compressor.quiet import quiet_libraries; quiet_libraries();"
        "import transformers.modeling_utils, torchao.quantization, bitsandbytes"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "" and ended.stderr == ""

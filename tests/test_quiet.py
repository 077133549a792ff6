from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

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


def test_a_reader_that_goes_ends_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from compressor.quiet import outlive_readers; outlive_readers()\n"
    )
    code += "for line in range(20): print('x' * 4000, flush=True); time.sleep(0.01)\n"
    code += "print('half of a line', end=''); Path('done').touch()"
    command = [sys.executable, "-c", code]
    with (tmp_path / "errors").open("w") as errors:
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=tmp_path)
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.wait(60) == 0 and (tmp_path / "done").exists()
    assert (tmp_path / "errors").read_text() == ""


def test_a_terminal_that_was_closed_ends_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from compressor.quiet import outlive_readers; outlive_readers()\n"
    )
    code += "Path('begun').touch(); time.sleep(0.5)\n"
    code += "print('x', flush=True); print('y', file=sys.stderr, flush=True); Path('done').touch()"
    ours, theirs = pty.openpty()
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    os.close(ours)
    assert writer.wait(60) == 0 and (tmp_path / "done").exists()


def test_a_terminal_without_a_letter_gets_another() -> None:
    code = "from compressor.quiet import outlive_readers; outlive_readers(); outlive_readers(); print('a \u2192 b')"
    plain = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    ended = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert ended.stdout == "a ? b\n" and ended.stderr == ""

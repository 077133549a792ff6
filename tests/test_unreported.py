"""A whole run with an audit hook in each of its processes: on files of its own it opens no connection and reports to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_files import write_checkpoint, write_data

HOOK = """
import os, sys

def hear(event, arguments):
    if event in EVENTS:
        line = os.open(os.environ["HEARD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{event} {arguments!r}\\n".encode())
        os.close(line)

EVENTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request", "PROBE"}
sys.addaudithook(hear)
sys.audit("PROBE", os.path.basename(sys.argv[0]) if hasattr(sys, "argv") else "")
"""


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["[drop_layers]", "[drop_layers,int8_static]"])
def test_a_run_on_own_files_opens_no_connection(chain: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "site").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOOK)
    heard = tmp_path / "heard"
    environment = {
        "PATH": os.environ["PATH"],  # and nothing that turns anything off
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")])),
        "COMPRESSOR_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "HEARD": str(heard),
    }
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "compressor", f"method={chain}", "student.layers=2", "teacher=checkpoint"),
            *(f"teacher.checkpoint={write_checkpoint(tmp_path / 'teacher', hidden=64)}", "teacher.train.epochs=10"),
            *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task=file", "task.max_length=48"),
            *(f"task.train={write_data(tmp_path / 'data.csv')}", "bench.runtimes=[torch,onnxruntime,openvino]"),
            *("bench.texts=4", "bench.blocks=4", "bench.loads=4", "bench.warmup_calls=2", "bench.repeats=0"),
            "hydra.run.dir=run",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    lines = heard.read_text().splitlines()
    assert sum(line.startswith("PROBE") for line in lines) >= 6, (
        "the hook was in the run and in each process that measures"
    )
    assert [line for line in lines if not line.startswith("PROBE")] == []
    assert [path.name for path in (tmp_path / "home").iterdir() if path.name in ("intel", ".config", ".intel")] == []

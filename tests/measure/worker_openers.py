"""Openers that misbehave, for workers started by the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from compressor import store
from compressor.errors import StoreError


def raises(folder: Path) -> Any:
    raise RuntimeError("the opener broke")


def user_error(folder: Path) -> Any:
    raise StoreError("the folder is damaged", allowed="a whole one", hint="copy it again")


def exits_with_zero(folder: Path) -> Any:
    os._exit(0)


def segfaults(folder: Path) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(folder: Path) -> Any:
    """Ignore SIGTERM, start a child, and never come back."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(f"child {child.pid}", flush=True)
    while True:
        time.sleep(1)


def floods(folder: Path) -> Any:
    for _ in range(3000):
        print("x" * 1000)
    raise RuntimeError("after the flood")


def not_finite(folder: Path) -> Any:
    import torch

    artifact = store.load(folder)
    with torch.no_grad():
        artifact.model.classifier.bias.fill_(float("nan"))
    return artifact


def disturbed(folder: Path) -> Any:
    """Return the model with one weight changed, as a runtime that computes something else would."""
    import torch

    artifact = store.load(folder)
    with torch.no_grad():
        artifact.model.classifier.bias[0] += 0.01
    return artifact


def student_crashes(folder: Path) -> Any:
    if folder.name == "student":
        os.kill(os.getpid(), signal.SIGSEGV)
    return store.load(folder)


def student_raises(folder: Path) -> Any:
    if folder.name == "student":
        raise RuntimeError("the student broke")
    return store.load(folder)


def student_hangs(folder: Path) -> Any:
    while folder.name == "student":
        time.sleep(1)
    return store.load(folder)


_late_calls: list[int] = []


def student_crashes_late(folder: Path) -> Any:
    """Return a student that takes the process down at its fortieth call in it, amid the timed ones of the second load."""
    artifact = store.load(folder)

    def count(*_: Any) -> None:
        _late_calls.append(1)
        if len(_late_calls) == 40:
            os.kill(os.getpid(), signal.SIGSEGV)

    if folder.name == "student":
        artifact.model.register_forward_pre_hook(count)
    return artifact


_students: list[Path] = []


def student_fails_beside(folder: Path) -> Any:
    """Fail as the environment says at the second load of a round, when models of other runtimes are loaded beside."""
    if folder.name == "student":
        _students.append(folder)
        if len(_students) == int(os.environ["STUDENT_FAILS_AT"]):
            match os.environ["STUDENT_FAILS_BY"]:
                case "crash":
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "hang":
                    time.sleep(120)
            raise RuntimeError("the student broke")
    return store.load(folder)


def student_fails_others_hang(folder: Path) -> Any:
    if folder.name == "student":
        time.sleep(2)
        raise RuntimeError("the student broke")
    time.sleep(120)


_teachers: list[Path] = []


def teacher_fails_later(folder: Path) -> Any:
    """Raise at the load of the teacher, itself or the null arm, whose number the environment names."""
    if folder.name == "teacher":
        _teachers.append(folder)
        if len(_teachers) == int(os.environ["TEACHER_FAILS_AT"]):
            raise RuntimeError("the teacher broke")
    return store.load(folder)

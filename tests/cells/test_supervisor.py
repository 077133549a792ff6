"""A command that fails in any way is ended, named, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from compressor.cells import family, kin
from compressor.cells.cell import describe
from compressor.cells.supervisor import Stop, supervise
from compressor.config import CellConfig
from compressor.errors import ConfigError


def run(code: str, tmp_path: Path, limits: CellConfig | None = None):
    shown = bytearray()
    ending = supervise(
        [sys.executable, "-c", code],
        environment=os.environ,
        limits=limits or CellConfig(timeout_s=30),
        log=tmp_path / "output.txt",
        show=shown.extend,
    )
    return ending, (tmp_path / "output.txt").read_text(errors="replace"), bytes(shown)


def test_who_cannot_show_what_a_cell_prints_does_not_end_it(tmp_path: Path) -> None:
    def show(chunk: bytes) -> None:
        raise BrokenPipeError

    log = tmp_path / "output.txt"
    command = [sys.executable, "-c", "print('first', flush=True); import time; time.sleep(0.2); print('last')"]
    ending = supervise(command, environment=os.environ, limits=CellConfig(timeout_s=30), log=log, show=show)
    assert ending.code == 0 and ending.stop is None and log.read_text() == "first\nlast\n"


ENDINGS = [
    ("raise ValueError('boom')", "failed(its process ended with exit code 1 and without a result)"),
    ("import sys; sys.exit(0)", "failed(its process ended with exit code 0 and without a result)"),
    ("import os; os._exit(0)", "failed(its process ended with exit code 0 and without a result)"),
    ("import os; os.kill(os.getpid(), 11)", "killed(SIGSEGV)"),
    ("import os; os.kill(os.getpid(), 9)", "killed(SIGKILL)"),
    ("import os; os.abort()", "killed(SIGABRT)"),
]


@pytest.mark.parametrize(("code", "status"), ENDINGS, ids=[c for c, _ in ENDINGS])
def test_every_end_has_a_name(code: str, status: str, tmp_path: Path) -> None:
    ending, _, _ = run(code, tmp_path)
    told, exit_code = describe(ending, None, CellConfig())
    assert told == status
    assert exit_code == (1 if status.startswith("failed") else 11)
    assert ending.stop is None and not ending.survivors


def test_what_it_printed_is_shown_and_kept(tmp_path: Path) -> None:
    ending, kept, shown = run("import sys; print('out'); print('err', file=sys.stderr)", tmp_path)
    assert ending.code == 0
    assert "out\n" in kept and "err\n" in kept and kept.encode() == shown


def test_a_flood_is_dropped_and_blocks_nobody(tmp_path: Path) -> None:
    flood = "import sys\nfor _ in range(2000): sys.stdout.write('x' * 10000)"
    ending, kept, shown = run(flood, tmp_path, CellConfig(log_mb=0.05, timeout_s=30))
    assert ending.code == 0
    assert 50_000 <= len(kept) < 51_000 and "cell.log_mb" in kept and len(shown) == len(kept)


def test_a_cell_that_takes_too_long_is_ended_in_time(tmp_path: Path) -> None:
    start = time.monotonic()
    ending, _, _ = run("while True: pass", tmp_path, CellConfig(timeout_s=1))
    assert ending.stop is Stop.wall and time.monotonic() - start < 6
    assert describe(ending, None, CellConfig(timeout_s=1)) == ("timeout(not finished after 1 s: cell.timeout_s)", 11)


@pytest.mark.slow
def test_a_cell_that_does_nothing_is_told_from_one_that_computes_or_talks(tmp_path: Path) -> None:
    limits = CellConfig(stall_s=3)  # on a busy machine half a second of computing takes a while
    ending, _, _ = run("import time; time.sleep(60)", tmp_path, limits)
    assert ending.stop is Stop.stall and ending.seconds < 12
    computes = "import time; t = time.time()\nwhile time.time() - t < 7: pass"
    assert run(computes, tmp_path, limits)[0].stop is None
    talks = "import time\nfor _ in range(14): print('here', flush=True); time.sleep(0.4)"
    assert run(talks, tmp_path, limits)[0].stop is None


def test_a_cell_that_computes_for_ever_and_says_nothing_is_ended(tmp_path: Path) -> None:
    limits = CellConfig(silent_s=3, timeout_s=20)
    ending, _, _ = run("while True: pass", tmp_path, limits)
    assert ending.stop is Stop.silence and 3 <= ending.seconds < 10
    assert describe(ending, None, limits) == ("timeout(computed without printing for 3 s: cell.silent_s)", 11)
    talks = "import time; t = time.time()\nwhile time.time() - t < 5: print('step', flush=True); time.sleep(0.2)"
    assert run(talks, tmp_path, limits)[0].stop is None
    assert CellConfig().silent_s is not None, "an endless loop must not hold a sweep for ever"


def test_who_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    ending, _, _ = run(code, tmp_path, CellConfig(timeout_s=1))
    assert ending.stop is Stop.wall and ending.code == -signal.SIGKILL and ending.seconds < 8


def test_a_cell_that_outgrows_its_memory_is_ended(tmp_path: Path) -> None:
    code = "import time\nheld = [bytearray(b'x' * 10_000_000) for _ in range(40)]\ntime.sleep(60)"
    limits = CellConfig(memory_gb=0.2, timeout_s=30)
    ending, _, _ = run(code, tmp_path, limits)
    assert ending.stop is Stop.memory and ending.peak_bytes > 0.2e9
    status, code_ = describe(ending, None, limits)
    assert status.startswith("oom(held 0.") and code_ == 11


def test_nothing_that_it_started_outlives_it_not_even_in_a_session_of_its_own(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "for session in (False, True):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=session)\n"
        "    print(child.pid, flush=True)\n"
    )
    ending, kept, _ = run(code, tmp_path)
    assert ending.code == 0 and ending.seconds < 10 and not ending.survivors
    pids = [int(line) for line in kept.split()]
    assert len(pids) == 2 and not [pid for pid in pids if _lives(pid)]


ESCAPES = {
    "while the cell lives": "subprocess.Popen(['env', '-i', 'setsid', *sleep]); time.sleep(1)",
    "as the cell ends": "subprocess.Popen(['env', '-i', 'setsid', *sleep])",
    "by a parent that is gone": "subprocess.run(['env', '-i', 'setsid', 'sh', '-c', '\"$@\" & exit', 'sh', *sleep])",
    "and the cell is killed": "subprocess.Popen(['env', '-i', 'setsid', *sleep]); time.sleep(.5); os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_nothing_escapes_by_clearing_its_environment(escape: str, tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(61)", str(tmp_path)]
    ending, kept, _ = run(f"import os, subprocess, sys, time\nsleep = {sleep}\n{escape}", tmp_path)
    assert ending.stop is None and ending.seconds < 10 and not ending.survivors, kept
    assert _with_argument(tmp_path) == [], "the escaped lives on"


def test_what_an_orphan_holds_counts_to_the_cell(tmp_path: Path) -> None:
    hoard = "held = b'x' * 400_000_000\nimport time; time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"hoard = ['env', '-i', 'setsid', sys.executable, '-c', {hoard!r}, {str(tmp_path)!r}]\n"
        "subprocess.run(['sh', '-c', '\"$@\" & exit', 'sh', *hoard]); time.sleep(60)"
    )
    ending, _, _ = run(code, tmp_path, CellConfig(memory_gb=0.2, timeout_s=30))
    assert ending.stop is Stop.memory and _with_argument(tmp_path) == []


def test_what_we_started_ourselves_is_no_orphan_of_a_cell(tmp_path: Path) -> None:
    """Neither what was there before, nor what we start meanwhile, nor what another cell that we supervise has started."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    before = subprocess.Popen(sleep, env={}, start_new_session=True)
    found = []

    def other() -> None:
        folder = tmp_path / "other"
        folder.mkdir()
        talks = (
            "import subprocess, sys, time\np = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        )
        talks += " start_new_session=True)\ntime.sleep(4)\nprint('lives', p.poll() is None)"
        found.append(run(talks, folder))

    beside = threading.Thread(target=other)
    beside.start()
    time.sleep(0.5)
    meanwhile: list[subprocess.Popen[bytes]] = []
    starter = threading.Timer(0.5, lambda: meanwhile.append(subprocess.Popen(sleep, env={})))
    starter.start()
    try:
        run("import time; time.sleep(1.5)", tmp_path)
        starter.join()
        assert before.poll() is None and meanwhile[0].poll() is None
        beside.join()
        ((ending, kept, _),) = found
        assert ending.code == 0 and kept == "lives True\n"
    finally:
        for process in (before, *meanwhile):
            process.kill()
            process.wait()


HIDDEN = "env={}, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
SEEN = {
    "it was": "subprocess.Popen(sleep, {hidden}); time.sleep(4)",
    "whose session was": "subprocess.Popen(['sh', '-c', 'sleep 4; \"$@\" & exit', 'sh', *sleep], {hidden}); time.sleep(4.5)",
}


@pytest.mark.parametrize("escape", SEEN.values(), ids=SEEN)
def test_what_shows_no_other_sign_is_known_because_it_was_seen(escape: str, tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(61)", str(tmp_path)]
    code = f"import subprocess, sys, time\nsleep = {sleep}\n{escape.format(hidden=HIDDEN)}"
    ending, kept, _ = run(code, tmp_path, CellConfig(memory_gb=8, timeout_s=30))  # a look every second
    assert ending.code == 0 and not ending.survivors, kept
    assert _with_argument(tmp_path) == [], "the escaped lives on"


def test_a_session_that_the_caller_starts_meanwhile_is_the_callers(tmp_path: Path) -> None:
    """Its own processes, and the orphans of those: the caller may be the first process of a container, who gets everybody's."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)]
    exits = [sys.executable, "-c", "raise SystemExit(7)"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        for command in (sleep, exits):
            started.append(subprocess.Popen(command, start_new_session=True))
        leaves = ["sh", "-c", '"$@" & exit', "sh", *sleep]
        subprocess.run(["setsid", *leaves], check=True)

    starter = threading.Timer(0.5, start)
    starter.start()
    try:
        run("import time; time.sleep(3)", tmp_path, CellConfig(memory_gb=8, timeout_s=30))
        starter.join()
        assert [process.poll() for process in started] == [None, 7]
        assert len(_with_argument(tmp_path)) == 2, "its orphan was ended"
    finally:
        for process in started:
            process.kill()
            process.wait()
        for orphan in _with_argument(tmp_path):
            os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)  # ours since the cell ran


def test_a_later_process_of_the_cells_number_is_not_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    with kin.Kin(b"none") as cell:
        first = cell.start(lambda: subprocess.Popen(["sleep", "60"], start_new_session=True))
        assert cell.living() == {first.pid}
        first.kill()
        first.wait()
        one = kin.statuses()[os.getpid()]._replace(state="S", session=first.pid)
        later, below = one._replace(parent=1, started=1), one._replace(parent=first.pid, started=2)
        monkeypatch.setattr(kin, "statuses", lambda: {first.pid: later, 2**22 + 1: below})
        assert cell.living() == set()


def test_no_ended_orphan_is_left_to_us_and_the_role_is_given_back(tmp_path: Path) -> None:
    run(
        "import subprocess; subprocess.run(['env', '-i', 'setsid', 'sh', '-c', 'sleep 61 & sleep 62 & exit'])", tmp_path
    )
    mine = [pid for pid, status in kin.statuses().items() if status.parent == os.getpid()]
    assert not [pid for pid in mine if kin.statuses()[pid].state == "Z"] and not kin._subreaper()


def test_others_are_not_touched(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, family.MARK: "other"}
    )
    try:
        run("import os; os._exit(3)", tmp_path)
        assert other.poll() is None
        assert family.members("other") == [other.pid]
        assert family.use([other.pid]).resident_bytes > 1e6
        assert family.end("other") == []
        assert other.wait(5) == -signal.SIGKILL
    finally:
        other.kill()
        other.wait()


def test_an_interrupt_is_passed_on_and_the_cell_may_save_its_work(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    cell = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in what a shell starts with `&`
        "try:\n    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5); pathlib.Path(sys.argv[1]).write_text('whole')\n"
    )
    parent = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from compressor.cells.supervisor import supervise\n"
        "from compressor.config import CellConfig\n"
        "def show(chunk): sys.stdout.write(chunk.decode()); sys.stdout.flush()\n"
        "supervise([sys.executable, '-c', *sys.argv[1:3]], environment=os.environ, limits=CellConfig(),"
        " log=Path(sys.argv[3]), show=show)\n"
    )
    command = [sys.executable, "-c", parent, cell, str(saved), str(tmp_path / "log.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    assert saved.read_text() == "whole"


@pytest.mark.parametrize("name", ["timeout_s", "stall_s", "silent_s", "memory_gb", "log_mb"])
def test_a_limit_is_above_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cell.{name}=0"):
        CellConfig(**{name: 0})


def _with_argument(place: Path) -> list[int]:
    """Return who has the place in its command line."""
    found = []
    for folder in kin.processes():
        with suppress(OSError):
            if str(place).encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

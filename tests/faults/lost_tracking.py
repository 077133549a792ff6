"""A run whose mirror at W&B is killed, cut off, refused, broken or missing, held against the same run without one.

`python tests/faults/lost_tracking.py` prints what was found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import marked  # noqa: E402 - found through the lines above
from outcome import Outcome  # noqa: E402
from toy_files import write_checkpoint, write_data  # noqa: E402

KEY = "0" * 40  # has the form of W&B's keys; no server but ours is shown it
NOBODY = "http://127.0.0.1:9"
ONLINE = ("tracking=wandb", "tracking.mode=online")
BROKEN = "raise ImportError('its binary is of another machine')\n"
MISSING = "import sys\nsys.modules['wandb'] = None\n"  # to `find_spec` and `import` alike it is not there
# What a result says that two runs of the same thing say alike.
SAME = ("name", "role", "parameters", "size_bytes", "metrics", "calibration", "agreement", "non_zeros", "zipped_bytes")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A way to lose the mirror: what is typed, and what the user must then be told in one line."""

    told: str
    arguments: tuple[str, ...] = ONLINE
    server: str | None = None  # "refuses" or "hangs"; else nobody listens
    site: Mapping[str, str] = field(default_factory=dict)  # files in front of all modules
    kills: bool = False
    keyless: bool = False


LOSSES = {
    "no network, no key": Loss(
        told="written offline; to send it: wandb sync ", arguments=("tracking=wandb",), keyless=True
    ),
    "no network": Loss(told="not mirrored within 6 s", arguments=(*ONLINE, "tracking.timeout_s=6")),
    "a server that hangs": Loss(
        told="not mirrored within 6 s", arguments=(*ONLINE, "tracking.timeout_s=6"), server="hangs"
    ),
    "over quota": Loss(told="not mirrored: StoreError: W&B took no copy", server="refuses"),
    "killed": Loss(told="not mirrored: its process was ended by SIGKILL", server="hangs", kills=True),
    "broken": Loss(told="not mirrored: ImportError: its binary", site={"wandb/__init__.py": BROKEN}),
}


def lose(folder: Path) -> Outcome:
    """Run once without a mirror and once with each that is lost, and once where wandb is not installed."""
    prepare(folder)
    failures = []
    plain = run(folder, "plain")
    if plain.returncode != 0:
        raise RuntimeError(plain.stdout + plain.stderr)
    for name, loss in LOSSES.items():
        failures += [f"{name}: {what}" for what in lost(folder, name, loss)[:1]]
    failures += [f"not installed: {what}" for what in not_installed(folder)[:1]]
    tried = len(LOSSES) + 1
    return Outcome("a lost mirror costs the run nothing", tried, tried - len(failures), tuple(failures))


def prepare(folder: Path) -> None:
    """Write a teacher and data."""
    (folder / "tmp").mkdir(parents=True)
    write_checkpoint(folder / "teacher")
    write_data(folder / "data.csv")


def lost(folder: Path, name: str, loss: Loss) -> list[str]:
    """Run with a mirror that is lost, and return what is not as in the run without one."""
    place = folder / name.replace(" ", "-").replace(",", "")
    for path, text in loss.site.items():
        (place / "site" / path).parent.mkdir(parents=True)
        (place / "site" / path).write_text(text)
    mark = uuid.uuid4().hex
    with _server(loss.server) as address:
        own = {"WANDB_BASE_URL": address, "WANDB_DIR": str(place), marked.MARK: mark}
        own |= {} if loss.keyless else {"WANDB_API_KEY": KEY}
        place.mkdir(exist_ok=True)
        killer = threading.Thread(target=_kill_mirror, args=(mark,), daemon=True)
        if loss.kills:
            killer.start()
        ended = run(folder, f"{place.name}/run", *loss.arguments, site=place / "site", **own)
    wrong = _differences(folder / "plain", place / "run")
    if ended.returncode != 0:
        wrong.append(f"exit code {ended.returncode}: {ended.stdout[-500:]}{ended.stderr[-1500:]}")
    said = [line for line in ended.stdout.splitlines() if line.startswith("tracking ")]
    if len(said) != 1 or loss.told not in said[0] or ended.stderr.strip():
        wrong.append(f"the user was told {said} {ended.stderr}")
    if living := marked.living(mark, within_s=5.0):
        marked.end(mark)
        wrong.append(f"lives on: {living}")
    return wrong


def not_installed(folder: Path) -> list[str]:
    """Ask for a mirror where wandb is not installed: that is refused before anything is computed, and leaves nothing."""
    place = folder / "not-installed"
    (place / "site").mkdir(parents=True)
    (place / "site" / "sitecustomize.py").write_text(MISSING)
    ended = run(folder, "not-installed/run", "tracking=wandb", site=place / "site")
    wrong = [] if ended.returncode == 10 else [f"exit code {ended.returncode}: {ended.stdout}{ended.stderr}"]
    if "MissingExtra: wandb is not installed" not in ended.stderr or "Traceback" in ended.stderr:
        wrong.append(f"the user was told {ended.stderr}")
    return wrong + [f"left over: {path.name}" for path in place.iterdir() if path.name != "site"]


def run(
    folder: Path, name: str, *arguments: str, site: Path | None = None, **own: str
) -> subprocess.CompletedProcess[str]:
    """Measure the teacher alone; the second time it comes from the cache, and so do its predictions."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {
        "COMPRESSOR_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "NETRC": str(folder / "no-netrc"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH")])),
        **own,
    }
    command = [
        *(sys.executable, "-m", "compressor", f"hydra.run.dir={folder / name}", *arguments),
        *("teacher=checkpoint", f"teacher.checkpoint={folder / 'teacher'}", "teacher.train.epochs=10"),
        *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task.max_length=48"),
        *("task=file", f"task.train={folder / 'data.csv'}", "bench.runtimes=[torch]", "bench.texts=4"),
        *("bench.blocks=4", "bench.loads=4", "bench.warmup_calls=2", "bench.memory=false", "bench.repeats=0"),
    ]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def _differences(plain: Path, tracked: Path) -> list[str]:
    """Return what the second folder's result says otherwise than the first's, or that it is not whole."""
    from compressor import commit
    from compressor.errors import StoreError

    try:
        commit.verify(tracked)
    except StoreError as error:
        return [f"the run folder is not whole: {error}"]
    one, two = (_measured(json.loads((place / "result.json").read_text())) for place in (plain, tracked))
    return [f"{key} is {two[key]} instead of {one[key]}" for key in one if one[key] != two[key]]


def _measured(result: dict[str, Any]) -> dict[str, Any]:
    """Return what two runs of the same thing agree in; times and the load of the machine are left out."""
    facts = {key: result[key] for key in ("schema_version", "status", "run_key", "task", "seed", "label_names")}
    return facts | {f"{c['name']}.{key}": c[key] for c in result["candidates"] for key in SAME}


def _kill_mirror(mark: str) -> None:
    """Kill the mirror, and it alone, once its own helper is at work."""
    for _ in range(5000):
        found = marked.living(mark)
        if any("wandb-core" in command for command in found.values()):
            for pid in (pid for pid, command in found.items() if "compressor.tracking" in command):
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            return
        time.sleep(0.05)


@contextmanager
def _server(kind: str | None) -> Iterator[str]:
    """Lend the address of a server that refuses or hangs; of nobody without a kind."""
    if kind is None:
        yield NOBODY
        return
    freed = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if kind == "hangs":
                freed.wait(500)
            body = b'{"errors": [{"message": "storage quota exceeded"}]}'
            with suppress(OSError):
                self.send_response(403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - as the library names it

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        freed.set()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = lose(Path(place))
    print(found.promise, f"{found.kept}/{found.tried}", *found.failures, sep="\n  ")

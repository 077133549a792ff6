"""Pickles that run something while they are read, put together from opcodes: nothing of them is imported here.

Most leave a canary, a file that only they make; those that would open a connection or load a library do not, and are seen by
the audit hook alone.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = b"\x80\x02"  # of protocol 2
MARK = "canary"  # in whatever a gadget runs, and in the name of every file that one makes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gadget:
    """A call that a pickle makes.

    Attributes:
        name: Of the callable.
        payload: The pickle.
        canary: The file that it makes, if it makes one.
    """

    name: str
    payload: bytes
    canary: Path | None


def called(target: str, *arguments: Any) -> bytes:
    """Return a pickle that calls `module:name` with plain arguments."""
    return HEADER + _global(target) + _plain(arguments) + b"R."


def _global(target: str) -> bytes:
    module, _, name = target.partition(":")
    return b"c" + f"{module}\n{name}\n".encode()


def _plain(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)[len(HEADER) : -1]


def gadgets(outside: Path) -> list[Gadget]:
    """Return the gadgets, each with a canary of its own in a folder that nothing else writes to."""
    found = []
    for name, make, leaves in _TABLE:
        canary = outside / f"{MARK}-{len(found)}"
        shell = f"touch '{canary}'"
        code = f"open({str(canary)!r}, 'w').close()"
        found.append(Gadget(name=name, payload=make(str(canary), shell, code), canary=canary if leaves else None))
    return found


def _chained(canary: str, shell: str, code: str) -> bytes:
    """Fetch a function by name and call what that gives: a scanner that looks for `os system` sees neither."""
    fetch = _global("builtins:getattr") + b"(" + _global("builtins:__import__")
    module = _plain(("os",)) + b"R" + _plain("system") + b"tR"
    return HEADER + fetch + module + _plain((shell,)) + b"R."


def _state(canary: str, shell: str, code: str) -> bytes:
    """Bind the command first, and call what is bound by a second REDUCE."""
    partial = _global("functools:partial") + b"(" + _global("os:system") + _plain(shell) + b"tR"
    return HEADER + partial + b")R."


def _stacked(canary: str, shell: str, code: str) -> bytes:
    """Name the callable from the stack (protocol 4), so that no line holds module and name together."""
    return b"\x80\x04" + b"\x8c\x05posix" + b"\x8c\x06system" + b"\x93" + _plain((shell,)) + b"R."


def _mapped(canary: str, shell: str, code: str) -> bytes:
    """Let `map` make the call when `list` consumes it."""
    inner = _global("builtins:map") + b"(" + _global("os:system") + _plain([shell]) + b"tR"
    return HEADER + _global("builtins:list") + b"(" + inner + b"tR."


def _instance(canary: str, shell: str, code: str) -> bytes:
    """Make the call with the INST opcode."""
    return HEADER + b"(" + _plain(shell) + b"ios\nsystem\n."


def _object(canary: str, shell: str, code: str) -> bytes:
    """Make the call with the OBJ opcode: a class with arguments, whose construction starts a process."""
    return HEADER + b"(" + _global("subprocess:Popen") + _plain(["touch", canary]) + b"o."


def _new(canary: str, shell: str, code: str) -> bytes:
    """Build something harmless with NEWOBJ first, and drop it."""
    return HEADER + _global("builtins:object") + b")\x810" + called("os:system", shell)[len(HEADER) :]


# Name, what makes the pickle from (canary, shell command, Python code), and whether it leaves a canary.
_TABLE: tuple[tuple[str, Any, bool], ...] = (
    ("os.system", lambda c, s, p: called("os:system", s), True),
    ("posix.system", lambda c, s, p: called("posix:system", s), True),
    ("os.popen", lambda c, s, p: called("os:popen", s), True),
    ("os.spawnlp", lambda c, s, p: called("os:spawnlp", 0, "touch", "touch", c), True),
    ("os.posix_spawnp", lambda c, s, p: called("os:posix_spawnp", "touch", ["touch", c], {}), True),
    ("subprocess.call", lambda c, s, p: called("subprocess:call", ["touch", c]), True),
    ("subprocess.run", lambda c, s, p: called("subprocess:run", ["touch", c]), True),
    ("subprocess.check_output", lambda c, s, p: called("subprocess:check_output", ["touch", c]), True),
    ("subprocess.getoutput", lambda c, s, p: called("subprocess:getoutput", s), True),
    ("pty.spawn", lambda c, s, p: called("pty:spawn", ["touch", c]), True),
    ("builtins.exec", lambda c, s, p: called("builtins:exec", p), True),
    ("builtins.eval", lambda c, s, p: called("builtins:eval", p), True),
    ("builtins.open", lambda c, s, p: called("builtins:open", c, "w"), True),
    ("io.FileIO", lambda c, s, p: called("_io:FileIO", c, "w"), True),
    ("os.mkdir", lambda c, s, p: called("os:mkdir", c), True),
    ("os.symlink", lambda c, s, p: called("os:symlink", "/", c), True),
    ("shutil.copyfile", lambda c, s, p: called("shutil:copyfile", "/dev/null", c), True),
    ("timeit.timeit", lambda c, s, p: called("timeit:timeit", "pass", p), True),
    ("profile.run", lambda c, s, p: called("cProfile:run", p, "/dev/null"), True),
    ("cProfile.runctx", lambda c, s, p: called("cProfile:runctx", p, {}, {}, "/dev/null"), True),
    ("timeit.repeat", lambda c, s, p: called("timeit:repeat", "pass", p), True),
    ("runpy._run_code", lambda c, s, p: called("runpy:_run_code", p, {}), True),
    ("runpy.run_path", lambda c, s, p: called("runpy:run_path", "/dev/null"), False),
    ("numpy runstring", lambda c, s, p: called("numpy.testing._private.utils:runstring", p, {}), True),
    ("numpy f2py myeval", lambda c, s, p: called("numpy.f2py.crackfortran:myeval", p), True),
    ("torch collect_env", lambda c, s, p: called("torch.utils.collect_env:run", s), True),
    (
        "torch unsupported_tensor_ops",
        lambda c, s, p: called("torch.jit.unsupported_tensor_ops:execWrapper", p, {}, {}),
        True,
    ),
    ("socket.create_connection", lambda c, s, p: called("socket:create_connection", ["127.0.0.1", 9]), False),
    ("urllib.urlopen", lambda c, s, p: called("urllib.request:urlopen", "http://127.0.0.1:9/"), False),
    ("ctypes.CDLL", lambda c, s, p: called("ctypes:CDLL", c), False),
    ("importlib.import_module", lambda c, s, p: called("importlib:import_module", "antigravity_" + MARK), False),
    ("pickle in a pickle", lambda c, s, p: called("_pickle:loads", called("os:system", s)), True),
    ("getattr chain", _chained, True),
    ("functools.partial", _state, True),
    ("name from the stack", _stacked, True),
    ("map and list", _mapped, True),
    ("INST opcode", _instance, True),
    ("OBJ opcode", _object, True),
    ("NEWOBJ before the call", _new, True),
)


def torch_file(payload: bytes) -> bytes:
    """Return the payload as `torch.save` packs a pickle: a stored zip with `data.pkl` in a folder."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return packed.getvalue()


def numpy_file(payload: bytes) -> bytes:
    """Return the payload as the one entry of a `.npy` file of objects."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + payload

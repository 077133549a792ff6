"""Whatever a stranger's file says, opening it runs nothing, writes nowhere else and asks for no connection."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import malicious  # noqa: E402 - found through the line above
from gadgets import gadgets  # noqa: E402
from lairs import HARMLESS, Case, Lair  # noqa: E402
from malicious import End, fault  # noqa: E402


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return malicious.control(tmp_path_factory.mktemp("control"))


@pytest.mark.slow
def test_malicious_files_are_refused_or_do_no_harm(tmp_path) -> None:
    found = malicious.audit(tmp_path)
    assert not found.failures, "\n".join(found.failures)
    assert found.kept == found.tried >= 300


def test_gadgets_work_where_pickle_loads_them(loaded) -> None:
    assert len(loaded) >= 36
    assert [name for name, (canary, _) in loaded.items() if canary is False] == []
    assert sum(canary is True for canary, _ in loaded.values()) >= 30


def test_the_hook_notices_every_gadget_and_each_kind_of_act(loaded) -> None:
    assert [name for name, (_, seen) in loaded.items() if not seen] == []
    acts = {line.split()[0] for _, seen in loaded.values() for line in seen}
    assert acts >= {
        *("pickle.find_class", "os.system", "os.posix_spawn", "subprocess.Popen", "exec", "compile"),
        *("open", "os.mkdir", "os.symlink", "socket.getaddrinfo", "ctypes.dlopen"),
    }


@pytest.mark.slow
def test_a_file_that_runs_something_and_one_that_ends_the_process_are_each_named(tmp_path) -> None:
    lair = Lair(tmp_path)
    lair.prepare()
    gadget = gadgets(lair.outside)[0]
    lair.file("runs", "runs", "evil.pkl", gadget.payload, HARMLESS, "it is not: the test wants it seen")
    lair.file("dies", "dies", "any.bin", b"")
    lair.file("model", "is no model", "any.bin", b"")
    ends = malicious.watch(lair, lair.cases)
    assert gadget.canary is not None and gadget.canary.exists()
    assert "os.system" in fault(lair.cases[0], ends["runs"]) and gadget.canary.name in ends["runs"].seen
    assert fault(lair.cases[1], ends["dies"]) == "dies: the process died with code -11"
    assert fault(lair.cases[2], ends["is no model"]) == ""


@pytest.mark.parametrize(
    ("right", "end", "broken"),
    [
        ("refused", "refused: StoreError: damaged", False),
        ("refused", "harmless", True),
        ("harmless", "harmless", False),
        ("harmless", "refused: StoreError: damaged", True),
        ("either", "harmless", False),
        ("either", "KeyError is no error of ours: 'form'", True),
        ("refused", "took more than 15.0 s of a processor", True),
    ],
)
def test_an_end_is_held_against_what_is_right(tmp_path, right, end, broken) -> None:
    case = Case(name="any", way="model", path=tmp_path, right=right)
    assert bool(fault(case, End(end=end))) is broken
    assert fault(case, End(end=end, seen=("os.system id",))), "what was seen counts, however it ended"

"""Where malicious files are put: innocent folders as users have them, copied and changed by each case."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_folders import Model, write_run
from toy_files import write_checkpoint, write_data

from compressor import commit, store
from compressor.testing.house import TinyHouse

REFUSED, HARMLESS, EITHER = "refused", "harmless", "either"
LIBRARY = (
    "whether a library knows the entry or ignores it is its version's affair: what counts is that nothing of it runs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A malicious file or folder.

    Attributes:
        name: Of the trick.
        way: How a user would open it.
        path: What is opened.
        right: How that has to end: `refused`, `harmless` (loaded, without what the file asks for), or `either`.
        why: Where it is not refused, why that is right.
    """

    name: str
    way: str
    path: Path
    right: str = REFUSED
    why: str = ""


Change = Callable[[Path], None]


@dataclass(slots=True)
class Lair:
    """Innocent folders, and the cases that are made from them.

    Attributes:
        place: Everything lies below.
        cases: What was made so far.
    """

    place: Path
    cases: list[Case] = field(default_factory=list)

    @property
    def outside(self) -> Path:
        """The folder that no file may reach; canaries appear here."""
        return self.place / "outside"

    @property
    def hidden(self) -> Path:
        """A folder beside those that are opened, with files that tricks point at."""
        return self.place / "cases" / "hidden"

    def prepare(self) -> None:
        """Write the innocent folders."""
        for folder in (self.outside, self.hidden):
            folder.mkdir(parents=True)
        innocent = self.place / "cases" / "innocent"
        write_checkpoint(innocent / "teacher", layers=2, headless=False, id2label={0: "bad", 1: "good"})
        house = TinyHouse(innocent)
        store.save(house.teacher, innocent / "model")
        write_run(innocent / "compare", Model())
        write_data(innocent / "task.csv", 60)
        (innocent / "hub").mkdir()
        write_data(innocent / "hub" / "train.csv", 60)
        shutil.copy(innocent / "teacher" / "model.safetensors", self.hidden)
        shutil.copytree(innocent / "model", self.hidden / "model")

    def innocent(self) -> dict[str, str]:
        """Return what each way opens without harm."""
        place = self.place / "cases" / "innocent"
        names = {
            "allowed": "teacher",
            "task": "task.csv",
            "unlabelled": "task.csv",
            "tracking": "compare",
            "stage": "compare",
            "runtime": "model",
        }
        ways = ("model", "teacher", "allowed", "runtime", "compare", "tracking", "task", "unlabelled", "hub", "stage")
        return {way: str(place / names.get(way, way)) for way in ways}

    def file(self, way: str, name: str, file: str, content: bytes | str, right: str = REFUSED, why: str = "") -> None:
        """Add a case that is one file."""
        path = self._new(name) / file
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self._add(name, way, path, right, why)

    def folder(self, way: str, name: str, change: Change, right: str = REFUSED, why: str = "", base: str = "") -> None:
        """Add a case that is a changed copy of an innocent folder."""
        path = self._new(name)
        shutil.copytree(self.place / "cases" / "innocent" / (base or way), path)
        change(path)
        self._add(name, way, path, right, why)

    def teacher(self, name: str, change: Change, right: str = REFUSED, why: str = "") -> None:
        """Add a changed Hugging Face folder."""
        self.folder("teacher", name, change, right, why)

    def allowed(self, name: str, change: Change) -> None:
        """Add a Hugging Face folder without safetensors, changed, whose user allows pickles."""
        weights = "model.safetensors"
        self.folder("allowed", name, both(lambda folder: (folder / weights).unlink(), change), base="teacher")

    def committed(
        self, way: str, name: str, change: Change, right: str = REFUSED, why: str = "", base: str = "model"
    ) -> None:
        """Add a changed folder of ours whose manifest vouches for the change."""
        draft = self._new(name).with_name("draft")
        shutil.copytree(self.place / "cases" / "innocent" / base, draft)
        (draft / commit.MANIFEST).unlink()
        change(draft)
        commit.commit(draft, self._new(name))
        self._add(name, way, self._new(name), right, why)

    def run(self, name: str, change: Change, right: str = REFUSED, why: str = "") -> None:
        """Add a changed run folder, to be compared and to be mirrored."""
        self.committed("compare", f"compare: {name}", change, right, why, base="compare")
        path = self.cases[-1].path
        self._add(f"tracking: {name}", "tracking", path, right, why)

    def _new(self, name: str) -> Path:
        return self.place / "cases" / "".join(c if c.isalnum() else "-" for c in name)[:80]

    def _add(self, name: str, way: str, path: Path, right: str, why: str) -> None:
        why = why or (LIBRARY if right == EITHER else "")
        assert why or right == REFUSED, f"{name}: say why it may be loaded"
        assert name not in {case.name for case in self.cases}, f"two cases are called {name}"
        self.cases.append(Case(name=name, way=way, path=path, right=right, why=why))


def text(file: str, content: str | bytes) -> Change:
    """Return the change that writes a file."""

    def change(folder: Path) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def entries(file: str, changed: Mapping[str, Any]) -> Change:
    """Return the change that sets entries of a JSON file whose names may begin with underscores."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changed}))

    return change


def zipped(members: dict[str, bytes]) -> bytes:
    """Return a deflated zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def both(*changes: Change) -> Change:
    """Return several changes as one."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def without(*files: str) -> Change:
    """Return the change that removes files."""

    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change

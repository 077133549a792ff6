"""Run folders and data files that try to run code, to reach out of their folder, to act on a reader, or to fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from gadgets import MARK, gadgets, torch_file
from lairs import EITHER, HARMLESS, Change, Lair, both, entries, text, without, zipped
from malicious_models import DEEP

RESULT, SETTINGS = "result.json", "run.yaml"
SHOWN = "a name is only shown, and where it is shown it is made safe; that no escape or markup is left is checked here"
BILLION = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def runs(lair: Lair) -> None:
    """Say in a run's settings and result what no run says."""
    shell = f"touch '{lair.outside / (MARK + '-yaml')}'"
    for name, tag in {
        "apply": f"!!python/object/apply:os.system [{shell!r}]",
        "new": f"!!python/object/new:os.system [{shell!r}]",
        "name": "!!python/name:os.system",
        "module": "!!python/module:canary_module",
        "tuple": "!!python/tuple [1, 2]",
        "a tag of its own": "!evil {command: id}",
    }.items():
        lair.run(f"YAML with {name}", text(SETTINGS, f"overrides: []\nconfig: {tag}\n"))
    lair.run("YAML that multiplies in overrides", text(SETTINGS, BILLION + "overrides: *i\nconfig: {}\n"))
    lair.run("YAML that multiplies in config", settings_with(BILLION, "bomb: *i"))
    lair.run("YAML that contains itself", settings_with("", "more: &m {again: *m}"))
    lair.run("YAML that is deep", text(SETTINGS, DEEP))
    lair.run("YAML that is no text", text(SETTINGS, b"\xff\xfe\x00\x01"))
    lair.run("settings with _target_", settings_with("", "_target_: os.system\n  command: id"), HARMLESS,
             "settings are read as plain values, and nothing builds what they name")  # fmt: skip
    lair.run("no settings", without(SETTINGS))
    for name, change in {
        "_target_": entries(RESULT, {"_target_": "os.system"}),
        "py/object": entries(RESULT, {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["id"]]}),
        "candidates that are text": entries(RESULT, {"candidates": "os.system"}),
        "no candidates": entries(RESULT, {"candidates": []}),
        "another schema": entries(RESULT, {"schema_version": 99}),
        "a status that is a list": entries(RESULT, {"status": ["ok"]}),
        "NaN": text(RESULT, '{"schema_version": NaN}'),
        "depth": text(RESULT, DEEP),
        "a long number": text(RESULT, "9" * 5000),
        "no JSON": text(RESULT, "{"),
        "no text": text(RESULT, b"\xff\xfe\x00"),
    }.items():
        lair.run(f"a result with {name}", change)
    lair.run("a candidate named above the folder", renamed("../../../hidden/model"))
    lair.run("a candidate named above with backslashes", renamed("..\\..\\hidden"), EITHER)
    lair.run("a candidate with an absolute name", renamed("/etc/passwd"))
    lair.run("a metric of a split above the folder", metric("accuracy@../../hidden/x"), EITHER)
    for name in (
        "<script>alert(1)</script>",
        "\x1b]0;evil\x07\x1b[31mred",
        "=cmd|' /c calc'!A0",
        "@SUM(1)",
        "<img src=x onerror=alert(1)>",
        "a|b\n| c |",
    ):
        lair.run(f"a candidate called {name[:20]!r}", renamed(name), EITHER if "/" in name else HARMLESS, SHOWN)
        lair.run(f"a task called {name[:20]!r}", entries(RESULT, {"task": name}), HARMLESS, SHOWN)
    lair.run("a candidate with a name of 300 letters", renamed("x" * 300))
    lair.run("predictions that are none", text("predictions/distill-test.parquet", b"PAR1 evil PAR1"), EITHER)
    lair.run("predictions of a pickled type", text("predictions/distill-test.parquet", pickled_type(lair)), EITHER)
    lair.run(
        "losses without end",
        text("losses.jsonl", '{"stage": "x", "step": 1e999}\n' + DEEP + '\n{"stage": {}, "step": []}\n'),
        EITHER,
    )
    lair.folder("compare", "a run folder with a link out", lambda f: (f / "more").symlink_to(lair.hidden))
    lair.folder(
        "compare",
        "a tree of links to itself",
        lambda f: both(without("manifest.json", RESULT), lambda g: (g / "loop").symlink_to(g))(f),
    )


def settings_with(before: str, line: str) -> Change:
    """Return the change that adds a line to the settings' `train`, and others before everything."""

    def change(folder: Path) -> None:
        read = yaml.safe_load((folder / SETTINGS).read_text())
        config = json.dumps(read["config"])[:-1]
        body = f"{before}overrides: []\nconfig:\n  {line}\n"
        body += "".join(f"  {key}: {json.dumps(value)}\n" for key, value in json.loads(config + "}").items())
        (folder / SETTINGS).write_text(body)

    return change


def renamed(name: str) -> Change:
    """Return the change that gives a run's second candidate another name, everywhere in its result."""

    def change(folder: Path) -> None:
        result = json.loads((folder / RESULT).read_text())
        result["candidates"][1]["name"] = name
        for compared in result["comparisons"]:
            compared["candidate"] = name
        (folder / RESULT).write_text(json.dumps(result))

    return change


def metric(name: str) -> Change:
    """Return the change that adds a metric of that name to each candidate."""

    def change(folder: Path) -> None:
        result = json.loads((folder / RESULT).read_text())
        for candidate in result["candidates"]:
            candidate["metrics"] = {name: candidate["metrics"]["accuracy"]} | candidate["metrics"]
        (folder / RESULT).write_text(json.dumps(result))

    return change


def pickled_type(lair: Lair) -> bytes:
    """Return a Parquet file whose column has a type that old versions of pyarrow unpickled (CVE-2023-47248)."""
    kind = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": gadgets(lair.outside)[0].payload,
    }
    schema = pa.schema([pa.field("text", pa.string(), metadata=kind), pa.field("label", pa.string())])
    out = io.BytesIO()
    pq.write_table(pa.table([["good film", "bad film"] * 20, ["a", "b"] * 20], schema=schema), out)
    return out.getvalue()


def files(lair: Lair) -> None:
    """Bring data that is something else, or more than it seems."""
    zeros = b"text,label\n" + b"0" * 100_000_000
    bomb = gzip.compress(zeros, 1)
    lair.file("task", "a gzip bomb called CSV", "bomb.csv", bomb)
    lair.file("task", "a gzip bomb called JSONL", "bomb.jsonl", bomb)
    lair.file("task", "a zip bomb called CSV", "zip.csv", zipped({"rows.csv": zeros}))
    lair.file("task", "a zip that climbs", "climb.csv", zipped({f"../../../outside/{MARK}-zip": b"text,label\n"}))
    lair.file("task", "a tar that climbs", "climb.json", tarred(f"../../../outside/{MARK}-tar", lair.outside))
    lair.file("task", "a zip of a CSV", "rows.zip", zipped({"rows.csv": b"text,label\na,b\n"}))
    lair.file("task", "a pickle", "rows.pkl", gadgets(lair.outside)[0].payload)
    lair.file("task", "torch's pickle", "rows.pt", torch_file(gadgets(lair.outside)[0].payload))
    lair.file("task", "a script", "rows.py", f"open({str(lair.outside / (MARK + '-script'))!r}, 'w')\n")
    lair.file("task", "a Parquet file with a pickled type", "rows.parquet", pickled_type(lair), EITHER)
    lair.file("task", "a Parquet file that is none", "none.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1")
    for name, features in {"code": {"text": {"_type": "os.system"}}, "depth": json.loads("[" * 90 + "]" * 90)}.items():
        lair.file("task", f"a Parquet file with features of {name}", f"{name}.parquet", described(features), EITHER)
    lair.file("task", "JSON that is deep", "deep.json", DEEP)
    lair.file("task", "JSON lines that are deep", "deep.jsonl", f'{{"text": {DEEP}, "label": 1}}\n')
    lair.file("task", "a CSV file with one endless cell", "cell.csv", 'text,label\n"' + "x" * 20_000_000)
    lair.file("task", "a CSV file with a million columns", "wide.csv", ",".join(["text"] * 100_000) + "\n")
    lair.file("task", "a CSV file of NULs", "nul.csv", b"\x00" * 1_000_000)
    lair.file(
        "task",
        "JSON that names code",
        "named.jsonl",
        '{"text": {"_target_": "os.system"}, "label": {"py/object": "os.system"}}\n' * 9,
    )
    lair.file("unlabelled", "a gzip bomb as transfer text", "texts.csv", bomb)
    lair.file("unlabelled", "transfer text that is no text", "texts.txt", b"\xff\xfe" * 100)
    lair.file("unlabelled", "transfer text in a pickle", "texts.pkl", gadgets(lair.outside)[0].payload)


def tarred(name: str, target: Path) -> bytes:
    """Return a tar with a member of that name, and a link out with a file behind it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in (tarfile.TarInfo(name), tarfile.TarInfo(f"link/{MARK}-behind")):
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(target)
            archive.addfile(link)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"text\n"))
    return out.getvalue()


def described(features: object) -> bytes:
    """Return a Parquet file whose metadata tell the features that `datasets` shall build."""
    told = json.dumps({"info": {"features": features}}).encode()
    table = pa.table({"text": ["good film", "bad film"] * 20, "label": ["a", "b"] * 20}).replace_schema_metadata(
        {"huggingface": told}
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def data_folders(lair: Lair) -> None:
    """Bring folders with code or members for `task.source=hub`."""
    script = f"open({str(lair.outside / (MARK + '-dataset'))!r}, 'w').close()\nimport datasets\n"
    script += "class Evil(datasets.GeneratorBasedBuilder): ...\n"
    raw = gadgets(lair.outside)[0].payload

    def hub(name: str, change: Change, right: str = "refused", why: str = "") -> None:
        lair.folder("hub", f"hub: {name}", change, right, why)

    hub("a script beside data", lambda f: text(f"{f.name}.py", script)(f))
    hub("a script alone", lambda f: both(without("train.csv"), text(f"{f.name}.py", script))(f))
    hub("a script called dataset.py alone", both(without("train.csv"), text("dataset.py", script)))
    lair.file("hub", "hub: a script itself", "evil.py", script)
    for name, card in {
        "files above": "configs:\n- config_name: default\n  data_files: ../hidden/*\n",
        "files elsewhere": "configs:\n- config_name: default\n  data_files: /etc/passwd\n",
        "files on a server": "configs:\n- config_name: default\n  data_files: http://127.0.0.1:9/x.csv\n",
        "tags of Python": "dataset_info: !!python/object/apply:os.system [id]\n",
        "features of code": "dataset_info:\n  features:\n  - name: text\n    dtype: os.system\n",
    }.items():
        hub(f"a card with {name}", text("README.md", f"---\n{card}---\n"), EITHER)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for ending in ("pth", "pt", "pyd", "pickle", "pkl", "npy"):
            member = tarfile.TarInfo(f"0.{ending}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    hub("a tar of pickles", both(without("train.csv"), text("train-0.tar", tar.getvalue())))
    for name in ("data.pkl", "data.pt", "data.npz", "dataset.joblib", "state.pickle"):
        hub(f"{name} alone", both(without("train.csv"), text(name, raw)))
    state = json.dumps({"_data_files": [{"filename": "../hidden/x.arrow"}], "_format_type": "os.system"})
    info = json.dumps({"builder_name": "os.system", "features": {"text": {"_type": "os.system"}}})
    saved = both(without("train.csv"), text("state.json", state), text("dataset_info.json", info))
    hub("a folder that `save_to_disk` wrote", saved)


def stages(lair: Lair) -> None:
    """Put pickles where training looks for a checkpoint to go on from."""
    gadget = gadgets(lair.outside)[0].payload
    for name, parts in {
        "an optimizer in a pickle": ["optimizer"],
        "a part above": ["../../../hidden/model"],
        "no part": {"a": 1},
        "text": "x",
    }.items():
        facts = text(
            "state.json",
            json.dumps({"identity": {}, "aliases": dict.fromkeys(parts, {}) if isinstance(parts, list) else parts}),
        )
        draft = f"stage: {name}"
        change = both(facts, text("optimizer.safetensors", gadget), text("optimizer.pt", gadget))
        why = "a damaged checkpoint is named and training starts anew"
        lair.committed("stage", draft, change, HARMLESS, why, base="compare")
        path = lair.cases[-1].path
        held = path.with_name(path.name + "-held")
        held.mkdir()
        path.rename(held / "step-000000001-epoch-0001")
        held.rename(path)


def every_file(lair: Lair) -> None:
    """Make every case of this file."""
    for make in (runs, files, data_folders, stages):
        make(lair)

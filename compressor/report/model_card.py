"""README.md of an exported model: what it is, what it was made from and how, what was measured, how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from compressor import assets, commit, store
from compressor.artifact import Form
from compressor.config import RunConfig
from compressor.report.html.from_run import from_run
from compressor.report.html.view import Cell, Report
from compressor.report.markdown import METHOD
from compressor.report.markup import inline, table
from compressor.results import CandidateResult, RunResult
from compressor.tasks import task_type

NAME = "README.md"
_SUFFIX = {Form.onnx: ".onnx", Form.openvino: ".xml"}


def write_model_cards(result: RunResult, folder: Path, config: RunConfig) -> None:
    """Write a card into the folder of every model that the run exported, and into that folder's manifest.

    Args:
        result: What was measured.
        folder: The run folder in the making.
        config: Names the teacher and the data.
    """
    for candidate in result.candidates:
        place = folder / (candidate.path or "")
        if candidate.path and place.is_relative_to(folder) and (place / store.RECORD).is_file():
            commit.add_file(place, NAME, model_card(result, candidate, place, config))


def model_card(result: RunResult, candidate: CandidateResult, place: Path, config: RunConfig) -> str:
    """Return the card of one saved model.

    Args:
        result: The run that measured it.
        candidate: The model.
        place: Its folder, from which form, labels and format are read.
        config: Names the teacher and the data.
    """
    record, outer = store.read_record(place), commit.read_json(place / "config.json")
    inner = outer.get("encoder", outer)
    form = Form(record["form"])
    labels = ", ".join(inline(name) for name in record["head"]["label_names"])
    shape = f"{inner.get('num_hidden_layers', '?')} layers of width {inner.get('hidden_size', '?')}"
    kind = f"{inline(str(inner.get('model_type', 'transformer')))} encoder, {shape}, for {record['head']['task_type']}"
    lines = [
        "---",
        f"library_name: {'transformers' if form is Form.torch else form.value}",
        "tags: [compressor]",
        "---",
        f"# {inline(candidate.name)}",
        "",
        f"{kind[0].upper()}{kind[1:]}{f' ({labels})' if labels else ''}. Saved in form {form.value}.",
        "",
        "## Made from",
        "",
        *_sources(config),
        "",
        *_chain(candidate),
        *_measured(result, candidate),
        "## How to load it",
        "",
        *_loading(place, form, record["head"]["task_type"], wrapped=outer.get("model_type") == store.MODEL_TYPE),
        "",
        "## Licence",
        "",
        *_licence(config),
    ]
    return "\n".join(lines) + "\n"


def _sources(config: RunConfig) -> list[str]:
    revision = f" at revision {inline(config.teacher.revision)}" if config.teacher.revision else ""
    data = config.task.dataset if config.task.source != "file" else Path(config.task.train or "a file").name
    subset = f"/{config.task.subset}" if config.task.subset else ""
    lines = [
        f"- Teacher: {inline(_teacher(config))}{revision}",
        f"- Data: {inline(config.task.name)} ({inline(config.task.source)}: {inline(data + subset)})",
    ]
    if config.task.unlabelled:
        lines.append(f"- Transfer text: {inline(Path(config.task.unlabelled).name)}")
    return lines


def _teacher(config: RunConfig) -> str:
    """Name the teacher without the path of the machine that it lay on."""
    place = Path(config.teacher.checkpoint).expanduser()
    return place.name if place.is_dir() else config.teacher.checkpoint


def _chain(candidate: CandidateResult) -> list[str]:
    rows = [
        [s.method, f"{s.distribution} {s.version}", json.dumps(s.config, default=str), f"{s.seconds:.1f}"]
        for s in candidate.lineage
    ]
    return [*table(["method", "of", "options", "seconds"], rows), ""] if rows else []


def _measured(result: RunResult, candidate: CandidateResult) -> list[str]:
    """Return the matrix of this model and its teacher."""
    report = from_run(result)
    chosen = [i for i, m in enumerate(report.models) if m.name in (result.teacher.name, candidate.name)]
    names = [report.models[i].name for i in chosen]
    rows = [
        [f"{row.label}{f' ({row.unit})' if row.unit else ''}", *(_words(row.cells[i]) for i in chosen)]
        for row in report.rows
        if not row.words
    ]
    machine = str(result.environment.get("cpu", "an unknown processor"))
    said = f"On {inline(result.task)}, seed {result.seed}; latency on {inline(machine)}."
    method = ["How it was measured:", "", METHOD, ""]
    return ["## Measured", "", said, "", *table(["", *names], rows), "", *_verdicts(report, candidate), *method]


def _verdicts(report: Report, candidate: CandidateResult) -> list[str]:
    said = [f"- {inline(s)}" for s in report.verdict if s.startswith(f"{candidate.name} ")]
    return [*said, ""] if said else []


def _words(cell: Cell) -> str:
    against = " ".join(word for word in (cell.against, cell.verdict) if word)
    parts = [f"{cell.text} {cell.spread}".strip(), against, cell.title if cell.text == "refused" else ""]
    return "; ".join(part for part in parts if part)


def _loading(place: Path, form: Form, kind: str, *, wrapped: bool) -> list[str]:
    folder = json.dumps(place.name)
    if form is Form.torch:
        auto = task_type(kind).auto_class
        code = [
            *(["import compressor.auto  # registers the class; pip install encoder-compressor"] if wrapped else []),
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f"model = {auto}.from_pretrained({folder})",
            f"tokenizer = AutoTokenizer.from_pretrained({folder})",
        ]
        why = "No config of transformers can express this model, so its class comes from the package that made it."
        return [*([why, ""] if wrapped else []), "```python", *code, "```"]
    file = json.dumps(f"{place.name}/{next(iter(sorted(place.glob(f'*{_SUFFIX[form]}')))).name}")
    opened = {
        Form.onnx: ["import onnxruntime", "", f"model = onnxruntime.InferenceSession({file})"],
        Form.openvino: ["import openvino", "", f'model = openvino.compile_model({file}, "CPU")'],
    }[form]
    code = ["from transformers import AutoTokenizer", *opened]
    code.append(f"tokenizer = AutoTokenizer.from_pretrained({folder})")
    return ["```python", *code, "```"]


def _licence(config: RunConfig) -> Sequence[str]:
    """Say under which terms the sources stand, as far as is known; the model follows from them."""
    known = {name: assets.find(name) for name in (*assets.model_names(), *assets.table_names())}
    named = [config.teacher.checkpoint, config.task.dataset if config.task.source == "package" else ""]
    named.append(config.task.unlabelled or "")
    lines = [
        f"- {inline(name)}: {inline(known[name].licence)} ({inline(known[name].source)})"
        for name in named
        if name in known
    ]
    if config.teacher.checkpoint not in known:
        lines.insert(0, f"- {inline(_teacher(config))}: not known here; its terms hold for what is made from it")
    if config.task.source != "package":
        lines.append(f"- {inline(config.task.name)}: not known here; see where the data came from")
    return ["What this model is made from, and what a chain's options name, passes its terms on to it:", "", *lines]

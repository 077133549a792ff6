"""The typed values of a run. Schemas live here; YAML under `conf/` only chooses values.

All classes are slotted and keyword-only, so that an unknown key cannot slip in, and not frozen,
because OmegaConf refuses overrides of frozen nodes. `__post_init__` validates and does nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from compressor.errors import ConfigError


@dataclass(slots=True, kw_only=True)
class MethodConfig:
    """Base of every method's options; a method without options uses it as it is."""


class Precision(StrEnum):
    """Arithmetic of training: `auto` is bf16 autocast where the device computes it natively."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class FineTune(StrEnum):
    """Whether the teacher is trained on the task: `auto` does so when its head is not trained."""

    auto = "auto"
    always = "always"
    never = "never"


def _require(ok: bool, option: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{option}={value}", allowed=allowed)


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    """Settings of one training stage (the student's under `train`, the teacher's under `teacher.train`)."""

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.1  # share of the steps with a rising learning rate; it then falls linearly to 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1  # batches per optimizer step
    precision: Precision = Precision.auto
    freeze_embeddings: bool = False  # keeps the embedding table of the source: cheaper steps on a CPU
    cache_gb: float = 4.0  # memory for teacher outputs; what does not fit is computed online
    checkpoint_seconds: float = 60.0  # at most this much work is lost when a run is killed
    keep_best: bool = True  # end with the epoch that validates best (False: with the last)

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 1, "train.batch_size", self.batch_size, "1 or more")
        _require(0 < self.learning_rate < 1, "train.learning_rate", self.learning_rate, "above 0 and below 1")
        _require(0 <= self.warmup_ratio < 1, "train.warmup_ratio", self.warmup_ratio, "0 to below 1")
        _require(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        _require(self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "above 0")
        _require(
            self.gradient_accumulation >= 1, "train.gradient_accumulation", self.gradient_accumulation, "1 or more"
        )
        _require(self.cache_gb >= 0, "train.cache_gb", self.cache_gb, "0 (compute online) or more")
        _require(self.checkpoint_seconds >= 0, "train.checkpoint_seconds", self.checkpoint_seconds, "0 or more")


@dataclass(slots=True, kw_only=True)
class TeacherConfig:
    """The model that is compressed."""

    checkpoint: str = "e5-small"  # a packaged name (--help lists them), a local folder, or a Hub id
    revision: str | None = None  # Hub revision
    allow_pickle: bool = False  # typed, never in a file: takes pytorch_model.bin where there are no safetensors
    finetune: FineTune = FineTune.auto
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _require(bool(self.checkpoint), "teacher.checkpoint", self.checkpoint, "a packaged name, a folder or a Hub id")


_FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")


@dataclass(slots=True, kw_only=True)
class TaskConfig:
    """The data and what is predicted from it."""

    name: str = "rotten_tomatoes"  # how tables call it
    type: str = "classification"  # classification, regression, token_classification, masked_lm (text without labels)
    source: str = "package"  # package (pinned, from the package index), hub, or file
    dataset: str = "rotten_tomatoes"  # packaged name or Hub dataset id; unused for files
    subset: str | None = None  # Hub configuration, e.g. sst2 of nyu-mll/glue
    revision: str | None = None  # Hub revision
    train: str | None = None  # split name, or path of a CSV/TSV/JSONL/Parquet file
    validation: str | None = None  # as above; unset: the source's own, else carved from train by content hash
    test: str | None = None  # as above; no split serves twice
    extra_tests: list[str] = field(default_factory=list)  # further test sets, reported beside `test`
    text: str = "text"  # column of the (first) sentence, or of the token list
    text_pair: str | None = None  # column of the second sentence
    label: str = "label"
    label_names: list[str] | None = None  # order of the classes; unset: from the data
    max_length: int = 128  # tokens; longer texts are cut
    unlabelled: str | None = None  # transfer text: a packaged name (imdb_sentences) or a file with the text column
    unlabelled_limit: int = 24000  # sentences taken from it
    train_limit: int | None = None  # a draw of the training split by content hash, for a trial
    accept_licence: bool = False  # needed once for data that is published for research only

    def __post_init__(self) -> None:
        _require(self.source in ("package", "hub", "file"), "task.source", self.source, "package, hub, file")
        _require(self.source != "hub" or bool(self.dataset), "task.dataset", self.dataset, "the id of a Hub dataset")
        _require(
            self.source != "file" or self.train is not None,
            "task.train",
            self.train,
            "a CSV, TSV, JSONL or Parquet file",
        )
        for role in ("train", "validation", "test"):
            value = getattr(self, role)
            # Said here: a packaged task would first ask for licences and fetch.
            if self.source != "file" and value is not None and value.casefold().endswith(_FILES):
                raise ConfigError(
                    f"task.{role}={value}: this looks like a file",
                    allowed=f"a split's name, as task.source={self.source}",
                    hint=f"task=file task.{role}={value}, or task.source=file with the task's other settings",
                )
        for column in ("text", "label"):
            _require(bool(getattr(self, column)), f"task.{column}", getattr(self, column), "the name of a column")
        _require(self.text_pair != "", "task.text_pair", self.text_pair, "the name of a column, or null")
        names = self.label_names
        _require(names is None or len(names) > 0, "task.label_names", names, "the names of the classes, or null")
        if names is not None and len(set(map(str, names))) < len(names):
            raise ConfigError(f"task.label_names={names}: a name is given twice", allowed="different names")
        _require(self.max_length >= 8, "task.max_length", self.max_length, "8 or more tokens")
        _require(self.unlabelled_limit >= 1, "task.unlabelled_limit", self.unlabelled_limit, "1 or more")
        _require(
            self.train_limit is None or self.train_limit >= 1,
            "task.train_limit",
            self.train_limit,
            "1 or more, or null",
        )


INITS = ("every_other", "first", "last", "uniform", "random")


@dataclass(slots=True, kw_only=True)
class StudentConfig:
    """Shape of the student; an unset field is taken from the source model."""

    layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    heads: int | None = None
    # One of INITS, or the source layers to copy counted from 0, e.g. [1,3,5]. Typed Any because
    # OmegaConf 2.3 has no union of a string and a list; checked below.
    init: Any = None

    def __post_init__(self) -> None:
        for name in ("layers", "hidden_size", "intermediate_size", "heads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"student.{name}", value, "1 or more")
        ok = self.init is None or self.init in INITS
        if isinstance(self.init, list):
            ok = bool(self.init) and all(isinstance(layer, int) and layer >= 0 for layer in self.init)
        _require(ok, "student.init", self.init, f"{', '.join(INITS)}, or a list of source layers such as [1,3,5]")

    def chosen(self) -> dict[str, Any]:
        """Return the fields that were set, in order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


RUNTIMES = (
    "torch", "onnxruntime", "openvino", "torch_compile", "torch_bf16", "openvino_bf16",
    "torch_cuda", "torch_fp16_cuda", "torch_bf16_cuda", "torch_compile_cuda", "torch_compile_fp16_cuda",
    "torch_compile_bf16_cuda",
)  # fmt: skip
EAGER = ("torch", "torch_cuda")  # where everybody starts, on either device; speed-ups are split from there
_RUNTIMES_OF = {
    "cpu": ["torch", "onnxruntime", "openvino"],
    "cuda": ["torch_cuda", "torch_fp16_cuda", "torch_compile_fp16_cuda"],
}


@dataclass(slots=True, kw_only=True)
class BenchConfig:
    """What is measured after the run."""

    device: str = "cpu"  # cpu, cuda: where models are timed if runtimes are not named
    runtimes: list[str] = field(default_factory=lambda: ["auto"])  # [auto]: three that the device has; else names
    threads: int = 1
    batch_size: int = 1
    texts: int = 12  # real test texts replayed at their own lengths, stratified over the length histogram
    blocks: int = 12  # of a round; each runs every text on every model and runtime once, in random order
    loads: int = 12  # of a round: its models are loaded so often, in new order and place, and share its blocks
    rounds: int = 1  # each in fresh processes
    repeats: int = 1  # how often a round that the machine disturbed is run again; then it counts with a note
    warmup_calls: int = 10  # of each model and runtime, after each load
    warmup_seconds: float = 0.1  # then of all of them in turn, at least so long, before calls are timed
    pin: bool = True  # timed processes keep to the last `threads` cores, if there are more
    padded: bool = (
        False  # also the teacher in eager torch on texts padded to task.max_length, for what not padding brings
    )
    memory: bool = True  # peak memory, each model in a process of its own
    end_to_end: bool = False  # also calls that begin with the raw text, tokenizer included; takes as long again
    throughput: bool = False  # also texts a second in sorted batches, and where the machine tells, the energy of a text
    throughput_batch: int = 32
    surface: bool = False  # also each batch size of 1, 8, 32 by each length of 16, 64, 128, 512 tokens: half an hour
    timeout_s: float = (
        3600.0  # a measuring process that takes longer (a timed one for a single call) is ended and reported
    )
    baselines: list[str] = field(default_factory=list)  # chains run beside the main one, e.g. [finetune]
    keep_texts: bool = True  # the test texts, cut short, stay in the run folder: report.html shows those that flipped
    margin: float = 0.01  # share of the teacher's metric that may be lost and still count as equivalent
    price_per_hour: float | None = None  # of this machine, in your currency: the report then says what each model cost

    def __post_init__(self) -> None:
        _require(self.device in _RUNTIMES_OF, "bench.device", self.device, ", ".join(_RUNTIMES_OF))
        if list(self.runtimes) == ["auto"]:
            self.runtimes = list(_RUNTIMES_OF[self.device])
        for runtime in self.runtimes:
            _require(runtime in RUNTIMES, "bench.runtimes", runtime, ", ".join(RUNTIMES))
        _require(len(set(self.runtimes)) == len(self.runtimes), "bench.runtimes", self.runtimes, "each runtime once")
        _require(
            not self.padded or any(name in self.runtimes for name in EAGER),
            "bench.padded",
            True,
            f"false, or {' or '.join(EAGER)} among bench.runtimes",
        )
        for name in ("threads", "batch_size", "texts", "throughput_batch"):
            _require(getattr(self, name) >= 1, f"bench.{name}", getattr(self, name), "1 or more")
        _require(self.blocks >= 4, "bench.blocks", self.blocks, "4 or more (an interval needs blocks)")
        _require(
            self.loads == 1 or self.loads >= 3, "bench.loads", self.loads, "1, or 3 or more (an interval needs loads)"
        )
        _require(self.blocks % self.loads == 0, "bench.blocks", self.blocks, f"a multiple of bench.loads={self.loads}")
        _require(
            self.rounds == 1 or self.rounds >= 3,
            "bench.rounds",
            self.rounds,
            "1, or 3 or more (an interval needs rounds)",
        )
        _require(len(set(self.baselines)) == len(self.baselines), "bench.baselines", self.baselines, "each chain once")
        _require(self.repeats >= 0, "bench.repeats", self.repeats, "0 or more")
        _require(self.warmup_seconds >= 0, "bench.warmup_seconds", self.warmup_seconds, "0 or more")
        _require(self.warmup_calls >= 1, "bench.warmup_calls", self.warmup_calls, "1 or more")
        price = self.price_per_hour
        _require(price is None or 0 <= price < float("inf"), "bench.price_per_hour", price, "0 or more, or null")
        _require(self.timeout_s > 0, "bench.timeout_s", self.timeout_s, "above 0 seconds")
        _require(
            0 < self.margin < 1, "bench.margin", self.margin, "above 0 and below 1, a share of the teacher's value"
        )


@dataclass(slots=True, kw_only=True)
class TrackingConfig:
    """Where finished runs are mirrored to. It decides nothing that is measured."""

    kind: str = "none"  # none, wandb
    project: str = "compressor"
    entity: str | None = None  # team or user; unset: the account's own
    mode: str = "auto"  # auto (online with a key, else offline), online, offline
    models: bool = False  # upload the compressed models too
    timeout_s: float = 300.0  # a mirror that takes longer is ended; the run folder can be mirrored again

    def __post_init__(self) -> None:
        _require(self.kind in ("none", "wandb"), "tracking.kind", self.kind, "none, wandb")
        modes = ("auto", "online", "offline")
        _require(self.mode in modes, "tracking.mode", self.mode, ", ".join(modes))
        _require(bool(self.project), "tracking.project", self.project, "a name")
        _require(self.timeout_s > 0, "tracking.timeout_s", self.timeout_s, "above 0 seconds")


@dataclass(slots=True, kw_only=True)
class CellConfig:
    """Limits of one cell of a multirun, which runs in a process of its own. They decide nothing that is measured."""

    timeout_s: float | None = None  # a cell that takes longer is ended
    stall_s: float | None = 1800.0  # so is one that neither prints nor computes for so long
    silent_s: float | None = 14400.0  # and one that prints nothing for so long, however busy; trainings tell each 30 s
    memory_gb: float | None = None  # and one whose processes hold more than so many 10^9 bytes
    log_mb: float = 10.0  # output of a cell that is shown and kept, in 10^6 bytes; the rest is dropped

    def __post_init__(self) -> None:
        for name in ("timeout_s", "stall_s", "silent_s", "memory_gb"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"cell.{name}", value, "above 0, or null")
        _require(self.log_mb > 0, "cell.log_mb", self.log_mb, "above 0")


@dataclass(slots=True, kw_only=True)
class ChainStep:
    """One link of the chain: a registered method's name and its options."""

    name: str
    config: MethodConfig


@dataclass(slots=True, kw_only=True)
class RunConfig:
    """Everything that decides a run, typed; after `compose` no file knows Hydra."""

    chain: list[ChainStep] = field(default_factory=list)
    baselines: dict[str, list[ChainStep]] = field(default_factory=dict)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda
    threads: int = 0  # training threads; 0 is every core this process may use

    def __post_init__(self) -> None:
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu, cuda")
        _require(self.threads >= 0, "threads", self.threads, "0 (all cores) or more")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")

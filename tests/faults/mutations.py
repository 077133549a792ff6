"""Command lines that are wrong in one way each, drawn from a valid set, and whether they are refused as they should be.

A line goes the way of the real command up to the chain's check against the teacher's shape. It must end in a typed error that
names what is wrong, within two seconds, and nothing may be loaded on the way.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from mutation_tables import CHOICES, CONTRADICTIONS, NESTED, OUT_OF_RANGE, TWICE, UNITS, UNREAD
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.nodes import BooleanNode, EnumNode, FloatNode, IntegerNode
from outcome import Outcome

from compressor import compose, groups, pipeline, registry
from compressor.context import Plan
from compressor.errors import CompressorError
from compressor.registry import Registry
from compressor.testing.house import TinyHouse
from compressor.unread import require_read

PROMISE = "a wrong option is refused by its name, within 2 s and before a model is loaded"
LIMIT_S = 2.0
VALID: tuple[tuple[str, ...], ...] = (
    (),
    ("method=distill", "student.layers=2", "method.distill.temperature=4"),
    ("method=[distill,int8_dynamic]", "student.layers=2", "student.init=[0,3]"),
    ("method=[prune_ffn,distill]", "train.epochs=2", "train.learning_rate=3e-4"),
    ("method=finetune", "student.layers=2", "bench.runtimes=[torch]", "bench.margin=0.02"),
    ("method=half", "bench=quick", "tracking=none", "seed=3", "device=cpu"),
    ("method=factorize", "method.factorize.rank=4", "bench.baselines=[half]"),
    ("teacher.train.epochs=2", "teacher.finetune=always", "task.max_length=32", "task.train_limit=100"),
    ("task=file", "task.train=rows.csv", "task.label_names=[bad,good]", "bench.runtimes=[]"),
)
Draw = random.Random


@dataclass(frozen=True, slots=True)
class Mutation:
    """A wrong command line.

    Attributes:
        kind: What is wrong.
        typed: The line.
        named: The error must name one of these.
    """

    kind: str
    typed: tuple[str, ...]
    named: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """An option that holds one value."""

    key: str
    node: Any

    @property
    def base(self) -> tuple[str, ...]:
        """What must be typed for the option to be read: its method."""
        parts = self.key.split(".")
        return (f"method={parts[1]}",) if parts[0] == "method" else ()

    def mutated(self, kind: str, value: str) -> Mutation:
        """Return the line that sets the option to a wrong value."""
        return Mutation(kind, (*self.base, f"{self.key}={value}"), (self.key,))


@dataclass(frozen=True, slots=True)
class Bench:
    """What lines are tried on: the methods, the options, and a tiny teacher's shape."""

    methods: Registry
    fields: tuple[Field, ...]
    plan: Plan

    @classmethod
    def set_up(cls) -> Bench:
        """Register the schemas, once for all lines."""
        methods = registry.load()
        compose.register(methods)
        house = TinyHouse(Path())
        plan = house.plan(compose.StudentConfig())
        plan = replace(plan, find=lambda *args, **kwargs: plan.teacher)
        schema = OmegaConf.structured(compose.RunSchema())
        fields = [f for f in _fields(schema, "") if not f.key.startswith("chosen")]
        for name, entry in methods.methods.items():
            fields += _fields(OmegaConf.structured(entry.method.Config), f"method.{name}.")
        return cls(methods, tuple(fields), plan)

    def start(self, typed: Sequence[str]) -> None:
        """Do what the command does with a line until it would fetch or load.

        Raises:
            CompressorError: The line is refused.
        """
        try:
            compose.check_overrides(typed, self.methods)
            with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
                composed = hydra_compose("config", overrides=list(typed))
        except (HydraException, OmegaConfBaseException) as error:
            raise compose.explain(error) from error
        config = compose.to_run_config(composed, typed, self.methods)
        compose.tracking(composed)
        compose.cell_limits(composed)
        require_read(typed, config, self.methods)
        plan = replace(self.plan, student=config.student, train=config.train)
        for chain in (config.chain, *config.baselines.values()):
            pipeline.check(chain, plan, self.methods)


def _fields(node: DictConfig, prefix: str) -> list[Field]:
    found = []
    for key in map(str, node.keys()):
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            found += [] if child._is_none() else _fields(child, f"{prefix}{key}.")
        else:
            found.append(Field(f"{prefix}{key}", child))
    return found


def _of(bench: Bench, *kinds: type) -> list[Field]:
    return [field for field in bench.fields if isinstance(field.node, kinds)]


def wrong_type(draw: Draw, bench: Bench) -> Mutation:
    """Give a number, a switch or a choice something that it is not."""
    field = draw.choice(_of(bench, IntegerNode, FloatNode, BooleanNode, EnumNode))
    junk = {
        IntegerNode: ("many", "1.5", "true", "[1]", "{a:1}", "1_000.5", "four"),
        FloatNode: ("warm", "true", "[0.1]", "{a:0.1}", "1;5", "0.1.2"),
        BooleanNode: ("maybe", "[true]", "{on:1}", "2.5", "yess"),
        EnumNode: ("nonesuch", "[auto]", "{auto:1}", "1.5"),
    }
    values = next(values for kind, values in junk.items() if isinstance(field.node, kind))
    return field.mutated("wrong type", draw.choice(values))


def not_finite(draw: Draw, bench: Bench) -> Mutation:
    """Give a number no end, or none at all."""
    return draw.choice(_of(bench, FloatNode)).mutated("not finite", draw.choice(("nan", "inf", "-inf")))


def negative(draw: Draw, bench: Bench) -> Mutation:
    """Give a count, a share or a duration far below nothing."""
    field = draw.choice(_of(bench, IntegerNode, FloatNode))
    return field.mutated("negative", "-999" if isinstance(field.node, IntegerNode) else draw.choice(("-999", "-2.5")))


def empty(draw: Draw, bench: Bench) -> Mutation:
    """Leave the value out."""
    return draw.choice(_of(bench, IntegerNode, FloatNode, BooleanNode, EnumNode)).mutated("empty", "")


def null(draw: Draw, bench: Bench) -> Mutation:
    """Unset what has to be set."""
    needed = [field for field in bench.fields if not field.node._is_optional()]
    return draw.choice(needed).mutated("null", "null")


def unit(draw: Draw, bench: Bench) -> Mutation:
    """Write a number with a unit."""
    key, value = draw.choice(UNITS)
    return Mutation("unit", (f"{key}={value}",), (key,))


def misspelt(draw: Draw, bench: Bench) -> Mutation:
    """Lose, double or swap letters of an option, at any level."""
    field = draw.choice(bench.fields)
    parts = field.key.split(".")
    place = draw.randrange(len(parts))
    word = parts[place]
    at = draw.randrange(1, len(word)) if len(word) > 1 else 0
    changed = {
        "lost": word[:at] + word[at + 1 :],
        "doubled": word[:at] + word[at] * 2 + word[at + 1 :],
        "swapped": word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
    }
    parts[place] = draw.choice(list(changed.values()))
    key = ".".join(parts)
    known = {field.key for field in bench.fields}
    if key in known or not all(parts):
        return misspelt(draw, bench)
    sign = draw.choice(("", "", "", "+", "++", "~"))
    return Mutation("misspelt", (f"{sign}{key}" if sign == "~" else f"{sign}{key}=1",), (key,))


def unknown_group(draw: Draw, bench: Bench) -> Mutation:
    """Choose from a group that is not there."""
    group = draw.choice(
        ("modle", "method_", "techer", "tsk", "trian", "experiments", "recipe", "config", "model", "data")
    )
    return Mutation(
        "unknown group", (f"{draw.choice(('', '+'))}{group}={draw.choice(('distill', 'default', '[a]'))}",), (group,)
    )


def unknown_choice(draw: Draw, bench: Bench) -> Mutation:
    """Choose what a group or an option does not offer."""
    key, value = draw.choice(CHOICES)
    last = re.findall(r"\w+", value)[-1]  # the wrong one, where others are right
    return Mutation(
        "unknown choice", (f"{key}={value}",), (f"{key}={value}", f"{key}={last}", f"'{last}'", f"'{value}'")
    )


def unread(draw: Draw, bench: Bench) -> Mutation:
    """Set an option of a method that is not in the chain, or that nothing in it reads."""
    if draw.random() < 0.5:
        typed, key = draw.choice(UNREAD)
        return Mutation("unread", typed, (key,))
    methods = sorted(bench.methods.methods)
    field = draw.choice(
        [f for f in bench.fields if f.key.startswith("method.") and isinstance(f.node, BooleanNode | EnumNode)]
    )
    other = draw.choice([name for name in methods if name != field.key.split(".")[1]])
    value = field.node._value()
    return Mutation(
        "unread", (f"method={other}", f"{field.key}={getattr(value, 'name', str(value).lower())}"), (field.key,)
    )


def _from(kind: str, table: Sequence[tuple[tuple[str, ...], str]]) -> Callable[[Draw, Bench], Mutation]:
    def draw_one(draw: Draw, bench: Bench) -> Mutation:
        typed, named = draw.choice(table)
        return Mutation(kind, typed, tuple(named.split("|")))

    return draw_one


KINDS: tuple[Callable[[Draw, Bench], Mutation], ...] = (
    wrong_type, not_finite, negative, empty, null, unit, misspelt, misspelt, unknown_group, unknown_choice, unread,
    _from("out of range", OUT_OF_RANGE), _from("twice", TWICE), _from("contradiction", CONTRADICTIONS), _from("nested", NESTED),
)  # fmt: skip


def drawn(count: int, seed: int, bench: Bench) -> list[Mutation]:
    """Draw so many different lines, from each kind in turn for as long as it has new ones."""
    draw, found, kinds = random.Random(seed), dict[tuple[str, ...], Mutation](), list(KINDS)
    while len(found) < count:
        for kind in list(kinds):
            new = next((m for m in (kind(draw, bench) for _ in range(20)) if m.typed not in found), None)
            if new is None:
                kinds.remove(kind)
            elif len(found) < count:
                found[new.typed] = new
    return list(found.values())


def refuse(count: int = 300, seed: int = 0) -> Outcome:
    """Draw wrong lines and try each."""
    bench = Bench.set_up()
    with nothing_loads():
        failures = [
            f"{m.kind}: {' '.join(m.typed)}: {told}" for m in drawn(count, seed, bench) if (told := _fault(m, bench))
        ]
    return Outcome(promise=PROMISE, tried=count, kept=count - len(failures), failures=tuple(failures))


def _fault(mutation: Mutation, bench: Bench) -> str:
    """Return how a line was not refused as promised; nothing where it was."""
    start = time.perf_counter()
    try:
        bench.start(mutation.typed)
    except CompressorError as error:
        took = time.perf_counter() - start
        if not any(name in str(error) for name in mutation.named):
            return f"the error does not name it: {error}"
        return f"took {took:.1f} s" if took > LIMIT_S else ""
    except Exception as error:
        return f"{type(error).__name__} is no error of ours: {error}"
    return "accepted"


@contextmanager
def nothing_loads() -> Iterator[None]:
    """Fail whatever loads a configuration, a tokenizer, weights or data while the block runs."""
    places = (
        *("transformers.PreTrainedModel.from_pretrained", "transformers.AutoConfig.from_pretrained"),
        *("transformers.AutoTokenizer.from_pretrained", "safetensors.safe_open", "safetensors.torch.load_file"),
        *("torch.load", "compressor.assets.fetch_model", "compressor.assets.fetch_table", "compressor.store.load"),
        *("compressor.pretrained.load", "compressor.tasks.data.load_task", "datasets.load_dataset"),
    )
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(patch(place, _loaded))
        yield


def _loaded(*arguments: object, **options: object) -> NoReturn:
    raise AssertionError(f"something was loaded: {arguments}")

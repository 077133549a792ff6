"""The chain: checked from capabilities before anything is spent, then folded over the artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compressor import surgery
from compressor.artifact import Blueprint, CompressedModel, Form, Step
from compressor.conduct import Guard, kept
from compressor.config import ChainStep, StudentConfig
from compressor.context import Context, Plan
from compressor.errors import Incompatible, PluginError
from compressor.method import CompressionMethod
from compressor.registry import RegisteredMethod, Registry

_LOG = logging.getLogger("compressor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One method of the chain, bound to its options and to what it was checked against."""

    entry: RegisteredMethod
    method: CompressionMethod[Any]
    plan: Plan
    source: Blueprint
    result: Blueprint

    @property
    def name(self) -> str:
        """The registered name."""
        return self.entry.name


def chain_name(chain: Sequence[ChainStep]) -> str:
    """Return how tables call a chain; the empty one is the teacher itself."""
    return "+".join(step.name for step in chain) or "teacher"


def check(chain: Sequence[ChainStep], plan: Plan, registry: Registry) -> list[Link]:
    """Bind a chain and refuse what cannot work, from blueprints and capabilities alone.

    Args:
        chain: Names and options, first applied first.
        plan: The run as the first link sees it; `plan.student` holds what the user set.
        registry: The known methods.

    Raises:
        ConfigError: An unknown method.
        Incompatible: A link cannot follow the one before it, or its own check refuses.
    """
    links: list[Link] = []
    source = plan.teacher
    for position, step in enumerate(chain):
        entry = registry.get(step.name)
        method = entry.method(step.config)
        before = chain[position - 1].name if position else "the teacher"
        _check_link(method, step.name, before, source, plan)
        reads = method.capabilities.reads_student
        if reads and position == 0 and not (plan.student.chosen() or method.capabilities.own_student):
            layers = plan.teacher.layers
            raise Incompatible(
                f"method={step.name} would start from the teacher itself and change nothing about its shape",
                allowed="at least one of student.layers, hidden_size, intermediate_size, heads",
                hint=f"method={step.name} student.layers={max(1, layers // 2)}",
            )
        _check_layers(method, step.name, source)
        _check_picking(method, step.name, links, plan)
        _check_repeats(method, step.name, links)
        _warn_of_filling(method, step.name, links)
        method.check(source, plan)
        result = method.outline(source, plan)
        result = replace(result, quantised=source.quantised or method.capabilities.leaves_quantised)
        links.append(Link(entry=entry, method=method, plan=plan, source=source, result=result))
        if reads:
            plan = replace(plan, student=StudentConfig())
        source = result
    return links


def _check_link(method: CompressionMethod[Any], name: str, before: str, source: Blueprint, plan: Plan) -> None:
    wants = method.capabilities
    if wants.own_source and source is not plan.teacher:
        raise Incompatible(
            f"method '{name}' starts from a model of its own, so what '{before}' made would be thrown away",
            hint=f"put '{name}' first, or leave '{before}' out",
        )
    if source.form is not wants.accepts:
        raise Incompatible(
            f"method '{name}' takes a model of form {wants.accepts}, and '{before}' leaves one of form {source.form}"
            + ("" if source.form is Form.torch else ", which is final"),
            hint=f"put '{name}' before '{before}'" if source.form is not Form.torch else f"leave '{name}' out",
        )
    if wants.needs_training and not source.trainable:
        raise Incompatible(
            f"method '{name}' trains, and '{before}' leaves a model that cannot be trained",
            hint=f"put '{name}' before '{before}'",
        )
    if source.quantised:
        raise Incompatible(
            f"method '{name}' reads weights, and those of '{before}' are quantised, which is final",
            hint=f"put '{name}' before '{before}'"
            if source is not plan.teacher
            else "the checkpoint before quantisation",
        )
    if wants.tasks is not None and plan.task.type not in wants.tasks:
        raise Incompatible(
            f"method '{name}' does not take task type {plan.task.type}", allowed=", ".join(sorted(wants.tasks))
        )
    family = str(source.config.model_type)
    if wants.families is not None and family not in wants.families:
        raise Incompatible(f"method '{name}' does not take family {family}", allowed=", ".join(sorted(wants.families)))
    if plan.device not in wants.devices:
        raise Incompatible(f"method '{name}' does not run on {plan.device}", allowed=", ".join(sorted(wants.devices)))
    if wants.needs_unlabelled_text and not plan.has_unlabelled:
        raise Incompatible(f"method '{name}' needs transfer text", hint="task.unlabelled=imdb_sentences")


def _check_layers(method: CompressionMethod[Any], name: str, source: Blueprint) -> None:
    """Refuse layers that lost heads or neurons where the method has no place for them."""
    wants = method.capabilities
    for part in sorted(wants.whole_layers | wants.even_layers):
        whole, lost = part in wants.whole_layers, part in source.cut
        if lost and (whole or getattr(source, part) is None):
            raise Incompatible(
                f"method '{name}' takes layers with {'all their' if whole else 'equal numbers of'} {part}, and a step before "
                "cut some",
                hint=f"put '{name}' before that step",
            )


def _check_picking(method: CompressionMethod[Any], name: str, links: Sequence[Link], plan: Plan) -> None:
    """Refuse to pick or cut layers whose modules a step before replaced by name, and to change tied ones one by one."""
    wants = method.capabilities
    picks = wants.reads_student and (plan.student.chosen() or wants.own_student)
    for link in links:
        before = link.method.capabilities
        if before.rebuilds and (picks or wants.cuts):
            raise Incompatible(
                f"method '{name}' {'builds a student from' if picks else 'cuts'} the layers of its source, and '{link.name}' "
                "replaced modules in them",
                hint=f"put '{name}' before '{link.name}'",
            )
        if before.ties_layers and (wants.cuts or wants.rebuilds or wants.leaves_zeros):
            raise Incompatible(
                f"method '{name}' changes layers one by one, and those that '{link.name}' leaves share weights",
                allowed="a form of sharing that is one layer, run several times",
                hint=f"put '{name}' before '{link.name}'",
            )


def _check_repeats(method: CompressionMethod[Any], name: str, links: Sequence[Link]) -> None:
    """Refuse a method a second time where the first has left it nothing to do."""
    same = any(type(link.method) is type(method) and link.method.config == method.config for link in links)
    if same and method.capabilities.idempotent:
        raise Incompatible(
            f"method '{name}' comes twice with the same options, and the second time it would find nothing to do",
            hint=f"leave one '{name}' out, or give it other options",
        )


def _warn_of_filling(method: CompressionMethod[Any], name: str, links: Sequence[Link]) -> None:
    """Say so where training would fill the zeros that a step before made; some want just that."""
    pruned = next((link.name for link in links if link.method.capabilities.leaves_zeros), None)
    if pruned is not None and method.capabilities.needs_training and not method.capabilities.leaves_zeros:
        _LOG.warning("'%s' trains all weights, so it fills the zeros that '%s' left", name, pruned)


def run(
    links: Sequence[Link],
    teacher: CompressedModel,
    make_context: Callable[[int, Link], Context],
    guard: Guard = kept,
) -> CompressedModel:
    """Apply the links in order and stamp the lineage.

    Args:
        links: A checked chain.
        teacher: The artifact to start from.
        make_context: Lends the services for link number n.
        guard: Stands around each method's work, given its name and the teacher.

    Raises:
        PluginError: A method returned something that its declaration does not allow, or changed the teacher.
    """
    artifact = teacher
    if teacher.module is not None:
        teacher.module.cpu()  # another chain may have taught with it on a GPU
    for position, link in enumerate(links):
        start = time.perf_counter()
        context = make_context(position, link)
        with guard(link.name, teacher):
            result = link.method.compress(artifact, context)
        _check_result(link, result)
        step = Step(
            method=link.name,
            distribution=link.entry.distribution,
            version=link.entry.version,
            config=plain(link.method.config),
            structure=result.structure,
            notes=result.notes,
            seconds=time.perf_counter() - start,
            source_shapes=None if result.structure is None else surgery.shapes(artifact.model),
        )
        artifact = replace(
            result,
            lineage=(*(result if link.method.capabilities.own_source else artifact).lineage, step),
            structure=None,
            notes={},
            trainable=result.form is Form.torch and link.method.capabilities.leaves_trainable,
            quantised=artifact.quantised or link.method.capabilities.leaves_quantised,
            cut={} if result.module is None else surgery.cut(result.config, surgery.shapes(result.module)),
        )
        if artifact.module is not None:
            artifact.module.cpu().eval()  # between links a model rests on the CPU, whatever trained it
    return artifact


def plain(config: Any) -> dict[str, Any]:
    """Return a config dataclass as JSON values."""
    return {k: getattr(v, "value", v) for k, v in asdict(config).items()}


def _check_result(link: Link, result: object) -> None:
    if not isinstance(result, CompressedModel):
        raise PluginError(f"method '{link.name}' returned {type(result).__name__}, not a CompressedModel")
    promised = link.method.capabilities.produces
    if result.form is not promised:
        raise PluginError(f"method '{link.name}' returned form {result.form} and declares {promised}")
    if result.head != link.source.head:
        raise PluginError(f"method '{link.name}' changed the labels from {link.source.head} to {result.head}")


def method_classes(methods: Iterable[CompressionMethod[Any]]) -> set[type]:
    """Return the classes of methods, with the methods that they are derived from: the code that decides what they do."""
    found = {cls for method in methods for cls in type(method).__mro__}
    return {cls for cls in found if issubclass(cls, CompressionMethod) and cls is not CompressionMethod}

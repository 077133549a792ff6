"""Views of the answers: the Pareto front, a choice, and two candidates side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compressor.compare.choice import Answer, Check, Option, Want
from compressor.compare.contrast import Contrast
from compressor.compare.front import SIZE, Front, Place
from compressor.compare.pairing import PairedDifference
from compressor.compare.rows import Row
from compressor.compare.values import Value
from compressor.report import cells
from compressor.report.comparison_data import row_values
from compressor.report.views import Cell, View, plain


def front_view(fronts: Sequence[Front]) -> View:
    """Return the view of Pareto fronts, one after the other in one grid."""
    rows, flat_rows, lines = [], list[list[Cell]](), []
    for front in fronts:
        against = "size MB" if front.against == SIZE else f"speed-up on {front.against}"
        for i, point in enumerate(front.points):
            other = point.other.value / 1e6 if front.against == SIZE else point.other.value
            by = ", ".join(point.by[:3]) + (f" and {len(point.by) - 3} more" if len(point.by) > 3 else "")
            rows.append(
                [
                    [] if i else [f"{front.metric}", f"on {front.task}", f"against {against}"],
                    [point.label],
                    [_shown(point.quality)],
                    [f"{other:.1f}" if front.against == SIZE else f"x{other:.2f}"],
                    [point.place.value, *([f"by {by}"] if by else [])],
                ]
            )
            flat_rows.append(
                [front.task, front.metric, front.against, point.label, point.quality.value, point.other.value,
                 point.place.value, "; ".join(point.by)]
            )  # fmt: skip
        on_front = [p.label for p in front.points if p.place is Place.front]
        perhaps = [p.label for p in front.points if p.place is Place.perhaps]
        lines.append(
            f"{front.metric} on {front.task} against {against}: the front is {', '.join(on_front) or 'empty'}."
        )
        if perhaps:
            lines.append(f"Within the noise of this data these may belong to it: {', '.join(perhaps)}.")
        for why in dict.fromkeys(why for _, why in front.left_out):
            lines.append(f"left out, {why}: {', '.join(label for label, other in front.left_out if other == why)}")
    return View(
        title="Pareto fronts",
        header=["front", "candidate", "quality", "other", "place"],
        rows=rows,
        lines=lines,
        flat_header=["task", "metric", "against", "candidate", "quality", "other", "place", "dominated by"],
        flat_rows=flat_rows,
        values={"fronts": plain(fronts)},
    )


def answer_view(answer: Answer) -> View:
    """Return the view of a choice: the sentence alone for readers, every option for machines."""
    options = [o for o in (answer.chosen, *answer.runners_up, answer.closest) if o is not None]
    return View(
        title="",
        header=[],
        rows=[],
        lines=[sentence(answer)],
        flat_header=["candidate", "place", "value", "fits", "certain", "confidence", "doubts"],
        flat_rows=[
            [
                o.label,
                _place(o, answer),
                o.value.value,
                str(o.fits).lower(),
                str(o.certain).lower(),
                o.confidence,
                "; ".join(o.doubts) or None,
            ]
            for o in options
        ],
        values={"sentence": sentence(answer), **plain(answer)},
    )


def sentence(answer: Answer, *, alone: bool = False) -> str:
    """Say what to take, why, how sure it is, and unless it shall stand alone who comes next and who is not judged."""
    asked = _asked(answer)
    left = "; ".join(f"{label}: {why}" for label, why in answer.left_out)
    left = f" Not judged: {left}." if left and not alone else ""
    if answer.chosen is None:
        if answer.closest is None:
            return f"Nothing can be said to be {asked}.{left}"
        return f"Nothing is {asked}. Closest comes {answer.closest.label}: {_checks(answer.closest, answer)}.{left}"
    chosen = answer.chosen
    parts = [f"{_wanted(chosen, answer)}", *([_checks(chosen, answer)] if chosen.checks else [])]
    text = f"Take {chosen.label} as {asked}: {', '.join(parts)}"
    if chosen.checks:
        text += (
            f"; that the bound{'s' * (len(chosen.checks) > 1)} hold{'s' * (len(chosen.checks) == 1)} is {sure(chosen)}"
        )
    if answer.question.under_ms is not None:
        text += " for that run: milliseconds of another day are others"
    if chosen.doubts:
        text += f"; but its timing is in doubt: {'; '.join(chosen.doubts)}"
    if answer.tied:
        text += f"; in this it cannot be told from {', '.join(answer.tied)}"
    others = [
        f"{o.label} ({_wanted(o, answer)}{f', {sure(o)}' if o.checks else ''})"
        for o in answer.runners_up[: 0 if alone else 3]
    ]
    return (
        f"{text}; next {'come' if len(others) > 1 else 'comes'} {', '.join(others)}.{left}"
        if others
        else f"{text}.{left}"
    )


def sure(option: Option) -> str:
    """Return `certain`, the confidence in percent, or that it is unknown."""
    if option.certain:
        return "certain"
    if option.confidence is None:
        return "of unknown confidence"
    return f"{min(option.confidence, 0.99):.0%} sure"


def _asked(answer: Answer) -> str:
    question = answer.question
    bounds = []
    if question.within is not None:
        bounds.append(f"within {question.within:g} point{'s' * (question.within != 1)} of the teacher")
    if question.keep is not None:
        bounds.append(f"keeping {question.keep:.4g} of the teacher's {answer.metric}")
    if question.under_ms is not None:
        bounds.append(f"under {question.under_ms:g} ms{_on(answer)}")
    if question.under_mb is not None:
        bounds.append(f"under {question.under_mb:g} MB")
    want = "most accurate" if question.want is Want.accurate else question.want.value
    return f"the {want}{_on(answer) if question.want is Want.fastest else ''} {' and '.join(bounds)}".rstrip()


def _on(answer: Answer) -> str:
    return f" on {answer.question.runtime}" if answer.question.runtime else ""


def _wanted(option: Option, answer: Answer) -> str:
    if answer.question.want is Want.smallest:
        return f"{cells.megabytes(round(option.value.value))} MB"
    if answer.question.want is Want.fastest:
        return f"x{option.value.value:.2f}{_range(option.value, 1, '.2f')}"
    return f"{answer.metric} {_shown(option.value)}"


def _checks(option: Option, answer: Answer) -> str:
    return ", ".join(_check(check, answer) for check in option.checks)


def _check(check: Check, answer: Answer) -> str:
    if check.name == "within":
        return f"{check.value.value * 100:+.1f} points of {answer.metric}{_range(check.value, 100, '+.1f')}"
    if check.name == "keep":
        return f"kept {check.value.value:.1%}{_range(check.value, 100, '.1f')}"
    if check.name == "under_ms":
        return f"{check.value.value:.2f} ms{_range(check.value, 1, '.2f')}"
    return f"{check.value.value / 1e6:.1f} MB"


def _range(value: Value, scale: float, form: str) -> str:
    if value.ci95 is None:
        return ""
    return f" (95 % CI {value.ci95.low * scale:{form}} to {value.ci95.high * scale:{form}})"


def _place(option: Option, answer: Answer) -> str:
    if option is answer.chosen:
        return "chosen"
    return "closest" if option is answer.closest else "runner-up"


def contrast_view(contrast: Contrast) -> View:
    """Return two candidates side by side."""
    first, second = contrast.first, contrast.second
    table: list[tuple[str, str, str, str]] = [
        _ratio_line("parameters M", first.parameters, second.parameters, cells.millions),
        _ratio_line("size MB", first.size_bytes, second.size_bytes, cells.megabytes),
        _ratio_line("peak MB", first.peak_memory_bytes, second.peak_memory_bytes, cells.megabytes),
        ("train s", _seconds(first), _seconds(second), cells.NOTHING),
    ]
    lines = []
    for task, found in contrast.quality.items():
        values = [row.quality[task].score for row in (first, second)]
        gap = f"{found.difference * 100:+.1f} ({found.ci95.low * 100:+.1f}..{found.ci95.high * 100:+.1f})"
        table.append((f"{found.metric} on {task}", _shown(values[0]), _shown(values[1]), gap))
        lines.append(_quality_sentence(first, second, task, found))
    for speed in contrast.speed:
        cell = [row.speed[(speed.task, speed.setting)].p50_ms for row in (first, second)]
        ms = [cells.NOTHING if v is None else f"{v.value:.2f}" for v in cell]
        apart = "" if speed.one_run else ", of different runs"
        table.append((f"{speed.setting} ms on {speed.task}{apart}", ms[0], ms[1], f"x{speed.ratio.value:.2f}"))
        lines.append(
            f"{first.label} against {second.label} on {speed.setting}, {speed.task}: x{speed.ratio.value:.2f} as fast"
            f"{_range(speed.ratio, 1, '.2f')}, {speed.verdict or 'error unknown'}; {speed.how}."
        )
    lines += [f"not compared: {what}: {why}" for what, why in contrast.not_compared]
    lines += [f"option {key}: {_option(a)} against {_option(b)}" for key, (a, b) in contrast.options.items()]
    return View(
        title=f"{first.label} against {second.label}",
        header=["", first.label, second.label, "first against second"],
        rows=[[[cell] for cell in row] for row in table],
        lines=lines,
        flat_header=["what", first.label, second.label, "first against second"],
        flat_rows=[
            *map(list, table),
            *([key, _option(a), _option(b), None] for key, (a, b) in contrast.options.items()),
        ],
        values={
            "first": row_values(first),
            "second": row_values(second),
            "quality": plain(contrast.quality),
            "speed": plain(contrast.speed),
            "not_compared": plain(contrast.not_compared),
            "options": plain(contrast.options),
        },
    )


def _quality_sentence(first: Row, second: Row, task: str, found: PairedDifference) -> str:
    seeds = f"seed{'s' * (len(found.seeds) > 1)} {', '.join(map(str, found.seeds))}"
    flips = f"{found.flips} of {found.n:,} predictions differ"
    if found.only_first is not None:
        flips += f" ({found.only_first} right in {first.label} alone, {found.only_second} in {second.label} alone)"
    return (
        f"{found.metric} on {task}: {found.difference * 100:+.1f} points (95 % CI {found.ci95.low * 100:+.1f} to "
        f"{found.ci95.high * 100:+.1f}, p={found.p_value:.2g}, {found.test}, {seeds}); {flips}; this test finds "
        f"differences from {found.detectable * 100:.1f} points."
    )


def _ratio_line(
    name: str, ours: Value | None, theirs: Value | None, form: Callable[[int], str]
) -> tuple[str, str, str, str]:
    shown = [cells.NOTHING if v is None else form(round(v.value)) for v in (ours, theirs)]
    ratio = f"{ours.value / theirs.value:.1%}" if ours and theirs and theirs.value else cells.NOTHING
    return name, shown[0], shown[1], ratio


def _seconds(row: Row) -> str:
    return cells.NOTHING if row.training_seconds is None else f"{row.training_seconds.value:.0f}"


def _shown(value: Value) -> str:
    return f"{value.value * 100:.1f}" + ("" if value.half is None else f" +-{value.half * 100:.1f}")


def _option(value: object) -> str:
    return "unset" if value is None else str(value)

"""What a method declares about itself, as typed data; the engine decides by it and never by a name."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.artifact import Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a method needs, takes and leaves; the engine reads it before anything is spent.

    `signals` names the kinds of teacher output it may ask for in `Context.fit`: logits, hidden, attention, qkv. `tasks` and
    `families` are None when any will do. `own_student`: where nothing of `student.*` is set, a method that reads it makes a
    student of its own shape. `rebuilds`: the result has modules that the method itself must put back before its weights can
    be read (`structure` by module names), so that layers can no longer be picked from it. `cuts`: it takes layers, heads,
    neurons or widths away from its source. `ties_layers`: separate layers of the result share weights, which cutting or
    replacing one of them would part. `own_source`: the method starts from a model of its own, so that only the first place
    of a chain is its. `leaves_zeros`: weights of the result are zero, and nothing but this method holds them there when
    something trains. `leaves_quantised`: the result's weights are integers, packed or rounded for good, so that no method
    can follow. `idempotent`: a second time with the same options it would find nothing to do. `whole_layers` and `even_layers`
    name parts (heads, neurons) of which every layer must have as many as the config says, or as any other layer.
    `reads_unlabelled_text`: it reads `Context.unlabelled_texts`, and does without where there are none. `libraries` names the
    distributions, as pip calls them, that it computes with beyond those that every run needs: with another version of one the
    result is another.
    """

    needs_training: bool = False
    needs_calibration: bool = False
    needs_unlabelled_text: bool = False
    reads_unlabelled_text: bool = False
    reads_student: bool = False
    own_student: bool = False
    rebuilds: bool = False
    cuts: bool = False
    ties_layers: bool = False
    own_source: bool = False
    accepts: Form = Form.torch
    produces: Form = Form.torch
    leaves_trainable: bool = True
    leaves_zeros: bool = False
    leaves_quantised: bool = False
    idempotent: bool = False
    whole_layers: frozenset[str] = frozenset()
    even_layers: frozenset[str] = frozenset()
    signals: frozenset[str] = frozenset()
    tasks: frozenset[str] | None = None
    families: frozenset[str] | None = None
    devices: frozenset[str] = frozenset({"cpu", "cuda"})
    libraries: frozenset[str] = frozenset()

    @property
    def may_read_unlabelled_text(self) -> bool:
        """Whether the task's transfer text can change the result: read as text, or as examples that the teacher labels."""
        return bool(self.signals) or self.needs_unlabelled_text or self.reads_unlabelled_text

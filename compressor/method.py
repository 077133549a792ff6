"""The contract: what a compression method declares and what it must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from compressor.artifact import Blueprint, CompressedModel
from compressor.capabilities import Capabilities
from compressor.config import MethodConfig
from compressor.context import Context, Plan

if TYPE_CHECKING:
    from torch import nn

ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class CompressionMethod(ABC, Generic[ConfigT]):
    """Turn one artifact into a smaller or cheaper one.

    Subclass it, set the three class attributes, write `compress`, and register the class under the entry-point group
    `compressor.methods`; the entry point's name is what `method=` takes.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    # The class declares what the method may do; an instance whose options need less sets its own in `__init__`.
    capabilities: Capabilities
    references: ClassVar[tuple[str, ...]]

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def check(self, source: Blueprint, plan: Plan) -> None:  # noqa: B027 - most methods have nothing to refuse
        """Refuse what this method cannot do, before any work.

        Raises:
            Incompatible: The source, the task or the student settings do not fit.
        """

    @abstractmethod
    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Return a new artifact by `source.evolve(...)`; change neither the source nor the teacher."""

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict the blueprint of the result, so that the next link can be checked before anything is spent.

        The default knows the form, the trainability and, for a method that reads `student.*`, the student's shape.
        """
        return plan.outline(source, self.capabilities)

    # Persistence. The defaults suffice unless the method changes structure or tensor format.

    def rebuild(self, skeleton: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Apply the recorded `structure` to a model built from the saved config, whose weights are not read yet."""
        return skeleton

    def save_weights(self, model: nn.Module, folder: Path) -> None:
        """Write the weights into `folder` without pickle."""
        from compressor.weights import save_weights

        save_weights(model, folder)

    def load_weights(self, model: nn.Module, folder: Path) -> None:
        """Read what `save_weights` wrote, in place, every tensor exactly once."""
        from compressor.weights import load_weights

        load_weights(model, folder)

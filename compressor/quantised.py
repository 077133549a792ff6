"""What every quantiser of linears owes: say how many of the eligible ones it quantised, and which linears it left alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from compressor.errors import Incompatible
from compressor.families import base_model
from compressor.surgery import encoder_linears

if TYPE_CHECKING:
    from torch import nn


def quantised_share(
    method: str, quantised: Collection[str], eligible: Collection[str], minimum_share: float
) -> dict[str, int]:
    """Return the counts for a step's notes.

    Args:
        method: Name of the method, for the message.
        quantised: Names of the linears that were quantised.
        eligible: Names of all linears that could have been: those of `encoder_linears`.
        minimum_share: Share of the eligible ones that has to be quantised, 0 to 1.

    Raises:
        Incompatible: Fewer were; the message names those that kept their weights.
    """
    left = [name for name in eligible if name not in set(quantised)]
    done = len(eligible) - len(left)
    if not eligible or done < minimum_share * len(eligible):
        raise Incompatible(
            f"{method}: {done} of {len(eligible)} eligible linears were quantised; not {', '.join(left[:8]) or 'one exists'}",
            allowed=f"{minimum_share:.0%} or more",
            hint=f"method.{method}.minimum_share=... if that is what you want",
        )
    return {"linears_quantised": done, "linears_eligible": len(eligible)}


def linears_outside(model: nn.Module) -> list[str]:
    """Return the linears outside the encoder's layers (pooler, head, embedding projections), named from the base model.

    So named they are what a transformers quantisation config calls modules not to convert: it compares the ends of names, and
    the same list holds for the model with and without its head.
    """
    from torch import nn

    inside = set(encoder_linears(model).values())
    prefix = "" if base_model(model) is model else f"{getattr(model, 'base_model_prefix', '')}."
    return [
        name.removeprefix(prefix)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in inside
    ]

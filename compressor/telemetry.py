"""No library tells its makers what it is used for: what reports without being asked is silenced before it is imported."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

_REPORTS: Final = "openvino_telemetry"  # of OpenVINO and NNCF: they do without where it is not installed
_SWITCHES: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers hands a model's name and the user's token to a converter's site
}


def silence() -> None:
    """Turn off the reports that a variable turns off, in this process and those it starts; what the user set stands."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(_REPORTS, None)  # type: ignore[arg-type]  # Python's own way to say that a module is not there


def import_openvino() -> Any:
    """Import OpenVINO, whose import alone is sent to its makers if the package that sends is found.

    Raises:
        ImportError: It is not installed.
    """
    silence()
    import openvino

    return openvino

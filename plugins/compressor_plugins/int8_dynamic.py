"""Dynamic int8 in ONNX Runtime: weights quantised once, activations at each call."""

from __future__ import annotations

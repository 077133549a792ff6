from __future__ import annotations

import pickle

from compressor import errors


def test_messages_say_got_allowed_and_try() -> None:
    text = str(errors.ConfigError("x=1", allowed="2", hint="x=2"))
    assert text.splitlines() == ["x=1", "  allowed: 2", "  try:     x=2"]


def test_exit_codes_are_distinct() -> None:
    kinds = errors.CompressorError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes) == 9
    assert 0 not in codes


def test_errors_cross_processes() -> None:
    error = errors.MissingExtra.of("openvino", "openvino")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.MissingExtra
    assert str(again) == str(error)
    assert "encoder-compressor[openvino]" in str(error)

"""A third party's plugin that ends its process in every way there is; written to a folder that Python finds it in."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
"""Ends as told."""

import copy
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from compressor.api import Capabilities, CompressedModel, CompressionMethod, ConfigError, Context, MethodConfig


@dataclass(slots=True, kw_only=True)
class HostileConfig(MethodConfig):
    """Options of `hostile`."""

    end: str = "well"  # how
    number: int = 0  # of several that end alike

    def __post_init__(self) -> None:
        if self.end == "option":
            raise ConfigError("method.hostile.end=option", allowed="anything else")


class Hostile(CompressionMethod[HostileConfig]):
    """Ends as told."""

    Config = HostileConfig
    capabilities = Capabilities(needs_training=True)
    references = ("nobody",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """End."""
        end = self.config.end
        if end == "raise":
            raise ValueError("a fault of the plugin")
        if end == "exit":
            sys.exit(0)
        if end == "exit_at_once":
            os._exit(0)
        if end == "segfault":
            ctypes.string_at(0)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "launcher":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        if end == "memory":
            held = []
            while True:
                held.append(bytearray(os.urandom(1) * 50_000_000))
                time.sleep(0.02)
        if end == "nan":
            model = copy.deepcopy(source.model)
            next(model.parameters()).data.fill_(float("nan"))
            return source.evolve(model=model)
        if end == "nan_in_training":
            ctx.fit(
                copy.deepcopy(source.model),
                lambda step: {"bad": step.logits.sum() * (float("nan") if step.step else 1.0)},
                tokenizer=source.tokenizer,
                train=ctx.plan.train,
            )
        if end == "hang":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            time.sleep(600)
        if end == "spin":
            while True:
                pass
        if end == "escape":  # from the environment, the session and the parent
            sleep = [sys.executable, "-c", "import time; time.sleep(600)", __file__]
            subprocess.run(["env", "-i", "setsid", "sh", "-c", '"$@" & exit', "sh", *sleep], check=True)
        if end == "flood":
            for _ in range(300):
                sys.stdout.write("x" * 100_000)
        return source.evolve(model=copy.deepcopy(source.model))
'''
METADATA = "Metadata-Version: 2.1\nName: hostile-plugin\nVersion: 0.1\n"
ENTRY_POINTS = "[compressor.methods]\nhostile = hostile_plugin:Hostile\n"


def install(folder: Path) -> Path:
    """Write the plugin and its metadata; a folder that stands in PYTHONPATH needs no more."""
    facts = folder / "hostile_plugin-0.1.dist-info"
    facts.mkdir(parents=True)
    (folder / "hostile_plugin.py").write_text(SOURCE)
    (facts / "METADATA").write_text(METADATA)
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder

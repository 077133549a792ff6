"""kill -9 in the middle of a training, at random moments and at every failpoint on its way; then it goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path

TRAINING = Path(__file__).parent.parent / "training"
sys.path[:0] = [str(TRAINING), str(Path(__file__).parent)]

import killing  # noqa: E402 - found through the line above
from outcome import Outcome  # noqa: E402

from compressor.commit import FAILPOINT_ENV, FAILPOINTS  # noqa: E402

ON_THE_WAY = (*FAILPOINTS, "checkpoint.part", "checkpoint.written")
_SAVES = 12  # steps of the toy's training, each of which is saved


def train(folder: str, failpoint: str = "") -> None:
    """Train the toy, save after each step, note each step done, and write what came out."""
    import torch
    from toy_task import Toy, sha256_of

    torch.set_num_threads(1)
    os.environ[FAILPOINT_ENV] = failpoint
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    steps = (place / "steps").open("a", buffering=1)  # a line is with the system before the next step begins

    class Note:
        """Notes the number of each step that is done."""

        def before_forward(self, step: int, total_steps: int) -> None:
            pass

        def after_step(self, step: int, total_steps: int) -> None:
            steps.write(f"{step}\n")

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {}

        def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
            pass

    toy = Toy()
    model, result = toy.fit(
        toy.model(), options={"checkpoints": place / "stage", "hooks": [Note()]}, checkpoint_seconds=0.0
    )
    found = {"bits": sha256_of(model), "resumed_from": result.resumed_from, "steps": result.steps}
    (place / "found.json").write_text(json.dumps(found))


def kill(folder: Path, kills: int, *, seed: int = 0) -> Outcome:
    """Kill so many trainings, each once at a random moment or at a failpoint, and let each go on.

    A training keeps its promise if it then finishes with the bits of one that was never killed, having repeated at most the
    step whose save was cut off and the one it was in.
    """
    rng = random.Random(seed)
    killing.seconds_of(train, str(folder / "warm"))
    whole = killing.seconds_of(train, str(folder / "whole"))
    bits = json.loads((folder / "whole" / "found.json").read_text())["bits"]
    points = [f"{name}:{hit}" for name in ON_THE_WAY for hit in (1, 3, 7)]
    kept, failures, tried = 0, [], 0
    while tried < kills:
        place = folder / f"trial-{tried}"
        at_point = tried % 3 == 2
        if at_point:
            words = points[(tried // 3) % len(points)]
            process = killing.start(train, str(place), words)
            process.join()
            killed = process.exitcode == 137
        else:
            words = f"{rng.uniform(0, whole):.3f} s"
            killed = killing.kill_after(killing.start(train, str(place)), float(words.split()[0]))
        if not killed:  # it was faster than the moment; try another
            shutil.rmtree(place, ignore_errors=True)
            if at_point:
                failures.append(f"{words} was not reached")
                tried += 1
            continue
        tried += 1
        wrong = _what_is_wrong(place, bits)
        kept += wrong is None
        failures += [f"{words}: {wrong}"] if wrong else []
        shutil.rmtree(place)
    return Outcome(
        "training killed at a random moment or failpoint goes on: same bits, at most one save lost",
        tried,
        kept,
        tuple(failures),
    )


def _what_is_wrong(place: Path, bits: str) -> str | None:
    """Let a killed training go on and return what is not as promised."""
    done = len((place / "steps").read_text().split()) if (place / "steps").exists() else 0
    if (place / "found.json").exists():  # killed after its end
        return None
    process = killing.start(train, str(place))
    process.join()
    if process.exitcode:
        return f"it did not go on: exit code {process.exitcode}"
    found = json.loads((place / "found.json").read_text())
    if found["bits"] != bits:
        return "other bits"
    word = found["resumed_from"]
    resumed = _SAVES if word == "finished" else int(word.removeprefix("step ")) if word else 0
    if done - resumed > 1:
        return f"{done} steps were done and it went on from {resumed}"
    if list((place / "stage").glob(".*")):
        return "half-written files were left"
    return None

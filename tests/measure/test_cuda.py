"""Timing and memory on a CUDA device, where there is one."""

from __future__ import annotations

import pytest
import torch

from compressor.measure.environment import environment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.slow
def test_a_run_on_cuda_times_every_runtime_and_measures_what_it_allocates(house, scored, tmp_path) -> None:
    from dataclasses import replace

    from compressor.config import BenchConfig
    from compressor.measure.latency import measure_latency
    from compressor.measure.memory import measure_cuda_memory

    names = BenchConfig(device="cuda").runtimes
    bench = replace(house.bench, device="cuda", runtimes=names)
    run = measure_latency(scored, bench, tmp_path / "latency", seed=0)
    assert [r.runtime for r in run.runtimes] == names
    for found in run.runtimes:
        assert not found.refusals and set(found.timed) == {"teacher", "student"}
        speed = found.timed["teacher"].p50_ms / found.timed["student"].p50_ms
        assert speed > 1.5, (found.runtime, speed)  # six layers against one
    timed = [(name, "torch_cuda") for name in ("teacher", "student")]
    peaks = measure_cuda_memory(scored, timed, bench, tmp_path / "memory")
    for one in scored:
        weights = sum(f.stat().st_size for f in one.candidate.folder.glob("*.safetensors"))
        assert peaks[one.candidate.name, "torch_cuda"] > 0.9 * weights


@pytest.mark.slow
def test_the_energy_of_calls_is_read_from_the_device(house, scored, tmp_path) -> None:
    from dataclasses import replace

    from compressor.measure.cuda_energy import with_cuda_energy
    from compressor.measure.latency import measure_latency

    bench = replace(house.bench, device="cuda", runtimes=["torch_cuda"])
    run = with_cuda_energy(measure_latency(scored, bench, tmp_path / "t", seed=0), scored, bench, tmp_path)
    energy = {name: one.energy for name, one in run.runtimes[0].timed.items()}
    assert all(one is not None and one.joules is not None and one.idle_watts > 1 for one in energy.values()), energy


def test_the_manifest_names_the_device() -> None:
    gpus = environment(threads=1)["gpus"]
    assert gpus and all(one["name"] and one["driver_version"] for one in gpus)

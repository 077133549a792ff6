"""The command as a user types it, on a tiny teacher and a tiny file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressor import commit, store
from compressor.compare.attribution import read_cells
from compressor.compare.bootstrap import speed_up
from compressor.compare.predictions import read_predictions
from compressor.compare.texts import read_texts
from compressor.report.markdown import to_markdown
from compressor.results import NULL, RunResult

sys.path.insert(0, str(Path(__file__).parent))

from toy_files import write_checkpoint, write_data  # noqa: E402 - found through the line above

QUICK = (
    "bench.texts=4",
    "bench.blocks=4",
    "bench.loads=4",
    "bench.warmup_calls=2",
    "bench.memory=false",
    "bench.repeats=0",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_checkpoint(folder / "teacher")
    write_data(folder / "data.csv")
    return folder


def run(place: Path, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    common = (
        "teacher=checkpoint",
        "task.max_length=48",
        f"teacher.checkpoint={place / 'teacher'}",
        "teacher.train.epochs=10",
        "teacher.train.batch_size=16",
        "teacher.train.learning_rate=3e-3",
        "task=file",
        f"task.train={place / 'data.csv'}",
        *(("train.epochs=1", "train.learning_rate=1e-3") if any("distill" in a for a in arguments) else ()),
        "bench.runtimes=[torch]",
        *QUICK,
    )
    typed = {a.partition("=")[0] for a in arguments}
    kept = [c for c in common if c.partition("=")[0] not in typed]
    environment = {**os.environ, "COMPRESSOR_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "compressor", *kept, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(place):
    folder = place / "run"
    ended = run(
        place,
        "method=[distill,int8_dynamic]",
        "student.layers=2",
        "bench.runtimes=[torch,onnxruntime]",
        "bench.baselines=[finetune]",
        "bench.margin=0.05",
        "bench.end_to_end=true",
        "bench.throughput=true",
        "bench.throughput_batch=8",
        "bench.surface=true",
        "bench.padded=true",
        f"hydra.run.dir={folder}",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended


def test_one_command_ends_with_the_table_and_no_noise(finished) -> None:
    folder, ended = finished
    assert "teacher" in ended.stdout and "distill+int8_dynamic" in ended.stdout and "finetune" in ended.stdout
    assert "estimate" in ended.stdout and str(folder) in ended.stdout
    told = ended.stdout.replace("warning   no plots as PNG: this machine has no font\n", "")  # true of a bare machine
    for noise in ("Warning", "warning", "Traceback", "deprecat"):
        assert noise not in told + ended.stderr
    saved = next(i for i, line in enumerate(ended.stdout.splitlines()) if line.startswith("saved"))
    last = " ".join(ended.stdout.splitlines()[saved + 1 :])
    assert last.startswith("verdict   distill+int8_dynamic takes ") and "of teacher's bytes" in last
    assert last.endswith(f"report    {folder / 'report.html'}"), "a run ends with the verdict and the page to open"
    assert all(len(line) <= 110 for line in ended.stdout.splitlines() if str(folder.parent) not in line)


def test_the_result_has_what_was_promised(finished) -> None:
    folder, _ = finished
    plain = json.loads((folder / "result.json").read_text())
    result = RunResult.from_json(plain)
    assert plain["schema_version"] == 3 and plain["status"] == "ok"
    names = [c["name"] for c in plain["candidates"]]
    assert names == ["teacher", "distill+int8_dynamic", "finetune"]
    assert [c["role"] for c in plain["candidates"]] == ["teacher", "result", "baseline"]
    chain = plain["candidates"][1]
    assert [s["method"] for s in chain["lineage"]] == ["distill", "int8_dynamic"]
    assert all(s["seconds"] > 0 and s["version"] for s in chain["lineage"])
    assert chain["size_bytes"] < plain["candidates"][0]["size_bytes"]
    metric = chain["metrics"]["accuracy"]
    assert metric["ci95"][0] <= metric["value"] <= metric["ci95"][1] and metric["higher_is_better"] is True
    timed = {entry["runtime"]: entry for entry in chain["latency"]}
    assert timed["onnxruntime"]["latency_ms_p50"] > 0 and timed["torch"]["refusal"]
    compared = {(c.candidate, c.metric or c.runtime): c for c in result.comparisons}
    assert compared["distill+int8_dynamic", "onnxruntime"].ratio is not None
    assert compared["finetune", "accuracy"].difference is not None
    against = [c for c in result.comparisons if c.baseline == "finetune" and c.metric == "accuracy"]
    assert [c.candidate for c in against] == ["distill+int8_dynamic"], "the result is also held against the baseline"
    seen = plain["environment"]
    assert seen["packages"] and seen["data"] and seen["torch_build"]
    assert [len(batch) for batch in seen["workload"]["ids"]] == [len(batch) for batch in seen["workload"]["tokens"]]
    lengths = [tokens for batch in seen["workload"]["tokens"] for tokens in batch]
    assert lengths == sorted(lengths) and min(lengths) > 2, "the replayed texts, shortest first"
    assert [r["kept"] for r in seen["rounds"]][-1] is True
    assert set(seen["before_measuring"]) == {"load_average", "cpu_pressure"} and len(seen["installed_sha256"]) == 64
    assert timed["onnxruntime"]["warmup_calls"] > 0
    judged = compared["finetune", "accuracy"]
    assert judged.margin == pytest.approx(0.05 * result.teacher.metrics["accuracy"].value)
    assert judged.p_value is not None and judged.keeps_99 is not None
    assert result.task_type == "classification" and len(result.label_names) == 2


def test_a_ratio_to_a_baseline_is_that_of_their_calls_and_checked_by_the_teachers_two_loads(finished) -> None:
    folder, _ = finished
    result = RunResult.from_json(json.loads((folder / "result.json").read_text()))
    calls = read_cells(folder)
    teacher, again, finetune, chain = (
        calls[name, "onnxruntime"] for name in ("teacher", NULL, "finetune", "distill+int8_dynamic")
    )
    found = {c.baseline: c for c in result.comparisons if c.candidate == result.candidates[1].name and c.runtime}
    assert found["finetune"].ratio == pytest.approx(speed_up(chain, finetune, seed=0).ratio)
    assert found["teacher"].ratio == pytest.approx(speed_up(chain, (teacher, again), seed=0).ratio)
    check = speed_up(again, teacher, seed=0).ratio
    assert [c.null_ratio for c in found.values()] == pytest.approx([check, check])


def test_what_the_examples_say_stays_with_the_predictions(finished) -> None:
    folder, _ = finished
    for path in (folder / "predictions").glob("teacher-*.parquet"):
        texts = read_texts(folder, path.stem.removeprefix("teacher-"))
        assert list(texts) == list(read_predictions(path).ids) and all(texts.values())


def test_a_speed_up_is_split_from_padded_texts_on(finished) -> None:
    folder, _ = finished
    report = (folder / "report.md").read_text()
    words = "eager and in float32, on texts padded to the longest that the task takes"
    assert words in report and "no padding x" in report
    page = (folder / "report.html").read_text()
    assert words in page and "no padding" in page


def test_every_scenario_that_was_asked_for_is_in_result_report_and_raw_samples(finished) -> None:
    folder, _ = finished
    result = RunResult.from_json(json.loads((folder / "result.json").read_text()))
    scenarios = ("end_to_end", "throughput", "surface")
    for candidate in result.candidates:
        timed = {(s.scenario, s.runtime): s for s in candidate.scenarios}
        assert set(timed) == {(s, r) for s in scenarios for r in ("torch", "onnxruntime")}
        int8 = candidate.name == "distill+int8_dynamic"
        assert all(bool(s.refusal) is (int8 and s.runtime == "torch") for s in candidate.scenarios)
        rate, raw = timed["throughput", "onnxruntime"], timed["end_to_end", "onnxruntime"]
        assert rate.texts_per_second > 0 and (rate.joules_per_text is None) is bool(rate.energy_unavailable)
        assert raw.latency_ms_p50 > 0 and (raw.ratio is None) is (candidate is result.teacher)
        assert candidate.work.macs_per_text > 0, candidate.work.macs_unavailable
        assert 8 <= candidate.work.nominal_bits < 33, candidate.work.bits_unavailable
    assert result.candidates[1].work.nominal_bits < result.teacher.work.nominal_bits
    assert result.candidates[1].work.macs_per_text == result.candidates[2].work.macs_per_text, "int8 saves no product"
    assert any("surface: length 512 left out" in note for note in result.notes)
    assert {"surface", "throughput", "end_to_end"} == set(result.environment["scenario_rounds"])
    assert {str(p.relative_to(folder / "timings")) for p in (folder / "timings").rglob("*.parquet")} == {
        f"{place}{runtime}.parquet"
        for place in ("", *(f"{s}/" for s in scenarios))
        for runtime in ("torch", "onnxruntime")
    }
    text = (folder / "report.md").read_text()
    for title in (
        "Cold start",
        "From raw text, tokenizer included",
        "Throughput",
        "By batch size and length",
        "Work, theo",
    ):
        assert f"## {title}" in text


def test_statistics_can_be_recomputed_from_the_folder_alone(finished) -> None:
    folder, _ = finished
    result = RunResult.from_json(json.loads((folder / "result.json").read_text()))
    teacher = read_predictions(folder / "predictions" / "teacher-test.parquet")
    for candidate in result.candidates:
        ours = read_predictions(folder / "predictions" / f"{candidate.name}-test.parquet")
        assert candidate.calibration["test"].n == len(ours.ids)
        if candidate is result.teacher:
            assert candidate.agreement == {}
            continue
        same = sum(a == b for a, b in zip(ours.predictions, teacher.predictions, strict=True))
        kept = candidate.agreement["test"]
        assert kept.rate == same / len(ours.ids)
        assert kept.gained + kept.lost + kept.changed == len(ours.ids) - same
    assert to_markdown(result, folder=folder).partition("## How")[0] in (folder / "report.md").read_text()
    for title in ("## Differences", "## Agreement with the teacher", "## Calibration", "## Flips", "## Slices"):
        assert title in (folder / "report.md").read_text()


def test_the_run_folder_is_whole_and_holds_everything(finished) -> None:
    folder, _ = finished
    commit.verify(folder)
    for name in ("run.yaml", "report.md", "report.html", "log.txt", "manifest.json"):
        assert (folder / name).is_file()
    plots = {path.name for path in (folder / "plots").iterdir()}
    assert {"latency-onnxruntime.svg", "tradeoff-onnxruntime.svg", "tradeoff-bytes.svg"} <= plots
    for name in ("distill+int8_dynamic", "finetune"):
        card = (folder / "candidates" / name / "README.md").read_text()
        assert f"# {name}" in card and "## How to load it" in card
    assert {p.name for p in (folder / "predictions").iterdir()} == {
        "teacher-test.parquet",
        "distill+int8_dynamic-test.parquet",
        "finetune-test.parquet",
    }
    assert not (folder / "workspace").exists()
    assert not [p for p in folder.parent.iterdir() if ".partial-" in p.name]


def test_a_torch_result_is_an_ordinary_checkpoint(finished) -> None:
    folder, _ = finished
    script = (
        "import sys; from transformers import AutoModelForSequenceClassification as A\n"
        "m = A.from_pretrained(sys.argv[1]); print(m.config.num_hidden_layers, m.config.id2label)\n"
        "assert 'compressor' not in sys.modules"
    )
    path = folder / "candidates" / "finetune"
    ended = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "2 {0: 'bad', 1: 'good'}" in ended.stdout
    assert store.load(path).lineage[0].method == "finetune"


def test_the_same_run_reuses_teacher_and_finished_stages(place, finished) -> None:
    folder, _ = finished
    again = place / "again"
    ended = run(place, "method=[distill,int8_dynamic]", "student.layers=2", f"hydra.run.dir={again}")
    assert ended.returncode == 0, ended.stderr
    assert "from the cache" in ended.stdout
    plain = json.loads((again / "result.json").read_text())
    assert plain["candidates"][1]["lineage"][0]["notes"]["resumed_from"] == "finished"
    before = json.loads((folder / "result.json").read_text())
    assert plain["candidates"][1]["metrics"]["accuracy"] == before["candidates"][1]["metrics"]["accuracy"]


def test_a_finished_run_is_not_overwritten(place, finished) -> None:
    folder, _ = finished
    before = (folder / "manifest.json").read_bytes()
    ended = run(place, "method=distill", "student.layers=2", f"hydra.run.dir={folder}")
    assert ended.returncode == 7
    assert "a finished run" in ended.stderr
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("typed", [True, False])
def test_a_multirun_says_how_it_is_gone_on_with(tmp_path, typed) -> None:
    where = [f"hydra.sweep.dir={tmp_path / 'sweep'}"] if typed else []
    ended = subprocess.run(
        [sys.executable, "-m", "compressor", "-m", "seed=-1", *where],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in ended.stdout.splitlines() if "the same command with" in line]
    assert ended.returncode == 2 and [line.split()[0] for line in said] == ([] if typed else ["sweep", "again"])
    assert all((tmp_path / word.partition("=")[2]).is_dir() for line in said for word in line.split() if "=" in word)


def test_a_multirun_ends_with_one_table_and_runs_equal_cells_once(place) -> None:
    sweep = place / "sweep"
    ended = run(place, "-m", "method=[],distill,[drop_layers]", "student.layers=2,9", f"hydra.sweep.dir={sweep}")
    status = {p.parent.name: json.loads(p.read_text())["status"] for p in sweep.glob("*/result.json")}
    assert len(status) == 6
    assert status["0"] == "ok" and status["1"] == "skipped(duplicate of 0)"
    assert status["2"] == status["4"] == "ok"
    assert status["3"].startswith("failed(Incompatible") and status["5"].startswith("failed(Incompatible")
    assert ended.returncode == 3, "a failed cell must show in the exit code"
    assert "6 cells" in ended.stdout
    assert (sweep / "comparison.md").read_text().count("\n|") >= 6
    for cell in sweep.glob("[0-9]*"):
        commit.verify(cell)

    again = run(place, "-m", "method=[],distill,[drop_layers]", "student.layers=2,9", f"hydra.sweep.dir={sweep}")
    assert again.stdout.count("finished  before") == 3, "a finished cell must not run twice"
    assert again.returncode == 3


def test_options_of_a_method_hold_in_every_cell_of_a_sweep_over_chains(place) -> None:
    sweep = place / "options"
    ended = run(
        place,
        *("-m", "method=drop_layers,[drop_layers,distill]", "student.layers=2", "method.distill.temperature=2,4"),
        f"hydra.sweep.dir={sweep}",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    status = {p.parent.name: json.loads(p.read_text())["status"] for p in sweep.glob("*/result.json")}
    assert status == {"0": "ok", "1": "skipped(duplicate of 0)", "2": "ok", "3": "ok"}
    cell = json.loads((sweep / "3" / "result.json").read_text())
    assert cell["candidates"][1]["lineage"][1]["config"]["temperature"] == 4.0


BAD = [
    (("method=distil",), 2, "method=distill"),
    (("method=distill", "student.layrs=2"), 2, "student.layers"),
    (("method=distill", "student.layers=2", "method.distill.temprature=3"), 2, "method.distill.temperature"),
    (("method=distill", "student.layers=two"), 2, "could not be converted to Integer"),
    (("method=distill", "student.layers=9"), 3, "the source has 4 layers"),
    (("method=distill", "student.layers=4"), 3, "leave the source as it is"),
    (("method=distill",), 3, "student.layers=2"),
    (("student.layers=2",), 2, "nothing in the chain [] reads it"),
    (("method=[int8_dynamic,distill]", "student.layers=2"), 3, "which is final"),
    (("method=distill", "student.heads=3"), 3, "does not divide the width"),
    (("method=distill", "student.layers=2", "method.distill.layer_map=[0]"), 3, "has 1 entries"),
    (("method=distill", "student.layers=2", "method.distill.layer_map=[0,7]"), 3, "no layer 7"),
    (("method=distill", "student.layers=2", "method.distill.temperature=0"), 2, "temperature=0"),
    (("method=drop_layers", "student.layers=2", "cell.timeout_s=9"), 2, "a multirun: -m"),
    (("method=drop_layers", "student.layers=2", "tracking.project=mine"), 2, "tracking=wandb"),
    (("method=distill", "student.layers=2", "task.text=words"), 4, "no such column"),
    (("method=distill", "student.layers=2", "task.train=missing.csv"), 2, "there is no such file"),
    (("method=distill", "student.layers=2", "teacher.checkpoint=./nowhere"), 2, "there is no such folder"),
    (("method=distill", "student.layers=2", "teacher.checkpoint=some/model-nobody-has"), 5, "teacher=e5_small"),
    (("method=distill", "student.layers=2", "task=glue/sst2"), 2, "task=rotten_tomatoes"),
    (("method=distill", "student.layers=2", "device=cuda"), 2, "no CUDA device"),
    (("method=distill", "student.layers=2", "bench.runtimes=[tensorrt]"), 2, "onnxruntime"),
    (("method=distill", "student.layers=2", "task.max_length=600"), 2, "the teacher has 64 positions"),
    (("method=distill", "student.layers=2", "bench.batch_size=4000"), 2, "the test split has"),
    (("method=distill", "student.layers=2", "method.int8_dynamic.embeddings=true"), 2, "reads it"),
]


@pytest.mark.parametrize(("arguments", "code", "told"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_is_one_typed_error_and_leaves_nothing(place, arguments, code, told) -> None:
    if "device=cuda" in arguments:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    folder = place / "bad"
    if any(a.startswith("task=glue") for a in arguments):
        arguments = (*arguments, "task.train=train", "task.text=sentence")
    ended = run(place, *arguments, f"hydra.run.dir={folder}", timeout=120)
    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 6
    assert not folder.exists()
    assert not [p for p in place.iterdir() if ".partial-" in p.name]


def test_torchrun_trains_together_and_one_process_reports(place) -> None:
    folder = place / "together"
    environment = {**os.environ, "COMPRESSOR_CACHE": str(place / "cache-together"), "HF_HUB_OFFLINE": "1"}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "compressor", "method=distill", "student.layers=2", f"hydra.run.dir={folder}", "train.epochs=1"),
        *("teacher=checkpoint", f"teacher.checkpoint={place / 'teacher'}", "teacher.train.epochs=10"),
        *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "train.learning_rate=1e-3"),
        *("task=file", f"task.train={place / 'data.csv'}", "task.max_length=48", "bench.runtimes=[torch]", *QUICK),
    ]
    ended = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("estimate") == 1, "only the first process may speak"
    commit.verify(folder)
    result = RunResult.from_json(json.loads((folder / "result.json").read_text()))
    assert [c.name for c in result.candidates] == ["teacher", "distill"]


def test_help_that_is_cut_off_by_its_reader_is_no_error() -> None:
    command = [sys.executable, "-u", "-m", "compressor", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0

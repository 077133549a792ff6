"""The shape of the house, checked by machine (the floors themselves: `lint-imports`)."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "compressor").rglob("*.py")) + sorted((ROOT / "plugins").rglob("*.py"))

API = {
    "Batch", "Block", "Blueprint", "Capabilities", "CompressedModel", "CompressionMethod", "CompressorError",
    "ConfigError", "Context", "DataError", "FitHook", "Form", "Head", "Imitation", "Incompatible", "LayerParts",
    "LayerTurns", "Loss", "LossInputs", "MethodConfig", "MissingExtra", "Narrowed", "Outputs", "Plan", "Step",
    "StudentConfig", "Task", "TeacherSignals", "TrainConfig", "TrainingError", "attention_projections", "copy_head",
    "cubic", "draw_batches", "dropout_of", "embedding_tables", "embeddings", "encoder_layers", "encoder_linears",
    "family", "ffn_size_name", "fold_embeddings", "forward_inputs", "gate_gradients", "grad_flags_kept", "head_count",
    "head_size", "heads_can_go", "initial_layers", "input_moments", "keep_heads", "keep_neurons", "kl_to_teacher",
    "layer_parts", "layers_can_go", "linears_outside", "matched_heads", "narrow_weights", "neuron_count",
    "neurons_can_go", "onnx_graph", "parameter_count", "pick_layers", "quantised_share", "refit_outputs", "relative_error",
    "replace_words", "reserved_positions", "settle_width", "smallest", "spread", "start_embeddings",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_door_is_frozen() -> None:
    from compressor import api

    assert set(api.__all__) == API
    assert all(hasattr(api, name) for name in API)


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda p: p.stem)
def test_plugins_use_the_door_only(path) -> None:
    assert {m for m in imports(path) if m.partition(".")[0] == "compressor"} <= {"compressor.api"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_plugins_as_a_package(path) -> None:
    assert not {m for m in imports(path) if m.partition(".")[0] in ("plugins", "conf")}


def test_the_core_names_no_method() -> None:
    from compressor import families, registry

    names = set(registry.load().methods) - set(
        families._LAYOUT
    )  # some methods are called after the family that they make
    for path in (ROOT / "compressor").rglob("*.py"):
        if path.name in ("help.py",):  # shows commands
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs}
        assert not texts & names, f"{path} knows {texts & names} by name"


def test_hydra_and_wandb_stay_where_they_belong() -> None:
    for path in SOURCES:
        heads = {m.partition(".")[0] for m in imports(path)}
        if path.name not in ("compose.py", "gate.py", "cli.py", "search.py"):
            assert "hydra" not in heads, path
        assert "wandb" not in heads or path.name == "tracking.py", path


def test_files_are_short_enough_to_read() -> None:
    long = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert not {name: lines for name, lines in long.items() if lines > 350}


def loaded_modules(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split())  # what the statement itself prints comes before


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = loaded_modules("import compressor")
    assert not modules & {"torch", "transformers", "numpy", "hydra", "datasets"}
    assert "compressor.method" in loaded_modules("from compressor import CompressionMethod")


def test_help_imports_no_transformers() -> None:
    modules = loaded_modules("from compressor.help import print_help\nprint_help()")
    assert not modules & {"transformers", "datasets", "onnxruntime", "accelerate"}


def test_help_is_quick() -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "compressor", "--help"], capture_output=True, check=True)
    assert time.perf_counter() - start < 20, "something heavy is imported by --help (the benchmark has the real figure)"

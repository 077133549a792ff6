"""Rebuild a Hugging Face BERT state dict from the initializers of an ONNX export.

Exporters keep the names of embeddings, LayerNorms and biases, but linear weights become the
nameless second input of a MatMul, stored input x output. The bias added to that MatMul's result
tells which layer it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor.errors import AssetError, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tensors = dict[str, npt.NDArray[np.float32]]

MAX_DIFFERENCE: Final = 1e-4
_NAMED: Final = ("embeddings.", "encoder.", "pooler.")
# Real sentences, of different lengths so that padding matters, with accents, digits and no words.
PROBES: Final = (
    "A gorgeous, witty, seductive movie.",
    "It's so laddish and juvenile, only teenage boys could possibly find it funny.",
    "Terrible.",
    "The caf\u00e9's 2nd branch opened on 14 July; nobody came.",
    "A man with a hard hat is dancing.",
    "...",
)


def bert_tensors(onnx_path: Path, *, prefix: str = "") -> Tensors:
    """Return the state dict of the `BertModel` that the graph was exported from.

    Args:
        onnx_path: The graph; its external data, if any, lies beside it.
        prefix: What stands before `embeddings.` and `encoder.` in the graph's names.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtra("onnx is not installed", hint="pip install onnx") from error
    graph = onnx.load(str(onnx_path)).graph
    arrays: dict[str, Any] = {
        tensor.name.removeprefix(prefix): numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    tensors: Tensors = {
        name: array for name, array in arrays.items() if name.startswith(_NAMED) and not name.endswith("position_ids")
    }
    consumers = _consumers(graph, prefix)
    for node in graph.node:
        if node.op_type == "MatMul" and (weight := node.input[1].removeprefix(prefix)) in arrays:
            bias = _only_bias(consumers.get(node.output[0], []), arrays, node.name)
            tensors[bias.removesuffix(".bias") + ".weight"] = arrays[weight].T
    return tensors


def _consumers(graph: Any, prefix: str) -> dict[str, list[tuple[str, list[str]]]]:
    """Map each value to the operations that read it: (type, all their inputs)."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for node in graph.node:
        names = [name.removeprefix(prefix) for name in node.input]
        for name in node.input:
            found.setdefault(name, []).append((node.op_type, names))
    return found


def _only_bias(readers: list[tuple[str, list[str]]], arrays: dict[str, Any], node: str) -> str:
    biases = {
        name
        for kind, inputs in readers
        if kind == "Add"
        for name in inputs
        if name in arrays and name.endswith(".bias")
    }
    if len(biases) != 1:
        raise AssetError(
            f"the ONNX linear layer {node} adds {sorted(biases) or 'no bias'}",
            allowed="exactly one bias, which names the layer",
        )
    return biases.pop()


def require_same_output(folder: Path, onnx_path: Path) -> None:
    """Compare the rebuilt model's last hidden state with ONNX Runtime's, on real sentences.

    Square matrices hide a wrong transpose from every shape check; this one sees it.
    """
    import numpy as np
    import onnxruntime
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: torch.nn.Module = BertModel(BertConfig.from_pretrained(folder))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    model.eval()
    batch = tokenizer(list(PROBES), padding=True, return_tensors="pt")
    with torch.inference_mode():
        ours = model(**batch).last_hidden_state.numpy()
    names = [value.name for value in session.get_inputs()]
    hidden = [value.name for value in session.get_outputs() if len(value.shape) == 3][:1]
    differences = []
    for row in range(len(PROBES)):  # the graphs were traced with one sentence, padding included
        feed = {name: batch[name][row : row + 1].numpy() for name in names}
        theirs = session.run(hidden, feed)[0][0]
        differences.append(abs(theirs - ours[row]).max())
    worst = float(np.max(differences))  # unlike max() it does not lose a NaN
    if not worst <= MAX_DIFFERENCE:  # so written that NaN is refused
        raise AssetError(
            f"the rebuilt {folder.name} differs from its ONNX original by {worst:.3g}",
            allowed=f"at most {MAX_DIFFERENCE:g} in the last hidden state",
        )

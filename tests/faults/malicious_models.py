"""Models that try to run code, to reach out of their folder, or to fill the memory."""

from __future__ import annotations

import json
import os

from gadgets import MARK, gadgets, numpy_file, torch_file
from lairs import EITHER, HARMLESS, REFUSED, Case, Change, Lair, both, entries, text, without, zipped

WEIGHTS, CONFIG, RECORD = "model.safetensors", "config.json", "compressor.json"
INDEX = "model.safetensors.index.json"
UNREAD = "nothing of ours opens that file; the weights beside it are safetensors"
OWN_CLASS = "transformers has a class of its own for the type, and never looks at the code"
DEEP = "[" * 200_000 + "]" * 200_000


def pickles(lair: Lair) -> None:
    """Put each gadget where a pickle could be looked for."""
    for number, gadget in enumerate(gadgets(lair.outside)):
        name, raw, packed = f"{number:02} {gadget.name}", gadget.payload, torch_file(gadget.payload)
        place = number % 8
        if place == 0:
            lair.teacher(f"{name} as pytorch_model.bin", both(without(WEIGHTS), text("pytorch_model.bin", raw)))
        elif place == 1:
            lair.teacher(
                f"{name} in a zipped pytorch_model.bin", both(without(WEIGHTS), text("pytorch_model.bin", packed))
            )
        elif place == 2:
            files = (
                "training_args.bin",
                "optimizer.pt",
                "scheduler.pt",
                "rng_state.pth",
                "pytorch_model.bin",
                "model.pkl",
            )
            lair.teacher(f"{name} beside the weights", both(*(text(f, raw) for f in files)), HARMLESS, UNREAD)
        elif place == 3:
            shards = both(
                without(WEIGHTS), text("shard.bin", packed), index("shard.bin"), text("other.safetensors", b"")
            )
            lair.teacher(f"{name} behind a safetensors index", shards)
        elif place == 4:
            lair.teacher(f"{name} called model.safetensors", text(WEIGHTS, raw if number % 16 < 8 else packed))
        elif place == 5:
            lair.committed("model", f"{name} as the weights of a model of ours", text(WEIGHTS, packed))
        elif place == 6:
            lair.file("task", f"{name} as an array of objects", "data.npy", numpy_file(raw))
        else:
            lair.file("task", f"{name} called CSV", "data.csv", raw)
        lair.allowed(f"{name} where pickles are allowed", text("pytorch_model.bin", packed if number % 2 else raw))
    bomb, shards = zipped({"archive/data.pkl": bytes(10**9)}), json.dumps({"weight_map": {"a": "../x.bin"}})
    lair.allowed("a zip bomb where pickles are allowed", text("pytorch_model.bin", bomb))
    lair.allowed("shards elsewhere where pickles are allowed", text("pytorch_model.bin.index.json", shards))


def index(file: str) -> Change:
    """Return the change that writes an index of shards with one tensor in a file."""
    return text(
        INDEX,
        json.dumps({"metadata": {"total_size": 1}, "weight_map": {"bert.embeddings.word_embeddings.weight": file}}),
    )


def code(lair: Lair) -> None:
    """Bring code along, and name it wherever a name of code is looked for."""
    body = f"open({str(lair.outside / (MARK + '-code'))!r}, 'w').close()\nclass Evil:\n    pass\n"
    modules = both(
        *(text(f, body) for f in ("evil.py", "modeling_evil.py", "tokenization_evil.py", "custom_generate/generate.py"))
    )
    autos = {f"Auto{n}": "modeling_evil.Evil" for n in ("Config", "Model", "ModelForSequenceClassification")}
    lair.teacher("auto_map of a known type", both(modules, entries(CONFIG, {"auto_map": autos})), HARMLESS, OWN_CLASS)
    lair.teacher(
        "auto_map of an unknown type", both(modules, entries(CONFIG, {"auto_map": autos, "model_type": "evil"}))
    )
    hub = {"auto_map": {k: f"evil/repo--{v}" for k, v in autos.items()}, "model_type": "evil"}
    lair.teacher("auto_map of another repository", both(modules, entries(CONFIG, hub)))
    lair.teacher("an architecture in a file", both(modules, entries(CONFIG, {"architectures": ["evil.Evil"]})), HARMLESS,
                 "the class comes from the task and the type")  # fmt: skip
    tokens = {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}}
    lair.teacher("tokenizer code of a known class", both(modules, entries("tokenizer_config.json", tokens)), EITHER)
    lair.teacher("tokenizer code alone",
                 both(modules, entries("tokenizer_config.json", {**tokens, "tokenizer_class": "Evil"})), EITHER)  # fmt: skip
    lair.teacher("a template that climbs to its classes", entries("tokenizer_config.json", {
        "chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}{% endfor %}"}), HARMLESS,
        "nothing of ours renders templates")  # fmt: skip
    lair.teacher("a vocabulary elsewhere", entries("tokenizer_config.json", {"vocab_file": "/etc/passwd", "tokenizer_file":
                 "/etc/passwd"}), EITHER)  # fmt: skip
    for key in (
        "_attn_implementation_internal",
        "_attn_implementation",
        "attn_implementation",
        "_experts_implementation_internal",
    ):
        lair.teacher(f"{key} of the hub", entries(CONFIG, {key: "evil/kernel:run"}), EITHER)
    lair.committed(
        "model",
        "a kernel of the hub in a model of ours",
        entries(CONFIG, {"_attn_implementation_internal": "e/k"}),
        EITHER,
    )
    lair.teacher("an adapter of the hub", text("adapter_config.json", json.dumps(
        {"base_model_name_or_path": "evil/base", "peft_type": "LORA", "auto_mapping": {"base_model_class": "Evil",
         "parent_library": "evil"}})), EITHER)  # fmt: skip
    for kind in (
        "gptq",
        "awq",
        "bitsandbytes",
        "torchao",
        "quanto",
        "hqq",
        "aqlm",
        "compressed-tensors",
        "fp8",
        "evil",
    ):
        named = {"default": {"_type": "os.system", "_version": 1, "_data": {"command": "id"}}}
        settings = {"quant_method": kind, "load_in_8bit": True, "bits": 4, "group_size": 8, "weights": "int8"}
        settings |= {"modules_to_not_convert": [], "quant_type": named}
        lair.teacher(f"quantised by {kind}", entries(CONFIG, {"quantization_config": settings}), EITHER)


def configs(lair: Lair) -> None:
    """Say in config.json what no model is."""
    for key, value in (
        ("hidden_act", "__import__('os').system"), ("dtype", "os.system"), ("dtype", {"": "evil"}), ("hidden_size", "evil"),
        ("hidden_size", -8), ("hidden_size", 0), ("hidden_size", 10**9), ("vocab_size", 10**12), ("vocab_size", 2 * 10**9),
        ("num_hidden_layers", 10**6), ("num_hidden_layers", "2"), ("num_attention_heads", 0), ("intermediate_size", 10**11),
        ("max_position_embeddings", 10**11), ("model_type", "../../evil"), ("model_type", ["bert"]), ("model_type", "t5"),
        ("id2label", {str(i): f"label {i}" for i in range(3)}), ("id2label", [1, 2]),
        ("transformers_weights", "../hidden/model.safetensors"), ("transformers_weights", "evil.bin"),
        ("layer_norm_eps", "tiny"), ("hidden_dropout_prob", "much"),
    ):  # fmt: skip
        right = EITHER if key in ("transformers_weights", "dtype") else REFUSED
        lair.teacher(f"{key} {str(value)[:30]}", entries(CONFIG, {key: value}), right)
    for name, content in (
        ("a list", "[]"),
        ("deep", DEEP),
        ("no JSON", "{"),
        ("no text", b"\xff\xfe\x00"),
        ("a long number", "9" * 5000),
    ):
        lair.teacher(f"config.json {name}", text(CONFIG, content))
        lair.teacher(f"tokenizer.json {name}", text("tokenizer.json", content))
        lair.teacher(f"tokenizer_config.json {name}", text("tokenizer_config.json", content))
    lair.teacher("a million labels", entries(CONFIG, {"id2label": {str(i): str(i) for i in range(100_000)}}))


def tensors(lair: Lair) -> None:
    """Lie in the header of safetensors."""
    word = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    headers = {
        "a header of 2^60 bytes": (2**60).to_bytes(8, "little") + b"{}",
        "a header longer than the file": (10_000).to_bytes(8, "little") + b"{}",
        "a header of 150 MB": (150_000_000).to_bytes(8, "little") + b"{" + b" " * 1000,
        "no header": b"",
        "a deep header": _header(DEEP.encode()),
        "overlapping tensors": _header({"a": word, "b": {**word, "data_offsets": [8, 24]}}, 24),
        "a tensor beyond the end": _header({"a": {**word, "data_offsets": [0, 2**40]}}, 16),
        "a tensor that ends before it begins": _header({"a": {**word, "data_offsets": [16, 0]}}, 16),
        "a shape that is not its bytes": _header({"a": {**word, "shape": [2**31, 2**31, 2**31]}}, 16),
        "a negative shape": _header({"a": {**word, "shape": [-2, -2]}}, 16),
        "an unknown dtype": _header({"a": {**word, "dtype": "O"}}, 16),
        "a gap": _header({"a": {**word, "data_offsets": [16, 32]}}, 32),
        "metadata that is no text": _header({"__metadata__": {"format": {"pickle": 1}}, "a": word}, 16),
        "another framework": _header({"__metadata__": {"format": "flax"}, "a": word}, 16),
        "a name twice": _header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],'
                                b'"data_offsets":[0,16]}}', 16),
        "torchao's types": _header({"__metadata__": {"tensor_names": '["a"]', "a": '{"_type":"os.system"}'}, "a": word}, 16),
    }  # fmt: skip
    for name, content in headers.items():
        lair.teacher(f"weights: {name}", text(WEIGHTS, content))
        lair.committed("model", f"our weights: {name}", text(WEIGHTS, content))
    for name, file in (
        ("above", "../hidden/model.safetensors"),
        ("absolute", str(lair.hidden / WEIGHTS)),
        ("device", "/dev/zero"),
    ):
        lair.teacher(
            f"an index with a shard {name}", both(without(WEIGHTS), index(file), text("other.safetensors", b""))
        )
    linked = both(without(WEIGHTS), lambda folder: (folder / WEIGHTS).symlink_to(lair.hidden / WEIGHTS))
    why = "the Hub's cache is made of links, and the bytes behind this one are safetensors"
    lair.teacher("weights behind a link", linked, HARMLESS, why)
    lair.teacher(
        "a config that links to a device", both(without(CONFIG), lambda f: (f / CONFIG).symlink_to("/dev/null"))
    )


def _header(header: dict[str, object] | bytes, data: int = 0) -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + b"\x00" * data


def models_of_ours(lair: Lair) -> None:
    """Say in our record and manifest what we would not."""
    step = {"method": "factorize", "distribution": "d", "version": "1", "config": {}, "notes": {}, "seconds": 0.0}
    step |= {"structure": None, "source_shapes": None}

    def lineage(**changed: object) -> Change:
        return entries(RECORD, {"lineage": [{**step, **changed}]})

    ranks = {"bert.encoder.layer.0.output.dense": 4}
    for name, change in {
        "a method called os.system": lineage(method="os.system", structure={}),
        "a method called by its module": lineage(method="compressor_plugins.factorize:Factorize", structure={}),
        "a method with a path": lineage(method="../../evil", structure={}),
        "a method that is a number": lineage(method=3, structure={}),
        "options of no method": lineage(config={"_target_": "os.system"}, structure={"ranks": ranks}),
        "options that are a list": lineage(config=[1], structure={"ranks": ranks}),
        "options that read the environment": lineage(config={"rank": "${oc.env:HOME}"}, structure={"ranks": ranks}),
        "options of a wrong type": lineage(config={"rank": "many"}, structure={"ranks": ranks}),
        "a structure without its parts": lineage(structure={}),
        "a structure that is a list": lineage(structure=[1]),
        "a structure of a module that is none": lineage(structure={"ranks": {"../x": 4}}),
        "a structure of the whole model": lineage(structure={"ranks": {"": 4}}),
        "a structure of enormous rank": lineage(structure={"ranks": dict.fromkeys(ranks, 10**12)}),
        "a structure of negative rank": lineage(structure={"ranks": dict.fromkeys(ranks, -4)}),
        "a step with unknown parts": lineage(__reduce__="os.system"),
        "a lineage that is text": entries(RECORD, {"lineage": "os.system"}),
        "a form of its own": entries(RECORD, {"form": "pickle"}),
        "weights of a step that is none": entries(RECORD, {"weights_of": 99}),
        "weights of a text": entries(RECORD, {"weights_of": "0"}),
        "no head": entries(RECORD, {"head": None}),
        "a head of a task that is none": entries(RECORD, {"head": {"task_type": "os.system", "label_names": []}}),
        "shapes that are text": entries(RECORD, {"layer_shapes": "evil"}),
        "shapes of no heads": entries(RECORD, {"layer_shapes": [{"heads": -1, "neurons": 10**12}] * 4}),
        "shapes without parts": entries(RECORD, {"layer_shapes": [{}] * 4}),
        "another schema": entries(RECORD, {"schema_version": 99}),
        "a record that is deep": text(RECORD, DEEP),
        "a record that is no JSON": text(RECORD, "{"),
        "a record without anything": text(RECORD, '{"schema_version": 1}'),
        "an encoder that is none": text(CONFIG, '{"model_type": "compressed-encoder"}'),
        "an encoder of its own type": text(CONFIG, '{"model_type": "compressed-encoder", "encoder": {"model_type": "evil"}}'),
        "an encoder without a type": text(CONFIG, '{"model_type": "compressed-encoder", "encoder": {}}'),
        "a config that is deep": text(CONFIG, DEEP),
        "a config that is a list": text(CONFIG, "[]"),
        "a config of enormous width": entries(CONFIG, {"vocab_size": 10**12}),
        "a config of a million layers": entries(CONFIG, {"num_hidden_layers": 10**6}),
        "an activation that is code": entries(CONFIG, {"hidden_act": "__import__('os').system"}),
        "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")] and None,
        "a tokenizer that is none": text("tokenizer.json", '{"version": 1}'),
    }.items():  # fmt: skip
        lair.committed("model", f"ours: {name}", change)
        lair.cases.append(Case(name=f"ours as teacher: {name}", way="teacher", path=lair.cases[-1].path))
    lair.committed("model", "ours: labels with markup", entries(RECORD, {"head": {"task_type": "classification", "label_names":
                   ["<script>alert(1)</script>", "\x1b[31m"]}}), EITHER)  # fmt: skip
    known = {"size": 1, "sha256": "0" * 64}
    for name, content in {
        "names above": {"schema_version": 1, "files": {"../../outside/x": known}},
        "absolute names": {"schema_version": 1, "files": {"/etc/passwd": known}},
        "sizes that are text": {"schema_version": 1, "files": {CONFIG: {"size": "1", "sha256": 0}}},
        "no files": {"schema_version": 1, "files": None},
        "a list": [1],
        "another schema": {"schema_version": 10**9, "files": {}},
    }.items():
        lair.folder("model", f"a manifest with {name}", text("manifest.json", json.dumps(content)))
    lair.folder("model", "a manifest that is deep", text("manifest.json", DEEP))
    lair.folder("model", "a link out of the folder", lambda folder: (folder / "more").symlink_to(lair.hidden))
    lair.folder(
        "model",
        "weights behind a link of ours",
        both(without(WEIGHTS), lambda f: (f / WEIGHTS).symlink_to(lair.hidden / WEIGHTS)),
    )
    lair.folder("model", "a pipe in the folder", lambda folder: os.mkfifo(folder / "pipe"))
    lair.folder("model", "code added to the folder", text("evil.py", "canary = 1\n"))


def compiled(lair: Lair) -> None:
    """Bring graphs that name files or operators of their own."""
    from onnx import TensorProto, helper

    def graph(op: str, domain: str, location: str | None) -> bytes:
        weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
        if location is not None:
            weight.ClearField("float_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)
        node = helper.make_node(op, ["w"], ["logits"], domain=domain)
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "l"])
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
        model = helper.make_model(helper.make_graph([node], "g", [ids], [out], [weight]), opset_imports=[
            helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])])  # fmt: skip
        model.ir_version = 10
        return bytes(model.SerializeToString())

    onnx_form = entries(RECORD, {"form": "onnx"})
    for name, content in {
        "an ONNX file that is none": b"\x80\x02cos\nsystem\n.",
        "an ONNX file with weights above": graph("Identity", "", "../hidden/model.safetensors"),
        "an ONNX file with absolute weights": graph("Identity", "", str(lair.hidden / WEIGHTS)),
        "an ONNX file with an operator of its own": graph("Evil", "evil.domain", None),
        "an ONNX file with Python's operator": graph("PyOp", "com.microsoft.extensions", None),
    }.items():
        lair.committed("runtime", name, both(without(WEIGHTS), onnx_form, text("model.onnx", content)))
    lair.committed("runtime", "no ONNX file", both(without(WEIGHTS), onnx_form))
    evil = '<?xml version="1.0"?><!DOCTYPE n [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;" version="11"/>'
    xml = both(without(WEIGHTS), entries(RECORD, {"form": "openvino"}), text("model.xml", evil), text("model.bin", b""))
    lair.committed("runtime", "an OpenVINO file with an entity", xml)


def every_model(lair: Lair) -> None:
    """Make every case of this file."""
    for make in (pickles, code, configs, tensors, models_of_ours, compiled):
        make(lair)

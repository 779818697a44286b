"""The engines of benchmarks/peers.py: how each gets the model, and how it runs it.

Every engine is a class: `needs` are the packages it wants, `formats` what it stores,
as (name of the row, bits of the weights, bits of a value of the token table).
`export` writes one from the folder of a bf16 model; an instance holds it loaded, and
`run(ids, new)` gives new tokens, greedily, and the seconds that each took: the first
has the prefill in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Run = tuple[list[int], list[float]]


def timed(count: int, step: Callable[[int], int]) -> Run:
    """Tokens and seconds of so many steps; each gets the token before it (-1: none)."""
    tokens, seconds, token = [], [], -1
    for _ in range(count):
        start = time.perf_counter()
        token = step(token)
        seconds.append(time.perf_counter() - start)
        tokens.append(token)
    return tokens, seconds


class Engine:
    """What all have: a folder (or file) of weights, threads, a longest sequence."""

    needs: ClassVar[tuple[str, ...]] = ()
    formats: ClassVar[dict[str, tuple[int, float]]] = {}

    def __init__(self, path: Path, form: str, threads: int, positions: int) -> None:
        self.path, self.form = path, form
        self.threads, self.positions = threads, positions
        self.load()

    @classmethod
    def export(cls, model: Path, form: str, to: Path) -> None:
        """Write the model of a folder to another one, in a format."""

    def load(self) -> None:
        raise NotImplementedError

    def run(self, ids: list[int], new: int) -> Run:
        raise NotImplementedError


def torch_model(model: Path, dtype: str) -> Any:
    """The folder's model in transformers, in a dtype."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, dtype)
    )
    return loaded.eval().requires_grad_(False)


class Fastlab(Engine):
    """Our decoder on its static cache; formats that do not exist yet are absent."""

    needs = ("fastlab",)
    formats: ClassVar = {
        "bf16": (16, 16),
        "int8": (8, 8),
        "int8-dynamic": (8, 8),
        "int4-g64": (4, 8),
        "int4-g64-dynamic": (4, 8),
    }

    @classmethod
    def export(cls, model: Path, form: str, to: Path) -> None:
        import fastlab as fl

        scope = "layers" if form == "bf16" else "all"
        held, _ = fl.load(model, precision=form, scope=scope)
        fl.save(held, to)

    def load(self) -> None:
        import fastlab as fl

        model, _ = fl.load(self.path)
        self.decoder = fl.Decoder(model, max_len=self.positions)

    def run(self, ids: list[int], new: int) -> Run:
        import torch

        prompt, decoder = torch.tensor([ids]), self.decoder

        def step(token: int) -> int:
            decoder.prefill(prompt) if token < 0 else decoder.advance()
            return int(decoder.place.token)

        return timed(new, step)


class Eager(Engine):
    """transformers with its growing cache."""

    needs = ("transformers",)
    formats: ClassVar = {"bf16": (16, 16)}

    def load(self) -> None:
        self.model = torch_model(self.path, "bfloat16")
        self.forward = self.model.forward

    def cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def run(self, ids: list[int], new: int) -> Run:
        import torch

        past = 0

        def step(token: int) -> int:
            nonlocal past
            now = torch.tensor([ids if token < 0 else [token]])
            places = torch.arange(past, past + now.shape[1])[None]
            past += now.shape[1]
            held = {"past_key_values": cache, "use_cache": True}
            out = self.forward(now, position_ids=places, logits_to_keep=1, **held)
            return int(out.logits[0, -1].argmax())

        with torch.inference_mode():
            cache = self.cache()
            return timed(new, step)


class Static(Eager):
    """transformers with its static cache and torch.compile."""

    def load(self) -> None:
        import torch
        from transformers import StaticCache

        super().load()
        self.held = StaticCache(self.model.config, max_cache_len=self.positions)
        self.forward = torch.compile(self.model.forward, dynamic=False)

    def cache(self) -> Any:
        self.held.reset()
        return self.held


class LlamaCpp(Engine):
    """llama.cpp by the library in llama-cpp-python, from files that `gguf` writes.

    Built with CMAKE_ARGS="-DGGML_NATIVE=ON -DCMAKE_CXX_FLAGS=-fno-dse": gcc 12.2 takes
    the sizes of AMX tiles for dead stores, and 8-bit and 4-bit files then end in SIGILL
    (0.3.36; llama.cpp's pull request 26954, open, is about the same).
    """

    needs = ("llama_cpp", "gguf")
    formats: ClassVar = {"bf16": (16, 16), "q8_0": (8, 8.5), "q4_0": (4, 4.5)}

    @classmethod
    def export(cls, model: Path, form: str, to: Path) -> None:
        import gguf

        held = torch_model(model, "float32")
        c, kind = held.config, getattr(gguf.GGMLQuantizationType, form.upper())
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
        to.mkdir()
        out = gguf.GGUFWriter(to / "model.gguf", "llama")
        out.add_block_count(c.num_hidden_layers)
        out.add_context_length(c.max_position_embeddings)
        out.add_embedding_length(c.hidden_size)
        out.add_feed_forward_length(c.intermediate_size)
        out.add_head_count(c.num_attention_heads)
        out.add_head_count_kv(c.num_key_value_heads)
        out.add_rope_dimension_count(c.head_dim)
        out.add_rope_freq_base(c.rope_parameters["rope_theta"])
        out.add_layer_norm_rms_eps(c.rms_norm_eps)
        out.add_vocab_size(c.vocab_size)
        out.add_tokenizer_model("none")
        for name, weight in held.state_dict().items():
            values = weight.numpy()
            if name.endswith(("q_proj.weight", "k_proj.weight")):  # it turns pairs
                halves = values.reshape(-1, 2, c.head_dim // 2, c.hidden_size)
                values = halves.swapaxes(1, 2).reshape(values.shape)
            own = names.get_name(name, (".weight",))
            if values.ndim == 1:
                out.add_tensor(own, values)
            else:
                stored = gguf.quants.quantize(values, kind)
                out.add_tensor(own, stored, raw_dtype=kind)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()

    def load(self) -> None:
        import llama_cpp as c

        self.c = c
        silent = c.llama_log_callback(lambda *_: None)
        c.llama_log_set(silent, None)
        self.silent = silent  # it is called as long as the library is there
        c.llama_backend_init()
        path = str(self.path / "model.gguf").encode()
        self.model = c.llama_model_load_from_file(path, c.llama_model_default_params())
        how = c.llama_context_default_params()
        how.n_ctx = how.n_batch = how.n_ubatch = self.positions
        how.n_threads = how.n_threads_batch = self.threads
        self.context = c.llama_init_from_model(self.model, how)
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))

    def run(self, ids: list[int], new: int) -> Run:
        c = self.c
        c.llama_memory_clear(c.llama_get_memory(self.context), True)

        def step(token: int) -> int:
            now = ids if token < 0 else [token]
            array = (c.llama_token * len(now))(*now)
            if c.llama_decode(self.context, c.llama_batch_get_one(array, len(now))):
                raise RuntimeError("llama_decode failed")
            logits = c.llama_get_logits(self.context)
            return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())

        return timed(new, step)


class LlamaBench(LlamaCpp):
    """llama.cpp by its own llama-bench, which times without saying its tokens."""

    needs = ("gguf",)
    binary: ClassVar[str] = ""

    def load(self) -> None:
        self.run([0], 2)

    def run(self, ids: list[int], new: int) -> Run:
        command = [self.binary, "-m", str(self.path / "model.gguf"), "-o", "json"]
        command += ["-t", str(self.threads), "-r", "1", "-p", str(len(ids)), "-n", "0"]
        if new > 1:
            command += ["-n", str(new - 1), "-d", f"0,{len(ids)}"]
        out = subprocess.run(command, capture_output=True, check=True, text=True)
        prefill = decode = 0.0
        for test in json.loads(out.stdout):
            if test["n_prompt"] and not test["n_depth"]:
                prefill = test["avg_ns"] / 1e9
            if test["n_gen"] and test["n_depth"]:
                decode = test["avg_ns"] / 1e9 / test["n_gen"]
        return [], [prefill, *[decode] * (new - 1)]


class OpenVino(Engine):
    """OpenVINO's runtime; its own converter, nncf for weights, caches as states."""

    needs = ("openvino", "nncf")
    formats: ClassVar = {"bf16": (16, 16), "int8": (8, 8), "int4": (4, 4.25)}

    @classmethod
    def export(cls, model: Path, form: str, to: Path) -> None:
        import nncf
        import openvino as ov

        graph = stateful(torch_model(model, "float32"))
        if form == "int8":
            graph = nncf.compress_weights(graph)
        if form == "int4":
            mode = nncf.CompressWeightsMode.INT4_SYM
            graph = nncf.compress_weights(
                graph, mode=mode, group_size=64, all_layers=True
            )
        ov.save_model(graph, to / "model.xml")  # what is dense, in 16 bits

    def load(self) -> None:
        import openvino as ov

        options = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = ov.Core().compile_model(self.path / "model.xml", "CPU", options)
        self.request = compiled.create_infer_request()

    def run(self, ids: list[int], new: int) -> Run:
        self.request.reset_state()
        past, beam = 0, np.zeros(1, np.int32)

        def step(token: int) -> int:
            nonlocal past
            now = np.array([ids if token < 0 else [token]])
            places = np.arange(past, past + now.shape[1])[None]
            past += now.shape[1]
            self.request.infer({"ids": now, "positions": places, "beam": beam})
            return int(self.request.get_tensor("logits").data[0, -1].argmax())

        return timed(new, step)


def stateful(model: Any) -> Any:
    """A transformers model as OpenVINO's graph, keys and values as its variables."""
    import openvino as ov
    import torch
    from openvino import opset13
    from openvino._offline_transformations import (
        apply_make_stateful_transformation as make_stateful,
    )
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    config = model.config
    kept = [f"{n}.{i}" for i in range(config.num_hidden_layers) for n in "kv"]
    row, new = (config.num_key_value_heads, config.head_dim), "new.{}".format

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, positions: Any, beam: Any, *flat: Any) -> Any:
            cache = DynamicCache()
            for k, v in zip(flat[::2], flat[1::2], strict=True):
                layer = DynamicLayer()
                layer.lazy_initialization(k, v)
                layer.keys, layer.values = k.index_select(0, beam), v[beam]
                cache.layers.append(layer)
            held = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            out = self.model(ids, position_ids=positions, **held)
            return out.logits, *(x for c in cache.layers for x in (c.keys, c.values))

    flat = [torch.randn(1, row[0], 3, row[1]) for _ in kept]
    beam = torch.zeros(1, dtype=torch.int32)
    example = torch.zeros(1, 5, dtype=torch.long), torch.arange(3, 8)[None], beam
    with torch.no_grad():
        graph = ov.convert_model(Flat(), example_input=(*example, *flat))
    inputs, outputs = ("ids", "positions", "beam", *kept), ("logits", *map(new, kept))
    for port, name in zip(graph.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    past = {name: [1, row[0], -1, row[1]] for name in kept}
    graph.reshape({"ids": [1, -1], "positions": [1, -1], "beam": [1], **past})
    make_stateful(graph, {name: new(name) for name in kept})
    for op in graph.get_ops():  # it starts without a past
        if op.get_type_name() == "ReadValue":
            nothing = opset13.constant(np.zeros((1, row[0], 0, row[1]), np.float32))
            op.set_arguments([nothing.output(0)])
    graph.validate_nodes_and_infer_types()
    return graph


class OnnxRuntime(Engine):
    """ONNX Runtime on the graph of onnxruntime-genai's builder, its steps from here."""

    needs = ("onnxruntime", "onnxruntime_genai", "onnx_ir")
    formats: ClassVar = {"fp32": (16, 32), "int8": (8, 32), "int4": (4, 32)}
    options: ClassVar[dict[str, tuple[str, ...]]] = {
        "int4": ("int4_block_size=32", "int4_accuracy_level=4")
    }

    @classmethod
    def export(cls, model: Path, form: str, to: Path) -> None:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(model), "-o", str(to), "-e", "cpu"]
        command += ["-p", "fp32" if form == "int8" else form, "-c", str(to)]
        command += ["--extra_options", "prune_lm_head=true", *cls.options.get(form, ())]
        subprocess.run(command, check=True, stdout=sys.stderr)
        if form == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            wide = to / "model.onnx"
            quantize_dynamic(
                wide,
                to / "small.onnx",
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
            )
            for name in ("model.onnx", "model.onnx.data"):
                (to / name).unlink()
            (to / "small.onnx").rename(wide)

    def load(self) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        path = str(self.path / "model.onnx")
        self.session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.value = ort.OrtValue.ortvalue_from_numpy
        sizes = self.config()["model"]["decoder"]
        rows = 1, sizes["num_key_value_heads"], 0, sizes["head_size"]
        self.nothing = self.value(np.zeros(rows, np.float32))

    def config(self) -> Any:
        return json.loads((self.path / "genai_config.json").read_text())

    def run(self, ids: list[int], new: int) -> Run:
        inputs = {each.name for each in self.session.get_inputs()}
        names = [each.name for each in self.session.get_outputs()]
        past = [name for name in inputs if name.startswith("past")]
        kept, seen = dict.fromkeys(past, self.nothing), 0

        def step(token: int) -> int:
            nonlocal seen, kept
            now = np.array([ids if token < 0 else [token]])
            seen += now.shape[1]
            feed = {"input_ids": now, "attention_mask": np.ones((1, seen), np.int64)}
            feed["position_ids"] = np.arange(seen - now.shape[1], seen)[None]
            fed = {n: self.value(v) for n, v in feed.items() if n in inputs}
            found = self.session.run_with_ort_values(names, fed | kept)
            out = dict(zip(names, found, strict=True))
            kept = {n: out[n.replace("past_key_values", "present")] for n in kept}
            return int(out["logits"].numpy()[0, -1].argmax())

        return timed(new, step)


class OnnxGenai(OnnxRuntime):
    """The same files, run by onnxruntime-genai."""

    formats: ClassVar = {"int4": (4, 32)}

    def load(self) -> None:
        import onnxruntime_genai as og

        config = self.config()  # the only place for threads
        session = config["model"]["decoder"]["session_options"]
        session["intra_op_num_threads"] = self.threads
        (self.path / "genai_config.json").write_text(json.dumps(config))
        self.og, self.model = og, og.Model(str(self.path))

    def run(self, ids: list[int], new: int) -> Run:
        params = self.og.GeneratorParams(self.model)
        most = len(ids) + new + 1
        params.set_search_options(max_length=most, min_length=most, do_sample=False)
        generator = self.og.Generator(self.model, params)

        def step(token: int) -> int:
            if token < 0:
                generator.append_tokens(np.array([ids], np.int32))
            generator.generate_next_token()
            return int(generator.get_next_tokens()[0])

        return timed(new, step)


class CTranslate2(Engine):
    """CTranslate2; its first token is a prefill and, of the last position, a step."""

    needs = ("ctranslate2",)
    formats: ClassVar = {"int8": (8, 8)}

    @classmethod
    def export(cls, model: Path, form: str, to: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        kind = f"{form}_float32"  # else what is dense stays bf16, and is cast at once
        TransformersConverter(str(model)).convert(str(to), quantization=kind)

    def load(self) -> None:
        import ctranslate2

        self.generator = ctranslate2.Generator(
            str(self.path), device="cpu", intra_threads=self.threads
        )

    def run(self, ids: list[int], new: int) -> Run:
        prompt, stamps = [f"t{i}" for i in ids], [time.perf_counter()]
        tokens = []

        def seen(step: Any) -> bool:
            stamps.append(time.perf_counter())
            tokens.append(step.token_id)
            return False

        length = {"max_length": new, "min_length": new}
        how = {"include_prompt_in_result": False, "callback": seen}
        self.generator.generate_batch([prompt], **length, **how)
        return tokens, list(np.diff(stamps))


ENGINES: dict[str, type[Engine]] = {
    "fastlab": Fastlab,
    "transformers eager": Eager,
    "transformers static + compile": Static,
    "llama.cpp": LlamaCpp,
    "OpenVINO": OpenVino,
    "ONNX Runtime": OnnxRuntime,
    "ONNX Runtime genai": OnnxGenai,
    "CTranslate2": CTranslate2,
}

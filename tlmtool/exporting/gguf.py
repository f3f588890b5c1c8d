"""a GGUF file for llama.cpp and what is built on it: plain and narrower models of the llama kind"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tlmtool.exporting._vocabulary import add_tokenizer, check_tokenizer
from tlmtool.exporting.base import Job, Target
from tlmtool.failure import Usage
from tlmtool.measuring.comparison import check, parity, probe
from tlmtool.measuring.counting import count_parameters
from tlmtool.models import checkpoint
from tlmtool.models.architectures import LLAMA_CPP, base_type
from tlmtool.models.fitting import silenced
from tlmtool.models.folder import Folder
from tlmtool.models.gguf import read_once
from tlmtool.models.kernels import converted
from tlmtool.models.plain import KEPT, thin
from tlmtool.models.surgery import factorized
from tlmtool.recipe.schema import Recipe
from tlmtool.report.layout import Part
from tlmtool.report.parts.exported import Exported

FILE = "model.gguf"
BLOCK = 32  # numbers of a row that share a scale in Q8_0
TEXTS = ("A cat sat on 12 mats.", "l'\u00e9t\u00e9 \u4e2d\u6587  in 2026\n\n\tdone?", "x=3.14;y_2")
BYTES = {8: 34 / 32, None: 0}
FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Gguf(Target):
    """Weights and tokenizer in one file, as llama.cpp reads them."""

    extra: ClassVar[str] = "gguf"
    packages: ClassVar[tuple[str, ...]] = ("gguf",)

    def expected(self, recipe: Recipe, source: Folder, empty: Any) -> Exported:
        """What will be written. Raises Usage for a model that llama.cpp cannot hold."""
        if (recipe.output.out or "").endswith(".gguf"):
            raise Usage(f"--out is a folder, in which the file is {FILE}: leave out the .gguf")
        if (bits := recipe.quantization.bits) not in (None, 8):
            raise Usage(
                "--to gguf rounds to 8 bits: give --bits 8, or round the file further by llama.cpp"
            )
        _check(empty, recipe.model or "", checkpoint.load_tokenizer(source))
        size = count_parameters(empty) * (BYTES[bits] or empty.dtype.itemsize)
        return Exported(
            to=self.name,
            file=FILE,
            opens="llama.cpp and programs that are built on it, and transformers",
            library="gguf",
            example=(
                "from transformers import AutoModelForCausalLM\n\n"
                f'folder, file = "{Path(recipe.output.out or "out").name}", "{FILE}"\n'
                "model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)"
            ),
            expected_bytes=int(size),
            bits=bits,
        )

    def write(self, job: Job, expected: Exported) -> list[Part]:
        """Write the file, read it back by transformers and compare both models."""
        model = thin(job.model.cpu())
        with job.stage("export"):
            job.bars("exporting", 0, 1)
            tokenizer = checkpoint.load_tokenizer(job.source)
            before = probe(model.float(), job.recipe.seed) if expected.bits else None
            _write(job.out / FILE, model, tokenizer, job, expected.bits)
        with job.stage("check"):
            job.bars("checking", 0, 1)
            now = probe(model.float(), job.recipe.seed)
            found = parity(probe(_read(job.out, model), job.recipe.seed), now)
            check(found, "the model in the file differs from the one it was written from", model)
            if before is not None:
                found = replace(found, rounding=parity(now, before).relative)
            if not _same_tokens(job.out, tokenizer):
                job.warn(
                    "transformers splits text otherwise with the tokenizer in the file: there, use "
                    f"the tokenizer of {job.source.asked}"
                )
        return [expected, found]


def _check(empty: Any, name: str, tokenizer: Any) -> None:
    """Raises Usage for whatever the file cannot hold, with the way round."""
    kind = base_type(empty.config.model_type)
    if kind not in LLAMA_CPP or not type(empty).__name__.endswith("ForCausalLM"):
        raise Usage(
            f"--to gguf writes language models of the type {' or '.join(LLAMA_CPP)}, and {name} is "
            f"{type(empty).__name__}: convert_hf_to_gguf.py of llama.cpp takes plain checkpoints"
        )
    if any(converted(empty)):
        raise Usage(f"llama.cpp has no tensor attention, and layers of {name} have: --to onnx can")
    held = [m.decomposition.name for _, m in factorized(empty) if KEPT not in m.factors]
    if held:
        raise Usage(
            f"llama.cpp multiplies by one matrix in each layer, and {name} holds {len(held)} as "
            f"factors ({', '.join(sorted({*held}))}): tlm merge it first, or compress with "
            "--method narrow --plain"
        )
    widths = _widths(thin(empty))
    if len({*widths}) > 1:
        raise Usage(
            f"llama.cpp has one width for all MLPs of such a model, and those of {name} have "
            f"{min(widths)} to {max(widths)}: compress with --method narrow --plain"
        )
    scaling = (empty.config.rope_parameters or {}).get("rope_type", "default")
    if scaling != "default":
        raise Usage(
            f"{name} scales its positions ({scaling}), which tlm does not write: take "
            "convert_hf_to_gguf.py of llama.cpp"
        )
    check_tokenizer(tokenizer, name)


def _widths(model: Any) -> list[int]:
    """The width of each MLP."""
    return [layer.mlp.down_proj.weight.shape[1] for layer in model.base_model.layers]


def _write(file: Path, model: Any, tokenizer: Any, job: Job, bits: int | None) -> None:
    """Write the file. With bits the rounded weights replace those of the model."""
    import gguf

    kind = LLAMA_CPP[base_type(model.config.model_type)]
    config, writer = model.config, gguf.GGUFWriter(file, kind)
    stored = FLOATS[checkpoint_dtype(job)]
    own = "Q8_0" if bits else stored
    writer.add_type("model")
    writer.add_name(Path(job.source.asked).name)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if own == 'F32' else 'MOSTLY'}_{own}"])
    if bits:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if isinstance(licence := job.source.front.get("license"), str):
        writer.add_license(licence)
    width = config.head_dim or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(_widths(model)[0])
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer, config.vocab_size, job.source.asked)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    for name, value in model.named_parameters():  # a shared one once
        path, end = name.rsplit(".", 1)
        numbers, each = value.detach().float(), own if value.ndim > 1 else "F32"
        each = stored if each == "Q8_0" and value.shape[-1] % BLOCK else each
        numbers = _turned(numbers, path, config)
        packed = gguf.quantize(numbers.numpy(), gguf.GGMLQuantizationType[each])
        writer.add_tensor(
            f"{names.get_name(path)}.{end}", packed, raw_dtype=gguf.GGMLQuantizationType[each]
        )
        if each == "Q8_0":
            whole = gguf.dequantize(packed, gguf.GGMLQuantizationType[each])
            value.data.copy_(_turned(torch.from_numpy(np.array(whole)), path, config, back=True))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def checkpoint_dtype(job: Job) -> torch.dtype:
    """The dtype in which weights are stored that are not rounded."""
    found: torch.dtype = getattr(torch, job.recipe.dtype, None) or job.model.config.dtype
    return found if found in FLOATS else torch.float32


def _turned(value: Tensor, path: str, config: Any, back: bool = False) -> Tensor:
    """Rows of a query or key in the order of llama.cpp, which turns pairs of neighbours where
    transformers turns halves of a head; or `back`."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if (count := heads.get(path.rpartition(".")[2])) is None:
        return value
    half = value.shape[0] // count // 2
    split = (count, half, 2) if back else (count, 2, half)
    return value.unflatten(0, split).transpose(1, 2).reshape(value.shape).contiguous()


def _read(folder: Path, model: Any) -> Any:
    """The model that transformers reads from the file, in float32, to be run as `model` is."""
    import gguf
    from transformers import AutoModelForCausalLM

    kind: Any = AutoModelForCausalLM
    with silenced(), read_once(gguf.GGUFReader(folder / FILE), lambda done, total: None):
        found = kind.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32).eval()
    for name in ("bos", "eos", "pad"):  # texts of a probe are made of other tokens than these
        key = f"{name}_token_id"
        setattr(found.config, key, getattr(model.config, key))
    return found


def _same_tokens(folder: Path, tokenizer: Any) -> bool:
    """Whether transformers reads a tokenizer from the file that splits texts as this one does."""
    from transformers import AutoTokenizer

    with silenced():
        found = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    return all(found(text)["input_ids"] == tokenizer(text)["input_ids"] for text in TEXTS)

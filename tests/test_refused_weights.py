"""Weights that tlm does not read are named by what they are, with the way to ones that it reads;
the command for pickles works, and runs no code that is in them."""

import re
import shlex
from pathlib import Path

import pytest
import refusals
import torch
from folders import edit, rewrite
from refusals import RANK
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.models.checkpoint import load
from tlmtool.models.pickles import conversion
from tlmtool.models.quantized import by_config

dense, broken, refused = refusals.dense, refusals.broken, refusals.refused  # its fixtures


def command(sentence: str) -> str:
    """The Python code of the command in a refusal."""
    words = shlex.split(sentence[sentence.index("python -c") :])
    assert words[:2] == ["python", "-c"] and len(words) == 3
    return words[2]


def pickled(folder, parts: int) -> None:
    """The weights as one pickle, or as several, tied and not contiguous as torch leaves them."""
    held = load_file(folder / "model.safetensors")
    held = {
        key: value.t().contiguous().t() if value.ndim == 2 else value for key, value in held.items()
    }
    for n in range(parts):
        name = "pytorch_model.bin" if parts == 1 else f"pytorch_model-{n + 1:05}-of-{parts:05}.bin"
        torch.save(dict(list(held.items())[n::parts]), folder / name)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("parts", [1, 2])
def test_the_command_for_a_pickle_gives_the_same_weights(refused, broken, monkeypatch, parts):
    before = load(broken).state_dict()
    pickled(broken, parts)
    code = command(refused(4, broken, *RANK))
    monkeypatch.chdir(broken)
    exec(code, {})
    after = load(broken).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert run(["compress", str(broken), *map(str, RANK), "--out", "../out", "-q"]) == 0


def test_the_docs_hold_the_command():
    page = (Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text("utf-8")
    assert conversion("pytorch_model*.bin") in page


class Code:
    """What a pickle runs when it is opened."""

    def __reduce__(self):
        return print, ("it has run",)


def test_the_command_runs_no_code_of_a_pickle(refused, broken, monkeypatch, capsys):
    pickled(broken, 1)
    torch.save({"a": Code()}, broken / "pytorch_model.bin")
    code = command(refused(4, broken, *RANK))
    monkeypatch.chdir(broken)
    with pytest.raises(Exception, match="Weights only load failed"):
        exec(code, {})
    assert "it has run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "AWQ, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "8-bit bitsandbytes"),
        ({"load_in_8bit": False, "load_in_4bit": True}, "4-bit bitsandbytes"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "compressed-tensors, p",
        ),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "new-method"}, "new-method"),
        ({"bits": 4}, "by an unnamed method, 4 bits"),
        ("gptq", "gptq"),
    ],
)
def test_a_quantized_checkpoint_is_named_by_its_config(refused, broken, config, says):
    edit(broken, quantization_config=config)
    sentence = refused(4, broken, *RANK)
    assert f"is quantized already ({says}" in sentence
    assert "take the checkpoint that it was made from" in sentence
    (broken / "README.md").write_text("---\nbase_model:\n- some/model\n---\n")
    edit(broken, quantization_config=None, text_config={"quantization_config": config})
    sentence = refused(4, broken, *RANK)
    assert f"({says}" in sentence and "(its card names some/model)" in sentence


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight.absmax", "4-bit"),
    ],
)
def test_a_quantized_checkpoint_is_named_by_its_tensors(refused, broken, end, says):
    name = f"bert.encoder.layer.1.output.dense.{end}"
    rewrite(broken, lambda held: held | {name: torch.zeros(4, dtype=torch.int32)})
    sentence = refused(4, broken, *RANK)
    assert re.search(rf"is quantized already \({says}.*, by {re.escape(name)}\)", sentence), (
        sentence
    )


def test_a_config_that_quantizes_nothing_is_no_quantized_checkpoint():
    flags = {"load_in_8bit": False, "load_in_4bit": False, "llm_int8_threshold": 6.0}
    assert by_config({"quantization_config": flags}) == ""

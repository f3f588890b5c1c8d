"""`tlm info`: what a folder or a file is, read off headers alone, without torch."""

import json
import subprocess
import sys

import pytest
from conftest import pico
from folders import compressed, edit, masked_bert
from ggufs import model, written
from safetensors.torch import load_file

from tlmtool.cli import run
from tlmtool.models.saving import save

SLOW = ("torch", "transformers", "numpy")


def told(capsys, *words) -> dict:
    capsys.readouterr()
    assert run(["info", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_sizes_are_those_of_the_files(tmp_path, capsys):
    folder = masked_bert(tmp_path / "bert")
    found, file = told(capsys, folder), folder / "model.safetensors"
    numbers = sum(each.numel() for each in load_file(file).values())
    assert found["parameters"] == numbers and found["file_bytes"] == file.stat().st_size
    assert found["bits_per_weight"] == pytest.approx(8 * file.stat().st_size / numbers)
    assert sum(found["dtypes"].values()) == numbers
    assert (found["layers"], found["width"], found["vocabulary"]) == (2, 32, 99)
    assert found["tokenizer"] and not found["chat"] and found["held"] == []
    assert found["opens"]["transformers"] == "yes"


def test_a_compressed_folder_by_role_and_by_name(tmp_path, capsys):
    small = compressed(masked_bert(tmp_path / "bert"))
    report = json.loads((small / "report.json").read_text())
    found = told(capsys, small)
    assert {each["role"] for each in found["held"]} == {each["role"] for each in report["sites"]}
    for each in found["held"]:
        own = [site for site in report["sites"] if site["role"] == each["role"]]
        assert each["sites"] == len(own)
        assert each["parameters"] == sum(site["parameters"] for site in own)
        dense = sum(site["shape"][0] * site["shape"][1] for site in own)
        assert each["keep"] == pytest.approx(each["parameters"] / dense)
    assert found["figures"]["parameters.after"] == report["parameters"]["after"]
    assert found["model"]["sha256"] == report["model"]["sha256"]
    assert found["made"]["again"] == f"tlm compress --recipe {small / 'recipe.yaml'}"
    assert "import tlmtool" in found["opens"]["transformers"]
    (small / "report.json").unlink()
    named = told(capsys, small)
    assert sum(each["sites"] for each in named["held"]) == len(report["sites"])
    assert all("*" in each["role"] and "keep" not in each for each in named["held"])
    assert named["figures"] == {}


def test_what_tlm_does_not_load_is_described(tmp_path, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "adapter of peft (LORA)" in told(capsys, adapter)["what"]
    (tmp_path / "empty").mkdir()
    assert "no config.json" in told(capsys, tmp_path / "empty")["what"]
    folder = save(pico("gpt2", "lm"), tmp_path / "other")
    edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    found = told(capsys, folder)
    assert "GPTQ" in found["what"] and found["opens"]["tlm"].startswith("no")


def test_packed_weights_count_as_they_are(tmp_path, capsys):
    dense, out = save(pico("gpt2", "lm"), tmp_path / "dense"), tmp_path / "int8"
    assert run(["quantize", str(dense), "--bits", "8", "--out", str(out), "-q", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)["parameters"]["after"]
    found = told(capsys, out)
    assert found["parameters"] == counted
    assert "quantized" in found["what"]


def test_a_gguf_file(tmp_path, capsys):
    file = written(tmp_path / "m.gguf", model())
    found = told(capsys, file)
    assert found["what"].startswith("a GGUF file") and found["file_bytes"] == file.stat().st_size
    assert found["parameters"] > 0 and found["opens"]["llama.cpp"] == "yes"
    (tmp_path / "bad.gguf").write_bytes(file.read_bytes()[:40])
    assert run(["info", str(tmp_path / "bad.gguf")]) == 4
    assert "damaged or no GGUF file" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, 3, 9, 200])
def test_a_damaged_file_is_one_sentence(size, tmp_path, capsys):
    folder = save(pico("gpt2", "lm"), tmp_path / "dense")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert run(["info", str(folder)]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_not_there(tmp_path, capsys):
    assert run(["info", str(tmp_path / "nowhere")]) == 4
    assert "does not exist" in capsys.readouterr().err


def test_nothing_slow_is_imported(tmp_path):
    small = compressed(masked_bert(tmp_path / "bert"))
    code = (
        f"import sys; from tlmtool.cli import run; run(['info', {str(small)!r}])\n"
        f"print([m for m in {SLOW!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "rank 2" in done.stdout

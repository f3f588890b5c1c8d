"""What `tlm finetune` and `tlm overparam` refuse, check and report of a training."""

import shutil

import test_finetune
from safetensors.torch import load_file, save_file

from tlmtool.cli import run

model, data = test_finetune.model, test_finetune.data  # its fixtures


def test_outputs_that_are_no_numbers_fail_the_check(model, tmp_path, capsys):
    """Weights are finite, what they give is not: no difference of NaN is above a tolerance."""
    broken, out = shutil.copytree(model, tmp_path / "broken"), tmp_path / "out"
    weights = load_file(broken / "model.safetensors")
    weights["encoder.layer.0.intermediate.dense.weight"].fill_(3e38)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    words = ["overparam", str(broken), "--growth", "2", "--sites", "attention"]
    assert run([*words, "--out", str(out), "-q"]) == 3 and not out.exists()
    assert "hold NaN or infinity" in capsys.readouterr().err
    words = ["compress", str(broken), "--rank", "2", "--calibration", "none", "-q"]
    assert run([*words, "--out", str(out)]) == 0
    assert run(["merge", str(out), "--out", str(tmp_path / "again"), "-q"]) == 3
    assert "hold NaN or infinity" in capsys.readouterr().err

"""What cannot be is refused by the shapes and the data, before weights are loaded or measured."""

from pathlib import Path

import pytest
from conftest import pico, sentences, word_tokenizer

from tlmtool.cli import run
from tlmtool.models import checkpoint

MEASURES = "compress {bert} --keep 0.5"
BEFORE = [  # (words, exit code, what is said)
    (f"{MEASURES} --sites atention", 2, "no site matches 'atention'"),
    (f"{MEASURES} --sites encoder.layer.99.*", 2, "no site matches 'encoder.layer.99.*'"),
    (f"{MEASURES} --sites attention,fnn", 2, "no site matches 'fnn'"),
    (f"{MEASURES} --ignore *.qery", 2, "--ignore *.qery: no site matches it"),
    (f"{MEASURES} --ignore *", 2, "no site is left"),
    (f"{MEASURES} --method mpo", 2, "no calibration text can weigh"),
    (f"{MEASURES} --calibration {{none}}", 4, "does not exist"),
    (f"{MEASURES} --recover 2 --data {{none}}", 4, "does not exist"),
    (f"{MEASURES} --calibration {{texts}} --recover 2 --data {{none}}", 4, "does not exist"),
    (f"{MEASURES} --fail-if feature_error>1", 2, "check its loss, not feature_error"),
    ("compress {base} --keep 0.5 --fail-if loss>1", 2, "check its feature_error, not loss"),
    ("compress {bert} --keep 0.001", 2, "keep more, or name fewer sites"),
    ("compress {bert} --energy 0.5 --sites nothing.*", 2, "no site matches"),
    ("compress {bert} --rank 999", 2, "no site would get smaller|above every|rank 999"),
    ("compress {bert} --rank 2 --calibration {none}", 4, "does not exist"),
    ("compress {bert} --rank 2 --recover 2 --data {none}", 4, "does not exist"),
    ("compress {small} --keep 0.5", 2, "are factorized already"),
    ("compress {small} --rank 2", 2, "are factorized already"),
    ("compress {gpt2} --attention dimensionwise --layers 7-9", 2, "is out of range"),
    ("compress {gpt2} --attention dimensionwise --keep 0.5 --sites atention", 2, "no site matches"),
    ("compress {gpt2} --attention dimensionwise --calibration {none}", 4, "does not exist"),
    ("overparam {bert} --growth 2 --sites atention", 2, "no site matches"),
    ("overparam {small} --growth 2 --sites attention", 2, "are factorized already"),
    ("merge {bert}", 2, "there is nothing to merge"),
    ("finetune {class} --task cola --data {none}", 4, "does not exist"),
    ("finetune {class} --task cola --data {cola} --set training.text=nothing", 4, "nothing"),
    ("finetune {class} --task cola --data {cola} --strategy dynamic --sites atention", 2,
     "no site matches"),
    ("finetune {class} --task cola --data {cola} --strategy static --sites embedding", 2,
     "an embedding cannot be over-parameterized"),
    ("evaluate {bert} --task mlm --data {none}", 4, "does not exist"),
    ("evaluate {bert} --task mlm --baseline {base}", 2, "does not fit"),
    ("evaluate {gpt2} --task mlm", 2, "does not fit"),
    ("evaluate {base} --task cola --data {cola}", 2, "cola"),
    ("evaluate {class} --task cola --data {cola} --set training.text=nothing", 4, "nothing"),
    ("evaluate {base} --task similarity --data {texts}", 4, ""),
    ("profile {bert} --seq-len 16,9999", 2, "sequence length 9999 is not possible"),
]  # fmt: skip
DRY = ("compress", "overparam", "finetune")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """{name: path} of models, of data, and of nothing."""
    folder = tmp_path_factory.mktemp("beforehand")
    kinds = {"bert": "lm", "gpt2": "lm", "base": "base", "class": "classification"}
    for name, head in kinds.items():
        pico(name if name == "gpt2" else "bert", head).save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    (folder / "texts.txt").write_text("\n".join(sentences(30)))
    (folder / "cola").mkdir()
    lines = "\n".join(f"{text},{i % 2}" for i, text in enumerate(sentences(30)))
    for split in ("train", "dev"):
        (folder / "cola" / f"{split}.csv").write_text(f"sentence,label\n{lines}")
    found = {name: folder / name for name in (*kinds, "cola", "small")}
    found |= {"texts": folder / "texts.txt", "none": folder / "none.csv"}
    assert run(["compress", str(found["bert"]), "--rank", "2", "--out", str(found["small"])]) == 0
    return found


@pytest.mark.parametrize(
    ("words", "code", "says", "dry"),
    [
        (*case, dry)
        for case in BEFORE
        for dry in (False, True)
        if not dry or (case[0].startswith(DRY) and "--fail-if" not in case[0])
    ],
)
def test_nothing_is_loaded_for_what_cannot_be(
    places, tmp_path, capsys, monkeypatch, words, code, says, dry
):
    verb, *rest = words.format(**places).split()
    if dry:
        rest.append("--dry-run")
    elif verb in (*DRY, "merge"):
        rest += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    assert run([verb, *rest, "-q"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tlm: ") and err.count("\n") == 1
    assert any(each in err for each in says.split("|"))
    assert not (tmp_path / "out").exists()

"""States, studies, pipelines and reports whose content others changed are used or refused."""

import json
import random
import shutil

import torch
import trainings
from trainings import arguments, sealed, sentence

from tlmtool.cli import run
from tlmtool.training.loop import Trainer

model, data, stopped, pipeline = (
    trainings.model,
    trainings.data,
    trainings.stopped,
    trainings.pipeline,
)  # its fixtures
SHORT = ["--steps", 4, "--save-every", 1, "--batch", 4]
ODD = [None, 1, "x", [], {}, [1], {"a": 1}, float("inf"), True, "../../x"]
GONE = object()
OUTCOMES = (0, 2, 4)


def changes(tree: dict, draw: random.Random, count: int):
    """(keys, value) of a seeded part of all ways to change one value of nested dicts and lists."""
    places = []

    def walk(node, keys):
        for key in node if isinstance(node, dict) else range(min(1, len(node))):
            places.append((*keys, key))
            if isinstance(node[key], dict | list) and len(keys) < 4:
                walk(node[key], (*keys, key))

    walk(tree, ())
    ways = [(keys, value) for keys in places for value in (*ODD, GONE)]
    return draw.sample(ways, min(count, len(ways)))


def put(tree, keys, value):
    """A copy with one value changed, or gone."""
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(keys) > 1:
        copy[keys[0]] = put(tree[keys[0]], keys[1:], value)
    elif value is GONE:
        del copy[keys[0]]
    else:
        copy[keys[0]] = value
    return copy


def test_a_state_of_any_content_is_gone_on_with_or_refused(
    model, data, tmp_path, capsys, stopped, monkeypatch
):
    out = tmp_path / "out"
    words = arguments(model, data, out, *SHORT, "--strategy", "dynamic", "--every", "2")
    words += ["--N", "1", "--n", "1", "--growth", "2", "--evaluate-every", "1"]
    stopped(words, 3)
    file = tmp_path / "out.training" / "state.pt"
    kept, whole = torch.load(file, weights_only=True), file.read_bytes()
    monkeypatch.setattr(Trainer, "evaluate", lambda self: False)
    parts = kept | {"state": kept["state"] | {"model": {}, "optimizer": {}}}
    ways = [*changes(parts, random.Random(0), 14)]
    ways += [(("state", key), 1) for key in kept["state"]]
    ways += [(("state", "outcome", key), "x") for key in kept["state"]["outcome"]]
    ways += [(("state", "optimizer", key), {}) for key in kept["state"]["optimizer"]]
    for keys, value in ways:
        sealed(file, put(kept, keys, value))
        code = run([*words, "--resume"])
        assert code in OUTCOMES, (keys, value)
        if code:
            sentence(capsys)
        else:
            shutil.rmtree(out)
            file.parent.mkdir()
        capsys.readouterr()
    file.write_bytes(whole)
    assert run([*words, "--resume"]) == 0


def test_a_study_of_any_content_is_gone_on_with_or_refused(model, data, tmp_path, capsys):
    out = tmp_path / "study"
    words = arguments(model, data, out, "--steps", 4, "--every", 2, "--N", 1, "--n", 1)
    words += ["--growth", "2", "--seeds", "1", "--arms", "mpo-dynamic,frozen"]
    assert run(words) == 0
    draw, codes = random.Random(0), []
    for name in ("study.json", "mpo-dynamic-seed0.json"):
        whole = (out / name).read_text()
        for keys, value in [*changes(json.loads(whole), draw, 24), (("chosen",), ["../../x"])]:
            (out / name).write_text(json.dumps(put(json.loads(whole), keys, value)))
            (out / "frozen-seed0.json").unlink() if keys == ("chosen",) else None
            capsys.readouterr()
            codes.append(run([*words, "--resume"]))
            assert codes[-1] in OUTCOMES, (name, keys, value)
            if codes[-1]:
                sentence(capsys)
        for text in ("", "[" * 99999, "[1]", "NaN", '"x"', "\0"):
            (out / name).write_text(text)
            capsys.readouterr()
            assert run([*words, "--resume"]) in (2, 4), (name, text)
            assert name in sentence(capsys) or name == "study.json"
        (out / name).write_text(whole)
    assert {2, 4} <= {*codes}
    assert run([*words, "--resume"]) == 0


def test_a_pipeline_of_any_content_is_gone_on_with_or_refused(pipeline, tmp_path, capsys):
    assert run(pipeline) == 0
    draw, codes = random.Random(0), set()
    for name in ("stages.json", "a/report.json", "b/report.json"):
        file = tmp_path / "out" / name
        whole = file.read_text()
        texts = [
            json.dumps(put(json.loads(whole), keys, value))
            for keys, value in changes(json.loads(whole), draw, 48)
        ]
        texts += ["", "[" * 99999, "[]", "1e999", '{"sites": 5, "parameters": "x"}', "\0"]
        texts += [json.dumps({"../../x": {}} | json.loads(whole)), json.dumps({"verb": "merge"})]
        for text in texts:
            file.write_text(text)
            capsys.readouterr()
            codes.add(code := run([*pipeline, "--resume"]))
            said = capsys.readouterr().err
            assert code in OUTCOMES and "internal error" not in said, text
            assert said.count("\n") == bool(code), said
        file.write_text(whole)
    assert codes == {0, 2, 4}
    assert run([*pipeline, "--resume"]) == 0


def test_a_finished_report_of_any_content_is_shown_or_refused(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = arguments(model, data, out, *SHORT)
    assert run(words) == 0
    whole = json.loads((out / "report.json").read_text())
    for keys, value in changes(whole, random.Random(0), 120):
        (out / "report.json").write_text(json.dumps(put(whole, keys, value)))
        capsys.readouterr()
        code = run([*words, "--resume", "--fail-if", "score<-1"])
        said = capsys.readouterr().err
        assert code in OUTCOMES and "internal error" not in said, (keys, value)
        assert said.count("\n") <= 2, said

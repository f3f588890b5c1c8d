"""Any recipe and any config.json, however odd: the run ends with one of our codes and one line."""

import contextlib
import io
import json
import shutil

import refusals
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlmtool.cli import run
from tlmtool.recipe.schema import settings as schema

dense = refusals.dense  # its fixture
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def ends_well(*args):
    """A dry run of whatever it is given ends with one of our codes, a failure in one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*map(str, ("compress", *args, "--dry-run", "-q"))])
    told = "".join(x for x in err.getvalue().splitlines(True) if not x.startswith("warning: "))
    assert code in (0, 2, 3, 4), told
    assert "Traceback" not in told and "internal error" not in told
    assert told.count("\n") == (code != 0) and (not code or told.startswith("tlm: "))


JUNK = st.recursive(
    st.one_of(
        st.sampled_from([None, True, False, 0.5, 1e308, -1.5, 2**70, "", "float32", "2", "*", "x"]),
        st.integers(-3, 9),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
APART = ("model", "calibration.text")  # a text may be the name of a data set


GOOD = {
    "compression.sites": [["ffn"], "all", ["*.query", "attention"], "embedding", "*.layer.1.*"],
    "compression.ignore": [[], "*.layer.1.*", ["*.key"], "*"],
    "compression.rank": [1, 2, 4, 40],
    "compression.blocks": [1, 3, 50],
    "compression.keep": [0.01, 0.4, 0.9],
    "compression.energy": [0.5, 0.99],
    "compression.overrides": [[], [{"sites": "*.query", "method": "svd", "rank": 4}]],
    "output.fail_if": ["keep>0.1", "parameters.after == 3", "x>1"],
    "revision": ["main"],
    "device": ["cpu", "cuda:9", "meta"],
    "output.max_shard_size": ["5GB", "1KB"],
    "output.out": ["somewhere"],
}


def values(path, setting):
    """Mostly what the setting takes."""
    choices = setting.rules.get("choices", ())
    good = GOOD.get(path) or [*(choices() if callable(choices) else choices), setting.default, 9]
    return st.integers(0, 5).flatmap(lambda dice: st.sampled_from(good) if dice else JUNK)


@st.composite
def recipes(draw):
    known = {k: s for k, s in schema("compress").items() if k not in APART}
    budgets = ["compression.rank", "compression.keep", "compression.energy"]
    others = st.sampled_from(sorted(known.keys() - set(budgets)))
    chosen = [draw(st.sampled_from(budgets)), *draw(st.lists(others, max_size=3, unique=True))]
    tree = {}
    for path in chosen:
        section, _, leaf = path.rpartition(".")
        value = draw(values(path, known[path]))
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree


@FUZZ
@given(recipe=recipes(), text=st.booleans())
def test_any_recipe(dense, recipe, text):
    file = dense.parent / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, default_flow_style=False))
    calibration = dense.parent / "text.txt" if text else "none"
    ends_well(dense, "--recipe", file, "--calibration", calibration)


@FUZZ
@given(data=st.data(), budget=st.sampled_from([("--rank", 2), ("--keep", 0.5)]))
def test_any_config(dense, data, budget):
    kept = json.loads((dense / "config.json").read_text())
    folder = shutil.copytree(dense, dense.parent / "mutant", dirs_exist_ok=True)
    for key in data.draw(st.lists(st.sampled_from([*kept]), min_size=1, max_size=2, unique=True)):
        if data.draw(st.booleans()):
            del kept[key]
        else:
            kept[key] = data.draw(JUNK)
    (folder / "config.json").write_text(json.dumps(kept))
    ends_well(folder, *budget, "--calibration", "none")

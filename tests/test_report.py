"""Reports: JSON, the terminal table, the card, checks; all data here is made up."""

import json

import pytest
import yaml
from made_reports import LOSS, compressed, evaluated, printed, profiled

from tlmtool.failure import CheckFailed, Usage
from tlmtool.report.figures import figure, human
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.parity import Parity
from tlmtool.report.report import Report


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (20_306_304, "", "20.3 M"),
        (7_240_000_000, "", "7.24 B"),
        (5.4e9, "FLOPs", "5.40 GFLOPs"),
        (81.3e6, "B", "81.3 MB"),
        (999_999, "", "1.00 M"),
        (47_184, "", "47.2 k"),
        (7, "", "7"),
        (0, "B", "0 B"),
        (None, "B", ""),
    ],
)
def test_human_has_three_digits(value, unit, text):
    assert human(value, unit) == text


def test_figure_shows_small_errors():
    assert [figure(v) for v in (0.32, 0.0, 2.1e-7, None)] == ["0.320", "0.000", "2.1e-07", ""]


def test_json_is_one_object_with_its_version_first():
    report = compressed(quality=LOSS | {"before": float("nan"), "after": 1.0})
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert list(data)[:2] == ["schema_version", "verb"]
    assert (data["schema_version"], data["verb"]) == (2, "compress")
    assert data["quality"]["before"] is None


@pytest.mark.parametrize("report", [compressed(), compressed(1), profiled(), evaluated()])
@pytest.mark.parametrize("full", [False, True])
def test_table_fits_100_plain_columns(report, full):
    text = printed(report, full=full)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_many_sites_are_grouped_unless_asked():
    grouped, full = printed(compressed()), printed(compressed(), full=True)
    assert "encoder.layer.5.attention.self.query" not in grouped
    assert "factorized sites by role" in grouped
    assert "0.425" in grouped  # mean weight error of layers 0..5
    assert "encoder.layer.5.attention.self.query" in full
    assert "encoder.layer.0.attention.self.query" in printed(compressed(1))


def test_table_of_compress_shows_the_figures():
    text = printed(compressed())
    for shown in (
        "22.7 M",
        "20.3 M",
        "0.320",
        "2.26 GFLOPs",
        "81.3 MB",
        "0.2134",
        "btd rank 8",
        "6.0",
    ):
        assert shown in text
    assert "predicted" not in text


def test_predicted_figures_are_marked_in_every_table():
    text = printed(compressed(predicted=True))
    assert text.splitlines()[0].endswith("predicted, nothing was written")
    assert text.count("(predicted)") == 4  # cost, roles, sites, quality


def test_missing_parts_are_left_out():
    assert printed(Report("merge")).strip() == "tlm merge"
    text = printed(Report("merge", [Parity(max_abs=3e-7, relative=1e-8, tolerance=1e-5)]))
    assert "3.0e-07" in text and "cost" not in text
    dense = [{"site": f"layer.{i}.q", "reason": "its factors would be larger"} for i in range(3)]
    text = printed(compressed(sites=[], left_dense=dense))
    assert "layer.0.q and 2 more" in text


def test_profile_is_side_by_side():
    lines = printed(profiled()).splitlines()
    row = next(line for line in lines if line.startswith("parameters"))
    assert row.split() == ["parameters", "20.0", "M", "10.0", "M", "0.500"]
    latency = next(line for line in lines if line.startswith("latency 1 x 512"))
    assert latency.split()[4:] == ["12.34", "ms", "6.17", "ms", "0.500"]


def test_evaluation_shows_the_interval():
    text = printed(evaluated())
    assert "-0.0230 to minilm, 95 % interval [-0.0301, -0.0159] (2,000 paired resamples)" in text
    assert "minilm (baseline)" in text and "higher is better" in text


def test_card_front_matter_and_loading():
    known = {"id": "minilm", "class": "BertModel", "license": "apache-2.0", "hub_id": "a/b"}
    card = compressed(model=known).card("out/m8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "a/b",
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "license": "apache-2.0",
        "tags": ["tlm", "btd"],
    }
    assert body.index("import tlmtool") < body.index('AutoModel.from_pretrained("out/m8")')
    assert "20.3 M parameters instead of 22.7 M" in body
    assert "| parameters | 22.7 M | 20.3 M | 0.894 |" in body
    recipe = body.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe)["compression"] == {"rank": 8}


def test_card_loads_with_the_class_of_its_head():
    model = {"id": "gpt2", "class": "GPT2LMHeadModel"}
    assert "AutoModelForCausalLM.from_pretrained" in compressed(model=model).card("x")
    assert "import tlmtool" not in Report("merge", [Model(id="gpt2")]).card("x")


def test_check_fails_when_true():
    report = compressed(quality=LOSS)
    with pytest.raises(CheckFailed, match=r"loss is 3\.31"):
        report.check("loss>3.2")
    report.check("loss>3.4")
    report.check("parameters.keep>=0.33")
    with pytest.raises(CheckFailed):
        report.check("keep == 0.32")  # the one outside the list of sites
    with pytest.raises(CheckFailed):
        evaluated().check("spearman<0.85")
    with pytest.raises(CheckFailed, match="not a number"):
        compressed(quality=LOSS | {"after": float("nan")}).check("loss>3.2")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("loss", "not a comparison"),
        ("loss>high", "not a comparison"),
        ("loss>nan", "not a comparison"),
        ("before>1", "not one figure of the report: say parameters.before or"),
        ("feature_eror>1", "did you mean feature_error"),
        ("verb>1", "cannot be compared"),
    ],
)
def test_bad_checks_are_usage(expression, says):
    with pytest.raises(Usage, match=says):
        compressed().check(expression)

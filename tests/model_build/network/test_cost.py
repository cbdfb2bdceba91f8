"""The cost from the formulas; that an exported graph costs the same is in test_network."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from model_build.__main__ import main
from model_build.network import cost
from model_build.network.architecture import ARTICLE, LAYOUTS, REFERENCE, SIZES, WIDTHS, plan
from tests.conftest import ROOT


def test_the_formulas():
    assert cost.standard(kernel=3, channels=64, output_side=112, filters=128) == 924_844_032
    assert cost.depthwise(kernel=3, channels=128, output_side=112) == 14_450_688


def test_the_reference_layout_costs_what_is_published():
    """Millions in the table of keras.applications.mobilenet_v2, and the parameters of its models."""
    by_size = {96: 56, 128: 99, 160: 154, 192: 221, 224: 300}
    by_width = {0.35: 59, 0.5: 97, 0.75: 209, 1.0: 300, 1.3: 509, 1.4: 582}
    found = {(row.alpha, row.input_size): row for row in cost.totals(REFERENCE)}
    assert sorted(found) == [(alpha, size) for alpha in WIDTHS for size in SIZES]
    assert {size: found[1.0, size].multiply_adds // 1_000_000 for size in SIZES} == by_size
    assert {alpha: found[alpha, 224].multiply_adds // 1_000_000 for alpha in WIDTHS} == by_width
    assert found[1.0, 224].multiply_adds == 300_774_272
    assert found[1.0, 224].parameters == 3_538_984


def test_where_the_article_differs():
    one, wide = cost.differences()
    assert (one.published, wide.published) == (300_000_000, 585_000_000)
    assert round(one.article / 1e6, 1) == 313.6
    assert round(wide.article / 1e6, 1) == 586.5
    # At width 1.0 there is nothing to round: 32 to 32 channels, 1x1, on 112 x 112.
    assert (one.expansion, one.rounding) == (32 * 32 * 112 * 112, 0)
    assert wide.rounding < 0
    for row in (one, wide):
        assert row.reference + row.expansion + row.rounding == row.article


def test_a_total_is_the_sum_of_its_layers():
    network = plan(ARTICLE, 0.5, 128, 10)
    rows, found = cost.layers(network), cost.total(network)
    assert sum(row.multiply_adds for row in rows) == found.multiply_adds
    assert sum(row.parameters for row in rows) == found.parameters
    assert rows[-1].parameters == 1280 * 10, "the article's classifier has no bias"
    assert cost.layers(plan(REFERENCE, 0.5, 128, 10))[-1].parameters == 1280 * 10 + 10


def test_blocks_as_standard_convolutions():
    first, second, *rest = cost.blocks(plan(REFERENCE))
    assert first.multiply_adds == (9 * 32 + 32 * 16) * 112 * 112
    assert first.as_standard == 9 * 32 * 16 * 112 * 112
    assert second.as_standard == 16 * 96 * 112 * 112 + 9 * 96 * 24 * 56 * 56
    assert len(rest) == 15
    # Sandler et al. 2018, section 3.1: up to k * k times as much.
    assert all(block.multiply_adds < block.as_standard < 9 * block.multiply_adds for block in (first, second, *rest))


def test_memory_is_what_lives_at_once():
    network = plan(REFERENCE)
    rows = {row.name: row.activation_bytes for row in cost.layers(network)}
    wide, narrow = 56 * 56 * 144, 56 * 56 * 24
    assert rows["block_2_expand"] == 4 * (narrow + wide)
    assert rows["block_2_depthwise"] == 4 * (wide + wide + narrow), "the block's input waits to be added"
    assert rows["block_2_project"] == 4 * (wide + narrow + narrow)
    assert rows["block_1_depthwise"] == 4 * (112 * 112 * 96 + 56 * 56 * 96), "no residual: nothing waits"
    assert cost.total(network).activation_bytes == rows["block_1_depthwise"] == max(rows.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tables(capsys, layout):
    assert main(["cost", "--architecture", layout]) == 0
    output = capsys.readouterr().out
    for figure in ("924.84 M", "14.45 M", "300 M", "585 M", "300.8 M", "313.6 M", "582.2 M", "586.5 M"):
        assert figure in output
    assert f"{layout} layout" in output
    assert "block_16_project" in output


def test_json_and_chart(capsys, tmp_path):
    arguments = ["cost", "--alpha", "0.35", "--input-size", "96", "--classes", "19", "--json"]
    for name in ("a.svg", "b.svg", "c.png"):
        assert main([*arguments, "--chart", str(tmp_path / name)]) == 0
        found = json.loads(capsys.readouterr().out)
    assert found["total"]["multiply_adds"] == cost.total(plan(REFERENCE, 0.35, 96, 19)).multiply_adds
    assert [found["layers"][i]["name"] for i in (0, -1)] == ["stem", "classifier"]
    assert len(found["blocks"]) == 17
    assert len(found["totals"]) == 30
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--chart", "cost.jpg"], "neither .svg nor .png"),
        (["--chart", "absent/cost.svg"], "cannot be written"),
        (["--input-size", "31"], "32 pixels or more"),
        (["--classes", "1"], "2 classes or more"),
        (["--alpha", "0"], "without channels"),
        (["--architecture", "article", "--alpha", "0.05"], "without channels"),
    ],
)
def test_clear_errors(capsys, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert main(["cost", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_counting_needs_no_tensorflow():
    code = (
        "import sys; from model_build.__main__ import main; main(['cost', '--json']); "
        "sys.exit(sorted({'tensorflow', 'keras', 'onnx'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

from dataclasses import replace

import pytest

from app.errors import ModelError
from app.inference.contract import Contract
from app.inference.imaging import Resize
from tests import tiny_model


def test_it_survives_the_metadata():
    made = tiny_model.contract(measured={"agreement": 0.5}, labels=("rød", "grün", "青"))
    assert Contract.from_metadata(made.to_metadata()) == made
    assert all(isinstance(value, str) for value in made.to_metadata().values())


def test_groups_are_in_it_where_there_are_any():
    made = tiny_model.contract(groups=("warm", "cool", "cool"))
    assert Contract.from_metadata(made.to_metadata()) == made
    without = tiny_model.contract()
    assert "groups" not in without.to_metadata()
    assert Contract.from_metadata(without.to_metadata()).groups is None


@pytest.mark.parametrize(
    "groups",
    [
        "{}",
        "[]",
        "null",
        '["warm"]',
        '["warm", "cool", ""]',
        '["warm", "cool", " "]',
        '["warm", "cool", "a\\nb"]',
        '["warm", "cool", 3]',
        '["warm", "cool", null]',
    ],
)
def test_groups_that_are_refused(groups):
    with pytest.raises(ModelError, match="group"):
        Contract.from_metadata(tiny_model.contract().to_metadata() | {"groups": groups})


def test_a_file_without_one():
    with pytest.raises(ModelError, match="no contract"):
        Contract.from_metadata({})


@pytest.mark.parametrize("key", sorted(set(tiny_model.contract().to_metadata()) - {"schema"}))
def test_every_key_is_needed(key):
    metadata = tiny_model.contract().to_metadata()
    del metadata[key]
    with pytest.raises(ModelError, match=key):
        Contract.from_metadata(metadata)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "99"),
        ("labels", "not json"),
        ("ids", '["n1"]'),
        ("resize", '{"height": 1}'),
        ("golden", "{}"),
        ("golden", '{"photo": "!", "scores": {}, "tolerance": 1}'),
        ("multiply_adds", "many"),
    ],
)
def test_nonsense_is_refused(key, value):
    with pytest.raises(ModelError):
        Contract.from_metadata(tiny_model.contract().to_metadata() | {key: value})


def test_contradictions_are_refused():
    for broken in (
        tiny_model.contract(resize=Resize(1, 1, 1.0, "nearest")),
        tiny_model.contract(golden=replace(tiny_model.contract().golden, scores={7: 1.0})),
        tiny_model.contract(golden=tiny_model.golden(label="blue")),
        tiny_model.contract(labels=("red", "red", "blue"), ids=(None, None, None)),
        tiny_model.contract(labels=("red", "", "blue")),
        tiny_model.contract(ids=("n1", 2, None)),
    ):
        with pytest.raises(ModelError):
            Contract.from_metadata(broken.to_metadata())


TOO_LONG = "x" * 129
#: What must not reach a log, a header, a label of Prometheus or a page.
BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "../../etc/passwd",
    "a\\b",
    "a\nb",
    "a\rb",
    "\x00",
    "a\x7f",
    "a\x85",
    "a\u2028b",
    TOO_LONG,
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "\ud800"], ids=ascii)
def test_names_that_are_refused(name):
    with pytest.raises(ModelError, match="name") as error:
        Contract.from_metadata(tiny_model.contract(name=name).to_metadata())
    assert str(error.value).isascii()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "name", ["a", "a:predict", "é", "..a", "a..", "%2e%2e", 'a"b{x="1"}', "my model", "x" * 128, "青"]
)
def test_names_that_are_taken(name):
    assert Contract.from_metadata(tiny_model.contract(name=name).to_metadata()).name == name


def golden(**changes):
    return {"golden": replace(tiny_model.golden(), **changes)}


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": ""},
        {"version": "1\n2"},
        {"version": TOO_LONG},
        {"precision": "fp16"},
        {"precision": "../x"},
        {"labels": (), "ids": ()},
        {"labels": ("red", "green", " ")},
        {"labels": ("red", "green", "a\x00")},
        {"labels": ("red", "green", "a\r\nX-Injected: 1")},
        {"labels": ("red", "green", "x" * 1001)},
        {"labels": ("red", "green", 3)},
        {"ids": ("n1", None, "a\nb")},
        {"ids": ("n1", None, "")},
        {"ids": ("n1", None, TOO_LONG)},
        {"temperature": INFINITY},
        {"temperature": NAN},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"unknown_below": NAN},
        {"unknown_below": 1.1},
        {"unknown_below": -0.1},
        {"unknown_above": NAN},
        {"multi_label": True},
        {"multi_label": True, "unknown_below": 0.5, "unknown_above": 0.5},
        {"unknown_above": float("inf")},
        golden(tolerance=1e9),
        golden(tolerance=0.26),
        golden(tolerance=INFINITY),
        golden(tolerance=NAN),
        golden(tolerance=-0.1),
        golden(scores={0: NAN}),
        golden(scores={0: INFINITY}),
        golden(scores={0: 1.01}),
        golden(scores={0: -0.01}),
        golden(scores={}),
        golden(scores={-1: 0.5}),
        golden(photo=b"x" * 1_000_001),
        golden(label="no such"),
        {"multiply_adds": -1},
        {"parameters": 10**30},
        {"measured": {"accuracy": NAN}},
        {"measured": {"tests": [{"a": INFINITY}]}},
        {"provenance": {"text": "x" * 1_000_001}},
        {"provenance": ["a list"]},
        {"resize": Resize(0, 32, 1.0, "bilinear")},
        {"resize": Resize(32, 2049, 1.0, "bilinear")},
        {"resize": Resize(32, 32, 0.0, "bilinear")},
        {"resize": Resize(32, 32, 1.5, "bilinear")},
        {"resize": Resize(32, 32, NAN, "bilinear")},
        {"resize": Resize(32, True, 1.0, "bilinear")},
        {"resize": Resize("32", 32, 1.0, "bilinear")},
        {"resize": Resize(32.0, 32, 1.0, "bilinear")},
        {"resize": Resize(32, 32, "1", "bilinear")},
        {"resize": Resize(32, 32, 1.0, ["bilinear"])},
        {"resize": Resize(32, 32, 1.0, "bilinear", "stretch")},
        {"resize": Resize(32, 32, 1.0, "bilinear", ["crop"])},
    ],
    ids=ascii,
)
def test_what_a_hostile_contract_says(changes):
    with pytest.raises(ModelError):
        Contract.from_metadata(tiny_model.contract(**changes).to_metadata())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", '["red", "green", "\\ud800"]'),
        ("labels", "[" * 100_000),
        ("labels", '"abc"'),
        ("labels", '{"0": "red", "1": "green", "2": "blue"}'),
        ("ids", "[null, null, " + " " * 10_000_000 + "null]"),
        ("provenance", '{"a": ' * 900 + "1" + "}" * 900),
        ("provenance", '{"a": "\\udfff"}'),
        ("provenance", "null"),
        ("measured", '{"accuracy": NaN}'),
        ("measured", '{"accuracy": 1e999}'),
        ("temperature", "1" * 400),
        ("parameters", "1" * 5000),
        ("resize", '{"height": 32, "width": 32, "crop": 1, "filter": {}}'),
        ("resize", "[]"),
        ("golden", "[]"),
        ("golden", '{"photo": "", "scores": {"0": 1e999}, "tolerance": 0.1}'),
        ("golden", '{"photo": "", "scores": {"0": 1}, "tolerance": 0.1, "label": ["red"]}'),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_hostile_metadata_say(key, value):
    with pytest.raises(ModelError) as error:
        Contract.from_metadata(tiny_model.contract().to_metadata() | {key: value})
    assert len(str(error.value)) < 500


def test_bounds_are_wide_enough():
    """ImageNet-21k's labels, and one of several sentences."""
    labels = (*(f"class {i}" for i in range(21_840)), "a sentence. " * 80)
    made = tiny_model.contract(labels=labels, ids=(None,) * len(labels), golden=tiny_model.golden(label="class 0"))
    assert Contract.from_metadata(made.to_metadata()) == made

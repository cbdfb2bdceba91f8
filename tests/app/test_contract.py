from dataclasses import replace

import pytest

from app.contract import Contract
from app.errors import ModelError
from app.imaging import Resize
from tests import tiny_model


def test_it_survives_the_metadata():
    made = tiny_model.contract(measured={"agreement": 0.5}, labels=("rød", "grün", "青"))
    assert Contract.from_metadata(made.to_metadata()) == made
    assert all(isinstance(value, str) for value in made.to_metadata().values())


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

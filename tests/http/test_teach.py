"""Teaching over a real socket: from classes to a model that answers, and what is refused on the way."""

import numpy as np
import pytest
from PIL import Image

from tests.conftest import assert_problem, serving, wait_until
from tests.photos import encode

COLOURS = {"empty": (40, 60, 200), "full": (210, 50, 40)}
KEY = "the-kitchen-camera-1"


def photo(colour, seed) -> bytes:
    """A picture in a colour, unlike all others of it."""
    random = np.random.default_rng(seed)
    cells = (np.array(colour) + random.normal(0, 60, (4, 4, 3))).clip(0, 255).astype(np.uint8)
    return encode(Image.fromarray(cells).resize((64, 48), Image.Resampling.NEAREST), "PNG")


def fill(client, count=6, colours=COLOURS) -> dict[str, list[str]]:
    """Makes the classes and their photos; the photos' ids."""
    ids = {}
    for number, (name, colour) in enumerate(colours.items()):
        assert client.post("/teach/classes", json={"label": name}).status_code == 200
        ids[name] = [add(client, name, photo(colour, 100 * number + i))["photo"]["id"] for i in range(count)]
    return ids


def add(client, label, data) -> dict:
    answer = client.post("/teach/photos", params={"label": label}, content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()


def state(client) -> dict:
    answer = client.get("/teach/state")
    assert answer.status_code == 200, answer.text
    return answer.json()


def trained(client) -> dict:
    """Trains to the end; what came of it."""
    answer = client.post("/teach/train")
    assert answer.status_code == 200, answer.text
    wait_until(lambda: state(client)["training"] is None, 120)
    return client.get(f"/teach/trainings/{answer.json()['training']}").json()


@pytest.fixture
def teach(tiny, tmp_path):
    with serving(tiny, teach=tmp_path / "bins") as client:
        client.folder = tmp_path / "bins"
        yield client


def test_from_classes_to_a_model_and_back(teach, tiny):
    ids = fill(teach)
    assert [(c["label"], c["photos"]) for c in state(teach)["classes"]] == [("empty", 6), ("full", 6)]
    found = trained(teach)
    assert found["outcome"] == "done", found
    assert found["labels"] == ["empty", "full"]
    assert found["measured"]["accuracy"] > 0.8
    assert len(found["measured"]["interval"]) == 2
    # The tiny model knows colours, and none of these classes.
    assert found["compared"]["knows"] is False
    assert {row["label"]: row["said"][0]["label"] for row in found["compared"]["answers"]} == {
        "empty": "blue",
        "full": "red",
    }
    used = teach.post("/teach/use", json={"training": 1})
    assert used.status_code == 200, used.text
    assert used.json()["outcome"] == "swapped"
    full = photo(COLOURS["full"], 999)
    answer = teach.post("/predict", content=full).json()
    assert (answer["model"]["name"], answer["predictions"][0]["label"]) == ("bins", "full")
    assert teach.get("/health").json()["model_source"] == "taught in the browser"
    assert (state(teach)["served"], state(teach)["can_go_back"]) == (1, True)
    assert teach.post("/teach/back").json()["outcome"] == "rolled back"
    assert teach.post("/predict", content=full).json()["predictions"][0]["label"] == "red"
    assert (state(teach)["served"], state(teach)["can_go_back"]) == (None, False)
    assert_problem(teach.post("/teach/back"), 409, "no-previous-model")
    assert ids

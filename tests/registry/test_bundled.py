"""The bundled model, on real photos over a real socket."""

from pathlib import Path

import pytest

from app.inference.model import Model
from app.registry import source
from app.registry.source import BUNDLED
from tests.conftest import serving

PHOTOS = Path(__import__("skimage").__file__).parent / "data"


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """Nothing configured, nothing built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "MODELS", tmp_path_factory.mktemp("models"))
        with serving(None) as client:
            yield client


@pytest.mark.parametrize(
    ("photo", "accepted"),
    [("chelsea.png", {"tabby", "Egyptian cat", "tiger cat"}), ("coffee.png", {"espresso", "cup"})],
)
def test_real_photos(box, photo, accepted):
    answer = box.post("/predict", files={"file": (PHOTOS / photo).read_bytes()}).json()
    assert answer["predictions"][0]["label"] in accepted, answer
    assert answer["groups"]
    assert not answer["unknown"]


def test_it_says_what_it_is(box):
    health = box.get("/health").json()
    assert health["precision"] == "int8"
    assert health["model_source"].startswith("bundled with the service")


def test_the_card_says_what_was_measured():
    (path,) = BUNDLED.glob("*.onnx")
    assert path.stat().st_size <= 5_000_000
    contract, card = Model(path).contract, " ".join((BUNDLED / "README.md").read_text().split())
    measured, distilled = contract.measured, contract.provenance["quantization"]["distilled"]
    low, high = measured["agreement_interval"]
    assert (
        f"{measured['agreement']:.1%} ({low:.1%} to {high:.1%}) of {measured['photos']}".replace("%", " %").replace(
            " % to", " to"
        )
        in card
    )
    unknown = measured["unknown"]
    assert f"{unknown['foreign_refused']:.1%}".replace("%", " %") in card
    assert f"{unknown['share']:.0%} of {unknown['chosen_on']} difficult photos".replace("%", " %") in card
    assert f"for {distilled['steps']} steps of {distilled['batch']} photos" in card
    assert f"{distilled['photos']:,} photos were learned from" in card
    assert (len(contract.labels), len(set(contract.groups))) == (1000, 106)
    assert contract.name in card

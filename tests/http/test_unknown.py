"""Every way to ask a running service says the same about a photo that shows none of the model's classes."""

import base64

import pytest

from tests import tiny_model
from tests.conftest import serving
from tests.inference.test_unknown import DARK, LIT


def counted(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("classifier_predictions_total{")]
    return {line.split('unknown="')[1].split('"')[0]: float(line.split()[-1]) for line in found}


@pytest.mark.parametrize("cache_seconds", [0, 60])
def test_every_way_to_ask_agrees(tmp_path, cache_seconds):
    made = tiny_model.contract(unknown_above=0.5, unknown_below=0.99)
    model = tiny_model.write(tmp_path / "m.onnx", made, novel=True)
    with serving(model, cache_seconds=cache_seconds) as client:
        said = client.get("/model").json()
        assert (said["unknown_above"], said["unknown_below"]) == (0.5, 0.99)
        for photo, unknown in ((LIT, False), (DARK, True)):
            for query in ("", "?top_k=1", "?min_score=0.99", "?view=groups"):
                assert client.post(f"/predict{query}", content=photo).json()["unknown"] is unknown
            files = [("file", ("a.png", photo)), ("file", ("b.png", photo))]
            results = client.post("/predict/batch", files=files).json()["results"]
            assert [result["unknown"] for result in results] == [unknown] * 2
            assert client.post("/explain", content=photo).json()["unknown"] is unknown
            assert client.post("/explain?format=png", content=photo).headers["X-Unknown"] == str(unknown).lower()
            scene = client.post("/v1/vision/scene", files={"image": photo}).json()
            assert scene["label"] == ("" if unknown else "red")
            before = counted(client).get(str(unknown).lower(), 0)
            encoded = base64.b64encode(photo).decode()
            rows = {"instances": [{"b64": encoded}] * 3}
            assert client.post("/v1/models/default:predict", json=rows).status_code == 200
            tensor = {"name": "bytes", "datatype": "BYTES", "shape": [2], "data": [encoded] * 2}
            assert client.post("/v2/models/default/infer", json={"inputs": [tensor]}).status_code == 200
            assert counted(client)[str(unknown).lower()] == before + 5


def test_a_file_without_novelty_says_so(client):
    said = client.get("/model").json()
    assert (said["unknown_above"], said["unknown_below"]) == (None, 0.0)

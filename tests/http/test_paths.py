"""Behind a path prefix: what is answered with it is what is answered without it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.http.paths import plain, strip
from tests.conftest import serving
from tests.photos import encode, solid

KEY = "0123456789abcdef"
RED = encode(solid((250, 9, 9)), "PNG")


@pytest.fixture(scope="module", params=["/classifier", "/a.b/c_d-e~f"])
def behind(tiny, request, tmp_path_factory):
    with serving(tiny, path_prefix=request.param, api_keys=KEY, teach=tmp_path_factory.mktemp("teach")) as client:
        client.prefix = request.param
        yield client


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/c/predict", "/predict"),
        ("/c/", "/"),
        ("/c", "/"),
        ("//c//predict/", "/predict"),
        ("/c/c/predict", "/c/predict"),
        ("/predict", "/predict"),
        ("/cat/predict", "/cat/predict"),
        ("/cat", "/cat"),
        ("/x/c/predict", "/x/c/predict"),
        ("/", "/"),
        ("*", "*"),
        ("", "/"),
    ],
)
def test_a_prefix_is_taken_away_once(path, seen):
    assert strip(plain(path), "/c") == seen


def both(client, method, path, **more):
    """The answers with the prefix and without it."""
    answers = [client.request(method, f"{prefix}{path}", **more) for prefix in (client.prefix, "")]
    first, second = ({**dict(a.headers), "x-request-id": "", "date": "", "content-length": ""} for a in answers)
    assert first == second
    assert answers[0].status_code == answers[1].status_code
    return answers[0]


def test_every_route_is_there_twice(behind):
    document = behind.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            filled = path.format(name="tiny", version="1", project="bins", number=1, photo="x")
            answer = both(behind, method, filled, headers={"x-api-key": KEY})
            # Without a body most say 400; none says that it is not there.
            assert answer.status_code != 405, path
    for path in ("/", "/docs", "/teach", "/openapi.json", "/page/page.js", "/page/teach/teach.js"):
        assert both(behind, "GET", path).status_code == 200
    assert both(behind, "GET", "/absent", headers={"x-api-key": KEY}).status_code == 404


def test_a_photo(behind):
    answer = both(behind, "POST", "/predict", content=RED, headers={"x-api-key": KEY})
    assert answer.json()["predictions"][0]["label"] == "red"


def test_who_may_pass_does_not_depend_on_it(behind):
    assert both(behind, "POST", "/predict", content=RED).status_code == 401
    assert both(behind, "GET", "/metrics").status_code == 401
    assert both(behind, "GET", "/health/ready").status_code == 200
    # Twice is once too often: what is left is no route that is open to everybody.
    assert behind.get(f"{behind.prefix}{behind.prefix}/health/ready").status_code == 401


@pytest.mark.parametrize(
    ("path", "right"),
    [("", "/"), ("/docs/", "/docs"), ("//docs/", "/docs"), ("/teach/", "/teach")],
)
def test_a_page_has_one_address_that_all_it_loads_is_relative_to(behind, path, right):
    answer = behind.get(f"{behind.prefix}{path}?a=b%20c")
    assert answer.status_code == 308
    assert not answer.headers["location"].startswith("/")
    assert answer.headers["x-request-id"]
    followed = behind.get(f"{behind.prefix}{path}?a=b%20c", follow_redirects=True)
    assert followed.status_code == 200
    assert followed.url == behind.base_url.join(f"{behind.prefix}{right}?a=b%20c")


def test_metrics_name_routes_without_it(tiny):
    with serving(tiny, path_prefix="/classifier") as client:
        for path in ("/predict", "/v1/vision/scene"):
            client.post(f"/classifier{path}", files={"file": RED, "image": RED}).raise_for_status()
        families = text_string_to_metric_families(client.get("/classifier/metrics").text)
        (requests,) = [family for family in families if family.name == "classifier_requests"]
        routes = {sample.labels["route"] for sample in requests.samples}
        assert routes == {"/predict", "/v1/vision/scene"}


def test_the_openapi_document_says_where_it_is(behind, client):
    assert behind.get(f"{behind.prefix}/openapi.json").json()["servers"] == [{"url": behind.prefix}]
    assert "servers" not in client.get("/openapi.json").json()

"""Groups on the web page: an answer's group first, and what the model knows before there is one."""

import csv
import io
import re

import pytest
from playwright.sync_api import expect

from tests import tiny_model
from tests.conftest import serving
from tests.e2e.conftest import PHONE
from tests.e2e.test_page import drop
from tests.photos import encode, solid

PHOTO, RED = encode(solid((120, 115, 110)), "PNG"), encode(solid((240, 9, 9)), "PNG")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    made = tiny_model.contract(groups=("warm", "cool", "cool"))
    with serving(tiny_model.write(tmp_path_factory.mktemp("grouped") / "tiny.fp32.onnx", made)) as client:
        yield client


def size_of(page, selector) -> float:
    return page.locator(selector).first.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")


def test_the_group_first_and_its_members_under_it(opened, grouped):
    page = opened(grouped)
    drop(page, ("a.png", PHOTO))
    expect(page.locator("#group .name")).to_have_text("cool")
    assert re.fullmatch(r"(59|60)\.\d %", page.locator("#group .score").inner_text())
    assert page.locator("#labels .name").all_inner_texts() == ["green", "blue"]
    assert page.locator("#group").bounding_box()["y"] < page.locator("#labels").bounding_box()["y"]
    assert size_of(page, "#group .name") > 1.5 * size_of(page, "#labels .name")
    assert re.fullmatch(r"Less likely: warm, (39|40)\.\d %", page.locator("#other-groups").inner_text())
    assert page.locator("#announcer").inner_text().startswith("cool, ")
    assert page.locator("#photo").get_attribute("alt") == "a.png: cool"
    expect(page.locator("#history button")).to_have_attribute("aria-label", "a.png: cool")
    page.click("#labels li:first-child button")
    expect(page.locator("#map-note")).to_contain_text("“green”")


def test_a_model_without_groups_shows_its_classes(opened, client):
    page = opened(client)
    drop(page, ("a.png", PHOTO))
    expect(page.locator("#labels .name").first).to_have_text("red")
    assert page.locator("#group").is_hidden()
    assert page.locator("#other-groups").is_hidden()
    assert size_of(page, "#labels .name") > 1.5 * size_of(page, "#labels li:nth-child(2) .name")


def test_unknown_makes_no_group_large(opened, tmp_path):
    made = tiny_model.contract(groups=("warm", "cool", "cool"), unknown_below=0.5)
    with serving(tiny_model.write(tmp_path / "tiny.fp32.onnx", made)) as client:
        page = opened(client)
        drop(page, ("a.png", PHOTO))
        expect(page.locator("#unknown")).to_be_visible()
        assert page.locator("#group .name").inner_text() == "cool"
        assert size_of(page, "#group .name") == size_of(page, "#labels .name")


def test_all_that_a_photo_shows_where_scores_are_independent(opened, tmp_path):
    model = tiny_model.write(tmp_path / "tiny.fp32.onnx", multi_label=True)
    both = encode(solid((250, 240, 10)), "PNG")
    with serving(model) as client:
        page = opened(client)
        drop(page, ("a.png", both))
        expect(page.locator("#shown")).to_have_text("This photo shows red, green.")
        assert page.locator("#photo").get_attribute("alt") == "a.png: red, green"
        assert page.locator("#announcer").inner_text().startswith("This photo shows red, green. ")
        drop(page, ("a.png", both), ("b.png", RED))
        expect(page.locator("#count")).to_have_text("2 answered")
        assert page.locator("#rows td:nth-child(2)").all_inner_texts() == ["red, green", "red"]
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
        assert [row["labels"] for row in rows] == ["red|green", "red"]


def test_a_list_says_groups(opened, grouped):
    page = opened(grouped)
    drop(page, ("a.png", PHOTO), ("b.png", RED))
    expect(page.locator("#count")).to_have_text("2 answered")
    assert page.locator("#rows td:nth-child(2)").all_inner_texts() == ["cool", "warm"]
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    assert [(row["group"], row["label"]) for row in rows] == [("cool", "green"), ("warm", "red")]
    assert 0.5 < float(rows[0]["group_score"]) < 0.7


def test_what_the_model_knows(opened, grouped):
    page = opened(grouped, viewport=PHONE)
    expect(page.locator("#knows-summary")).to_have_text("This model knows 3 things: cool, warm")
    assert page.locator("#known").is_hidden()
    page.click("#knows-summary")
    known = page.locator("#known li")
    assert known.all_inner_texts() == ["warm", "cool"]
    # By a class's name too, which then stands with its group.
    page.fill("#search", "Blu")
    assert known.all_inner_texts() == ["cool: blue"]
    page.fill("#search", "cool")
    assert known.all_inner_texts() == ["cool"]
    page.fill("#search", "zebra")
    assert known.count() == 0
    assert page.locator("#known-none").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    drop(page, ("a.png", PHOTO))
    expect(page.locator("#group .name")).to_have_text("cool")
    assert page.locator("#knows").is_hidden()


def test_what_a_model_without_groups_knows(opened, client):
    page = opened(client)
    expect(page.locator("#knows-summary")).to_have_text("This model knows 3 things: red, green, blue")
    page.click("#knows-summary")
    page.fill("#search", "RE")
    assert page.locator("#known li").all_inner_texts() == ["red", "green"]


def test_the_line_for_a_terminal_is_this_hosts(opened, client, tiny):
    page = opened(client)
    assert page.locator("#curl").inner_text() == f"curl -F file=@photo.jpg {client.base_url.join('/predict')}"
    with serving(tiny, path_prefix="/box") as prefixed:
        page = opened(prefixed, path="/box/")
        assert page.locator("#curl").inner_text().endswith(f"{prefixed.base_url.join('/box/predict')}")


def test_what_it_knows_once_there_is_a_key(opened, tiny):
    with serving(tiny, api_keys="0123456789abcdef") as client:
        page = opened(client, 401)
        expect(page.locator("#curl")).to_contain_text('curl -H "Authorization: Bearer $KEY" -F file=@photo.jpg http')
        drop(page, ("a.png", PHOTO))
        page.fill("#key", "0123456789abcdef")
        with page.expect_response("**/labels"):
            page.press("#key", "Enter")
        expect(page.locator("#labels .name").first).to_have_text("red")

"""The page on which classes are taught, used as people use it, in a real browser."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.conftest import serving
from tests.e2e.conftest import PHONE
from tests.http.test_teach import COLOURS, KEY, photo
from tests.photos import encode, solid


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty files of each class."""
    folder = tmp_path_factory.mktemp("pictures")
    made = {}
    for number, (name, colour) in enumerate(COLOURS.items()):
        made[name] = [folder / f"{name} {i}.png" for i in range(20)]
        for i, path in enumerate(made[name]):
            path.write_bytes(photo(colour, 100 * number + i))
    return made


def assert_accessible(page):
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    # Nor does anything stand beside a phone's screen.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def tab_to(page, selector):
    """Presses Tab until the keys are there."""
    for _ in range(60):
        if page.evaluate("selector => document.activeElement?.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no key leads to {selector}")


def titled(page, text):
    expect(page.locator("#photos-title")).to_have_text(text)


def test_two_classes_are_taught_on_a_phone_by_keyboard_alone(opened, tiny, tmp_path, pictures):
    with serving(tiny, teach=tmp_path / "bins") as client:
        page = opened(client, path="/teach", viewport=PHONE)
        page.wait_for_selector("#ready:not(:empty)")
        for name, files in pictures.items():
            tab_to(page, "#new-name")
            page.keyboard.type(name)
            page.keyboard.press("Enter")
            titled(page, f"2. {name}: 0 photos")
            tab_to(page, "#choose")
            with page.expect_file_chooser() as chooser:
                page.keyboard.press("Enter")
            chooser.value.set_files(files)
            titled(page, f"2. {name}: 20 photos")
        assert_accessible(page)

        # The last three by Shift, and one more by itself, to the other class; and back.
        tab_to(page, "#grid")
        for key in ("End", "Shift+ArrowLeft", "Shift+ArrowLeft"):
            page.keyboard.press(key)
        expect(page.locator("#selected")).to_have_text("3 selected")
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        expect(page.locator("#selected")).to_have_text("4 selected")
        assert page.locator("#grid").get_attribute("aria-activedescendant") == "photo-0"
        page.keyboard.press("1")
        titled(page, "2. full: 16 photos")
        page.keyboard.press("Control+z")
        titled(page, "2. full: 20 photos")
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        titled(page, "2. full: 0 photos")
        page.keyboard.press("Control+z")
        titled(page, "2. full: 20 photos")
        tab_to(page, "#grid")
        page.keyboard.press("Enter")
        expect(page.locator("#large")).to_be_visible()
        page.keyboard.press("Escape")

        tab_to(page, "#train")
        page.keyboard.press("Enter")
        expect(page.locator("#cancel")).to_be_visible()
        expect(page.locator("#use")).to_be_visible()
        expect(page.locator("#worth")).to_contain_text("95 % interval")
        assert page.evaluate("document.activeElement.id") == "result-title"
        assert_accessible(page)
        tab_to(page, "#use")
        page.keyboard.press("Enter")
        expect(page.locator("#back")).to_be_visible()
        assert client.post("/predict", content=pictures["full"][0].read_bytes()).json()["model"]["name"] == "bins"
        expect(page.locator("#worth")).to_contain_text("This model is served now.")
        tab_to(page, "#back")
        page.keyboard.press("Enter")
        expect(page.locator("#back")).to_be_hidden()
        assert client.get("/health").json()["model"]["name"] == "tiny"


def test_two_thousand_photos(opened, tiny, tmp_path):
    """Put there by hand; of them only those in view are in the document."""
    folder = tmp_path / "photos/many"
    folder.mkdir(parents=True)
    picture = encode(solid((9, 9, 200), (32, 32)), "JPEG")
    for i in range(2000):
        (folder / f"{i:04}.jpg").write_bytes(picture + b"%d" % i)
    with serving(tiny, teach=tmp_path) as client:
        # Scrolling past photos, their thumbnails are no more asked for.
        page = opened(client, path="/teach", viewport=PHONE)
        titled(page, "2. many: 2000 photos")
        assert 0 < page.locator(".cell").count() < 60
        page.focus("#grid")
        page.keyboard.press("End")
        last = page.locator("#photo-1999")
        expect(last).to_be_in_viewport()
        assert (last.get_attribute("aria-posinset"), last.get_attribute("aria-setsize")) == ("2000", "2000")
        expect(last.locator("img")).to_have_attribute("src", re.compile("blob:"))
        assert page.locator(".cell").count() < 60
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        titled(page, "2. many: 0 photos")
        assert len(list(tmp_path.glob("removed/many/*.jpg"))) == 2000


def test_the_camera_and_a_key(opened, tiny, tmp_path):
    with serving(tiny, teach=tmp_path, api_keys=KEY) as client:
        page = opened(client, 401, 409, 422, path="/teach", viewport=PHONE, color_scheme="dark")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.fill("#new-name", "bin")
        page.press("#new-name", "Enter")
        titled(page, "2. bin: 0 photos")
        page.click("#camera")
        for count in (1, 2):
            page.wait_for_selector("#snap:enabled")
            page.click("#snap")
            expect(page.locator("#taken")).to_have_text("1 added.")
            titled(page, f"2. bin: {count} photo{'s' * (count > 1)}")
        page.click("#close-camera")
        # What is refused is said in the service's words, as text.
        page.fill("#new-name", "BIN")
        page.press("#new-name", "Enter")
        expect(page.locator("#error-text")).to_contain_text("There is a class 'bin' already.")
        page.click("#rename")
        page.fill("#naming-name", "<b>bin</b> & Co")
        page.press("#naming-name", "Enter")
        expect(page.locator("#error-text")).to_contain_text("cannot name a class")
        page.click("#rename")
        page.fill("#naming-name", "<b>bin & Co")
        page.press("#naming-name", "Enter")
        titled(page, "2. <b>bin & Co: 2 photos")
        page.click("#remove-class")
        expect(page.locator("#photos-part")).to_be_hidden()
        page.keyboard.press("Control+z")
        titled(page, "2. <b>bin & Co: 2 photos")
        assert_accessible(page)

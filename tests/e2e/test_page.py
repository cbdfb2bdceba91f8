"""The web page, used as people use it, in a real browser."""

import base64
import contextlib
import csv
import io
import itertools
import json
import re
import threading

import pytest
from PIL import Image
from playwright.sync_api import expect

from app.registry.source import BUNDLED
from tests import tiny_model
from tests.conftest import SHARED, assert_problem, serving, worker_held
from tests.e2e.conftest import CHELSEA, DESKTOP, PHONE, PHOTOS
from tests.photos import encode, solid

DROP = """async ({ photos }) => {
  const transfer = new DataTransfer();
  for (const [name, type, text] of photos) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("#stage").dispatchEvent(
      new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
SEEN = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let [clear, strong] = [255, 0];
  for (let at = 3; at < pixels.length; at += 4) {
    clear = Math.min(clear, pixels[at]);
    strong = Math.max(strong, pixels[at]);
  }
  return [clear, strong];
}"""


def drop(page, *photos):
    """Drops ``(name, bytes)`` on the page."""
    page.evaluate(DROP, {"photos": [[name, "image/png", base64.b64encode(data).decode()] for name, data in photos]})


def labels(page) -> list[str]:
    page.wait_for_selector("#labels li")
    return page.locator("#labels .name").all_inner_texts()


def test_a_dropped_photo(opened, box):
    page = opened(box)
    drop(page, ("chelsea.png", CHELSEA.read_bytes()))
    # The classes of the best group.
    answer = box.post("/predict?view=groups", content=CHELSEA.read_bytes()).json()
    assert labels(page) == [prediction["label"] for prediction in answer["predictions"]]
    assert labels(page)[0] == "Egyptian cat"
    assert page.locator("#labels .score").first.inner_text() == f"{answer['predictions'][0]['score'] * 100:.1f} %"
    widths = page.eval_on_selector_all(
        ".bar", "bars => bars.map(b => parseFloat(getComputedStyle(b, '::before').width))"
    )
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 10 * widths[-1]
    assert page.locator("#model").inner_text().startswith("mobilenet_v2_1.0_224 · ")
    assert page.locator("#model").inner_text().endswith(" · int8 · 224\u00a0×\u00a0224")
    timing = page.locator("#timing").inner_text()
    assert all(f"{name}\n" in timing for name in ("Queue", "Decode", "Infer", "Round trip"))
    assert (
        page.locator("#announcer")
        .inner_text()
        .startswith(f"cat, {answer['groups'][0]['score'] * 100:.1f} %; Egyptian cat, ")
    )
    assert page.locator("#photo").evaluate("i => [i.naturalWidth, i.naturalHeight]") == [451, 300]


@pytest.mark.skipif(
    not (SHARED / "images").is_dir(), reason="the photos are not beside this checkout; chelsea is above"
)
def test_photos_of_things_that_the_model_knows(opened, box):
    page = opened(box)
    for photo in (
        sorted((SHARED / "images/imagenet").glob("*_espresso.JPEG"))[:1]
        + sorted((SHARED / "images/imagenet").glob("*_goldfish.JPEG"))[:1]
    ):
        page.set_input_files("#files", photo)
        expect(page.locator("#photo")).to_have_attribute("alt", re.compile(re.escape(photo.name) + ": "))
        assert labels(page)[0] in photo.name


def test_the_map(opened, box):
    page = opened(box)
    page.set_input_files("#files", CHELSEA)
    assert labels(page)[0] == "Egyptian cat"
    page.check("#show-map")
    page.wait_for_selector("#map", state="visible")
    clear, strong = page.locator("#map").evaluate(SEEN)
    assert clear < 60 < 200 < strong
    # It covers what the model sees: the largest centred square, and 0.875 of its sides.
    photo, map_ = page.locator("#photo").bounding_box(), page.locator("#map").bounding_box()
    side = 0.875 * photo["height"]
    assert map_["width"] == pytest.approx(side, abs=2)
    assert map_["height"] == pytest.approx(side, abs=2)
    assert map_["x"] - photo["x"] == pytest.approx((photo["width"] - side) / 2, abs=2)
    assert page.locator("#labels button[aria-pressed=true]").inner_text().startswith("Egyptian cat")
    first = page.locator("#map").evaluate("c => c.toDataURL()")
    page.click("#labels li:nth-child(4) button")
    expect(page.locator("#map-note")).to_contain_text(f"“{labels(page)[3]}”")
    assert page.locator("#map").evaluate("c => c.toDataURL()") != first
    assert page.locator("#labels button[aria-pressed=true]").count() == 1
    page.locator("#opacity").fill("30")
    assert page.locator("#map").evaluate("c => getComputedStyle(c).opacity") == "0.3"
    page.uncheck("#show-map")
    assert page.locator("#map").is_hidden()


def test_the_map_lies_where_the_evidence_is(opened, tiny):
    """The tiny model's evidence for red is where the picture is red."""
    picture = solid((0, 0, 250), (320, 200))
    picture.paste((250, 0, 0), (160, 0, 320, 100))
    with serving(tiny) as client:
        page = opened(client)
        drop(page, ("red.png", encode(picture, "PNG")))
        page.click("#labels button:has-text('red')")
        page.wait_for_selector("#map", state="visible")
        alphas = page.locator("#map").evaluate(
            """canvas => {
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              const { floor } = Math, { width, height } = canvas;
              const at = (x, y) => 4 * (floor(y * height) * width + floor(x * width)) + 3;
              return [[.2, .2], [.8, .2], [.2, .8], [.8, .8]].map((place) => data[at(...place)]);
            }"""
        )
        assert alphas[1] > 200
        assert max(alphas[0], alphas[2], alphas[3]) < 20


def test_a_model_without_maps_says_so(opened, tmp_path):
    with serving(tiny_model.write(tmp_path / "old.fp32.onnx", explainable=False)) as client:
        page = opened(client, 422)
        drop(page, ("red.png", encode(solid((250, 9, 9)), "PNG")))
        assert labels(page)[0] == "red"
        page.click(".switch")
        page.wait_for_selector("#show-map:disabled")
        assert page.locator("#map-note").inner_text()
        assert not page.is_checked("#show-map")


def test_a_pasted_photo(opened, box):
    page = opened(box, permissions=["clipboard-read", "clipboard-write"])
    text = base64.b64encode(CHELSEA.read_bytes()).decode()
    page.evaluate(
        """async (text) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const blob = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        text,
    )
    page.keyboard.press("Control+V")
    assert labels(page)[0] == "Egyptian cat"


def test_the_camera(opened, box):
    page = opened(box)
    page.click("#camera")
    expect(page.locator("#snap")).to_be_enabled()
    page.click("#snap")
    assert len(labels(page)) == 5
    assert page.locator("#caption").inner_text().startswith("camera ")
    assert page.locator("#viewfinder").is_hidden()
    assert page.evaluate("document.querySelector('#video').srcObject === null")


def test_where_no_camera_may_be_used_a_phone_still_offers_its_own(opened, box):
    page = opened(box, has_touch=True, is_mobile=True, viewport=PHONE)
    page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.reload()
    assert page.locator("#camera").is_hidden()
    with page.expect_file_chooser() as chooser:
        page.click("#shoot")
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(CHELSEA)
    assert labels(page)[0] == "Egyptian cat"


def seen_of(counts) -> list[str]:
    """What a counter said, each text once."""
    return [text for text, _ in itertools.groupby(counts.json_value())]


def test_a_list_of_photos(opened, box, tmp_path):
    page = opened(box, 415, 422)
    for number in range(28):
        Image.open(CHELSEA).rotate(number).save(tmp_path / f"{number:02}.jpg")
    (tmp_path / "=1+1, a note.txt").write_bytes(b"hello")
    (tmp_path / "half.png").write_bytes(CHELSEA.read_bytes()[:9000])
    files = sorted(tmp_path.iterdir())
    counts = page.evaluate_handle(
        """() => {
          const seen = [];
          new MutationObserver(() => seen.push(document.querySelector("#count").textContent))
            .observe(document.querySelector("#count"), { childList: true });
          return seen;
        }"""
    )
    page.set_input_files("#files", files)
    expect(page.locator("#count")).to_have_text("28 answered, 2 failed")
    seen = [
        dict(reversed(part.split()) for part in text.replace("to go", "left").split(", ")) for text in seen_of(counts)
    ]
    assert [int(one.get("answered", 0)) + int(one.get("failed", 0)) for one in seen] == list(range(31))
    assert [int(one.get("left", 0)) for one in seen] == list(range(30, -1, -1))
    assert page.locator("#progress").evaluate("p => p.value / p.max") == 1
    page.wait_for_selector("#cancel", state="hidden")
    assert page.locator("#announcer").inner_text() == "28 answered, 2 failed."
    failed = [file.name for file in files if file.suffix in (".txt", ".png")]
    shown = page.locator("#rows tr")
    assert shown.evaluate_all("rows => rows.map(row => row.className)") == ["failed"] * 2 + [""] * 28
    assert page.locator("#rows button").all_inner_texts() == failed + [f.name for f in files if f.name not in failed]

    expected = [box.post("/predict?view=groups", content=file.read_bytes()).json() for file in files]
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "labels.csv"
    text = download.value.path().read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.count("\r\n") == 31
    for file, row, answer in zip(files, rows, expected, strict=True):
        assert row["file"].removeprefix("'") == file.name
        if "predictions" in answer:
            best = answer["predictions"][0]
            assert (row["label"], row["id"], row["unknown"]) == (
                best["label"],
                best["id"],
                str(answer["unknown"]).lower(),
            )
            assert float(row["score"]) == pytest.approx(best["score"], abs=1e-6)
            assert (row["model"], row["error"]) == ("mobilenet_v2_1.0_224", "")
        else:
            assert (row["label"], row["error"]) == ("", answer["detail"])
    assert rows[-2]["file"] == "'=1+1, a note.txt"

    with page.expect_download() as download:
        page.click("#json")
    saved = json.loads(download.value.path().read_bytes())
    assert [row["file"] for row in saved] == [file.name for file in files]
    assert [row["predictions"] if "predictions" in row else row["problem"]["detail"] for row in saved] == [
        answer.get("predictions") or answer["detail"] for answer in expected
    ]

    page.click("#rows tr:nth-child(5) button")
    assert page.locator("#caption").inner_text() == "02.jpg"
    assert len(labels(page)) == 5


def test_a_list_can_be_cancelled(opened, box, tmp_path):
    page = opened(box)
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(CHELSEA.read_bytes())
    page.set_input_files("#files", sorted(tmp_path.iterdir()))
    page.click("#cancel")
    page.wait_for_selector("#cancel", state="hidden")
    assert "not done" in page.locator("#rows").inner_text()
    assert re.fullmatch(r"\d+ answered, \d+ to go", page.locator("#count").inner_text())
    page.click("#again")
    expect(page.locator("#count")).to_have_text("30 answered")
    assert page.locator("#again").is_hidden()
    assert page.locator("#rows tr.failed").count() == 0


def test_what_cannot_be_answered(opened, box, tiny):
    page = opened(box, 415)
    drop(page, ("note.txt", b"hello"))
    page.wait_for_selector("#error:visible")
    assert page.locator("#error-text").inner_text().startswith("This file is not a picture")
    page.click("#error-said summary")
    assert "The 5 bytes are not an image" in page.locator("#error-said p").inner_text()
    assert page.locator("#unseen").is_visible()
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.setData("text/plain", "https://example.org/cat.jpg");
          const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", how));
        }"""
    )
    assert "That was no file" in page.locator("#error").inner_text()
    drop(page, ("chelsea.png", CHELSEA.read_bytes()))
    assert labels(page)[0] == "Egyptian cat"
    assert page.locator("#error").is_hidden()


def test_a_file_that_is_too_large(opened, tiny):
    with serving(tiny, max_body_bytes=1_000_000) as client:
        page = opened(client, 413)
        drop(page, ("large.png", b"\x89PNG" + bytes(3_000_000)))
        page.wait_for_selector("#error:visible")
        assert "too large" in page.locator("#error-text").inner_text()


def again_at(client, tiny):
    """The service once more, where it was."""
    return serving(tiny, port=client.base_url.port)


def test_a_service_that_is_gone_is_waited_for(opened, tiny):
    with serving(tiny) as client:
        page = opened(client)
        expect(page.locator("#model")).to_contain_text(" · ")
    drop(page, ("red.png", encode(solid((250, 9, 9)), "PNG")))
    expect(page.locator("#waiting")).to_have_text("The service is away; waiting.")
    assert page.locator("#error").is_hidden()
    with again_at(client, tiny):
        assert labels(page)[0] == "red"
        assert page.locator("#waiting").is_hidden()


def test_a_list_loses_nothing_while_the_service_restarts(opened, tiny):
    red = encode(solid((250, 9, 9)), "PNG")
    with serving(tiny) as client:
        page = opened(client, 503)
        # Every request passes a gate, so that the restart comes in the middle.
        gate, passed = threading.Event(), []

        def slowly(route):
            passed.append(route)
            if len(passed) > 4 and not gate.is_set():
                held.append(route)
            else:
                route.continue_()

        held = []
        page.route("**/predict?view=groups", slowly)
        drop(page, *((f"{number}.png", red) for number in range(12)))
        expect(page.locator("#count")).to_have_text("4 answered, 8 to go")
    gate.set()
    for route in held:
        route.continue_()
    expect(page.locator("#batch-note")).to_have_text("The service is away; waiting.")
    assert page.locator("#announcer").inner_text() == "The service is away; waiting."
    assert page.locator("#count").inner_text() == "4 answered, 8 to go"
    with again_at(client, tiny):
        expect(page.locator("#count")).to_have_text("12 answered")
        expect(page.locator("#batch-note")).to_have_text("")
        assert page.locator("#rows td:nth-child(2)").all_inner_texts() == ["red"] * 12


def test_what_failed_is_tried_again(opened, tiny):
    red = encode(solid((250, 9, 9)), "PNG")
    with serving(tiny) as client:
        page = opened(client, 500)
        refused, number = {2, 5}, itertools.count()

        def now_and_then(route):
            problem = {"type": "urn:edge-classifier:problem:internal-error", "detail": "A mistake.", "request_id": "x1"}
            if next(number) in refused:
                route.fulfill(status=500, json=problem, content_type="application/problem+json")
            else:
                route.continue_()

        page.route("**/predict?view=groups", now_and_then)
        drop(page, *((f"{number}.png", red) for number in range(6)))
        expect(page.locator("#count")).to_have_text("4 answered, 2 failed")
        first = page.locator("#rows tr").first
        assert "failed" in first.get_attribute("class")
        first.locator("button").click()
        assert page.locator("#error-text").inner_text().startswith("The service made a mistake with this picture.")
        page.click("#error-said summary")
        assert page.locator("#error-said p").inner_text() == "A mistake. Request x1."
        # One by itself, then the rest.
        page.click("#retry")
        assert labels(page)[0] == "red"
        expect(page.locator("#count")).to_have_text("5 answered, 1 failed")
        page.click("#again")
        expect(page.locator("#count")).to_have_text("6 answered")
        assert page.locator("#rows button").all_inner_texts() == [f"{number}.png" for number in range(6)]
        assert next(number) == 8


def problem(slug: str, detail: str = "The service's own words.") -> dict:
    body = {"type": f"urn:edge-classifier:problem:{slug}", "title": slug, "detail": detail, "request_id": "x1"}
    return {"body": json.dumps(body), "content_type": "application/problem+json"}


HTML = {"body": "<html><h1>413 Request Entity Too Large</h1>nginx</html>", "content_type": "text/html"}


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (413, HTML, "too large"),
        (413, problem("body-too-large"), "too large"),
        (413, problem("too-many-pixels"), "more pixels"),
        (415, problem("not-an-image"), "not a picture"),
        (415, problem("not-an-image", "The 9 bytes are a HEIC photo, which ..."), "iPhone"),
        (415, problem("something-new"), "not a picture"),
        (422, problem("broken-image"), "damaged"),
        (421, problem("unknown-host"), "address"),
        (400, problem("malformed-body"), "error 400"),
        (403, HTML, "does not let"),
        (404, HTML, "Reload"),
        (500, problem("internal-error"), "made a mistake"),
        (500, HTML, "error 500"),
        # The service behind it is there, as the probe says; so it is this photo.
        (504, HTML, "gets no answer"),
    ],
)
def test_errors_are_told_in_a_persons_words(opened, box, status, answer, words):
    page = opened(box, status)
    page.clock.install()
    page.route("**/predict?view=groups", lambda route: route.fulfill(status=status, **answer))
    drop(page, ("a.png", b"not empty"))
    while page.locator("#error-text").inner_text() == "":
        page.clock.run_for(500)
    said = page.locator("#error").inner_text()
    assert words in said
    assert not re.search(r"urn:|undefined|null|\[object|<|problem|JSON", said), said
    if answer is not HTML:
        page.click("#error-said summary")
        assert page.locator("#error-said p").inner_text() == json.loads(answer["body"])["detail"] + " Request x1."
    else:
        assert page.locator("#error-said").is_hidden()


def test_an_empty_file_and_a_folder(opened, box):
    page = opened(box, 400)
    drop(page, ("empty.png", b""))
    expect(page.locator("#error-text")).to_have_text("This file is empty. Choose another one.")


def test_an_error_ends_with_what_it_is_about(opened, box):
    page = opened(box, 415)
    drop(page, ("note.txt", b"hello"))
    page.wait_for_selector("#error:visible")
    chelsea = ("chelsea.png", CHELSEA.read_bytes())
    drop(page, chelsea, chelsea)
    assert page.locator("#error").is_hidden()
    assert page.locator("#figure").is_hidden()
    expect(page.locator("#count")).to_have_text("2 answered")
    drop(page, ("note.txt", b"hello"))
    page.wait_for_selector("#error:visible")
    drop(page, chelsea)
    assert labels(page)[0] == "Egyptian cat"
    assert page.locator("#error").is_hidden()


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "after a photo"])
def test_on_a_phone_the_list_is_in_view(opened, box, tmp_path, before):
    page = opened(box, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(CHELSEA.read_bytes())
    if before:
        page.set_input_files("#files", CHELSEA)
        assert labels(page)[0] == "Egyptian cat"
    page.set_input_files("#files", sorted(tmp_path.iterdir()))
    for state in ("to go", "20 answered"):
        expect(page.locator("#count")).to_contain_text(state)
        for part in ("#batch-title", "#count", "#rows tr:nth-child(3)"):
            expect(page.locator(part)).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.activeElement.id") == "batch-title"
    page.click("#rows tr:nth-child(2) button")
    expect(page.locator("#photo")).to_be_in_viewport()


COUNTING = """
  window.live = new Set();
  const [make, revoke, decode] = [URL.createObjectURL, URL.revokeObjectURL, createImageBitmap];
  URL.createObjectURL = (blob) => { const url = make(blob); live.add(url); return url; };
  URL.revokeObjectURL = (url) => { live.delete(url); revoke(url); };
  window.decoding = { now: 0, most: 0, whole: 0, all: 0 };
  window.createImageBitmap = async (file, options) => {
    decoding.all += 1;
    decoding.whole += !options?.resizeWidth;
    decoding.most = Math.max(decoding.most, ++decoding.now);
    try { return await decode(file, options); } finally { decoding.now -= 1; }
  };
"""


def test_small_pictures_cost_a_phone_little(opened, box, tmp_path):
    """One photo is decoded at a time, scaled; rows out of view have none; no photo stays in memory by its URL."""
    page = opened(box, viewport=PHONE)
    page.add_init_script(COUNTING)
    page.reload()
    for number in range(200):
        (tmp_path / f"{number:03}.png").write_bytes(encode(solid((number, 9, 250 - number), (40, 30)), "PNG"))
    page.set_input_files("#files", sorted(tmp_path.iterdir()))
    expect(page.locator("#count")).to_have_text("200 answered")
    expect(page.locator("#rows tr:nth-child(1) canvas")).to_be_visible()
    assert page.locator("#rows canvas").count() < 40
    middle = "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    assert page.locator("#rows tr:nth-child(2) canvas").evaluate(middle) == [1, 9, 249, 255]
    page.locator("#rows tr:nth-child(200)").scroll_into_view_if_needed()
    expect(page.locator("#rows tr:nth-child(200) canvas")).to_be_visible()
    for row in (200, 150, 100):
        page.locator(f"#rows tr:nth-child({row}) button").click()
        assert len(labels(page)) == 5
    assert page.evaluate("live.size") == 1
    counted = page.evaluate("decoding")
    assert (counted["now"], counted["most"], counted["whole"]) == (0, 1, 0)
    assert counted["all"] < 150


def test_names_and_labels_are_text(opened, tmp_path):
    label = "<img src=x onerror=alert(1)>"
    path = tiny_model.write(tmp_path / "x.fp32.onnx", tiny_model.contract(labels=(label, "b", "c"), unknown_below=1.0))
    with serving(path) as client:
        page = opened(client)
        drop(page, ("<b>red</b>.png", encode(solid((250, 9, 9)), "PNG")))
        assert labels(page)[0] == label
        assert page.locator("#caption").inner_text() == "<b>red</b>.png"
        assert page.locator("main b, main li img").count() == 0
        assert page.locator("#unknown").is_visible()
        assert page.locator("#announcer").inner_text().startswith("Unknown. ")


@contextlib.contextmanager
def full(client):
    """The one worker of a service is taken, for longer than its budget allows."""
    with worker_held(client):
        assert client.post("/predict", content=b"x").status_code == 503
        yield


def test_a_busy_service_is_asked_again(opened, tiny):
    red = encode(solid((250, 9, 9)), "PNG")
    with serving(tiny, workers=1, queue_budget_ms=1) as client:
        page = opened(client, 503)
        with full(client):
            drop(page, ("red.png", red))
            expect(page.locator("#waiting")).to_have_text(re.compile("The service is busy. Trying again in \\d+ s."))
        assert labels(page)[0] == "red"
        with full(client):
            drop(page, *((f"{number}.png", red) for number in range(3)))
            expect(page.locator("#rows")).to_contain_text("busy, again in")
        expect(page.locator("#count")).to_have_text("3 answered")
        assert page.locator("#rows td:nth-child(2)").all_inner_texts() == ["red"] * 3


def test_a_key_is_asked_for_where_one_is_wanted(opened, box):
    page = opened(box, 401)
    sent = []

    def gate(route):
        """What stands before the service and lets nobody pass without the key."""
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"title": "Unauthorized", "status": 401, "detail": "No API key."})

    page.route("**/predict?view=groups", gate)
    page.set_input_files("#files", CHELSEA)
    page.wait_for_selector("#key-form:visible")
    page.keyboard.type("open sesame")
    page.keyboard.press("Enter")
    assert labels(page)[0] == "Egyptian cat"
    assert page.locator("#key-form").is_hidden()
    page.set_input_files("#files", [CHELSEA, PHOTOS / "coffee.png"])
    expect(page.locator("#count")).to_have_text("2 answered")
    assert sent == [None, *["Bearer open sesame"] * 3]


def test_a_key_that_is_refused_is_asked_for_again(opened, tiny):
    red = encode(solid((250, 9, 9)), "PNG")
    with serving(tiny, api_keys="0123456789abcdef") as client:
        page = opened(client, 401)
        drop(page, *((f"{number}.png", red) for number in range(3)))
        for label, key in (("asks for an API key", "wrong"), ("does not know this API key", "0123456789abcdef")):
            expect(page.locator("#key-label")).to_contain_text(label)
            expect(page.locator("#key")).to_be_focused()
            page.keyboard.type(key)
            page.keyboard.press("Enter")
        expect(page.locator("#count")).to_have_text("3 answered")


def test_recent_photos_come_back(opened, box):
    page = opened(box)
    page.set_input_files("#files", CHELSEA)
    assert labels(page)[0] == "Egyptian cat"
    page.set_input_files("#files", PHOTOS / "coffee.png")
    page.wait_for_selector("#history li:nth-child(2)")
    assert labels(page)[0] == "espresso"
    before = len(page.evaluate("performance.getEntriesByType('resource').filter(e => e.name.includes('predict'))"))
    page.click("#history li:nth-child(2) button")
    assert labels(page)[0] == "Egyptian cat"
    after = len(page.evaluate("performance.getEntriesByType('resource').filter(e => e.name.includes('predict'))"))
    assert before == after == 2
    assert page.locator("#history canvas").first.evaluate(SEEN)[1] == 255


def test_a_photo_that_lies_on_its_side_is_shown_upright(opened, box):
    exif = Image.Exif()
    exif[0x0112] = 6
    page = opened(box)
    drop(page, ("side.jpg", encode(Image.open(CHELSEA).rotate(90, expand=True), "JPEG", exif=exif)))
    assert labels(page)[0] in ("tabby", "Egyptian cat")
    box_ = page.locator("#photo").bounding_box()
    assert box_["width"] / box_["height"] == pytest.approx(451 / 300, abs=0.02)


def test_with_the_keyboard_alone(opened, box):
    page = opened(box)
    expect(page.locator("#model")).to_contain_text(" · ")

    def tab_to(selector):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outline")
                assert "3px" in outline, (selector, outline)
                return
        raise AssertionError(f"{selector} cannot be reached")

    tab_to("#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(CHELSEA)
    assert labels(page)[0] == "Egyptian cat"
    page.wait_for_selector("#history li")
    tab_to("#labels li:nth-child(2) button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#map", state="visible")
    tab_to("#show-map")
    tab_to("#opacity")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#map").evaluate("c => getComputedStyle(c).opacity") == "0.79"
    tab_to("#history button")
    page.keyboard.press("Space")
    assert labels(page)[0] == "Egyptian cat"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everybody_can_use_it(opened, box, scheme, viewport):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(box, 415, color_scheme=scheme, viewport=viewport)

    def sound(context=None):
        found = Axe().run(page, context).response["violations"]
        assert [
            (v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")
        ] == []

    sound()
    page.set_input_files("#files", [CHELSEA, PHOTOS / "coffee.png", PHOTOS / "README.txt"])
    page.wait_for_selector("#cancel", state="hidden")
    page.set_input_files("#files", CHELSEA)
    assert labels(page)[0] == "Egyptian cat"
    page.check("#show-map")
    page.wait_for_selector("#map", state="visible")
    page.wait_for_selector("#history li")
    sound()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    page.set_input_files("#files", PHOTOS / "README.txt")
    page.wait_for_selector("#error:visible")
    sound()


def test_it_can_be_switched_off(tiny):
    with serving(tiny, ui="off") as client:
        for path in ("/", "/docs", "/page/page.js"):
            assert_problem(client.get(path), 404, "not-found")


def test_the_documentation_tries_things_out(opened, box):
    page = opened(box, path="/docs")
    operation = page.locator("#operations-predict-predict_predict_post")
    operation.locator(".opblock-summary-control").click()
    operation.locator("input[type=file]").set_input_files(CHELSEA)
    with page.expect_response("**/predict?*") as response:
        operation.locator(".execute").click()
    assert response.value.status == 200
    assert response.value.json()["predictions"][0]["label"] == "Egyptian cat"
    operation.locator(".live-responses-table").wait_for()


@contextlib.contextmanager
def behind_a_proxy(left_on: bool):
    """The service under /classifier: told so and reached with the prefix, or untold and reached without it."""
    (model,) = BUNDLED.glob("*.onnx")
    with serving(model, **({"path_prefix": "/classifier"} if left_on else {})) as client:
        config = client.server.config
        app, outside = config.loaded_app, []

        async def proxy(scope, receive, send):
            if not re.match("/classifier(/|$)", scope["path"]):
                outside.append(scope["path"])
            if not left_on:
                scope["path"] = scope["path"].removeprefix("/classifier")
            await app(scope, receive, send)

        config.loaded_app = proxy
        yield client
        assert outside == []


@pytest.mark.parametrize("left_on", [True, False], ids=["left on", "taken away"])
def test_behind_a_path_prefix(opened, left_on):
    with behind_a_proxy(left_on) as client:
        # The proxies that take it away redirect by themselves.
        page = opened(client, 308, path="/classifier" if left_on else "/classifier/")
        expect(page.locator("#model")).to_contain_text("mobilenet_v2")
        assert page.url == str(client.base_url.join("/classifier/"))
        page.set_input_files("#files", CHELSEA)
        assert labels(page)[0] == "Egyptian cat"
        page.click("nav a:visible")
        operation = page.locator("#operations-predict-predict_predict_post")
        operation.locator(".opblock-summary-control").click()
        operation.locator("input[type=file]").set_input_files(CHELSEA)
        with page.expect_response("**/predict?*") as response:
            operation.locator(".execute").click()
        assert response.value.status == 200
        operation.locator(".live-responses-table").wait_for()

"""Teaching over a real socket: from classes to a model that answers, and what is refused on the way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import SettingsError
from app.main import create_app
from app.settings import Settings
from app.teaching import photos as photos_module
from app.teaching.trainer import Trainer
from tests import tiny_model
from tests.conftest import ROOT, assert_problem, serving, wait_until
from tests.internals import training_process
from tests.photos import encode, png_bomb, solid
from tests.processes import COMMANDS, failure, free_port, start, until_ready

COLOURS = {"empty": (40, 60, 200), "full": (210, 50, 40)}
KEY = "the-kitchen-camera-1"
JPEG = encode(solid((200, 40, 40)), "JPEG")


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


def counts(client) -> dict[str, int]:
    return {one["label"]: one["photos"] for one in state(client)["classes"]}


def ids_of(client, **query) -> list[str]:
    return [one["id"] for one in client.get("/teach/photos", params=query).json()["photos"]]


def trained(client) -> dict:
    """Trains to the end; what came of it."""
    answer = client.post("/teach/train")
    assert answer.status_code == 200, answer.text
    wait_until(lambda: state(client)["training"] is None, 120)
    return client.get(f"/teach/trainings/{answer.json()['training']}").json()


@pytest.fixture
def teach(tiny, tmp_path):
    with serving(tiny, teach=tmp_path / "bins", max_body_bytes=1_000_000, max_pixels=4_000_000) as client:
        client.folder = tmp_path / "bins"
        yield client


# The whole way.


def test_from_classes_to_a_model_and_back(tiny, tmp_path):
    folder = tmp_path / "bins"
    full = photo(COLOURS["full"], 999)
    with serving(tiny, teach=folder) as client:
        fill(client)
        found = trained(client)
        assert found["outcome"] == "done", found
        assert found["labels"] == ["empty", "full"]
        measured = found["measured"]
        assert measured["accuracy"] > 0.8
        assert measured["interval"][0] <= measured["accuracy"] <= measured["interval"][1]
        # As many as the figure says: each photo that was wrong is named.
        wrong = round(sum((1 - row["accuracy"]) * row["photos"] for row in measured["classes"]))
        assert len(found["doubts"]) == sum(one["count"] for one in found["confusions"])
        assert bool(found["doubts"]) == bool(wrong)
        # The tiny model knows colours, and none of these classes.
        assert found["compared"]["knows"] is False
        said = {row["label"]: row["said"][0]["label"] for row in found["compared"]["answers"]}
        assert said == {"empty": "blue", "full": "red"}

        used = client.post("/teach/use", json={"training": 1})
        assert used.status_code == 200, used.text
        assert (used.json()["outcome"], used.json()["model"]["name"]) == ("swapped", "bins")
        answer = client.post("/predict", content=full).json()
        assert (answer["model"]["name"], answer["predictions"][0]["label"]) == ("bins", "full")
        assert (state(client)["served"], state(client)["can_go_back"]) == (1, True)
        assert_problem(client.post("/teach/use", json={"training": 1}), 409, "conflict")

        # A second one: of the photos that the served model has not learned from, both are told.
        for number, (label, colour) in enumerate(COLOURS.items()):
            for i in range(3):
                add(client, label, photo(colour, 5000 + 100 * number + i))
        compared = trained(client)["compared"]
        assert (compared["knows"], compared["photos"], compared["learned"]) == (True, 6, 12)
        assert 0 <= compared["served_right"] <= 6
        assert 0 <= compared["new_right"] <= 6
    # After a restart the model that was chosen is served, and there is a way back all the same.
    with serving(tiny, teach=folder) as client:
        assert client.get("/health").json()["model_source"] == "taught in the browser"
        assert client.post("/predict", content=full).json()["predictions"][0]["label"] == "full"
        assert client.post("/teach/back").json()["model"]["name"] == "tiny"
        assert client.post("/predict", content=full).json()["predictions"][0]["label"] == "red"
        assert (state(client)["served"], state(client)["can_go_back"]) == (None, False)
        assert_problem(client.post("/teach/back"), 409, "no-previous-model")
        # From memory, at once, when nothing was restarted between.
        assert client.post("/teach/use", json={"training": 2}).status_code == 200
        assert client.post("/teach/use", json={"training": 1}).status_code == 200
        assert client.post("/teach/back").json()["outcome"] == "rolled back"
        assert state(client)["served"] == 2
        assert client.post("/teach/back").json()["model"]["name"] == "tiny"
        model = client.get("/teach/trainings/1/model")
        assert model.headers["content-disposition"] == 'attachment; filename="bins.fp32.onnx"'
        assert model.content == (folder / "runs/0001/bins.fp32.onnx").read_bytes()


def test_the_folder_is_the_command_lines(teach):
    """Photos put there by hand, under names of their own, are shown, and those that came over HTTP are plain files."""
    fill(teach, 2)
    by_hand = teach.folder / "photos" / "by hand"
    by_hand.mkdir()
    (by_hand / "IMG 0001.jpeg").write_bytes(JPEG)
    (by_hand / "notes.txt").write_text("not a photo")
    assert counts(teach) == {"by hand": 1, "empty": 2, "full": 2}
    (id_,) = ids_of(teach, label="by hand")
    small = teach.get(f"/teach/photos/{id_}")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(small.content)).size == (64, 48)
    moved = teach.post("/teach/photos/move", json={"photos": [id_], "to": "full"}).json()["moved"]
    assert moved == [{"id": id_, "before": "by hand"}]
    assert (teach.folder / "photos/full/IMG 0001.jpeg").read_bytes() == JPEG
    assert len(list((teach.folder / "photos/empty").glob("*.png"))) == 2


def test_nothing_is_there_where_it_is_off(client):
    for path in ("/teach", "/teach/state", "/page/teach/teach.js"):
        assert_problem(client.get(path), 404, "not-found")
    assert not any(path.startswith("/teach") for path in client.get("/openapi.json").json()["paths"])
    assert 'href="teach" hidden' in client.get("/").text


def test_the_page_and_its_link(teach):
    assert teach.get("/teach").headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert 'href="teach" hidden' not in teach.get("/").text
    assert 'href="teach"' in teach.get("/").text
    assert_problem(teach.get("/page/teach/teach.html"), 404, "not-found")


def test_a_start_without_the_feature_imports_none_of_it():
    program = (
        "import sys; from app.main import create_app; from app.settings import Settings; create_app(Settings()); "
        "print([name for name in sys.modules if 'teach' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Classes and photos.


def test_names_that_are_taken(teach):
    for given, made in {
        "full": "full",
        "  Altglas \n grün ": "Altglas grün",
        "📦 parcel": "📦 parcel",
        "a\u0308": "ä",
        "=1+1": "=1+1",
        "-rf": "-rf",
        "'; drop table": "'; drop table",
        "x" * 60: "x" * 60,
    }.items():
        assert teach.post("/teach/classes", json={"label": given}).json() == {"label": made}
        assert (teach.folder / "photos" / made).is_dir()


NO_NAMES = [
    *("..", ".", "../up", "a/b", "a\\b", "/etc", ".hidden", "C:", "a\0b", "a\u202eb", "\ud800"),
    *("x" * 61, "😀" * 50, "   ", "train", "Test", "lost+found", "__MACOSX"),
]


def test_names_that_are_not(teach):
    """Nor by way of a class that is there."""
    teach.post("/teach/classes", json={"label": "a"})
    for name in NO_NAMES:
        for path, sent in (
            ("", {"label": name}),
            ("/rename", {"label": "a", "to": name}),
            ("/rename", {"label": name, "to": "b"}),
            ("/remove", {"label": name}),
        ):
            # The client would not write half a character.
            answer = teach.post(f"/teach/classes{path}", content=json.dumps(sent).encode())
            assert answer.status_code in (400, 404, 422), (name, path, answer.text)
            assert len(answer.content) < 1000
        label = name.encode(errors="replace")
        assert teach.post("/teach/photos", params={"label": label}, content=JPEG).status_code in (404, 422)
    assert [path.name for path in (teach.folder / "photos").iterdir()] == ["a"]


def test_classes_are_renamed_and_removed_and_come_back(teach):
    ids = fill(teach, 2)
    assert_problem(teach.post("/teach/classes", json={"label": "Full"}), 409, "conflict")
    assert_problem(teach.post("/teach/classes/rename", json={"label": "full", "to": "EMPTY"}), 409, "conflict")
    assert teach.post("/teach/classes/rename", json={"label": "full", "to": "Full"}).json() == {"label": "Full"}
    assert counts(teach) == {"empty": 2, "Full": 2}
    assert_problem(teach.post("/teach/classes/rename", json={"label": "full", "to": "x"}), 404, "not-there")
    moved = teach.post("/teach/classes/remove", json={"label": "Full"}).json()["moved"]
    assert {one["id"] for one in moved} == set(ids["full"])
    assert {one["before"] for one in moved} == {"Full"}
    assert (counts(teach), state(teach)["removed"]) == ({"empty": 2}, 2)
    assert set(ids_of(teach, place="removed")) == set(ids["full"])
    teach.post("/teach/classes", json={"label": "Full"})
    back = teach.post("/teach/photos/move", json={"photos": ids["full"], "to": "Full"})
    assert [one["before"] for one in back.json()["moved"]] == [None, None]
    assert (counts(teach), state(teach)["removed"]) == ({"empty": 2, "Full": 2}, 0)


def test_moves_are_all_or_none(teach):
    ids = fill(teach, 3)
    every = [*ids["full"], "0" * 32]
    assert_problem(teach.post("/teach/photos/move", json={"photos": every, "to": "empty"}), 404, "not-there")
    assert_problem(teach.post("/teach/photos/move", json={"photos": ids["full"], "to": "../x"}), 404, "not-there")
    assert_problem(teach.post("/teach/photos/move", json={"photos": [], "to": None}), 422, "invalid-parameter")
    assert_problem(teach.post("/teach/photos/move", json={"photos": ["../x"], "to": None}), 422, "invalid-parameter")
    assert_problem(teach.post("/teach/photos/move", content=b"{"), 400, "malformed-body")
    assert counts(teach) == {"empty": 3, "full": 3}
    # What is there already is not moved, and a photo that is named twice moves once.
    moved = teach.post("/teach/photos/move", json={"photos": [*ids["full"], *ids["full"]], "to": "full"})
    assert moved.json() == {"moved": []}


def test_the_same_photo_is_kept_once(teach):
    fill(teach, 0)
    first = add(teach, "full", JPEG)
    # Also with what some cameras send before it.
    again = add(teach, "empty", b"\r\n\r\n" + JPEG)
    assert (first["added"], again["added"]) == (True, False)
    assert again["photo"]["label"] == "full"
    assert counts(teach) == {"empty": 0, "full": 1}


def test_what_is_no_photo_is_not_kept(teach):
    fill(teach, 0)
    for data, status, slug in (
        (b"rubbish", 415, "unsupported-body"),
        (b"\0rubbish", 415, "not-an-image"),
        (b"", 400, "malformed-body"),
        (JPEG[: len(JPEG) // 2], 422, "broken-image"),
        (png_bomb(), 413, "too-many-pixels"),
        (b"\xff" * 1_100_000, 413, "body-too-large"),
        (b"<svg onload=alert(1)>", 415, "unsupported-body"),
    ):
        # As curl -d would name it.
        answer = teach.post("/teach/photos?label=full", content=data, headers={"content-type": "text/plain"})
        assert_problem(answer, status, slug)
    assert counts(teach) == {"empty": 0, "full": 0}
    assert not [path for path in teach.folder.rglob("*") if path.is_file()]


def test_a_photo_is_never_sent_back_as_it_came(teach):
    """Its metadata, and whatever else is in its file, stay here."""
    fill(teach, 0)
    added = add(teach, "full", JPEG + b"<script>alert(1)</script>")
    for size in ("small", "large"):
        answer = teach.get(f"/teach/photos/{added['photo']['id']}?size={size}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"script" not in answer.content
    assert_problem(teach.get("/teach/photos/..%2f..%2fserved.json"), 404, "not-found")
    assert_problem(teach.get(f"/teach/photos/{'0' * 32}"), 404, "not-there")


def test_two_browsers_at_once(teach):
    """Whoever comes second is told, and no photo is lost or there twice."""
    ids = fill(teach, 4)

    async def both():
        import httpx

        async with httpx.AsyncClient(base_url=teach.base_url, timeout=30) as client:
            calls = [
                *(client.post("/teach/photos/move", json={"photos": ids["full"], "to": "empty"}) for _ in range(4)),
                *(client.post("/teach/classes", json={"label": "third"}) for _ in range(4)),
                *(client.post("/teach/photos?label=empty", content=JPEG) for _ in range(4)),
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(both())
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [409] * 3
    assert counts(teach) == {"empty": 9, "full": 0, "third": 0}


# Limits.


def test_a_quota(tiny, tmp_path):
    with serving(tiny, teach=tmp_path, teach_max_mb=1) as client:
        client.post("/teach/classes", json={"label": "noise"})
        random = np.random.default_rng(0)
        noise = [encode(Image.fromarray(random.integers(0, 256, (300, 300, 3), np.uint8)), "PNG") for _ in range(4)]
        first, *_ = kept = [add(client, "noise", data)["photo"]["id"] for data in noise[:3]]
        answer = client.post("/teach/photos?label=noise", content=noise[3])
        assert "CLASSIFIER_TEACH_MAX_MB" in assert_problem(answer, 507, "storage-full")
        assert (counts(client), ids_of(client, place="removed")) == ({"noise": 3}, [])
        # What was removed makes room.
        client.post("/teach/photos/move", json={"photos": [first], "to": None})
        assert add(client, "noise", noise[3])["added"]
        assert (counts(client), ids_of(client, place="removed")) == ({"noise": 3}, [])
        assert set(kept[1:]) < set(ids_of(client, label="noise"))


def test_removed_photos_are_kept_for_some_days(teach, monkeypatch):
    ids = fill(teach, 2)
    teach.post("/teach/photos/move", json={"photos": ids["full"], "to": None})
    assert state(teach)["removed"] == 2
    later = photos_module.time.time() + 29 * 86_400
    monkeypatch.setattr(photos_module.time, "time", lambda: later)
    assert state(teach)["removed"] == 2
    monkeypatch.setattr(photos_module.time, "time", lambda: later + 2 * 86_400)
    assert (state(teach)["removed"], counts(teach)) == (0, {"empty": 2, "full": 0})
    assert not list((teach.folder / "removed").rglob("*.png"))


def test_many_classes(teach, monkeypatch):
    monkeypatch.setattr(photos_module, "MOST_CLASSES", 20)
    answers = [teach.post("/teach/classes", json={"label": f"class {i}"}).status_code for i in range(21)]
    assert answers == [200] * 20 + [409]


def test_a_full_disk(teach, monkeypatch):
    """As a disk says it: nothing is lost, nothing is half there, and the answer says so."""
    fill(teach, 1)

    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(photos_module.os, "fsync", full)
        answer = teach.post("/teach/photos?label=full", content=JPEG)
        assert "full; nothing was lost" in assert_problem(answer, 507, "storage-full")
        assert_problem(teach.post("/teach/train"), 409, "conflict")
    assert counts(teach) == {"empty": 1, "full": 1}
    assert not list(teach.folder.rglob(".partial*"))
    assert add(teach, "full", JPEG)["added"]


def test_a_folder_that_cannot_be_used_ends_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    said = failure(COMMANDS["module"], teach=tmp_path / "file")
    assert "CLASSIFIER_TEACH: " in said
    with pytest.raises(SettingsError, match=r"CLASSIFIER_TEACH: .* cannot be written to"):
        create_app(Settings(teach=Path("/proc/nothing/here")))


# Who may.


def test_no_other_page_may_teach(teach):
    host = f"{teach.base_url.host}:{teach.base_url.port}"
    made = 0
    for headers, let_in in (
        ({}, True),
        ({"origin": f"http://{host}"}, True),
        ({"sec-fetch-site": "same-origin", "origin": f"https://{host}"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": f"http://{host}.evil.example"}, False),
        ({"origin": f"http://{host}", "sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:1"}, False),
        # DNS rebinding: to the browser, this page and the service are one.
        ({"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"}, False),
        ({"host": "gateway.local", "origin": "http://gateway.local"}, True),
        ({"host": "gateway:8000", "origin": "http://gateway:8000"}, True),
    ):
        made += let_in
        # As a form of another page would send it.
        sent = {"content": json.dumps({"label": f"class {made}"}), "headers": {"content-type": "text/plain", **headers}}
        for answer in (teach.post("/teach/classes", **sent), teach.get("/teach/state", headers=headers)):
            if let_in:
                assert answer.status_code == 200, headers
            else:
                assert_problem(answer, 403, "cross-site")
    assert len(counts(teach)) == made


def test_a_name_that_is_listed_or_a_key(tiny, tmp_path):
    host = {"host": "gateway.example.com"}
    with serving(tiny, teach=tmp_path / "a", allowed_hosts="gateway.example.com") as client:
        assert client.get("/teach/state", headers=host).status_code == 200
    with serving(tiny, teach=tmp_path / "b", api_keys=KEY) as client:
        assert client.get("/teach").status_code == 200
        assert_problem(client.get("/teach/state", headers=host), 401, "unauthorized")
        assert client.get("/teach/state", headers={**host, "x-api-key": KEY}).status_code == 200


# Trainings that do not go well.


def test_too_few_photos(teach):
    assert "two classes" in assert_problem(teach.post("/teach/train"), 409, "conflict")
    fill(teach, 4)
    assert "'empty' has 4" in assert_problem(teach.post("/teach/train"), 409, "conflict")
    # A class that is none does not count as one of two.
    teach.post("/teach/classes/rename", json={"label": "full", "to": "unknown"})
    assert "there are 1" in assert_problem(teach.post("/teach/train"), 409, "conflict")
    assert state(teach)["runs"] == []


def test_what_is_missing_is_named(teach, monkeypatch):
    monkeypatch.setattr(Trainer, "missing", staticmethod(lambda: "Training needs onnx."))
    assert state(teach)["missing"] == "Training needs onnx."
    assert_problem(teach.post("/teach/train"), 409, "conflict")


def test_one_at_a_time_and_cancelled(teach):
    fill(teach)
    number = teach.post("/teach/train").json()["training"]
    assert_problem(teach.post("/teach/train"), 409, "conflict")
    assert teach.post("/teach/train/cancel").json()["training"] is None
    assert teach.get(f"/teach/trainings/{number}").json()["outcome"] == "cancelled"
    assert_problem(teach.post("/teach/use", json={"training": number}), 409, "conflict")
    assert_problem(teach.get(f"/teach/trainings/{number}/model"), 404, "not-there")
    assert_problem(teach.get("/teach/trainings/99"), 404, "not-there")
    assert counts(teach) == {"empty": 6, "full": 6}


def test_the_child_is_killed(teach):
    """As where memory runs out: said, and nothing is lost."""
    fill(teach)
    number = teach.post("/teach/train").json()["training"]
    os.kill(wait_until(lambda: training_process(teach)), signal.SIGKILL)
    wait_until(lambda: state(teach)["training"] is None)
    found = teach.get(f"/teach/trainings/{number}").json()
    assert found["outcome"] == "failed"
    assert "signal 9" in found["reason"]
    assert counts(teach) == {"empty": 6, "full": 6}


def test_the_service_is_killed_while_it_trains(tiny, tmp_path):
    port = free_port()
    variables = {"model": tiny, "host": "127.0.0.1", "port": port, "teach": tmp_path}
    service = start(COMMANDS["module"], **variables)
    with until_ready(service, port) as client:
        fill(client)
        assert client.post("/teach/train").status_code == 200
    service.kill()
    service.communicate(timeout=30)
    service = start(COMMANDS["module"], **variables)
    with until_ready(service, port) as client:
        (run,) = state(client)["runs"]
        assert run["outcome"] == "interrupted"
        assert "train again" in run["reason"]
        assert counts(client) == {"empty": 6, "full": 6}
        assert client.get("/health").json()["model"]["name"] == "tiny"
    service.terminate()
    service.communicate(timeout=30)
    assert service.returncode == 0


def made_before(folder: Path, number: int = 1) -> Path:
    """The model of a training that is over; what stands in the folder of its run."""
    run = folder / f"runs/{number:04}"
    run.mkdir(parents=True)
    contract = tiny_model.contract(name="bins", version=f"v{number}")
    model = tiny_model.write(run / "bins.fp32.onnx", contract)
    told = {"number": number, "outcome": "done", "started_at": 1.0, "photos": 0, "classes": {}}
    told["model"] = {"file": model.name, "name": "bins", "version": contract.version}
    (run / "run.json").write_text(json.dumps(told))
    return model


def test_a_model_that_cannot_be_served_changes_nothing(tiny, tmp_path):
    model = made_before(tmp_path)
    whole = model.read_bytes()
    with serving(tiny, teach=tmp_path) as client:
        model.write_bytes(whole[:-100])
        assert_problem(client.post("/teach/use", json={"training": 1}), 409, "model-refused")
        assert (client.get("/health").json()["model"]["name"], state(client)["can_go_back"]) == ("tiny", False)
        model.write_bytes(whole)
        assert client.post("/teach/use", json={"training": 1}).status_code == 200
    # Overwritten while the service was off: what is configured is served, and the choice is not forgotten.
    model.write_bytes(b"rubbish")
    with serving(tiny, teach=tmp_path) as client:
        assert client.get("/health").json()["model"]["name"] == "tiny"
        assert client.get("/health").json()["last_update"]["outcome"] == "refused"
        assert state(client)["can_go_back"]


def test_a_folder_of_models_is_its_owners(tiny, tmp_path):
    made_before(tmp_path)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.fp32.onnx").write_bytes(tiny.read_bytes())
    with serving(folder, teach=tmp_path) as client:
        assert "folder of models" in assert_problem(client.post("/teach/use", json={"training": 1}), 409, "conflict")
        assert client.get("/teach/trainings/1/model").status_code == 200


# What came in lately.


def test_what_came_in_lately(tiny, tmp_path):
    """Of a named camera: what was unknown or uncertain, and what changed; not twice in a moment, and never too many."""
    model = tiny_model.write(tmp_path / "dark.fp32.onnx", tiny_model.contract(unknown_above=0.5), novel=True)
    folder = tmp_path / "bins"

    def ask(client, camera, colour):
        data = encode(solid(colour), "PNG")
        assert client.post("/predict", params={"camera": camera} if camera else {}, content=data).status_code == 200

    with serving(model, teach=folder, teach_lately=3) as client:
        ask(client, "yard", (250, 9, 9))
        ask(client, None, (30, 9, 9))
        ask(client, "yard", (250, 8, 8))
        assert state(client)["lately"] == 0
        ask(client, "yard", (30, 9, 9))
        found = wait_until(lambda: client.get("/teach/photos?place=lately").json()["photos"])
        assert [(one["camera"], one["said"].partition(":")[0], one["label"]) for one in found] == [
            ("yard", "unknown", "")
        ]
        # The same again, a moment later.
        ask(client, "yard", (31, 9, 9))
        ask(client, "../../gate", (140, 140, 140))
        wait_until(lambda: state(client)["lately"] == 2)
        for camera in range(4):
            ask(client, f"camera {camera}", (140 + camera, 140, 140))

        def cameras():
            return [one["camera"] for one in client.get("/teach/photos?place=lately").json()["photos"]]

        wait_until(lambda: "camera 3" in cameras() and len(cameras()) == 3)
        assert {path.parent.name for path in folder.glob("lately/*/*.png")} <= {
            path.name for path in (folder / "lately").iterdir() if len(path.name) == 16
        }
        # Into a class, and what was noted goes.
        client.post("/teach/classes", json={"label": "grey"})
        (first, *_) = ids_of(client, place="lately")
        moved = client.post("/teach/photos/move", json={"photos": [first], "to": "grey"}).json()["moved"]
        assert moved == [{"id": first, "before": None}]
        assert (counts(client), state(client)["lately"]) == ({"grey": 1}, 2)
        assert len(list(folder.glob("lately/*/*.json"))) == 2
    with serving(model, teach=folder) as client:
        assert state(client)["lately"] is None

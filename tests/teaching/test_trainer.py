"""What is said about the served model beside the new one."""

from app.teaching.trainer import compared

ANSWERS = {"cat/1.jpg": "cat", "cat/2.jpg": "dog", "dog/1.jpg": "dog", "dog/2.jpg": "dog", "none/1.jpg": "cat"}
IDS = {tuple(path.split("/")): path for path in ANSWERS}


def rows(answers):
    return [
        {"path": f"/photos/{path}", "model": "bins", "version": "1", "predictions": [{"label": label}]}
        for path, label in answers.items()
    ]


def test_only_photos_count_that_neither_has_learned_from():
    taught = {"doubts": [{"path": "/photos/dog/2.jpg"}, {"path": "/photos/cat/1.jpg"}]}
    found = compared(rows(ANSWERS), ("cat", "dog"), taught, IDS, {"cat/1.jpg"})
    # Of cat/2, dog/1 and dog/2; what is to be refused is no class.
    assert (found["photos"], found["learned"]) == (3, 1)
    assert (found["served_right"], found["new_right"]) == (2, 2)


def test_another_models_answers_are_neither_right_nor_wrong():
    said = {"cat/1.jpg": "tabby", "cat/2.jpg": "tabby", "cat/3.jpg": "lynx", "dog/1.jpg": "beagle"}
    found = compared(rows(said), ("tabby", "lynx", "beagle"), {"doubts": []}, IDS, set())
    assert found["knows"] is False
    assert "served_right" not in found
    assert found["answers"][0] == {
        "label": "cat",
        "said": [{"label": "tabby", "photos": 2}, {"label": "lynx", "photos": 1}],
    }


def test_photos_that_could_not_be_read_are_left_out():
    broken = {"path": "/photos/cat/3.jpg", "model": "bins", "version": "1", "predictions": []}
    found = compared([broken, *rows(ANSWERS)], ("cat", "dog"), {"doubts": []}, IDS, set())
    assert (found["photos"], found["served_right"]) == (4, 3)

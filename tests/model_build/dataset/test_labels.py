import pytest

from model_build.dataset import labels
from model_build.errors import InputError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "n1\tred cat\nn2\tblue dog\n"),
        ("l.json", '[["n1", "red cat"], ["n2", "blue dog"]]'),
        ("l.json", '{"1": ["n2", "blue dog"], "0": ["n1", "red cat"]}'),
    ],
)
def test_with_ids(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = labels.read(tmp_path / name)
    assert found == labels.Labels(("red cat", "blue dog"), ("n1", "n2"))
    assert (found.index_of("n2"), found.index_of("red cat"), found.index_of("nothing")) == (1, 0, None)


@pytest.mark.parametrize(("name", "text"), [("l.txt", "\ufeffa\n\nb\r\n"), ("l.json", '["a", "b"]')])
def test_without_ids(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    assert labels.read(tmp_path / name) == labels.Labels(("a", "b"), (None, None))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("l.txt", "", "no labels"),
        ("l.txt", "a\nb\na\n", "more than once"),
        ("l.json", "{", "neither"),
        ("l.json", '{"5": ["a", "b"]}', "neither"),
        ("l.json", "[1, 2]", "neither"),
    ],
)
def test_nonsense(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        labels.read(tmp_path / name)


def test_missing(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        labels.read(tmp_path / "absent.txt")

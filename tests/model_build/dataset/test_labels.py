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
        ("l.txt", "['a', 'b']", "with double quotes"),
        ("l.txt", "a, b, c\n", "all its labels on one line"),
        ("l.csv", "a,b,c\n", "3 columns"),
        ("l.csv", "index,label\n0,a\n7,b\n", "do not count"),
        ("l.pbtxt", "item { id: 1 }", "without an id or a name"),
        ("l.json", "[1, 2]", "neither"),
        ("l.json", '[{"id": 0, "size": 3}]', "objects without a name"),
        ("data.yaml", "names:\n  0: cat\n  1: dog\n", "is YAML"),
        ("l.txt", "nc: 2\nnames: ['cat', 'dog']\n", "is YAML"),
    ],
)
def test_nonsense(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        labels.read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "0 a b\n1 c\n"),
        ("l.txt", "1: a b\n2: c\n"),
        ("l.txt", "1\tc\n0\ta b\n"),
        ("l.json", '{"c": 1, "a b": 0}'),
        ("l.txt", '{"0": "a b", "1": "c"}'),
        ("l.json", '{"class_names": ["a b", "c"]}'),
        ("l.json", '{"id2label": {"0": "a b", "1": "c"}, "label2id": {"a b": 0, "c": 1}}'),
        ("l.csv", "index,label\n1,c\n0,a b\n"),
        ("l.csv", "label;class_id\na b;0\nc;1\n"),
        ("l.csv", "label\na b\nc\n"),
        ("l.txt", "a b: 0\nc: 1\n"),
        ("l.txt", "c\t2\na b\t1\n"),
        ("l.txt", "'a b',\n'c',\n"),
        ("l.json", '{"c": "1", "a b": "0"}'),
        ("l.json", '{"categories": [{"id": 2, "name": "c"}, {"id": 1, "name": "a b"}]}'),
        ("l.json", '{"0": {"label": "a b"}, "1": {"label": "c"}}'),
        ("l.pbtxt", 'item {\n id: 2\n name: \'c\'\n}\nitem {\n id: 1\n name: "x"\n display_name: "a b"\n}'),
    ],
)
def test_every_common_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert labels.read(tmp_path / name) == labels.Labels(("a b", "c"), (None, None))


def test_classes_that_are_called_by_numbers(tmp_path):
    (tmp_path / "class_indices.json").write_text('{"0": 0, "1": 1, "10": 2, "2": 3}')
    assert labels.read(tmp_path / "class_indices.json").labels == ("0", "1", "10", "2")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_are_told_by_their_mark(tmp_path, encoding):
    (tmp_path / "l.txt").write_bytes("Käse\r\nBrot\r\n".encode(encoding))
    assert labels.read(tmp_path / "l.txt").labels == ("Käse", "Brot")


def test_encodings_without_a_mark(tmp_path):
    for data in ("Käse\nBrot".encode("latin-1"), "ab\nc".encode("utf-16-le")):
        (tmp_path / "l.txt").write_bytes(data)
        with pytest.raises(InputError, match="save it as UTF-8"):
            labels.read(tmp_path / "l.txt")


@pytest.mark.parametrize("text", ["3 wheels\n4 wheels\n", "0\n1\n", "1 euro\n2 euro\n"])
def test_numbers_that_are_part_of_a_label_stay(tmp_path, text):
    (tmp_path / "l.txt").write_text(text)
    assert labels.read(tmp_path / "l.txt").labels == tuple(text.splitlines())


def test_missing(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        labels.read(tmp_path / "absent.txt")

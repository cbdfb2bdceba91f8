"""Folders as tools, systems and people leave them: which classes they have, and what is said about the rest."""

import itertools
import os
from pathlib import Path

import pytest

from app.inference.imaging import Resize
from model_build.dataset import image_folder, photos
from model_build.errors import InputError
from tests.photos import encode, solid

NUMBERS = itertools.count()
RULE = Resize(8, 8, 1.0, "bilinear")


def picture(kind="PNG") -> bytes:
    """No two are alike."""
    number = next(NUMBERS)
    return encode(solid((number % 256, number // 256, 7)), kind)


def make(root: Path, layout: str) -> Path:
    """Makes files: each line of ``layout`` is a path, or ``path*count`` for numbered pictures in that folder."""
    for line in layout.split():
        path, _, count = line.partition("*")
        names = [f"{path}/{i}.png" for i in range(int(count))] if count else [path]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(picture())
    return root


#: A layout, and by class how many pictures are learned from and held out.
LAYOUTS = {
    "plain": ("cat*6 dog*6", {"cat": (6, 0), "dog": (6, 0)}),
    "roboflow": ("train/cat*6 train/dog*7 valid/cat*2 valid/dog*2", {"cat": (6, 2), "dog": (7, 2)}),
    "three parts": ("train/cat*6 train/dog*6 valid/cat*3 valid/dog*3 test/cat*2 test/dog*2", {"cat": (9, 2)}),
    "capitals": ("Train/cat*6 Train/dog*6 TEST/cat*2 TEST/dog*2", {"cat": (6, 2), "dog": (6, 2)}),
    "capital classes": ("train/Cat*6 train/dog*6 test/cat*2 test/Dog*2", {"Cat": (6, 2), "dog": (6, 2)}),
    "_set": ("training_set/cat*6 training_set/dog*6 test_set/cat*2 test_set/dog*2", {"cat": (6, 2), "dog": (6, 2)}),
    "seg_, twice": (
        "seg_train/seg_train/cat*6 seg_train/seg_train/dog*6 seg_test/x/cat*2 seg_test/x/dog*2 seg_pred/seg_pred*5",
        {"cat": (6, 2), "dog": (6, 2)},
    ),
    "training, testing": ("Training/cat*6 Training/dog*6 Testing/cat*2 Testing/dog*2", {"cat": (6, 2)}),
    "only val": ("train/cat*6 train/dog*6 Validation/cat*2 Validation/dog*2", {"cat": (6, 2), "dog": (6, 2)}),
    "wrapped": ("archive/data/cat*6 archive/data/dog*6", {"cat": (6, 0), "dog": (6, 0)}),
    "wrapped and divided": ("pets-1/train/cat*6 pets-1/train/dog*6 pets-1/val/cat*1 pets-1/val/dog*1", {"cat": (6, 1)}),
    "train alone": ("train/cat*6 train/dog*6", {"cat": (6, 0), "dog": (6, 0)}),
    "same classes": ("camera1/cat*3 camera1/dog*3 camera2/cat*3 camera2/dog*3", {"cat": (6, 0), "dog": (6, 0)}),
    "folds": ("0/a/1.png 0/a/2.png 0/b*3 1/a*3 1/b*3 2/a*3 2/b*3", {"a": (8, 0), "b": (9, 0)}),
    "images inside": ("cat/images*6 dog/images*6", {"cat": (6, 0), "dog": (6, 0)}),
    "cat/cat": ("cat/cat*6 dog/dog*6", {"cat": (6, 0), "dog": (6, 0)}),
    "a class called train": ("train*6 bus*6 car*6", {"train": (6, 0), "bus": (6, 0), "car": (6, 0)}),
    "unlabelled test": ("train/cat*6 train/dog*6 test1*9", {"cat": (6, 0), "dog": (6, 0)}),
    "a Mac": ("cat*6 dog*6 __MACOSX/cat/._0.png cat/._0.png .DS_Store", {"cat": (6, 0), "dog": (6, 0)}),
    "a NAS": ("cat*6 cat/@eaDir/0.png dog*6 @eaDir/x.png #recycle/cat*2", {"cat": (6, 0), "dog": (6, 0)}),
    "Windows": ("cat*6 dog*6 $RECYCLE.BIN/a.png cat/Thumbs.db lost+found/b.png", {"cat": (6, 0), "dog": (6, 0)}),
    "groups": ("pets/cat*6 pets/dog*6 cup*6", {"cat": (6, 0), "dog": (6, 0), "cup": (6, 0)}),
    "refused": ("cat*6 dog*6 Unknown*6", {"cat": (6, 0), "dog": (6, 0)}),
    "refused, of many kinds": ("cat*6 dog*6 other/trees*6 other/cars*6", {"cat": (6, 0), "dog": (6, 0)}),
    "no endings": ("cat/1 cat/2 cat/3 cat/4 cat/5 dog*6", {"cat": (5, 0), "dog": (6, 0)}),
    "other endings": (
        "cat/1.jfif cat/2.jpe cat/3.MPO cat/4.JPG cat/5.picture dog*6",
        {"cat": (5, 0), "dog": (6, 0)},
    ),
}


def counts(found) -> dict[str, tuple[int, int]]:
    return {
        label: tuple(sum(item.label == i and item.held_out == held for item in found.items) for held in (False, True))
        for i, label in enumerate(found.labels.labels)
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_classes_are_those_that_are_meant(tmp_path, layout):
    files, expected = LAYOUTS[layout]
    found = image_folder.find(make(tmp_path, files))
    got = counts(found)
    assert {label: got[label] for label in expected} == expected
    assert len(got) == len(expected) or set(got) == {"cat", "dog"}
    # Every picture is used, or named, or counted.
    refused = sum(item.label == image_folder.REFUSED for item in found.items)
    assert sum(map(sum, got.values())) + refused == len(found.items)
    if len(found.items) < found.found:
        assert found.left_out


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("a Mac", "cat/._0.png: hidden|__MACOSX/ (1 files)|of a system, an archive or a NAS"),
        ("a NAS", "#recycle/ (2 files); @eaDir/ (1 files); cat/@eaDir/ (1 files): hidden"),
        ("unlabelled test", "test1: 9 pictures without classes"),
        ("seg_, twice", "seg_pred: 5 pictures beside those to learn from and test"),
    ],
)
def test_what_is_left_out_is_named(tmp_path, layout, says):
    said = "\n".join(image_folder.find(make(tmp_path, LAYOUTS[layout][0])).left_out)
    assert any(part in said for part in says.split("|")), said


def test_many_files_of_a_kind_are_one_line(tmp_path):
    make(tmp_path, "cat*6 dog*6 loose*0")
    for i in range(9):
        (tmp_path / "cat" / f"{i}.txt").write_text("notes")
        (tmp_path / "dog" / f"broken{i}.jpg").write_bytes(b"rubbish" * (i + 1))
    found = image_folder.find(tmp_path)
    assert found.left_out == ["cat/0.txt; cat/1.txt; cat/2.txt and 6 more (9 in all): no picture"]
    image_folder.decode(found, RULE, lambda pixels: None)
    assert len(found.left_out) == 2
    assert "and 6 more (9 in all): Its bytes are not an image" in found.left_out[1]


def test_links_are_followed_once(tmp_path):
    root = make(tmp_path / "root", "cat*6")
    (root / "dog").symlink_to(make(tmp_path / "elsewhere", "a*6") / "a")
    (root / "a_link_to_cat").symlink_to(root / "cat")
    (root / "cat" / "loop").symlink_to(root)
    found = image_folder.find(root)
    assert counts(found) == {"cat": (6, 0), "dog": (6, 0)}
    assert found.left_out == ["a_link_to_cat/; cat/loop/: a link to a folder that is used already"]


def test_a_pipe_does_not_block(tmp_path):
    make(tmp_path, "cat*6 dog*6")
    os.mkfifo(tmp_path / "cat" / "pipe")
    assert image_folder.find(tmp_path).left_out == ["cat/pipe: no picture"]


TABLES = {
    "labels.csv": ("labels.csv", "file,label\n{}", "images*12", {"cat": 6, "dog": 6}),
    "paths and semicolons": ("all.csv", "path;class\n{}", "images*12", {"cat": 6, "dog": 6}),
    "no heading": ("labels.csv", "{}", "images*12", {"cat": 6, "dog": 6}),
    "metadata.csv": ("images/metadata.csv", "file_name,label\n{}", "images*12", {"cat": 6, "dog": 6}),
    "no endings": ("train.csv", "id,breed\n{}", "train*12", {"cat": 6, "dog": 6}),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_say_what_pictures_show(tmp_path, table, encoding):
    name, text, layout, expected = TABLES[table]
    make(tmp_path, f"{layout} extra/unnamed.png")
    folder = layout.partition("*")[0]
    delimiter = ";" if ";" in text else ","
    named = {"metadata.csv": "{}.png", "no endings": "{}"}.get(table, f"{folder}/{{}}.png")
    rows = [f"{named.format(i)}{delimiter}{'cat' if i % 2 else 'dog'}" for i in range(12)]
    rows.append(f"absent.png{delimiter}cat")
    (tmp_path / name).write_text(text.format("\n".join(rows)), encoding=encoding)
    found = image_folder.find(tmp_path)
    assert {label: learned for label, (learned, _) in counts(found).items()} == expected
    said = "\n".join(found.left_out)
    assert "extra/unnamed.png: named in no table" in said
    assert f"{name}: absent.png: named in a table, but not there" in said


def test_a_table_with_parts(tmp_path):
    make(tmp_path, "images*14")
    rows = [f"{i},images/{i}.png,{'cat' if i % 2 else 'other'},{'test' if i > 11 else 'train'}" for i in range(14)]
    rows = [row.replace("cat", "dog") if i % 4 == 1 else row for i, row in enumerate(rows)]
    (tmp_path / "pets.csv").write_text("class id,filepaths,labels,data set\n" + "\n".join(rows))
    found = image_folder.find(tmp_path)
    assert counts(found) == {"cat": (3, 0), "dog": (3, 1)}
    assert sum(item.label == image_folder.REFUSED for item in found.items) == 7


def test_a_column_for_each_class(tmp_path):
    for part, count in (("train", 10), ("valid", 4)):
        make(tmp_path, f"{part}*{count}")
        rows = [f"{i}.png, {i % 2}, {1 - i % 2}" for i in range(count)]
        rows += ["0.png, 1, 1"] if part == "valid" else []
        (tmp_path / part / "_classes.csv").write_text("filename, cat, dog\n" + "\n".join(rows))
    found = image_folder.find(tmp_path)
    assert counts(found) == {"cat": (5, 2), "dog": (5, 1)}
    assert found.left_out == ["valid/0.png: a table says that it shows several things, or nothing"]


def test_folders_count_where_a_table_says_little(tmp_path):
    make(tmp_path, "cat*6 dog*6")
    (tmp_path / "notes.csv").write_text("file,label\ncat/0.png,small\ncat/1.png,large\n")
    found = image_folder.find(tmp_path)
    assert counts(found) == {"cat": (6, 0), "dog": (6, 0)}
    assert found.left_out == ["notes.csv: a table; the folders say what pictures show"]


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("train*6 valid*6", "neither a sub-folder for each class nor a table"),
        ("a.png b.png", "none, but 2 pictures in itself"),
        ("cat*6 unknown*6", "only 'cat'"),
        ("other*6 none*6", "none with pictures that are not to be refused, but none, other"),
        ("cat*6 Cat*6", "mean the same class: Cat, cat"),
    ],
)
def test_folders_without_classes(tmp_path, layout, says):
    with pytest.raises(InputError, match=says):
        image_folder.find(make(tmp_path, layout))


def test_too_few_to_refuse(tmp_path):
    found = image_folder.find(make(tmp_path, "cat*6 dog*6 background*2"))
    image_folder.decode(found, RULE, lambda pixels: None)
    with pytest.raises(InputError, match=r"what is to be refused \(2\)"):
        image_folder.check_enough(found)


def test_other_commands_find_the_same_pictures(tmp_path):
    make(tmp_path, "cat*2 cat/none.jfif cat/@eaDir/0.png .trash/1.png")
    assert [path.name for path in photos.images_in(tmp_path)] == ["0.png", "1.png", "none.jfif"]

"""Teaching a small convolutional base, fp32 and int8, and serving what came of it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import load
from app.inference.model import Model
from model_build.__main__ import main
from model_build.export import golden, graph, quantize
from tests import tiny_model
from tests.conftest import ROOT, serving
from tests.photos import encode

COLOURS = {
    "blue_bin": (30, 60, 200),
    "green bin": (40, 190, 60),
    "red_bin": (210, 40, 30),
    "yellow_bin": (220, 210, 40),
}
PICTURES = 15
#: What the command must do without.
BLOCKED = {
    *(
        "tensorflow",
        "keras",
        "tf2onnx",
        "h5py",
        "scipy",
        "sklearn",
        "skimage",
        "sympy",
        "rich",
        "matplotlib",
    ),  # the builder's
    *("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"),  # and the service's
}


def photo(colour, seed) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 25, (40, 50, 3))
    return encode(Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)), "PNG")


def network() -> onnx.ModelProto:
    """Pixels / 255, a 3x3 convolution with 12 channels, the mean, a dense layer for three classes."""
    random = np.random.default_rng(0)
    values = {
        "w": (random.normal(0, 0.3, (12, 3, 3, 3)) / 255).astype(np.float32),
        "b": random.normal(0, 0.1, 12).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
        "d": random.normal(size=(12, 3)).astype(np.float32),
        "e": random.normal(size=3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "w", "b"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Identity", ["relu"], ["features"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Squeeze", ["pool", "axes"], ["flat"]),
        helper.make_node("Gemm", ["flat", "d", "e"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    outputs = [("features", ["batch", None, None, None]), ("scores", ["batch", 3])]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "base",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph.canonicalise(model)
    return model


def save(model, path, precision="fp32", **changes):
    parameters = 12 * 27 + 12 + 12 * 3 + 3
    contract = tiny_model.contract(name="base", precision=precision, parameters=parameters, **changes)
    for key, value in contract.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def bins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "bins"
    for k, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(PICTURES):
            (folder / name / f"{i:02}.png").write_bytes(photo(colour, 1000 * k + i))
    (folder / "red_bin" / "broken.jpg").write_bytes(b"rubbish")
    return folder


@pytest.fixture(scope="module", params=["fp32", "int8"])
def base(request, tmp_path_factory, bins):
    folder = tmp_path_factory.mktemp("base")
    model = network()
    if request.param == "int8":
        rule = tiny_model.contract().resize
        pixels = [load(path.read_bytes(), rule, DecodeBudget(10**6)) for path in sorted(bins.rglob("*.png"))]
        model = quantize.quantize(model, np.stack(pixels))
    return save(model, folder / f"base.{request.param}.onnx", request.param)


@pytest.fixture(scope="module")
def taught(base, bins, tmp_path_factory):
    """The command in a process in which nothing heavy can be imported; its file and what it printed."""
    output = tmp_path_factory.mktemp("taught")
    program = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ImportError(name + " is not there")

sys.meta_path.insert(0, Block())
from model_build.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "teach", str(base), str(bins), "--output", str(output)]
    command += ["--html", str(output.with_suffix(".html"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [path] = output.iterdir()
    return path, done


def test_it_works_without_anything_heavy_and_says_what_it_did(taught, base):
    path, done = taught
    precision = base.name.split(".")[1]
    assert path.name == f"bins.{precision}.onnx"
    assert "Computing features" in done.stderr
    assert "classes      4: blue bin, green bin, red bin, yellow bin" in done.stdout
    assert "pictures     60 learned from; 1 left out" in done.stdout
    assert "left out: red_bin/broken.jpg: " in done.stdout
    assert re.search(r"right        100.0% of \d+ photos.*, by \d+-fold cross-validation", done.stdout)
    assert str(path) in done.stdout
    page = path.parent.with_suffix(".html").read_text()
    assert all(part in page for part in ("How often each class is right", "blue bin", "What to do", "broken.jpg"))


def test_a_program_reads_progress_and_result(base, bins, tmp_path, capsys):
    assert main(["teach", str(base), str(bins), "--output", str(tmp_path), "--json", "--progress", "json"]) == 0
    said = capsys.readouterr()
    steps = [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]
    assert {"step": "Computing features", "done": 61, "of": 61} in steps
    assert all(0 <= step["done"] <= step["of"] for step in steps)
    found = json.loads(said.out)
    assert found["labels"] == ["blue bin", "green bin", "red bin", "yellow bin"]
    assert found["measured"] == Model(Path(found["path"])).contract.measured
    assert found["left_out"][0].startswith("red_bin/broken.jpg")
    assert found["doubts"] == []


def test_what_is_wrong_in_the_cross_validation_is_named(base, bins, tmp_path, capsys):
    """A photo in the wrong folder: as many as the figure says, with their paths."""
    folder = tmp_path / "bins"
    shutil.copytree(bins, folder)
    wrong = folder / "blue_bin" / "wrong.png"
    (folder / "red_bin" / "03.png").rename(wrong)
    arguments = ["teach", str(base), str(folder), "--output", str(tmp_path), "--json"]
    assert main([*arguments, "--html", str(tmp_path / "report.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"shows": "blue bin", "said": "red bin", "photos": 1} in found["measured"]["mistakes"]
    assert [row["label"] for row in found["check"]["classes"]] == found["labels"]
    assert "blue_bin/wrong.png" in (tmp_path / "report.html").read_text()
    assert main([*arguments, "--html", str(wrong / "report.html")]) == 2
    assert found["doubts"][0]["path"] == str(wrong)
    assert (found["doubts"][0]["label"], found["doubts"][0]["likely"]) == ("blue bin", "red bin")


def test_folders_in_folders_are_groups(base, tmp_path):
    folder = tmp_path / "bins"
    for k, (name, colour) in enumerate(COLOURS.items()):
        inside = folder / name if name == "red_bin" else folder / "other_bins" / name
        inside.mkdir(parents=True)
        for i in range(PICTURES):
            (inside / f"{i:02}.png").write_bytes(photo(colour, 1000 * k + i))
    assert main(["teach", str(base), str(folder), "--output", str(tmp_path)]) == 0
    [path] = tmp_path.glob("bins.*.onnx")
    contract = Model(path).contract
    assert contract.labels == ("blue bin", "green bin", "yellow bin", "red bin")
    assert contract.groups == ("other bins", "other bins", "other bins", "red bin")
    with serving(path) as client:
        answer = client.post("/predict?view=groups", content=photo(COLOURS["yellow_bin"], 9)).json()
    assert answer["groups"][0]["label"] == "other bins"
    assert answer["predictions"][0]["label"] == "yellow bin"
    assert len(answer["predictions"]) == 3


def test_the_same_folder_gives_the_same_bytes(taught, base, bins, tmp_path):
    assert main(["teach", str(base), str(bins), "--output", str(tmp_path)]) == 0
    assert (tmp_path / taught[0].name).read_bytes() == taught[0].read_bytes()
    assert main(["teach", str(base), str(bins), "--output", str(tmp_path), "--seed", "1"]) == 0
    assert (tmp_path / taught[0].name).read_bytes() != taught[0].read_bytes()


def test_the_file_says_everything(taught, base):
    model = Model(taught[0])
    contract = model.contract
    Classifier(model, DecodeBudget(10**6)).check_golden()
    assert contract.labels == ("blue bin", "green bin", "red bin", "yellow bin")
    assert contract.version == graph.digest(onnx.load(taught[0]))[:12]
    assert contract.golden.tolerance == golden.TOLERANCE[contract.precision]
    assert contract.parameters == 12 * 27 + 12 + 12 * 4 + 4
    # The dense layer, two products with the means of the classes, and two with the directions that classes vary in.
    directions, rest = divmod(contract.multiply_adds - (12 * 27 * 15 * 15 + 3 * 12 * 4), 2 * 12)
    assert rest == 0
    assert 0 < directions <= 12
    assert contract.provenance["base"] == {"name": "base", "version": "1", "provenance": {"weights": "none"}}
    assert set(contract.provenance["tools"]) == {"python", "onnx", "onnxruntime", "numpy", "pillow"}
    measured = contract.measured
    assert measured["accuracy"] == 1.0
    # A plain colour and noise: all photos of a class are near-duplicates.
    assert (measured["photos"], measured["independent"]) == (60, 4)
    assert measured["interval"][0] < 0.6
    assert [row["label"] for row in measured["classes"]] == list(contract.labels)
    assert measured["learned"] == {"photos": 60, "independent": 4}
    assert contract.measured["left_out"]["photos"] == 1
    assert contract.measured["left_out"]["first"][0].startswith("red_bin/broken.jpg")
    assert contract.temperature != 1.0
    assert contract.unknown_below == 0
    assert 0 < contract.unknown_above < 0.5


def to_scores(path) -> list[str]:
    """The operators that a prediction needs, in their order."""
    model = onnx.load(path)
    scores = [value for value in model.graph.output if value.name == "scores"]
    del model.graph.output[:]
    model.graph.output.extend(scores)
    graph.canonicalise(model)
    return [node.op_type for node in model.graph.node]


def test_the_trunk_is_the_base_and_is_pooled_once(taught, base):
    """Behind the pooling (int8: and its rounding) there is a dense layer in float, before it nothing has changed."""
    before, after = (to_scores(path) for path in (base, taught[0]))
    assert after.count("GlobalAveragePool") == 1
    assert after[-3:] == ["Flatten", "Gemm", "Softmax"]
    assert after[:-3] == before[: len(after) - 3]
    assert after[-4] == ("GlobalAveragePool" if ".fp32." in base.name else "DequantizeLinear")


def test_it_can_be_explained_and_taught_models_too(taught, bins, tmp_path):
    outputs = ["scores", "features", "novelty", "evidence", "evidence_bias"]
    assert main(["teach", str(taught[0]), str(bins), "--output", str(tmp_path), "--name", "again"]) == 0
    for path in (taught[0], *tmp_path.iterdir()):
        proto = onnx.load(path)
        assert [value.name for value in proto.graph.output] == outputs
        assert [value.name for value in proto.graph.input] == ["image", "evidence_class"]
        assert [node.op_type for node in proto.graph.node].count("ArgMax") == 1


def test_it_answers_over_http_and_knows_what_it_does_not_know(taught):
    with serving(taught[0]) as client:
        for k, (name, colour) in enumerate(COLOURS.items()):
            answer = client.post("/predict", files={"file": photo(colour, 9000 + k)}).json()
            assert answer["predictions"][0]["label"] == name.replace("_", " ")
            assert answer["unknown"] is False
        strange = client.post("/predict", files={"file": photo((180, 0, 180), 1)}).json()
        assert strange["unknown"] is True


def test_a_taught_model_can_be_taught_again(taught, bins, tmp_path):
    assert main(["teach", str(taught[0]), str(bins), "--output", str(tmp_path), "--name", "again"]) == 0
    again = Model(next(tmp_path.iterdir())).contract
    assert again.parameters == 12 * 27 + 12 + 12 * 4 + 4
    assert again.provenance["base"]["name"] == "bins"


def varied(folder, layout) -> None:
    """Pictures of two colours beside each other, which are no near-duplicates, by path and how many."""
    for k, (path, (colour, count)) in enumerate(layout.items()):
        (folder / path).mkdir(parents=True)
        for i in range(count):
            random = np.random.default_rng([k, i])
            pixels = random.uniform(0, 255, 3) + random.normal(0, 25, (40, 50, 3))
            pixels[:, : random.integers(20, 45)] = colour
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / path / f"{i:02}.png")


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two classes, one of them small, and something to refuse."""
    folder = tmp_path_factory.mktemp("data") / "halves"
    layout = {"red": ((220, 20, 20), 40), "green": ((20, 200, 40), 6), "Unknown/many": ((90, 0, 120), 12)}
    varied(folder, layout)
    return folder


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    return save(network(), tmp_path_factory.mktemp("base") / "base.fp32.onnx")


def test_a_larger_unknown_share_lowers_the_threshold(small_base, halves, tmp_path):
    def threshold(share) -> float:
        arguments = ["teach", str(small_base), str(halves), "--output", str(tmp_path), "--unknown-share", share]
        assert main(arguments) == 0
        return Model(tmp_path / "halves.fp32.onnx").contract.unknown_above

    assert threshold("0.05") > threshold("0.5")


def test_what_is_to_be_refused_is_no_class_and_teaches_what_is_unknown(small_base, halves, tmp_path, capsys):
    assert main(["teach", str(small_base), str(halves), "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    contract = Model(tmp_path / "halves.fp32.onnx").contract
    assert contract.labels == ("green", "red")
    measured = contract.measured
    assert measured["refused"]["photos"] == 12
    assert [row["photos"] for row in measured["classes"]] == [6, 40]
    assert "refused      " in said
    assert "note: near-duplicates: the 46 photos are " in said
    low, high = measured["interval"]
    assert low < measured["accuracy"] <= high
    with serving(tmp_path / "halves.fp32.onnx") as client:
        answers = [
            client.post("/predict", content=path.read_bytes()).json()["unknown"]
            for path in sorted(halves.rglob("*.png"))
        ]
    # Sorted by name, what is to be refused comes first.
    assert sum(answers[:12]) / 12 > 0.5 > sum(answers[12:]) / 46


def test_a_folder_that_is_divided_is_tested_with_its_own_part(small_base, tmp_path, capsys):
    colours = {"red": (220, 20, 20), "green": (20, 200, 40)}
    layout = {
        f"{part}/{name}": (colour, count)
        for part, count in (("Training", 20), ("Testing", 8))
        for name, colour in colours.items()
    }
    varied(tmp_path / "divided", layout | {"Testing/other": ((90, 0, 120), 3)})
    assert main(["teach", str(small_base), str(tmp_path / "divided"), "--output", str(tmp_path)]) == 0
    measured = Model(tmp_path / "divided.fp32.onnx").contract.measured
    assert measured["held_out"] == "the folder's own test part"
    assert (measured["photos"], measured["learned"]["photos"]) == (16, 40)
    assert measured["refused"]["photos"] == 3
    assert "by the folder's own test part" in capsys.readouterr().out


def test_clear_errors_and_nothing_written(bins, tmp_path, capsys):
    fine = save(network(), tmp_path / "bins.fp32.onnx")
    before = fine.read_bytes()
    other = network()
    pool = next(node for node in other.graph.node if node.op_type == "GlobalAveragePool")
    pool.op_type = "GlobalMaxPool"
    save(other, tmp_path / "max.onnx")
    old = network()
    old.graph.output.remove(next(value for value in old.graph.output if value.name == "features"))
    save(old, tmp_path / "old.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "one" / "cat").mkdir(parents=True)
    output = tmp_path / "out"
    cases = [
        ([tmp_path / "absent.onnx", bins], "no model file"),
        ([tmp_path / "text.onnx", bins], "not a loadable ONNX model"),
        ([tiny_model.write(tmp_path / "foreign.onnx", metadata={}), bins], "no contract"),
        ([tmp_path / "old.onnx", bins], "Export it again"),
        ([tmp_path / "max.onnx", bins], "are not averaged"),
        ([fine, tmp_path / "nowhere"], "cannot be read"),
        ([fine, tmp_path / "one"], "only 'cat'"),
        ([fine, bins, "--output", tmp_path], "would overwrite"),
    ]
    for arguments, says in cases:
        assert main(["teach", "--output", str(output), *map(str, arguments)]) == 2
        said = re.sub(r"\s+", " ", capsys.readouterr().err)
        assert says in said, said
    assert not output.exists()
    assert fine.read_bytes() == before


def test_what_is_missing_is_named(base, bins, tmp_path):
    """As on a gateway that has the service only."""
    program = (
        "import sys; sys.modules['onnx'] = None; from model_build.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "teach", str(base), str(bins), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: teach needs the package onnx: pip install '.[teach]'" in done.stderr


def wide(colour, seed) -> bytes:
    """Grey and 16:9, but for a patch of the colour at its right end, which a crop does not see."""
    noise = np.random.default_rng(seed).normal(0, 10, (45, 80, 3)) + 128
    noise[10:35, 66:78] = colour
    return encode(Image.fromarray(noise.clip(0, 255).astype(np.uint8)), "PNG")


@pytest.mark.parametrize(("options", "fit", "crop"), [([], "squash", 1.0), (["--fit", "pad"], "pad", 1.0)])
def test_things_at_the_ends_of_wide_frames(base, tmp_path, capsys, options, fit, crop):
    for name, colour in COLOURS.items():
        (tmp_path / "bins" / name).mkdir(parents=True)
        for i in range(8):
            (tmp_path / "bins" / name / f"{i}.png").write_bytes(wide(colour, i))
    assert main(["teach", str(base), str(tmp_path / "bins"), "--output", str(tmp_path), *options]) == 0
    said = capsys.readouterr().err
    assert ("Taken: squash" in said) == (not options)
    (written,) = tmp_path.glob("*.onnx")
    model = Model(written)
    assert (model.contract.resize.fit, model.contract.resize.crop) == (fit, crop)
    classify = Classifier(model, DecodeBudget(1_000_000))
    for name, colour in COLOURS.items():
        assert classify(wide(colour, 99)).predictions[0].label == name.replace("_", " ")

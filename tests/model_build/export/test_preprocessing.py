import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_build.errors import InputError
from model_build.export import preprocessing
from model_build.export.convert import stated_pixels
from model_build.export.preprocessing import BGR, GREY, IMAGENET, PIXEL_RANGES, Affine, remove_preprocessing
from tests.model_build.export.test_graph import AS_IS, PIXELS, RANGE, SIZE, TRANSPOSE, network, ours, run

MEAN, DEVIATION = np.array([123, 116, 103]), np.array([58, 57, 56])


def fronted(nodes, constants):
    """The network with other nodes than elementwise ones in front; they end in ``ready``, NHWC."""
    model = network(TRANSPOSE, end=["Softmax"])
    model.graph.node[0].input[0] = "ready"
    for new in reversed(nodes):
        model.graph.node.insert(0, new)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


#: Blue first by a slice of step -1 (Keras 2), and by taking channels out and putting them together again (Keras 3).
SLICED = (
    [node("Slice", ["pixels", "start", "end", "axis", "step"], ["bgr"]), node("Sub", ["bgr", "mean"], ["ready"])],
    {
        "start": np.array([-1]),
        "end": np.array([-10]),
        "axis": np.array([3]),
        "step": np.array([-1]),
        "mean": MEAN.astype(np.float32),
    },
)
STACKED = (
    [
        node("Split", ["pixels"], ["red", "green", "blue"], axis=3, num_outputs=3),
        node("Concat", ["blue", "green", "red"], ["bgr"], axis=3),
        node("Sub", ["bgr", "mean"], ["centred"]),
        node("Sqrt", ["variance"], ["deviation"]),
        node("Div", ["centred", "deviation"], ["ready"]),
    ],
    {"mean": MEAN.astype(np.float32), "variance": np.square(DEVIATION).astype(np.float32)},
)


def folded(model, before):
    expected = run(model, {"pixels": before.apply(PIXELS)})
    assert ours(model, before) == 4
    operators = [made.op_type for made in model.graph.node]
    assert operators[: operators.index("Conv")] in (["Transpose", "Cast"], ["Transpose", "Cast", "Sub"])
    assert "Pad" not in operators
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert np.abs(run(model, {"image": PIXELS}, "scores") - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("front", "before"),
    [
        (TRANSPOSE, RANGE),
        ([("Mul", 1 / 127.5), ("Add", -1), *TRANSPOSE], AS_IS),
        ([("Div", 127.5), ("Sub", 1), *TRANSPOSE], AS_IS),
        ([*TRANSPOSE, ("Sub", MEAN.reshape(1, 3, 1, 1)), ("Div", 58.0)], AS_IS),
        ([("Sub", MEAN), ("Div", DEVIATION), *TRANSPOSE], AS_IS),
        ([("Div", 255), *TRANSPOSE], AS_IS),
        ([("Sub", 127.5), ("Div", DEVIATION), *TRANSPOSE], BGR),
        (TRANSPOSE, IMAGENET),
    ],
)
def test_preprocessing_is_folded_exactly(front, before):
    folded(network(front, end=["Softmax"]), before)


@pytest.mark.parametrize("front", [SLICED, STACKED], ids=["sliced", "stacked"])
def test_so_is_blue_first(front):
    model = fronted(*front)
    for item in model.opset_import:
        item.version = 18
    folded(model, AS_IS)


@pytest.mark.parametrize(
    "front",
    [[("Add", np.arange(3 * SIZE**2).reshape(SIZE, SIZE, 3)), *TRANSPOSE], [("Abs", None), *TRANSPOSE]],
)
def test_what_cannot_be_folded_stays_as_it_is(front):
    """Arithmetic that differs from place to place, or an operator of another kind."""
    model = network(front, end=["Softmax"])
    expected = run(model, {"pixels": RANGE.apply(PIXELS)})
    assert ours(model, RANGE) == 4
    assert np.abs(run(model, {"image": PIXELS}, "scores") - expected).max() < 1e-6


def test_whether_a_model_changes_its_pixels_is_known():
    def changes(front):
        return remove_preprocessing(network(front), SIZE, SIZE).arithmetic

    assert not changes(TRANSPOSE)
    assert changes([("Div", 255), *TRANSPOSE])
    assert changes([("Add", np.arange(3 * SIZE * SIZE).reshape(SIZE, SIZE, 3)), *TRANSPOSE])


def test_grey_is_luma():
    grey = GREY.then(Affine(np.array([[1 / 255]]), np.array([-0.5])))
    assert grey.centre == pytest.approx([127.5] * 3)
    assert grey.apply(np.uint8([[[10, 20, 30]]]))[0, 0] == pytest.approx([(2.99 + 11.74 + 3.42) / 255 - 0.5])
    assert Affine(np.zeros((3, 3)), np.ones(3)).centre is None


@pytest.mark.parametrize(
    ("arguments", "first", "last"),
    [
        (("0..1", None, None), 0.0, 1.0),
        (("auto", [0.5], [0.25]), -2.0, 2.0),
        (("auto", [127.5], [127.5]), -1.0, 1.0),
        (("auto", None, [255.0]), 0.0, 1.0),
    ],
)
def test_what_is_said_about_pixels(arguments, first, last):
    made = stated_pixels(*arguments)
    assert made.map.apply(np.uint8([[0] * 3, [255] * 3])).tolist() == [[first] * 3, [last] * 3]
    assert not made.assumed
    assert stated_pixels("auto", None, None) is None


def test_blue_first_is_said():
    made = stated_pixels("auto", [104.0, 117.0, 123.0], None, bgr=True)
    assert made.map.apply(np.uint8([[123, 117, 104]])).tolist() == [[0.0, 0.0, 0.0]]
    assert "BGR" in made.text


@pytest.mark.parametrize(
    "arguments", [("-1..1", [0.5], None), ("auto", [1.0, 2.0], None), ("auto", None, [0.0]), ("auto", [np.nan], None)]
)
def test_nonsense_about_pixels(arguments):
    with pytest.raises(InputError, match="--mean"):
        stated_pixels(*arguments)


def test_the_ranges_are_what_they_are_called():
    for name, made in PIXEL_RANGES.items():
        low, high = (float(part) for part in name.split(".."))
        assert made.apply(np.uint8([[0] * 3, [255] * 3])) == pytest.approx(np.array([[low] * 3, [high] * 3]))
    assert preprocessing.IMAGENET.apply(np.uint8([[255] * 3]))[0, 0] == pytest.approx((1 - 0.485) / 0.229)

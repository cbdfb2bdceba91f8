import numpy as np
import pytest
from onnx import helper, numpy_helper

from model_build.errors import InputError
from model_build.export import graph
from model_build.export.output import Output, add_scores_output
from tests.model_build.export.test_graph import PIXELS, RANGE, TRANSPOSE, network, ours, run


def softmax(values):
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def extended(nodes, constants=None, last="y", **changes):
    """A network whose logits ``out0`` go through ``nodes``."""
    model = network(TRANSPOSE, **changes)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in (constants or {}).items())
    model.graph.output[0].name = last
    return model


def node(op, *inputs, to="y", **attributes):
    return helper.make_node(op, list(inputs), [to], **attributes)


def test_logits_get_their_softmax_and_features_come_out():
    model = network(TRANSPOSE)
    logits = run(model, {"pixels": RANGE.apply(PIXELS)})
    ours(model, RANGE)
    assert np.abs(run(model, {"image": PIXELS}, "scores") - softmax(logits)).max() < 1e-6
    assert run(model, {"image": PIXELS}, "features").shape == (2, 5, 4, 4)
    assert model.graph.output[0].name == "scores", "other servers take the first"


@pytest.mark.parametrize("end", [[], ["Sigmoid"], ["Sigmoid", "Identity", "Flatten"]])
def test_one_unit_becomes_two_classes(end):
    model = network(TRANSPOSE, outputs=1, end=end)
    value = run(model, {"pixels": RANGE.apply(PIXELS)})
    positive = value if end else 1 / (1 + np.exp(-value))
    assert ours(model, RANGE) == 2
    assert np.abs(run(model, {"image": PIXELS}, "scores") - np.hstack([1 - positive, positive])).max() < 1e-6


SHAPE = {"shape": np.array([-1, 4], np.int64)}
#: What a head may end in, and what that is.
ENDS = {
    "softmax and a reshape": ([node("Softmax", "out0", to="s"), node("Reshape", "s", "shape")], SHAPE, "softmax"),
    "dropout and a softmax": ([node("Dropout", "out0", to="s"), node("Softmax", "s")], None, "softmax"),
    "softmax and dropout": ([node("Softmax", "out0", to="s"), node("Dropout", "s")], None, "softmax"),
    "logarithms": ([node("LogSoftmax", "out0")], None, "log_softmax"),
    "a softmax's logarithm": ([node("Softmax", "out0", to="s"), node("Log", "s")], None, "log_softmax"),
    "logits and a reshape": ([node("Reshape", "out0", "shape")], SHAPE, "logits"),
    "a relu": ([node("Relu", "out0")], None, "logits"),
    "a softmax in parts": (
        [
            node("ReduceMax", "out0", to="largest", axes=[-1]),
            node("Sub", "out0", "largest", to="less"),
            node("Exp", "less", to="exponents"),
            node("ReduceSum", "exponents", "last", to="total"),
            node("Div", "exponents", "total"),
        ],
        {"last": np.array([-1], np.int64)},
        "softmax",
    ),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_a_model_puts_out_is_read_from_its_end(end):
    nodes, constants, kind = end
    model = extended(nodes, constants)
    raw = run(model, {"pixels": RANGE.apply(PIXELS)})
    wanted = {"softmax": raw, "log_softmax": np.exp(raw), "logits": softmax(raw)}[kind]
    copy = type(model)()
    copy.CopyFrom(model)
    output = add_scores_output(copy)
    assert (output.kind, output.units, output.pooled) == (kind, 4, False)
    assert np.abs(output.scores(raw) - wanted).max() < 1e-6, "what parity compares with"
    ours(model, RANGE)
    assert np.abs(run(model, {"image": PIXELS}, "scores") - wanted).max() < 1e-6, "what is served"
    assert [n.op_type for n in model.graph.node].count("Softmax") == 1


BESIDE = [node("Sigmoid", "out0", to="s"), node("Sub", "one", "s", to="rest"), node("Concat", "rest", "s", axis=1)]
MEAN = [node("Softmax", "out0", to="s"), node("ReduceMean", "s", to="m", axes=[1]), node("Add", "s", "m", to="a")]
#: Scores that no single softmax computes: a sigmoid beside what it leaves, and a softmax that is smoothed.
COMPUTED = {
    "a sigmoid and the rest": (BESIDE, {"one": np.ones((1, 1), np.float32)}, 1),
    "smoothed": ([*MEAN, node("Mul", "a", "half")], {"half": np.float32([0.5])}, 4),
}


@pytest.mark.parametrize(("nodes", "constants", "outputs"), COMPUTED.values(), ids=COMPUTED)
def test_scores_are_known_however_they_are_computed(nodes, constants, outputs):
    model = extended(nodes, constants, outputs=outputs)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = max(outputs, 2)
    raw = run(model, {"pixels": RANGE.apply(PIXELS)})
    ours(model, RANGE)
    assert np.abs(run(model, {"image": PIXELS}, "scores") - raw).max() < 1e-6


@pytest.mark.parametrize(
    ("nodes", "constants", "outputs", "says"),
    [
        ([node("Softmax", "out0")], None, 1, "single unit"),
        ([node("Softmax", "out0", axis=0)], None, 4, "axis 0"),
        ([node("Softmax", "out0", to="s"), node("Mul", "s", "half")], {"half": np.float32([0.5])}, 4, "computes with"),
        ([node("HardSigmoid", "out0")], None, 1, "HardSigmoid"),
        ([node("Tanh", "out0")], None, 4, "ends in Tanh"),
        ([node("Clip", "out0", to="s"), node("Div", "s", "six")], {"six": np.float32([6])}, 4, "ends in Clip"),
    ],
)
def test_what_is_no_classifier_is_said(nodes, constants, outputs, says):
    with pytest.raises(InputError, match=says):
        add_scores_output(extended(nodes, constants, outputs=outputs))


@pytest.mark.parametrize("end", [[node("Sigmoid", "out0")], [node("Sigmoid", "out0", to="s"), node("Dropout", "s")]])
def test_several_sigmoids_stay_independent(end):
    model = extended(end)
    raw = run(model, {"pixels": RANGE.apply(PIXELS)})
    copy = type(model)()
    copy.CopyFrom(model)
    output = add_scores_output(copy)
    assert (output.kind, output.independent, output.classes) == ("sigmoid", True, 4)
    assert np.abs(output.scores(raw) - raw).max() < 1e-6
    ours(model, RANGE)
    assert np.abs(run(model, {"image": PIXELS}, "scores") - raw).max() < 1e-6
    assert "Softmax" not in [n.op_type for n in model.graph.node]


def test_logits_are_independent_where_that_is_said():
    model = network(TRANSPOSE)
    raw = run(model, {"pixels": RANGE.apply(PIXELS)})
    output = add_scores_output(model, multi_label=True)
    assert (output.kind, output.independent) == ("logits", True)
    expected = 1 / (1 + np.exp(-raw))
    assert np.abs(output.scores(raw) - expected).max() < 1e-6
    assert np.abs(run(model, {"pixels": RANGE.apply(PIXELS)}, "scores") - expected).max() < 1e-6
    for end, units in (([node("Softmax", "out0")], 4), ([node("Sigmoid", "out0")], 1)):
        with pytest.raises(InputError, match="--multi-label"):
            add_scores_output(extended(end, outputs=units), multi_label=True)


def test_features_without_a_head_are_known():
    model = network(TRANSPOSE, outputs=5)
    del model.graph.node[-2:]
    model.graph.output[0].name = "flat"
    assert add_scores_output(model).pooled


def test_a_pooling_in_the_middle_gives_no_features():
    """What a squeeze-and-excitation block has."""
    model = network(TRANSPOSE)
    (pool,) = [n for n in model.graph.node if n.op_type == "GlobalAveragePool"]
    at = list(model.graph.node).index(pool)
    model.graph.node.insert(at, node("Mul", "relu", "squeezed", to="scaled"))
    model.graph.node.insert(at, node("GlobalAveragePool", "relu", to="squeezed"))
    pool.input[0] = "scaled"
    scaled = graph.Graph(model)
    assert ours(model, RANGE) == 4
    made = graph.Graph(model)
    assert made.producer[made.producer["features"].input[0]].op_type == "Mul"
    assert scaled.producer["scaled"].op_type == "Mul"


def test_raw_outputs_that_contradict_what_was_read_are_refused():
    scores = softmax(np.random.default_rng(0).normal(size=(6, 4)))
    with pytest.raises(InputError, match="add up to"):
        Output("softmax", 4).scores(2 * scores)
    with pytest.raises(InputError, match="no softmax was found"):
        Output("logits", 4).scores(scores)
    with pytest.raises(InputError, match="sigmoid"):
        Output("sigmoid", 4, independent=True).scores(np.full((2, 4), 1.5))
    with pytest.raises(InputError, match="NaN"):
        Output("logits", 4).scores(np.full((2, 4), np.nan))

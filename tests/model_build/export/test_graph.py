import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from model_build.export import graph
from model_build.export.output import add_scores_output
from model_build.export.preprocessing import Affine, add_image_input, remove_preprocessing

SIZE = 9


def network(front, outputs=4, end=(), prefix="", size=SIZE):
    """``front``, a padded 3x3 convolution, pooling, a dense layer and ``end``, as tf2onnx writes them."""
    random = np.random.default_rng(0)
    p = prefix
    values = {
        f"{p}w": random.normal(size=(5, 3, 3, 3)).astype(np.float32),
        f"{p}b": random.normal(size=5).astype(np.float32),
        f"{p}pads": np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
        f"{p}axes": np.array([2, 3], np.int64),
        f"{p}d": random.normal(size=(5, outputs)).astype(np.float32),
        f"{p}e": random.normal(size=outputs).astype(np.float32),
    }
    nodes, last = [], "pixels"
    for i, (op, constant) in enumerate(front):
        inputs = [last]
        if constant is not None:
            values[f"{p}c{i}"] = np.array(constant, np.float32)
            inputs.append(f"{p}c{i}")
        attributes = {"perm": [0, 3, 1, 2]} if op == "Transpose" else {}
        nodes.append(helper.make_node(op, inputs, [f"{p}f{i}"], **attributes))
        last = f"{p}f{i}"
    nodes += [
        helper.make_node("Pad", [last, f"{p}pads"], [f"{p}padded"]),
        helper.make_node("Conv", [f"{p}padded", f"{p}w", f"{p}b"], [f"{p}conv"], strides=[2, 2]),
        helper.make_node("Relu", [f"{p}conv"], [f"{p}relu"]),
        helper.make_node("GlobalAveragePool", [f"{p}relu"], [f"{p}pool"]),
        helper.make_node("Squeeze", [f"{p}pool", f"{p}axes"], [f"{p}flat"]),
        helper.make_node("MatMul", [f"{p}flat", f"{p}d"], [f"{p}mm"]),
        helper.make_node("Add", [f"{p}mm", f"{p}e"], [f"{p}out0"]),
    ]
    last = f"{p}out0"
    for i, op in enumerate(end):
        nodes.append(helper.make_node(op, [last], [f"{p}out{i + 1}"]))
        last = f"{p}out{i + 1}"
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", size, size, 3])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", outputs])],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


TRANSPOSE = [("Transpose", None)]


def run(model, feeds, name=None):
    session = ort.InferenceSession(model.SerializeToString())
    return session.run([name] if name else None, feeds)[0]


def ours(model, before):
    graph.fold_pads(model)
    graph.fold_dense(model)
    front = remove_preprocessing(model, SIZE, SIZE)
    add_image_input(model, front, before.then(front.own), SIZE, SIZE)
    output = add_scores_output(model)
    graph.canonicalise(model)
    onnx.checker.check_model(model, full_check=True)
    return output.classes


PIXELS = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
RANGE = Affine.per_channel(1 / 127.5, -1.0)
AS_IS = Affine.per_channel(1.0, 0.0)


def test_scales_are_folded_and_nothing_else_is():
    random = np.random.default_rng(2)
    values = {
        "w": random.normal(size=(3, 1, 3, 3)),
        "scale": random.uniform(0.5, 1.5, (1, 3, 1, 1)),
        "shift": random.normal(size=(3, 1, 1)),
        "half": np.array(0.5),
        "columns": random.normal(size=(1, 1, 1, 7)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], group=3),
        helper.make_node("Mul", ["scale", "a"], ["b"]),
        helper.make_node("Add", ["b", "shift"], ["c"]),
        helper.make_node("Conv", ["x", "w"], ["d"], group=3),
        helper.make_node("Mul", ["d", "half"], ["e"]),
        helper.make_node("Mul", ["e", "columns"], ["f"]),
        helper.make_node("Conv", ["x", "w"], ["g"], group=3),
        helper.make_node("Mul", ["g", "scale"], ["h"]),
        helper.make_node("Add", ["h", "g"], ["i"]),
        helper.make_node("Sum", ["c", "f", "i"], ["y"]),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, n, n]) for name, n in (("x", 9), ("y", 7))]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", shapes[:1], shapes[1:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    feeds = {"x": random.normal(size=(1, 3, 9, 9)).astype(np.float32)}
    expected = run(model, feeds)
    graph.fold_scales(model)
    # One convolution is read twice, and one product differs from column to column.
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv", "Mul", "Conv", "Mul", "Add", "Sum"]
    assert np.abs(run(model, feeds) - expected).max() < 1e-5


def test_names_do_not_change_the_bytes():
    first, second = network(TRANSPOSE), network(TRANSPOSE, prefix="x/1_")
    second.graph.initializer.reverse()
    ours(first, RANGE)
    ours(second, RANGE)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert graph.digest(first) == graph.digest(second)


def test_multiply_adds():
    model = network(TRANSPOSE)
    ours(model, RANGE)
    # 3x3 on 3 channels at 4x4 positions with 5 filters, and a 5x4 product.
    assert graph.multiply_adds(model) == 3 * 3 * 3 * 4 * 4 * 5 + 5 * 4


def test_a_shape_that_is_computed_becomes_constant():
    """What Keras's Flatten is where TensorFlow's optimiser gave up."""
    model = network(TRANSPOSE)
    (flatten,) = [node for node in model.graph.node if node.op_type in ("Flatten", "Squeeze", "Reshape")]
    position = list(model.graph.node).index(flatten)
    source, target = flatten.input[0], flatten.output[0]
    model.graph.node.remove(flatten)
    computed = [
        helper.make_node("Shape", [source], ["all"]),
        helper.make_node("Gather", ["all", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", [source, "shape"], [target]),
    ]
    for node in reversed(computed):
        model.graph.node.insert(position, node)
    for name, value in (("zero", [0]), ("rest", [5])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    images = RANGE.apply(PIXELS)
    expected = run(model, {"pixels": images})
    graph.fold_shapes(model)
    (reshape,) = [node for node in model.graph.node if node.op_type == "Reshape"]
    assert graph.Graph(model).array(reshape.input[1]).tolist() == [-1, 5]
    assert np.array_equal(run(model, {"pixels": images}), expected)
    ours(model, RANGE)
    assert not {"Shape", "Gather", "Concat"} & {node.op_type for node in model.graph.node}

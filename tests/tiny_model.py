"""A real, tiny ONNX file of ours: its scores follow from the mean colour, so every answer can be foretold.

The evidence for a colour is how much of it each of 4 x 4 cells has: its mean over 8 x 8 pixels, divided by 25.5.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app.inference.contract import Contract, Golden
from app.inference.imaging import Resize
from model_build.export import class_activation_map, publish
from tests.photos import encode, solid

LABELS = ("red", "green", "blue")


def scores_of(red: float, green: float, blue: float, scale: float = 25.5) -> list[float]:
    """What the model says about a picture with this mean colour (0 to 255)."""
    logits = np.array([red, green, blue]) / scale
    exponents = np.exp(logits - logits.max())
    return [float(value) for value in exponents / exponents.sum()]


def independent_scores_of(red: float, green: float, blue: float, scale: float = 25.5) -> list[float]:
    """What the multi-label model says about a picture with this mean colour (0 to 255)."""
    return [float(1 / (1 + np.exp(5 - colour / scale))) for colour in (red, green, blue)]


def contract(**changes) -> Contract:
    made = Contract(
        name="tiny",
        version="1",
        precision="fp32",
        labels=LABELS,
        ids=("n1", None, "n3"),
        resize=Resize(height=32, width=32, crop=0.875, filter="bilinear"),
        temperature=1.0,
        unknown_below=0.0,
        golden=golden(),
        multiply_adds=9,
        parameters=3,
        provenance={"weights": "none"},
        measured={},
    )
    return replace(made, **changes)


def golden(scale: float = 25.5, label: str | None = None) -> Golden:
    return Golden(encode(solid((250, 10, 10)), "PNG"), dict(enumerate(scores_of(250, 10, 10, scale))), 0.01, label)


def write(
    path: Path,
    made: Contract | None = None,
    metadata: dict[str, str] | None = None,
    scale: float = 25.5,
    work: int = 0,
    sign: Callable[[bytes], bytes] | None = None,
    explainable: bool = True,
    novel: bool = False,
    multi_label: bool = False,
) -> Path:
    """Writes the model under another name, then renames it.

    Args:
        path: where.
        sign: makes a signature.
        made, metadata, scale, work, explainable, novel, multi_label: as for ``proto``.
    """
    partial = path.with_name(f".{path.name}.partial")
    body = proto(
        made, metadata, scale, work, explainable=explainable, novel=novel, multi_label=multi_label
    ).SerializeToString(deterministic=True)
    partial.write_bytes(publish.seal(body, sign))
    return partial.replace(path)


def proto(
    made: Contract | None = None,
    metadata: dict[str, str] | None = None,
    scale: float = 25.5,
    work: int = 0,
    explainable: bool = True,
    novel: bool = False,
    multi_label: bool = False,
) -> ModelProto:
    """The model without checksum and signature.

    Args:
        made: its contract.
        metadata: replaces what the contract would say.
        scale: what the mean colours are divided by; the smaller, the surer.
        work: how many times to do something that changes nothing.
        explainable: whether it can say where its evidence lies.
        novel: whether it says how novel a picture is: how dark, from 0 (one of its mean colours is 255) to 1. What
            its scores are depends on differences of colours, so that neither follows from the other.
        multi_label: whether each colour has a score of its own, over 0.5 where it is over half of white.
    """
    made = made or contract(golden=golden(scale))
    if multi_label:
        scores = dict(enumerate(independent_scores_of(250, 10, 10, scale)))
        made = replace(made, multi_label=True, unknown_below=0.5, golden=replace(made.golden, scores=scores))
    nodes = [
        helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], to=TensorProto.FLOAT),
        *(helper.make_node("Abs", ["float" + "'" * i], ["float" + "'" * (i + 1)]) for i in range(work)),
        helper.make_node("AveragePool", ["float" + "'" * work], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Identity", ["cells"], ["features"]),
        helper.make_node("GlobalAveragePool", ["cells"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", *(["bias"] if multi_label else [])], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"])
        if multi_label
        else helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    outputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3, 4, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3]),
    ]
    constants = {"weight": np.eye(3, dtype=np.float32) / np.float32(scale)}
    if multi_label:
        constants["bias"] = np.full(3, -5, np.float32)
    if novel:
        nodes += [
            helper.make_node("ReduceMax", ["flat"], ["brightest"], axes=[1], keepdims=0),
            helper.make_node("Div", ["brightest", "white"], ["brightness"]),
            helper.make_node("Sub", ["one", "brightness"], ["novelty"]),
        ]
        outputs.append(helper.make_tensor_value_info("novelty", TensorProto.FLOAT, ["batch"]))
        constants |= {"white": np.float32(255), "one": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if explainable:
        model = class_activation_map.add(model)
    for key, value in (made.to_metadata() if metadata is None else metadata).items():
        model.metadata_props.add(key=key, value=value)
    return model

"""The Keras model of a plan: MobileNetV2 from its building blocks.

A standard convolution filters and mixes channels at once, which costs F·F·C·Wo·Ho·Nf multiply-adds. MobileNetV2 takes
the two apart: a depthwise convolution filters each channel by itself (F·F·Wo·Ho·C), a 1x1 convolution mixes them. Its
block keeps what it carries on narrow and filters where it is wide::

    [h, w, C] -- 1x1 expand, ReLU6 --> [h, w, tC] -- 3x3 depthwise, ReLU6 --> [h/s, w/s, tC] -- 1x1 project --> [.., C']
        └──────────────────────────────── added, where the shapes are the same ────────────────────────────────────┘

ReLU6 is min(max(x, 0), 6): its range is known, so few bits can hold it. Only standard layers are used; a saved model
loads anywhere Keras does.
"""

from typing import Any, Final

import keras
import numpy as np
from keras import layers

from model_build.network.architecture import Bottleneck, Convolution, Plan

#: Of batch normalisation, as in the paper's code.
_EPSILON: Final = 1e-3
_MOMENTUM: Final = 0.999


def build(plan: Plan) -> keras.Model:
    """The planned network with random weights: ``float32 [batch, size, size, 3]`` to softmax ``[batch, classes]``."""
    image = keras.Input((plan.size, plan.size, 3))
    x = convolve(image, plan.stem)
    for block in plan.bottlenecks:
        x = bottleneck(x, block)
    x = convolve(x, plan.last)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    # Over [1, 1, features] a 1x1 convolution is the dense layer that classifies.
    x = convolve(x, plan.classifier)
    x = layers.Flatten(name="logits")(x)
    scores = layers.Softmax(name="scores")(x)
    return keras.Model(image, scores, name=f"mobilenet_v2_{plan.layout.name}")


def bottleneck(x: Any, block: Bottleneck) -> Any:
    """The inverted residual with a linear bottleneck (Sandler et al. 2018, section 3)."""
    y = x
    if block.expand is not None:
        y = convolve(y, block.expand)
    y = convolve(y, block.depthwise)
    y = convolve(y, block.project)
    return layers.Add(name=f"{block.name}_add")([x, y]) if block.residual else y


def convolve(x: Any, step: Convolution) -> Any:
    """A convolution with what follows it: batch normalisation, then ReLU6, each where the plan says so."""
    # "same" pads as the reference does by hand: one row and column at the far side where an even side is halved.
    options = {"strides": step.stride, "padding": "same", "use_bias": step.bias, "name": step.name}
    if step.depthwise:
        x = layers.DepthwiseConv2D(step.kernel, **options)(x)
    else:
        x = layers.Conv2D(step.filters, step.kernel, **options)(x)
    if step.normalised:
        x = layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM, name=f"{step.name}_norm")(x)
    if step.clipped:
        x = layers.ReLU(6.0, name=f"{step.name}_relu6")(x)
    return x


def copy_weights(model: keras.Model, source: keras.Model) -> None:
    """Gives a network of the reference layout the weights of a ``keras.applications`` one, one for one.

    Raises:
        ValueError: they are not the same network.
    """
    # The only difference: dense weights [features, classes] are the kernel [1, 1, features, classes].
    model.set_weights([np.reshape(w, (1, 1, *w.shape)) if w.ndim == 2 else w for w in source.get_weights()])

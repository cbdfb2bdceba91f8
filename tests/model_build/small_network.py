"""A network of MobileNetV2's parts that takes a second to convert, with random weights."""

import numpy as np

from model_build.network import weights  # noqa: F401 - first: it sets TensorFlow's environment

# isort: split
import keras
from keras import layers

SIDE, CLASSES = 32, 5


def make() -> keras.Model:
    """Takes ``float32 [N, 32, 32, 3]`` in [-1, 1]; one inverted residual, one strided block, a head of five classes."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIDE, SIDE, 3))
    stem = relu6(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs))
    wide = relu6(layers.Conv2D(24, 1, use_bias=False)(stem))
    wide = relu6(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(wide))
    narrow = layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(wide))
    added = layers.Add()([stem, narrow])
    small = relu6(layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(added))
    last = relu6(layers.Conv2D(32, 1, use_bias=False)(small))
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(last))
    model = keras.Model(inputs, outputs)
    random = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape[0]
            spread = [random.uniform(0.5, 1.5, size), random.normal(0.5, 0.5, size)]
            layer.set_weights([*spread, random.normal(0, 0.2, size), random.uniform(0.1, 0.5, size)])
    # Logits that are far enough apart to mean something.
    weight, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([3 * weight, random.normal(0, 0.1, bias.shape)])
    return model


def relu6(tensor):
    return layers.ReLU(6.0)(layers.BatchNormalization()(tensor))

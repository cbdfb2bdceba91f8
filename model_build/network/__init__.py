"""MobileNetV2 itself: its plan, its layers in Keras, its weights, what it costs."""

import os

# TensorFlow reads these when it is imported, which no module of this package does earlier: no banner, no GPU probing,
# the same arithmetic on every run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

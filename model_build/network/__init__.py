"""MobileNetV2 itself: its plan, its layers in Keras, its weights, what it costs."""

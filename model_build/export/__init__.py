"""From a Keras network to a complete model file: graph, quantization, parity, golden photo, signature."""

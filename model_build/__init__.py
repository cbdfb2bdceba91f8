"""The workshop: makes, checks and measures the ONNX files that the service loads."""

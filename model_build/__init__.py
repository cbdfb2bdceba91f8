"""The model builder: makes, checks and measures the ONNX files that the service loads."""

import app  # noqa: F401 - first of all: it turns ONNX Runtime's uploader off

"""The service: a photo in over HTTP, its labels out."""

import os

__version__ = "0.1.0"

#: The model builder's package: here, and where the wheel is installed (hatch_build.py).
BUILDER = "model_build" if __name__ == "app" else f"{__name__}_build"

# Linux wheels of ONNX Runtime 1.29 and later carry an uploader that is on by default; it reads this when it is
# imported, which happens in several modules. The pinned release has none, an installed one might.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

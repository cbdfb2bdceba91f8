"""The service: a photo in over HTTP, its labels out."""

import os
from typing import Final

__version__ = "0.1.0"

#: How the model builder is called: the one beside this package in a checkout, or the one that the wheel installs.
BUILDER: Final = f"python -m {'model_build' if __name__ == 'app' else 'edge_classifier_build'}"

# Linux wheels of ONNX Runtime 1.29 and later carry an uploader that is on by default; it reads this when it is
# imported, which happens in several modules. The pinned release has none, an installed one might.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

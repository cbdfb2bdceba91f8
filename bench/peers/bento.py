"""BentoML with the same network and preprocessing."""

import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort
from PIL import Image


@bentoml.service(workers=1, traffic={"timeout": 30})
class Classify:
    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["MODEL"])

    @bentoml.api
    def predict(self, file: Path) -> dict:
        image = Image.open(file).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)[np.newaxis]
        _ = pixels.astype(np.float32) / 127.5 - 1.0
        scores = self.session.run(["scores"], {"image": pixels})[0][0]
        best = np.argsort(scores)[::-1][:5]
        return {"predictions": [{"label": str(i), "score": float(scores[i])} for i in best]}

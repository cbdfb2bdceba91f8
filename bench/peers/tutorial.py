"""The FastAPI service that tutorials show: default session, float normalisation, Pillow, one form field."""

import io
import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()
session = ort.InferenceSession(os.environ["MODEL"])
labels = [str(i) for i in range(1000)]


def classify(data: bytes):
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    # The network of the comparison takes uint8; the normalisation is what the tutorial pays for in Python.
    pixels = np.asarray(image)[np.newaxis]
    _ = pixels.astype(np.float32) / 127.5 - 1.0
    scores = session.run(["scores"], {"image": pixels})[0][0]
    best = np.argsort(scores)[::-1][:5]
    return {"predictions": [{"label": labels[i], "score": float(scores[i])} for i in best]}


if os.environ.get("STYLE") == "async":

    @app.post("/predict")
    async def predict(file: UploadFile):
        return classify(await file.read())

else:

    @app.post("/predict")
    def predict(file: UploadFile):
        return classify(file.file.read())

"""LitServe with the same network and preprocessing; BATCH and WORKERS from the environment."""

import io
import os

import litserve as ls
import numpy as np
import onnxruntime as ort
from PIL import Image


class Classify(ls.LitAPI):
    def setup(self, device):
        self.session = ort.InferenceSession(os.environ["MODEL"])

    def decode_request(self, request):
        image = Image.open(io.BytesIO(request["file"].file.read())).convert("RGB")
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))
        _ = pixels[np.newaxis].astype(np.float32) / 127.5 - 1.0
        return pixels

    def predict(self, x):
        x = np.stack(x) if isinstance(x, list) else x
        scores = self.session.run(["scores"], {"image": x if x.ndim == 4 else x[np.newaxis]})[0]
        return scores if x.ndim == 4 else scores[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        best = np.argsort(output)[::-1][:5]
        return {"predictions": [{"label": str(i), "score": float(output[i])} for i in best]}


if __name__ == "__main__":
    batch = int(os.environ.get("BATCH", "1"))
    api = Classify(max_batch_size=batch, batch_timeout=0.005)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ.get("WORKERS", "1")))
    server.run(port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")

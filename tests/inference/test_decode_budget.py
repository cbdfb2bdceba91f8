"""Memory for decoding: estimated rightly, shared fairly, found out."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from app.errors import TooManyPixels
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Resize, load
from tests.conftest import ROOT, serving
from tests.internals import reserved_bytes, somebody_waits
from tests.photos import encode, heic, solid

RULE = Resize(height=96, width=96, crop=0.875, filter="bilinear")
#: Prints, for each file that stdin names, the bytes that were asked for and those that were taken.
MEASURE = """
import json, sys
from pathlib import Path
from app.inference.imaging import Resize, load
from app.inference.decode_budget import DecodeBudget

class Asked(DecodeBudget):
    def reserve(self, needed, what):
        self.needed = needed
        return super().reserve(needed, what)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

for path in sys.stdin.read().split("\\n"):
    data, room = Path(path).read_bytes(), Asked(10**9)
    load(data, Resize(96, 96, 0.875, "bilinear"), room)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    load(data, Resize(96, 96, 0.875, "bilinear"), room)
    print(json.dumps([Path(path).name, room.needed, status("VmHWM") - before]))
"""


def pictures():
    """Two megapixels in every format, and in the variants that take most memory."""
    rgb = Image.effect_noise((64, 64), 90).convert("RGB").resize((1600, 1250))
    wide = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 256)
    turned = Image.Exif()
    turned[0x112] = 6
    yield "jpeg", encode(rgb, "JPEG")
    yield "progressive", encode(rgb, "JPEG", progressive=True, subsampling=0)
    yield "progressive cmyk", encode(rgb.convert("CMYK"), "JPEG", progressive=True, subsampling=0)
    yield "png", encode(rgb, "PNG", compress_level=1)
    yield "png alpha", encode(rgb.convert("RGBA"), "PNG", compress_level=1)
    yield "png transparent", encode(rgb, "PNG", compress_level=1, transparency=(1, 2, 3))
    yield "png palette", encode(rgb.quantize(64), "PNG", compress_level=1)
    yield "png 16", encode(wide, "PNG", compress_level=1)
    yield "webp", encode(rgb, "WEBP", quality=50, method=0)
    yield "webp lossless", encode(rgb, "WEBP", lossless=True, quality=0, method=0)
    yield "webp animated", encode(rgb, "WEBP", method=0, save_all=True, append_images=[rgb.convert("L").convert("RGB")])
    yield "avif", encode(rgb, "AVIF", speed=10, subsampling="4:4:4")
    yield "avif alpha", encode(rgb.convert("RGBA"), "AVIF", speed=10)
    yield "heic", heic(rgb)
    yield "gif", encode(rgb.quantize(64), "GIF")
    yield "bmp", encode(rgb, "BMP")
    yield "tiff turned", encode(rgb, "TIFF", exif=turned)
    yield "tiff 32", encode(rgb.convert("I"), "TIFF")
    yield "tiff float", encode(rgb.convert("F"), "TIFF")


@pytest.mark.skipif(sys.platform != "linux", reason="measures with procfs")
def test_decoding_takes_no_more_than_was_asked_for(tmp_path):
    for name, data in pictures():
        (tmp_path / name).write_bytes(data)
    # glibc keeps small blocks, and takes what was freed before for small: every picture has to be a block of its own.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "PATH": "/usr/bin"}
    output = subprocess.run(
        [sys.executable, "-c", MEASURE],
        cwd=ROOT,
        input="\n".join(map(str, tmp_path.iterdir())),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {name: (asked, taken) for name, asked, taken in map(json.loads, output.splitlines())}
    assert len(found) == len(list(pictures()))
    # Tables, rows and buffers of a decoder do not grow with the picture.
    assert {name: figures for name, figures in found.items() if figures[1] > figures[0] + 2_000_000} == {}
    # And it was measured, not missed.
    assert found["webp"][1] > 20_000_000
    assert found["jpeg"][1] < 2_000_000


def scans(data):
    """A JPEG of three components, each in a scan of its own: baseline, but kept whole until the last scan."""
    at = data.index(b"\xff\xda")
    return data[: at + 4] + b"\x01" + data[at + 5 :]


def test_a_baseline_jpeg_takes_next_to_nothing():
    photo = encode(solid((9, 200, 9), (4000, 3000)), "JPEG")
    load(photo, RULE, DecodeBudget(10**8, 1_000_000))
    for other in (encode(solid((9, 200, 9), (4000, 3000)), "JPEG", progressive=True), scans(photo)):
        with pytest.raises(TooManyPixels, match=r"4000 x 3000 JPEG takes about 7\d MB .* has 1 MB"):
            load(other, RULE, DecodeBudget(10**8, 1_000_000))


#: Seconds after which a thread that waits for something counts as hanging.
PATIENCE = 30


def test_they_wait_for_each_other():
    decode_budget, order = DecodeBudget(1, 100), []

    def decode(name, needed):
        with decode_budget.reserve(needed, name):
            order.append(name)

    # Daemons: a test that fails does not wait for them.
    large = threading.Thread(target=decode, args=("large", 50), daemon=True)
    small = threading.Thread(target=decode, args=("small", 10), daemon=True)
    with decode_budget.reserve(60, "first"):
        large.start()
        deadline = time.monotonic() + PATIENCE
        while not somebody_waits(decode_budget):
            assert large.is_alive(), "the large one has not waited"
            assert time.monotonic() < deadline
        small.start()
        small.join(0.05)
        assert order == [], "a small one has overtaken the large one"
    for thread in (large, small):
        thread.join(PATIENCE)
        assert not thread.is_alive(), "nobody has said that there is room again"
    assert order == ["large", "small"]
    assert reserved_bytes(decode_budget) == 0


@pytest.mark.parametrize("needed", [0, 1, 99, 100])
def test_all_of_the_room_may_be_taken(needed):
    decode_budget = DecodeBudget(1, 100)
    taken = threading.Event()

    def decode():
        with decode_budget.reserve(100 - needed, "beside it"):
            taken.set()

    with decode_budget.reserve(needed, "as much as there is"):
        assert reserved_bytes(decode_budget) == needed
        thread = threading.Thread(target=decode, daemon=True)
        thread.start()
        assert taken.wait(PATIENCE), "what fits exactly has to wait"
        thread.join(PATIENCE)
    assert reserved_bytes(decode_budget) == 0


def test_one_more_than_there_is_never_fits():
    with pytest.raises(TooManyPixels), DecodeBudget(1, 100).reserve(101, "it"):
        pass


def test_pixels_up_to_the_limit():
    photo = encode(solid((9, 200, 9), (40, 30)), "PNG")
    load(photo, RULE, DecodeBudget(1200))
    with pytest.raises(TooManyPixels, match="40 x 30"):
        load(photo, RULE, DecodeBudget(1199))


def test_what_was_taken_is_given_back():
    decode_budget = DecodeBudget(10**6, 1_000_000)
    photo = encode(solid((9, 200, 9), (300, 300)), "PNG")
    for cut in (len(photo), len(photo) // 2):
        try:
            load(photo[:cut], RULE, decode_budget)
        except Exception:
            assert cut < len(photo)
        assert reserved_bytes(decode_budget) == 0


def test_a_service_with_little_memory(tiny):
    """Answers what fits, and says what to do where it does not."""
    with serving(tiny, max_decode_bytes=5_000_000) as client:
        small = client.post("/predict", content=encode(solid((250, 9, 9), (1000, 1000)), "PNG"))
        refused = client.post("/predict", content=encode(solid((250, 9, 9), (1200, 1100)), "PNG"))
        explained = client.post("/explain", content=encode(solid((250, 9, 9), (1200, 1100)), "PNG"))
    assert small.status_code == 200
    assert (refused.status_code, explained.status_code) == (413, 413)
    assert refused.json()["type"].endswith(":too-many-pixels")
    assert "baseline JPEG" in refused.json()["detail"]

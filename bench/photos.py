"""The photos that every benchmark posts."""

import io
from pathlib import Path
from typing import Final

from PIL import Image

from app.cli.benchmark import FULL_HD, PHONE, Size, enlarged

#: What cameras and phones send.
LARGE: Final = (FULL_HD, Size("4K", 3840, 2160, 1_300_000), PHONE)
#: Files of a folder whose sizes are looked at.
_LOOKED_AT: Final = 1000


def read(folder: Path | None, count: int = 50) -> list[bytes]:
    """``count`` JPEG files from a folder; without one, scikit-image's photos at 500 pixels, again and again."""
    if folder is not None:
        return [path.read_bytes() for path in _files(folder)[:count]]
    import skimage

    made = []
    for name in ("astronaut", "chelsea", "coffee", "motorcycle_left", "hubble_deep_field"):
        (path,) = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((500, 500))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=92)
        made.append(buffer.getvalue())
    return (made * count)[:count]


def large(folder: Path | None, size: Size, count: int = 4) -> list[bytes]:
    """``count`` photos of about this size: those of the folder that have it, else others, enlarged."""
    real = []
    for path in _files(folder)[:_LOOKED_AT] if folder else []:
        with Image.open(path) as picture:
            if 0.9 < picture.width * picture.height / (size.width * size.height) < 1.1 and len(real) < count:
                real.append(path.read_bytes())
    made = read(folder, count)[len(real) : count]
    return real + [
        enlarged(Image.open(io.BytesIO(photo)).convert("RGB"), size, seed) for seed, photo in enumerate(made)
    ]


def frames(folder: Path | None, size: Size, count: int = 8) -> list[bytes]:
    """What one camera sends of one scene: the same picture with other noise."""
    scene = Image.open(io.BytesIO(read(folder, 1)[0])).convert("RGB")
    return [enlarged(scene, size, seed) for seed in range(count)]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.[jJ][pP]*[gG]"))


def multipart(photo: bytes, field: str = "file") -> tuple[str, bytes]:
    """Content-Type and body of a form with one photo."""
    boundary = "----edge-classifier-bench"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="x.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return f"multipart/form-data; boundary={boundary}", head.encode() + photo + f"\r\n--{boundary}--\r\n".encode()

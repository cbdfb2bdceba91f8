"""The photos that every benchmark posts."""

import io
from pathlib import Path

from PIL import Image


def read(folder: Path | None, count: int = 50) -> list[bytes]:
    """``count`` JPEG files from a folder; without one, scikit-image's photos at 500 pixels, again and again."""
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.glob("*.JP*G"))[:count]]
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


def multipart(photo: bytes, field: str = "file") -> tuple[str, bytes]:
    """Content-Type and body of a form with one photo."""
    boundary = "----edge-classifier-bench"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="x.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return f"multipart/form-data; boundary={boundary}", head.encode() + photo + f"\r\n--{boundary}--\r\n".encode()

"""``python -m tests.e2e.screenshots``: the pictures of the page in docs/, of a photo that anyone may publish (CC0)."""

import io

from PIL import Image

from app.registry.source import BUNDLED
from tests.conftest import ROOT, serving
from tests.e2e.conftest import CHELSEA, PHONE, PHOTOS, launch


def main() -> None:
    (model,) = BUNDLED.glob("*.onnx")
    with serving(model) as client, launch() as browser:
        for scheme in ("light", "dark"):
            for name, viewport in (("desktop", {"width": 1280, "height": 760}), ("phone", PHONE)):
                page = browser.new_page(color_scheme=scheme, viewport=viewport, device_scale_factor=1.5)
                page.goto(str(client.base_url))
                for number, photo in enumerate((PHOTOS / "coffee.png", CHELSEA), 1):
                    page.set_input_files("#files", photo)
                    page.wait_for_selector(f"#history li:nth-child({number})")
                page.check("#show-map")
                page.wait_for_selector("#map", state="visible")
                page.mouse.move(0, 0)
                shot = Image.open(io.BytesIO(page.screenshot()))
                (ROOT / "docs").mkdir(exist_ok=True)
                shot.save(ROOT / f"docs/page-{scheme}-{name}.webp", quality=82, method=6)
                page.close()


if __name__ == "__main__":
    main()

"""A second model beside the one that answers, with jobs that are held by events."""

import asyncio
import threading

import numpy as np
import pytest

from app.errors import TooManyPixels
from app.inference.classifier import Classifier
from app.inference.decode_budget import DecodeBudget
from app.inference.imaging import Crop, Resize, View
from app.inference.model import Model
from app.inference.shadow import Shadow
from tests.photos import encode, quarters, solid
from tests.tiny_model import contract, write

RED, GREEN = (encode(solid(colour), "PNG") for colour in ((240, 9, 9), (9, 240, 9)))


def classifier(path, memory=10**9, **changes) -> Classifier:
    return Classifier(Model(write(path, contract(**changes))), DecodeBudget(10**6, memory))


class Compared:
    """A shadow, and what it counts."""

    def __init__(self, shadow: Classifier, answering: Classifier, share: float = 1.0) -> None:
        self.compared: list[tuple[str, bool, bool]] = []
        self.dropped = 0
        self.is_idle = True
        self.answering = answering
        self.changed = asyncio.Event()
        self.shadow = Shadow(shadow, share, lambda: self.is_idle, self._count, self._count_dropped)

    def _count(self, label: str, unknown: bool, agrees: bool) -> None:
        self.compared.append((label, unknown, agrees))
        self.changed.set()

    def _count_dropped(self) -> None:
        self.dropped += 1
        self.changed.set()

    def offer(self, photo: bytes) -> None:
        self.shadow.offer(self.answering, self.answering(photo).sight)

    async def see(self, photo: bytes) -> None:
        self.changed.clear()
        self.offer(photo)
        await asyncio.wait_for(self.changed.wait(), 20)


@pytest.fixture
def answering(tmp_path):
    return classifier(tmp_path / "a.onnx")


def run(work) -> None:
    asyncio.run(work())


@pytest.mark.parametrize(
    ("changes", "compared"),
    [
        ({}, ("red", False, True)),
        ({"labels": ("blue", "green", "red")}, ("red", False, False)),
        ({"unknown_below": 1.0}, ("red", False, False)),
        ({"groups": ("warm", "cool", "cool")}, ("red", False, True)),
        # Another input: the photo is decoded again.
        ({"resize": Resize(32, 32, 1.0, "bilinear", "squash")}, ("red", False, True)),
    ],
)
def test_what_both_say_is_compared(tmp_path, answering, changes, compared):
    async def work():
        shown = Compared(classifier(tmp_path / "s.onnx", **changes), answering)
        await shown.see(RED)
        shown.shadow.close()
        assert shown.compared == [compared]

    run(work)


@pytest.mark.parametrize("resize", [Resize(32, 32, 0.875, "bilinear"), Resize(32, 32, 1.0, "bilinear", "squash")])
def test_a_shadow_looks_at_the_same_part(tmp_path, answering, resize):
    """Also where it decodes the photo again; all of it, or the part without its mask, would be called otherwise."""

    async def work():
        shown = Compared(classifier(tmp_path / "s.onnx", resize=resize), answering)
        hidden = View(Crop(0.0, 0.0, 1.0, 0.5), "squash", (((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5)),))
        for view in (View(Crop(0.0, 0.5, 0.5, 1.0)), hidden):
            sight = answering.views(encode(quarters(), "PNG"), [view], cameras=[None])[0].sight
            shown.changed.clear()
            shown.shadow.offer(answering, sight)
            await asyncio.wait_for(shown.changed.wait(), 20)
        shown.shadow.close()
        assert shown.compared == [("blue", False, True), ("green", False, True)]

    run(work)


@pytest.mark.parametrize(("mine", "other", "agrees"), [(1.0, 1.0, True), (1.0, 0.0, False)])
def test_unknown_is_an_answer(tmp_path, mine, other, agrees):
    async def work():
        shadow = classifier(tmp_path / "s.onnx", unknown_below=other)
        shown = Compared(shadow, classifier(tmp_path / "a.onnx", unknown_below=mine))
        await shown.see(RED)
        shown.shadow.close()
        assert shown.compared == [("red", True, agrees)]

    run(work)


def test_groups_are_compared_where_both_have_them(tmp_path):
    async def work():
        grouped = classifier(tmp_path / "a.onnx", groups=("warm", "cool", "cool"))
        other = classifier(tmp_path / "s.onnx", labels=("crimson", "lime", "navy"), groups=("warm", "cool", "cool"))
        shown = Compared(other, grouped)
        await shown.see(GREEN)
        shown.shadow.close()
        assert shown.compared == [("cool", False, True)]

    run(work)


@pytest.mark.parametrize(("share", "seen"), [(1.0, 20), (0.25, 5), (0.04, 0)])
def test_a_share_of_the_photos(tmp_path, answering, share, seen):
    async def work():
        shown = Compared(classifier(tmp_path / "s.onnx"), answering, share)
        for number in range(20):
            if int((number + 1) * share) > int(number * share):
                await shown.see(RED)
            else:
                shown.offer(RED)
        shown.shadow.close()
        assert (len(shown.compared), shown.dropped) == (seen, 0)

    run(work)


def test_while_photos_wait_nothing_is_compared(tmp_path, answering):
    async def work():
        shown = Compared(classifier(tmp_path / "s.onnx"), answering)
        shown.is_idle = False
        shown.offer(RED)
        shown.shadow.close()
        assert (shown.compared, shown.dropped) == ([], 1)

    run(work)


def test_one_photo_is_held_at_most(tmp_path, answering, monkeypatch):
    async def work():
        held = threading.Event()
        shadow = classifier(tmp_path / "s.onnx")
        judge = shadow.model.judge
        monkeypatch.setattr(shadow.model, "judge", lambda pixels: held.wait(20) and judge(pixels))
        shown = Compared(shadow, answering)
        for _ in range(50):
            shown.offer(RED)
        assert (shown.compared, shown.dropped) == ([], 49)
        shown.changed.clear()
        held.set()
        await asyncio.wait_for(shown.changed.wait(), 20)
        await shown.see(RED)
        shown.shadow.close()
        assert (len(shown.compared), shown.dropped) == (2, 49)

    run(work)


def test_what_cannot_be_decoded_again_is_dropped(tmp_path, answering, monkeypatch):
    async def work():
        other = Resize(32, 32, 1.0, "bilinear", "squash")
        shown = Compared(classifier(tmp_path / "s.onnx", memory=10, resize=other), answering)
        await shown.see(RED)
        assert shown.dropped == 1
        # Pixels that came as pixels have no photo, and a large photo is not kept.
        pixels = answering.scores(np.zeros((32, 32, 3), np.uint8))[0]
        shown.shadow.offer(answering, pixels)
        shown.shadow.offer(answering, answering(RED + bytes(2_000_000)).sight)
        assert (shown.compared, shown.dropped) == ([], 3)
        shown.shadow.close()

    run(work)


@pytest.mark.parametrize("error", [ZeroDivisionError, TooManyPixels("too large")])
def test_a_fault_of_the_shadow_is_its_own(tmp_path, answering, monkeypatch, caplog, error):
    async def work():
        shadow = classifier(tmp_path / "s.onnx")
        judge = shadow.model.judge

        def fail(_pixels):
            raise error

        monkeypatch.setattr(shadow.model, "judge", fail)
        shown = Compared(shadow, answering)
        await shown.see(RED)
        monkeypatch.setattr(shadow.model, "judge", judge)
        await shown.see(RED)
        shown.shadow.close()
        assert (shown.dropped, shown.compared) == (1, [("red", False, True)])

    run(work)
    assert ("the shadow model failed" in caplog.text) == (error is ZeroDivisionError)

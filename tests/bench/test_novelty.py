"""Comparing the ways to say that a photo is unknown."""

import numpy as np
import pytest

from bench import novelty
from bench.novelty import Seen, auroc, chosen_by_others, judge, main
from model_build.dataset import photos
from model_build.export import class_activation_map, publish
from model_build.export.novelty import Head
from tests import tiny_model
from tests.model_build.training.test_teach import network


def test_auroc_counts_pairs():
    known, foreign = np.array([1.0, 2, 2, 3]), np.array([2.0, 4, 0])
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a in known for b in foreign]
    assert auroc(known, foreign) == pytest.approx(np.mean(pairs))


@pytest.fixture(scope="module")
def judged():
    """Twelve directions, each a class's: photos of eight of them, and of nothing that has one."""
    random, count = np.random.default_rng(0), 12
    weight = 3 * np.eye(count)

    def seen(features: np.ndarray) -> Seen:
        features = np.maximum(features + random.normal(0, 0.2, features.shape), 0)
        return Seen(features, features @ weight + 1)

    classes = np.repeat(np.arange(8), 20)
    middling = np.full((150, count), 0.6)
    things = np.repeat(["a", "b", "c", "d", "e"], 30)
    head = Head("pooled", "logits", weight, np.ones(count))
    typical = seen(np.eye(count)[np.arange(60) % count] * 2)
    return judge(head, typical, seen(np.eye(count)[classes] * 2), classes, seen(middling)), things


def test_methods_that_know_the_classes_tell_and_those_that_know_half_of_them_do_not(judged):
    found, _ = judged
    assert all(len(one.known) == len(one.foreign) == 2 for one in found.values())
    for name in ("maximum softmax", "best logit, standardized by the others", "the same of centred features"):
        assert found[name].auroc() > 0.95, name
        assert found[name].refused(0.05).mean() > 0.8, name
    # Photos of four classes say nothing about the other four.
    assert found["distance to class means"].auroc() < 0.6


def test_no_thing_chooses_the_method_that_judges_it(judged):
    found, things = judged
    worst, best = found["distance to class means"], found["the same of centred features"]
    chosen, refused = chosen_by_others({"worst": worst, "best": best}, things, 0.05)
    assert chosen == ["best"] * novelty.ROUNDS
    assert np.array_equal(refused, best.refused(0.05))


def test_the_command(tmp_path, capsys):
    model = publish.publish(class_activation_map.add(network()), tiny_model.contract(), tmp_path)
    folders = ["typical", *(f"known/{label}" for label in tiny_model.LABELS), "foreign/x", "foreign/y"]
    for i, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for j in range(4):
            photos.picture(10 * i + j, 40, 40).save(tmp_path / folder / f"{j}.png")
    where = [f"--{what}={tmp_path / what}" for what in ("typical", "known", "foreign")]
    main([str(model), *where])
    said = capsys.readouterr().out
    assert "12 photos of 3 known classes, 8 of 2 foreign things" in " ".join(said.split())
    assert "the same of centred features" in said
    assert "held out" not in said
    headless = tiny_model.write(tmp_path / "headless.onnx", explainable=False)
    cases = [
        (tmp_path / "absent.onnx", where, "no model file"),
        (headless, [*where[:2], f"--foreign={tmp_path / 'typical'}"], "two folders of foreign things"),
        (model, [*where[:2], f"--foreign={tmp_path / 'nowhere'}"], "nowhere"),
    ]
    for path, arguments, says in cases:
        with pytest.raises(SystemExit) as ended:
            main([str(path), *arguments])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err

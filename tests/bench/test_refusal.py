"""What a taught model refuses, by things drawn to be its classes."""

import numpy as np
import pytest

from bench.refusal import Drawing, draw, main
from model_build.dataset import folds, photos
from model_build.errors import InputError
from model_build.export import class_activation_map, publish
from tests import tiny_model
from tests.model_build.training.test_teach import network


def test_things_that_are_nothing_alike_are_refused_and_own_photos_are_not():
    things = np.repeat(np.arange(5), 40)
    random = np.random.default_rng(0)
    features = 12 * np.eye(40)[things] + 5 * (random.uniform(size=(200, 40)) < 0.06)
    own, foreign, shown, auroc = draw(features.astype(np.float32), things, Drawing(3, 20, 1, 20, 0.05), 0)
    assert own < 0.5
    assert foreign > 0.9
    assert shown > 0.9
    assert auroc > 0.95
    with pytest.raises(InputError, match="near-duplicates"):
        draw(np.eye(40, dtype=np.float32)[things], things, Drawing(3, 20, 0, 10, 0.05), 0)


def test_the_command(tmp_path, capsys, monkeypatch):
    # Generated pictures are all alike to a network that has learned nothing.
    monkeypatch.setattr(folds, "SIMILAR", 1.0)
    monkeypatch.setattr(folds, "_IDENTICAL", 1.0)
    model = publish.publish(class_activation_map.add(network()), tiny_model.contract(), tmp_path)
    for i, thing in enumerate("abc"):
        (tmp_path / "things" / thing).mkdir(parents=True)
        for j in range(8):
            photos.picture(10 * i + j, 40, 40).save(tmp_path / "things" / thing / f"{j}.png")
    arguments = [str(model), str(tmp_path / "things"), "--classes=2", "--draws=2"]
    main([*arguments, "--learn=5"])
    said = " ".join(capsys.readouterr().out.split())
    assert "2 draws of 2 of 3 things, 5 photos each" in said
    assert "AUROC" in said
    for wrong, says in ((["--learn=8"], "more than 8 photos each"), (["--classes=3"], "more than 3 things")):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *wrong])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err

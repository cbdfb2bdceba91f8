"""The autoscaler that is simulated is Kubernetes's, with the manifests' numbers."""

import pytest

from bench.fleet import Autoscaler, step


@pytest.mark.parametrize(
    ("replicas", "cpus", "wanted"),
    [
        # Kubernetes documentation, "Algorithm details": twice the target doubles, half of it halves, near it is left.
        (2, 2.0, 4),
        (4, 0.5, 2),
        (3, 1.09, 3),
        (3, 0.91, 3),
        (3, 1.2, 4),
        (9, 2.0, 10),
        (2, 0.0, 1),
    ],
)
def test_the_rule(replicas, cpus, wanted):
    assert Autoscaler(1, 10, 1.0, 2.0, 300).desired(replicas, cpus) == wanted


def test_the_manifests_numbers():
    assert Autoscaler.from_manifests() == Autoscaler(2, 10, 1.4, 2.0, 300)


def test_a_step(capsys):
    step(Autoscaler(1, 8, 1.0, 2.0, 60), 0.01, 10, [(0, 100), (30, 800), (300, 100)])
    rows = {int(line.split()[0]): line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows[15] == ["100", "1", "1.00", "0%"]
    # 800 photos of 0.01 CPU seconds need four pods of two CPUs; until they are there, the rest is refused.
    assert rows[30] == ["800", "1", "2.00", "75%"]
    assert rows[285][1:] == ["8", "1.00", "0%"]
    # Down, but not before the window is over.
    assert (rows[345][1], rows[375][1]) == ("8", "1")

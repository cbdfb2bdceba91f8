import os

import pytest

from app.runtime.cpus import cgroup_quota, usable_cpus


@pytest.fixture
def tree(tmp_path):
    """A /proc and a /sys/fs/cgroup of our own."""

    def make(line: str, files: dict[str, str]):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(line + "\n")
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path / "proc", tmp_path / "cgroup"

    return make


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "150000 100000"}, 1.0),
        ("0::/only/on/the/host", {"cpu.max": "200000 100000"}, 2.0),
        (
            "3:cpu,cpuacct:/x",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "150000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            1.5,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/", {}, None),
        ("0::/", {"cpu.max": "rubbish"}, None),
    ],
)
def test_quota(tree, line, files, expected):
    assert cgroup_quota(*tree(line, files)) == expected


def test_no_cgroups_at_all(tmp_path):
    assert cgroup_quota(tmp_path, tmp_path) is None


def test_the_smaller_of_quota_and_affinity(tree, monkeypatch):
    proc, cgroups = tree("0::/", {"cpu.max": "150000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus(proc, cgroups).count == 2
    assert "1.5" in usable_cpus(proc, cgroups).reason
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert usable_cpus(proc, cgroups).count == 1


def test_here():
    assert 1 <= usable_cpus().count <= (os.cpu_count() or 1)

"""How much memory may still be taken, as the kernel and the control groups say."""

from app.runtime.memory import free_bytes


def test_free_memory(tmp_path):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroups / "a").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/a\n")
    (proc / "self/status").write_text("Name:\tpython\nVmRSS:\t     100 kB\n")
    (proc / "meminfo").write_text("MemTotal: 999 kB\nMemAvailable:    500 kB\n")
    (cgroups / "a/memory.max").write_text("max\n")
    assert free_bytes(proc, cgroups) == 500 * 1024
    (cgroups / "memory.max").write_text("400000\n")
    assert free_bytes(proc, cgroups) == 400_000 - 100 * 1024
    assert free_bytes(tmp_path / "nothing", cgroups) is None

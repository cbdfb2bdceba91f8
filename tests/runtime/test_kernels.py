import pytest

from app.runtime.kernels import cpu_identity, int8_kernels

X86 = """processor\t: {number}
vendor_id\t: GenuineIntel
model\t\t: 85
model name\t: A CPU @ 2.00GHz
cpu MHz\t\t: {mhz}
flags\t\t: {flags}
"""


@pytest.mark.parametrize(
    ("machine", "flags", "name", "dot_products"),
    [
        ("x86_64", "avx2 fma avx512vl avx512_vnni amx_tile amx_int8", "AMX and AVX512-VNNI", True),
        # A hypervisor that hides a part of AMX.
        ("x86_64", "avx2 fma avx512vl avx512_vnni amx_int8", "AVX512-VNNI", True),
        ("x86_64", "avx2 fma avx_vnni", "AVX-VNNI", True),
        ("x86_64", "avx2 fma avx512bw avx512dq avx512vl", "AVX-512 without VNNI", False),
        ("x86_64", "avx2 fma", "AVX2", False),
        ("x86_64", "avx sse4_2", "SSE", False),
        ("aarch64", "fp asimd asimddp i8mm", "i8mm", True),
        ("aarch64", "fp asimd asimddp", "dot product", True),
        ("aarch64", "fp asimd", "NEON", False),
        ("riscv64", "", "unknown kernels", False),
    ],
)
def test_the_class_of_a_cpu(tmp_path, machine, flags, name, dot_products):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    found = int8_kernels(machine, tmp_path / "cpuinfo")
    assert (found.name, found.dot_products) == (name, dot_products)


def test_no_list_of_cpus(tmp_path):
    assert int8_kernels("x86_64", tmp_path / "absent").name == "SSE"
    assert cpu_identity(tmp_path / "absent") == ""


def test_what_tells_one_kind_of_cpu_from_another(tmp_path):
    path = tmp_path / "cpuinfo"

    def identity(cores: int = 1, mhz: str = "2000", flags: str = "avx2") -> str:
        path.write_text("\n".join(X86.format(number=n, mhz=mhz, flags=flags) for n in range(cores)))
        return cpu_identity(path)

    assert identity() == identity(cores=4) == identity(mhz="1200")
    assert identity() != identity(flags="avx2 avx_vnni")

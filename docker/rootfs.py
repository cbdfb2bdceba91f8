"""Collects the root filesystem of the image: an interpreter, the dependencies, and the libraries that both load.

``python rootfs.py TARGET SITE ROOT SBOM``, in the builder stage. Reads files only and runs nothing of the target's
processor, so an amd64 machine builds the arm64 image without emulation.

- TARGET: the unpacked base image of the target's processor, with CPython in /usr/local.
- SITE: the installed dependencies; what serving does not need is removed from it.
- ROOT: where the root filesystem is written.
- SBOM: a CycloneDX document of SITE, to which the interpreter and the copied Debian packages are added.
"""

import json
import platform
import re
import shutil
import sys
from pathlib import Path

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

#: Of the dependencies: tests, build tools, other programs' parts, and what exists twice.
NOT_SERVED = (
    "bin",
    "**/__pycache__",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.a",
    "**/tests",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/testing",
    "numpy/_core/include",
    "numpy/_core/_simd.*",
    # The Python binding carries the whole runtime in itself; this is the same for C programs.
    "onnxruntime/capi/libonnxruntime.so.*",
    "onnxruntime/backend",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    # Drawing text, colour management and toolkits; decoding needs none of them, and they bring libraries along.
    "PIL/_imagingft.*",
    "PIL/_imagingcms.*",
    "PIL/_imagingtk.*",
)
#: Of the standard library: its tests, what needs a terminal, a display or a database, what installs packages, and the
#: encodings of East Asia.
NOT_IMPORTED = (
    "**/__pycache__",
    "site-packages/*",
    "config-*",
    "test",
    "**/tests",
    "unittest",
    "distutils",
    "pydoc.py",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtle*",
    "ensurepip",
    "venv",
    "pydoc_data",
    "sqlite3",
    "curses",
    "dbm",
    *(f"lib-dynload/{name}.*" for name in ("_sqlite3", "_tkinter", "readline", "_dbm", "_gdbm", "nis", "_crypt")),
    *(
        f"lib-dynload/{name}*"
        for name in ("_curses", "_test", "_ctypes_test", "_xx", "xx", "_codecs_", "ossaudiodev", "audioop")
    ),
)


def main(target: Path, site: Path, root: Path, sbom: Path) -> None:
    """Writes ROOT; ends with a line that says which library is missing, if one is."""
    remove(site, NOT_SERVED)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = root / "usr/local/lib" / python
    shutil.copytree(target / "usr/local/lib" / python, library, symlinks=True)
    remove(library, NOT_IMPORTED)
    program = root / "usr/local/bin" / python
    program.parent.mkdir()
    shutil.copy2(target / "usr/local/bin" / python, program)
    for name in ("python3", "python"):
        program.with_name(name).symlink_to(python)
    copied = copy_libraries(target, [program, *library.rglob("*.so*"), *site.rglob("*.so*")], root)
    remove_unused_libraries(site)
    packages = debian_packages(target, copied)
    for name in packages:
        notice = target / "usr/share/doc" / name / "copyright"
        if notice.exists():
            place(notice, root / "usr/share/doc" / name / "copyright")
    describe(sbom, packages)


def remove(directory: Path, patterns: tuple[str, ...]) -> None:
    """Deletes what matches."""
    for pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def needs(path: Path) -> tuple[list[str], list[Path], str | None]:
    """The libraries that an ELF file names, where it looks for them itself, and its loader if it is a program."""
    with path.open("rb") as file:
        segments = list(ELFFile(file).iter_segments())
        tags = [tag for segment in segments if isinstance(segment, DynamicSegment) for tag in segment.iter_tags()]
        own = ":".join(
            tag.rpath if tag.entry.d_tag == "DT_RPATH" else tag.runpath
            for tag in tags
            if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")
        )
        places = [Path(place.replace("$ORIGIN", str(path.parent))) for place in own.split(":") if "$ORIGIN" in place]
        loaders = [segment.get_interp_name() for segment in segments if isinstance(segment, InterpSegment)]
        needed = [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"]
        return needed, places, loaders[0] if loaders else None


def copy_libraries(target: Path, files: list[Path], root: Path) -> list[Path]:
    """Copies the system libraries that ``files`` need, and those that these need, to the loader's default directory.

    Returns:
        The paths in the target that were copied.
    """
    (system,) = {path.parent for path in (target / "usr/lib").glob("*-linux-gnu/libc.so.6")}
    copied: dict[str, Path] = {}
    queue = [path for path in files if path.is_file()]
    while queue:
        path = queue.pop()
        needed, places, loader = needs(path)
        if loader:
            name = Path(loader).name
            place(system / name, root / loader.lstrip("/"))
            copied[name] = system / name
        for name in needed:
            if name in copied or any((place / name).exists() for place in places):
                continue
            found = [place / name for place in (system, target / "usr/local/lib") if (place / name).exists()]
            if not found:
                raise SystemExit(f"{path} needs {name}, which is nowhere in the base image")
            copied[name] = found[0]
            place(found[0], root / "lib" / system.name / name)
            queue.append(found[0])
    return list(copied.values())


def remove_unused_libraries(site: Path) -> None:
    """Deletes the libraries in wheels' ``*.libs`` that no extension module needs, and cuts off debug information."""
    used: set[Path] = set()
    queue = [path for path in site.rglob("*.so*") if not path.parent.name.endswith(".libs")]
    while queue:
        path = queue.pop()
        cut(path)
        names, places, _ = needs(path)
        found = {place / name for name in names for place in places if (place / name).exists()}
        new = {path.resolve() for path in found} - used
        used |= new
        queue += new
    for path in site.glob("*.libs/*"):
        if path.resolve() not in used:
            path.unlink()


def cut(path: Path) -> None:
    """Cuts off what follows the parts of a library that are loaded: the symbols and lines for debuggers."""
    with path.open("r+b") as file:
        elf = ELFFile(file)
        end = max(segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments())
        if elf["e_shoff"] < end:
            return
        # The table of sections is gone; its place and size are fields of the header (ELF-64: Ehdr).
        file.seek(0x28)
        file.write(bytes(8))
        file.seek(0x3C)
        file.write(bytes(4))
        file.truncate(end)


def place(source: Path, destination: Path) -> None:
    """Copies a file, or what a link to one points to."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, destination)


def debian_packages(target: Path, copied: list[Path]) -> dict[str, tuple[str, str]]:
    """Name to version and architecture of the packages that own the copied files."""
    status = {}
    for stanza in (target / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", stanza, re.MULTILINE))
        if fields:
            status[fields["Package"]] = (fields["Version"], fields["Architecture"])
    # dpkg lists /lib or /usr/lib, whichever a package was built with; they are one directory.
    files = {"/" + str(path.relative_to(target)).removeprefix("usr/") for path in copied}
    owners = {}
    for listing in (target / "var/lib/dpkg/info").glob("*.list"):
        package = listing.stem.split(":")[0]
        if not files.isdisjoint(line.removeprefix("/usr") for line in listing.read_text().splitlines()):
            owners[package] = status[package]
    return dict(sorted(owners.items()))


def describe(sbom: Path, packages: dict[str, tuple[str, str]]) -> None:
    """Adds to the document of the Python packages what they run on."""
    # The builder and the target are one image for two processors.
    python = platform.python_version()
    document = json.loads(sbom.read_text())
    document["components"].append(
        {
            "type": "application",
            "bom-ref": "cpython",
            "name": "cpython",
            "version": python,
            "cpe": f"cpe:2.3:a:python:python:{python}:*:*:*:*:*:*:*",
            "licenses": [{"license": {"id": "Python-2.0.1"}}],
        }
    )
    for name, (version, architecture) in packages.items():
        purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
        document["components"].append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    sbom.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

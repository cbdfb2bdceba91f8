"""The rooms of the code, as they are: which modules stand in each, and which other rooms these import.

``python -m docs.generate`` draws them into docs/architecture.md; ``tests/test_architecture.py`` says what is allowed.
"""

import ast
from collections.abc import Collection
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
#: What all rooms may use: the errors, and the package itself.
EVERYBODYS: Final = frozenset({"errors", ""})


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by their dotted names, without the package's own name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room(module: str, rooms: Collection[str]) -> str:
    """The room that a module stands in; "" for the package's own two files."""
    if module in {"", "__main__"}:
        return ""
    fitting = [name for name in rooms if module == name or module.startswith(f"{name}.")]
    if not fitting:
        raise LookupError(f"{module} stands in no room")
    return max(fitting, key=len)


def imports(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it, by absolute dotted names."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(path)}


def inside(package: str, path: Path) -> set[str]:
    """The modules of ``package`` that a file imports, without the package's name."""
    known = modules(package)
    found: set[str] = set()
    for name in imports(path):
        if name != package and not name.startswith(f"{package}."):
            continue
        rest = name.removeprefix(package).removeprefix(".")
        # The last part may be something in a module.
        found.add(rest if rest in known else rest.rpartition(".")[0])
    return found


def arrows(package: str, rooms: Collection[str]) -> dict[str, set[str]]:
    """The rooms that the code of each room really imports."""
    found: dict[str, set[str]] = {name: set() for name in rooms}
    for module, path in modules(package).items():
        if here := room(module, rooms):
            found[here] |= {room(other, rooms) for other in inside(package, path)} - {here} - EVERYBODYS
    return found


def drawing(package: str, rooms: Collection[str]) -> str:
    """The rooms as Markdown: from the top to the bottom in layers, and a table of what each imports today."""
    found = arrows(package, rooms)
    layers: list[list[str]] = []
    left = dict(found)
    while left:
        layer = sorted(name for name, others in left.items() if not others & left.keys())
        layers.append(layer)
        left = {name: others for name, others in left.items() if name not in layer}
    lines = ["```text", *("   ".join(layer) for layer in reversed(layers)), "```", ""]
    lines += ["| room | holds | imports |", "| --- | --- | --- |"]
    known = modules(package)
    for layer in reversed(layers):
        for name in layer:
            imported = ", ".join(f"`{other}`" for other in sorted(found[name])) or "nothing"
            lines.append(f"| `{name}` | {_summary(known[name])} | {imported} |")
    return "\n".join(lines)


def _summary(path: Path) -> str:
    """The first sentence of a module's docstring, as part of a table."""
    documented = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(documented.partition("\n\n")[0].split()).replace("``", "`")

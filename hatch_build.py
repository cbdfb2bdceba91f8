"""Names the packages in the wheel: ``app`` is ``edge_classifier`` there, ``model_build`` is ``edge_classifier_build``.

Everybody's application is called ``app``, so an installed package must not be. The service imports itself by relative
names and is renamed by a line in ``pyproject.toml``; the model builder, which imports the service, is rewritten here.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NAMES = {"app": "edge_classifier", "model_build": "edge_classifier_build"}
# An import at the beginning of a line, how a command is called, or a name in a docstring.
_NAME = re.compile(r"(^\s*(?:from|import) |python -m |``)(app|model_build)\b", re.MULTILINE)


def rewritten(source: str) -> str:
    """A module's source with the packages' installed names; an extra is then one of the installed package."""
    renamed = _NAME.sub(lambda found: found[1] + _NAMES[found[2]], source)
    return renamed.replace("pip install '.[", "pip install 'edge-classifier[")


class BuildHook(BuildHookInterface[Any]):
    """Adds the model builder to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes the rewritten modules, and the data beside them, to a folder that lives as long as this hook."""
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self.root)
        for path in sorted(path for path in (root / "model_build").rglob("*") if path.suffix in (".py", ".json")):
            inside = path.relative_to(root / "model_build")
            made = Path(self._folder.name) / inside
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(rewritten(path.read_text()) if path.suffix == ".py" else path.read_text())
            build_data["force_include"][str(made)] = f"{_NAMES['model_build']}/{inside}"

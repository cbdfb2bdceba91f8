"""What this machine is set up to serve, for the commands that do without a service."""

from pydantic import ValidationError

from app.classifier import fastest
from app.model import Model
from app.settings import Settings


def wrong_settings(error: ValidationError) -> list[str]:
    """A line for each setting that is wrong, with its variable's name."""
    lines = []
    for problem in error.errors():
        name = "_".join(["CLASSIFIER", *(str(part).upper() for part in problem["loc"])])
        lines.append(f"{name}: {problem['msg']} (got {problem['input']!r})")
    return lines


def load(settings: Settings) -> tuple[Model, str]:
    """The model that would be served, and why.

    Raises:
        ModelError: there is none that can be.
    """
    candidates = [Model(path) for path in settings.model_paths()]
    model, reason = fastest(candidates) if len(candidates) > 1 else (candidates[0], "")
    return model, "; ".join(filter(None, [settings.model_source(model.path), reason]))

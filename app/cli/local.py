"""What this machine is set up to serve, for the commands that do without a service."""

from pydantic import ValidationError

from ..inference.decode_budget import DecodeBudget
from ..inference.model import Model
from ..main import model_source
from ..registry import loader
from ..registry.trial import Trials
from ..settings import Settings


def wrong_settings(error: ValidationError) -> list[str]:
    """A line for each setting that is wrong, with its variable's name."""
    lines = []
    for problem in error.errors():
        # What pydantic puts before the message of a ValueError.
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            # It concerns several settings and names them; its input is all of them, the API keys included.
            lines.append(message)
            continue
        name = "_".join(map(str, problem["loc"]))
        # systemd's variables have their own names.
        name = name if name.isupper() else f"CLASSIFIER_{name.upper()}"
        lines.append(f"{name}: {message} (got {problem['input']!r})")
    return lines


def load(settings: Settings) -> tuple[Model, str]:
    """The model that would be served, and why.

    Raises:
        ModelError: there is none that can be.
    """
    (served, *_), _ = loader.start(
        model_source(settings, Trials(settings.max_pixels)),
        settings.precision,
        settings.default_model,
        settings.max_models,
        DecodeBudget(settings.max_pixels),
        settings.cache_folder(),
    )
    return served.classifier.model, f"{served.source}; {served.precision_reason}"

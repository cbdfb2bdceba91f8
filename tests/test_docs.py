"""The README says what is, and what it shows works."""

import re
import subprocess
import sys

from app.cli.commands import parse_args
from app.http import problems
from app.main import create_app
from app.settings import Settings
from tests.conftest import ROOT, serving
from tests.photos import encode, solid

README = (ROOT / "README.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table under a heading, by the first one."""
    section = README.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {row[0].strip("` "): row[1:] for row in cells}


def test_every_setting_is_documented_as_it_is():
    documented = rows("Configuration")
    # systemd's variables have their own names.
    fields = {f.validation_alias or f"CLASSIFIER_{name.upper()}": f for name, f in Settings.model_fields.items()}
    assert set(documented) == set(fields)
    for variable, field in fields.items():
        default, meaning = documented[variable]
        assert default == ("unset" if field.default is None else f"`{field.default}`")
        assert meaning == field.description


def test_every_problem_is_documented():
    kinds = [*problems.PROBLEM_TYPES.values(), problems.NOT_FOUND, problems.METHOD, problems.INTERNAL]
    kinds += [problems.HEADERS_TOO_SLOW, problems.HEADERS_TOO_LARGE, problems.NOT_HTTP, problems.TOO_MANY_CONNECTIONS]
    assert {slug: row[0] for slug, row in rows("Errors").items()} == {kind.slug: str(kind.status) for kind in kinds}


def test_every_route_is_documented():
    section = README.split("## API\n", 1)[1].split("\n##", 1)[0]
    documented = set(re.findall(r"`(?:GET|POST) (/[^`]*)`", section))
    app = create_app(Settings())
    assert documented == set(app.openapi()["paths"]) | {"/openapi.json", "/docs", "/"}


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_the_python_client_does_what_the_readme_shows(tiny, tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(encode(solid((240, 30, 9)), "JPEG"))
    with serving(tiny) as client:
        snippet = snippet.replace("http://gateway:8000", str(client.base_url))
        ended = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    best, refused = ended.stdout.splitlines()
    assert best.startswith("red 0.9")
    assert refused == "415 not-an-image"


def test_the_command_line_understands_what_the_readme_shows():
    section = README.split("## Command line\n", 1)[1].split("\n## ", 1)[0]
    commands = re.findall(r"^edge-classifier ([^#\n]*)", section, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        parse_args(command.split())
    assert 'edge-classifier = "app.cli:main"' in (ROOT / "pyproject.toml").read_text()

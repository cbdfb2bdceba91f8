"""README, SECURITY and docs/ say what is, and what they show works."""

import ast
import functools
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import skimage
import yaml
from PIL import Image

from app import __version__
from app.cli.commands import parse_args
from app.http import problems
from app.main import create_app
from app.settings import Settings
from docs import generate
from model_build import __main__ as builder
from tests.conftest import ROOT, serving
from tests.manifests.tools import tool
from tests.photos import encode, quarters, solid

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]}
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
#: Programs of others whose arguments nobody here can check.
OTHERS = {"base64", "cp", "ctr", "echo", "head", "journalctl", "openssl", "promtool", "systemctl", "tail"}


def rows(page: str) -> dict[str, list[str]]:
    """The cells of all tables of a page whose first cell is code, by that cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in (DOCS / page).read_text().splitlines()
        if line[:3] == "| `"
    ]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0].strip("` "): row[1:] for row in cells}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


@functools.cache
def routes() -> list[str]:
    return [*create_app(Settings()).openapi()["paths"], "/openapi.json", "/docs", "/"]


# What is configured, answered and measured.


def test_the_configuration_page_is_made_from_the_settings():
    assert generate.PAGE.read_text() == generate.configuration(), "run python -m docs.generate"


def test_every_setting_is_in_exactly_one_group():
    grouped = [name for names in generate.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(Settings.model_fields)


def test_every_setting_is_documented_as_it_is():
    documented = rows("configuration.md")
    fields = {generate.variable(name, field): field for name, field in Settings.model_fields.items()}
    assert set(documented) == set(fields)
    for variable, field in fields.items():
        default, _, meaning = documented[variable]
        assert default == ("unset" if field.default is None else f"`{field.default}`")
        assert meaning == field.description


def test_every_variable_that_is_named_exists():
    known = {generate.variable(name, field) for name, field in Settings.model_fields.items()}
    for path, text in PAGES.items():
        assert set(re.findall(r"CLASSIFIER_[A-Z_]*[A-Z]", text)) <= known, path


def test_every_problem_is_documented():
    kinds = [*problems.PROBLEM_TYPES.values()]
    kinds += [kind for kind in vars(problems).values() if isinstance(getattr(kind, "slug", None), str)]
    documented = {slug: row[0] for slug, row in rows("errors.md").items() if row[0].isdigit()}
    assert documented == {kind.slug: str(kind.status) for kind in kinds}


def test_every_route_is_documented(tmp_path):
    documented = [
        set(re.findall(r"`(?:GET|POST) (/[^`]*)`", section.partition("\n##")[0]))
        for section in re.split("## (?:Routes|Teaching)\n", PAGES[DOCS / "api.md"])[1:]
    ]
    teaching = create_app(Settings(teach=tmp_path)).openapi()["paths"]
    assert documented == [set(routes()), {*teaching, "/teach"} - set(routes())]


def test_every_metric_is_documented(tiny):
    with serving(tiny) as client:
        reported = re.findall(r"^# TYPE (\w+) (\w+)", client.get("/metrics").text, re.MULTILINE)
    documented = {name for name in rows("observability.md") if name.startswith("classifier_")}
    # When a counter or histogram began is not a metric of ours.
    assert documented == {name for name, _ in reported if not name.endswith("_created")}


def test_every_symptom_is_something_that_the_code_says():
    said = MAKEFILE
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said += "\n" + "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said += f"\n{node.value}"
    page = PAGES[DOCS / "troubleshooting.md"]
    symptoms = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    quoted = [quote for symptom in symptoms for quote in re.findall(r'"([^"]+)"', symptom)]
    assert len(quoted) > 20
    assert [quote for quote in quoted if quote not in said] == []


# Links.


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    text = re.sub(r"```.*?```|`[^`\n]*`", "code", PAGES[path], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        # The site has docs/ only.
        assert DOCS not in path.parents or target.is_relative_to(DOCS), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_is_named_exists(path):
    folders = "app|model_build|tests|bench|k8s|monitoring|docker|requirements|systemd|docs"
    named = set(re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*[\w/])", PAGES[path]))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_site_shows_every_page_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    """As ``make docs`` builds it; a page without a place in the navigation is a warning, which is an error."""
    # Where ``make docs`` installs it.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    built = subprocess.run(
        [tool("mkdocs"), "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES) - 2
    elsewhere = r'[^>]*\s(?:src|href)="?((?:https?:)?//[^"\s>]+)'
    loads = re.compile(rf"<(?:script|img|iframe|source|link)\b{elsewhere}")
    assert [(page.name, found) for page in pages for found in loads.findall(page.read_text())] == []
    styles = "".join(sheet.read_text() for sheet in tmp_path.rglob("*.css"))
    assert re.findall(r"url\(\"?(?:https?:)?//|@import", styles) == []
    # The theme fetches a library for these from a CDN.
    assert not any('class="mermaid"' in page.read_text() for page in pages)


# Commands.


def simple_commands(script: str) -> list[list[str]]:
    """The commands of a script, each as its words; without comments, variables before them and redirections."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("|\n", "|"), posix=True, punctuation_chars="|;&<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|;&\n"):
            found.append([])
        else:
            found[-1].append(word)
    commands = []
    for given in found:
        words = list(itertools.dropwhile(re.compile(r"[A-Z_]+=").match, given))
        if words := list(itertools.takewhile(lambda word: word != ">", words)):
            commands.append([Path(words[0]).name, *words[1:]])
    return commands


def shown_commands() -> list[tuple[str, list[str]]]:
    """What blocks and lines of the pages tell people to type."""
    found = []
    for path, text in PAGES.items():
        name = str(path.relative_to(ROOT))
        for block in blocks(path, "sh"):
            script = re.sub(r"(^|\s{2,}|\n)# .*", r"\1", block)
            found += [(name, words) for words in simple_commands(script)]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        programs = r"python -m|make|pytest|edge-classifier|edge-classifier-build|pip|kubectl|docker"
        spans = re.findall(rf"`((?:{programs}) [^`]*)`", prose)
        found += [(name, words) for span in spans for words in simple_commands(" ".join(span.split()))]
    return found


def check_make(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert f"$({name})" in MAKEFILE or f"$(or $({name})" in MAKEFILE if is_variable else name in TARGETS, word


def check_build(words: list[str], monkeypatch) -> None:
    for command in builder.COMMANDS:
        monkeypatch.setattr(command, "run", lambda options: 0)
    assert builder.main(words) == 0


def check_bench(module: str, words: list[str]) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    source = Path(spec.origin).read_text()
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []
    if "choices=" in source and words and "<" not in words[0]:
        assert f'"{words[0]}"' in source, words[0]


def check_pip(words: list[str]) -> None:
    assert words[0] in ("install", "wheel")
    for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"]), extras
    assert [word for word in words if word.startswith("requirements/") and not (ROOT / word).is_file()] == []


def check(words: list[str], monkeypatch) -> None:
    """Fails where a command cannot work, as far as that can be known without running it."""
    match words:
        case ["make", *arguments]:
            check_make(arguments)
        case ["python", "-m", "model_build", command, "--help"]:
            assert command in {module.__name__.rpartition(".")[2] for module in builder.COMMANDS}
        case ["edge-classifier", *arguments] | ["python" | "python3", "-m", "app", *arguments]:
            parse_args(arguments or ["serve"])
        case ["edge-classifier-build", *arguments] | ["python" | "python3", "-m", "model_build", *arguments]:
            check_build(arguments, monkeypatch)
        case ["python" | "python3", "-m", "venv" | "docs.generate", *_]:
            pass
        case ["python" | "python3", "-m", module, *arguments]:
            assert module.startswith("bench."), module
            check_bench(module, arguments)
        case ["pytest", *paths]:
            assert [path for path in paths if not (ROOT / path).exists()] == []
        case ["pip", *arguments]:
            check_pip(arguments)
        case ["kubectl", "apply", "-k" | "-f", path]:
            assert (ROOT / path).exists()
        case ["kubectl", *_]:
            pass
        case ["docker", "compose", "--profile", profile, "up"]:
            services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
            assert [profile] in [service.get("profiles") for service in services]
        case ["docker", "compose", "up", *services]:
            assert set(services) <= set(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])
        case ["docker", "run", *arguments]:
            image = f"edge-classifier:{__version__}"
            assert image in arguments
        case ["docker", "network", *_]:
            pass
        case ["curl", *arguments]:
            urls = [word for word in arguments if re.match(r"(https?://)?(localhost|gateway):8000", word)]
            for url in urls or [""]:
                path = re.sub(r"^.*?:8000|\?.*", "", url)
                assert not url or any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), path) for each in routes()), url
        case [program, *_]:
            assert program in OTHERS, f"no test knows the command {program}"


COMMANDS = shown_commands()


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}-{' '.join(words)}"[:100] for page, words in COMMANDS]
)
def test_every_command_can_be_given(page, words, monkeypatch):
    check(words, monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        ["make", "sevre"],
        ["make", "image", "EXTRA=heic"],
        ["edge-classifier", "classify", "--cvs", "photos/"],
        ["python", "-m", "model_build", "teach", "bins/"],
        ["python", "-m", "bench.scenarios", "overlaod"],
        ["pip", "install", ".[clients]"],
        ["kubectl", "apply", "-k", "k8s/overlays/egde"],
        ["curl", "localhost:8000/predcit"],
        ["rm", "-rf", "models/"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_found(words, monkeypatch):
    with pytest.raises((AssertionError, SystemExit)):
        check(words, monkeypatch)


def test_commands_were_found():
    """The patterns above still find what is there."""
    programs = [words[0] for _, words in COMMANDS]
    assert min(map(programs.count, ("make", "edge-classifier", "python", "curl", "pip"))) > 5
    assert {program for program in programs if program.startswith("edge-classifier")} <= set(PROJECT["scripts"])
    assert PROJECT["scripts"]["edge-classifier"].endswith("cli:main")


def test_the_command_line_understands_what_its_page_shows():
    (script,) = blocks(DOCS / "command-line.md", "sh")
    commands = re.findall(r"^edge-classifier ([^#\n]*)", script, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        parse_args(command.split())


# What the examples answer.


def test_the_readmes_photo_is_answered_as_it_says(box):
    (command,) = [words for words in simple_commands("\n".join(blocks(ROOT / "README.md", "sh"))) if words[0] == "curl"]
    photo = Path(skimage.__file__).parent / "data/chelsea.png"
    words = [word.replace("@photo.jpg", f"@{photo}").replace("localhost:8000", _address(box)) for word in command]
    ran = subprocess.run([words[0], "-sS", *words[1:]], capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    for path in (ROOT / "README.md", DOCS / "getting-started.md"):
        (shown,) = (json.loads(block) for block in blocks(path, "json"))
        assert set(answer) == set(shown)
        assert (answer["model"], answer["unknown"]) == (shown["model"], shown["unknown"])
        for one, other in zip(answer["predictions"], shown["predictions"], strict=True):
            # Not every processor rounds alike.
            assert one == other | {"score": pytest.approx(other["score"], abs=0.02)}


def test_the_readmes_own_classes_are_served(tmp_path, monkeypatch):
    script = "\n".join(blocks(ROOT / "README.md", "sh"))
    (teach,) = [words for words in simple_commands(script) if words[0] == "edge-classifier-build"]
    (made,) = re.findall(r"CLASSIFIER_MODEL=(\S+)", script)
    command, model, folder = teach[1:]
    random = np.random.default_rng(0)
    for label, redness in (("red", 180), ("grey", 0)):
        (tmp_path / folder / label).mkdir(parents=True)
        for number in range(10):
            noise = random.integers(0, 70, (80, 80, 3), np.uint8) + np.array([redness, 0, 0], np.uint8)
            (tmp_path / folder / label / f"{number}.jpg").write_bytes(encode(Image.fromarray(noise), "JPEG"))
    monkeypatch.chdir(tmp_path)
    assert builder.main([command, str(ROOT / model), folder]) == 0
    with serving(tmp_path / made) as client:
        answer = client.post("/predict", content=(tmp_path / folder / "red/0.jpg").read_bytes()).json()
    assert answer["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("name", ["getting-started.md", "explain.md", "security.md"])
def test_the_curl_examples_are_answered(box, tmp_path, name):
    (tmp_path / "photo.jpg").write_bytes(encode(quarters(), "JPEG"))
    commands = [
        words
        for words in simple_commands(re.sub(r"\s# .*", "", "\n".join(blocks(DOCS / name, "sh"))))
        if words[0] == "curl"
    ]
    assert commands
    for words in commands:
        command = ["curl", "-sS", "--fail-with-body", *words[1:]]
        ran = subprocess.run(
            [word.replace("localhost:8000", _address(box)) for word in command],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert ran.returncode == 0, (words, ran.stdout)


def test_the_python_client_does_what_its_page_shows(tiny, tmp_path):
    (snippet,) = blocks(DOCS / "clients/python.md", "python")
    (tmp_path / "photo.jpg").write_bytes(encode(solid((240, 30, 9)), "JPEG"))
    with serving(tiny) as client:
        # Its name where it is not installed.
        snippet = snippet.replace("edge_classifier.client", "app.client")
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


def test_the_java_example_is_answered(box, tmp_path):
    (code,) = blocks(DOCS / "clients/java.md", "java")
    (tmp_path / "photo.jpg").write_bytes(encode(quarters(), "JPEG"))
    (tmp_path / "Classify.java").write_text(code.replace("localhost:8000", _address(box)))
    ran = subprocess.run([tool("java"), "Classify.java"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith('200 {"model"'), ran.stderr


def test_every_python_example_is_python():
    for path in PAGES:
        for block in blocks(path, "python"):
            compile(block, str(path), "exec")


def _address(client) -> str:
    return f"{client.base_url.host}:{client.base_url.port}"

"""The parts of a release agree: one version, a changelog with a section about it, workflows that are pinned."""

import os
import re
import subprocess
import tomllib

import pytest
import yaml

from app import __version__
from tests.conftest import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
#: Where a version of ours may be written down.
STATED = re.compile(
    r"edge-classifier:v?(\d[\w.-]*\w)"  # the image's name
    r"|^ARG VERSION=(\S+)"  # its label
    r"|^ +newTag: (\S+)",  # the name that kustomize gives it
    re.MULTILINE,
)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def make(*arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "IMAGE" and not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=clean, capture_output=True, text=True, check=True).stdout


def files_that_state_versions():
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Dockerfile", "Makefile", "compose.yaml"):
        yield ROOT / name
    for folder in (".ci", ".github", "docker", "docs", "k8s", "monitoring", "systemd"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix not in {".webp", ".png"})


def test_every_file_states_the_same_version():
    stated = {}
    for path in filter(lambda path: path.is_file(), files_that_state_versions()):
        if versions := {next(filter(None, found)) for found in STATED.findall(path.read_text())}:
            stated[str(path.relative_to(ROOT))] = versions
    assert {"Dockerfile", "compose.yaml", "k8s/base/kustomization.yaml"} <= set(stated)
    assert {name: versions for name, versions in stated.items() if versions != {__version__}} == {}


def test_the_packages_and_the_image_read_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"] == {"path": "app/__init__.py"}
    assert make("-s", "version") == f"{__version__}\n"
    image = make("-n", "image", "ENGINE=docker")
    assert f"--build-arg VERSION={__version__}" in image
    assert f"-t edge-classifier:{__version__} " in image


def test_the_changelog_keeps_its_form():
    headings = re.findall(r"^## (.*)", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released), headings
    versions = [tuple(map(int, found[1].split("."))) for found in released]
    assert versions == sorted(versions, reverse=True)
    for section in CHANGELOG.split("\n## ")[1:]:
        kinds = re.findall(r"^### (.*)", section, re.MULTILINE)
        known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert kinds == [kind for kind in known if kind in kinds]


def notes(version: str) -> subprocess.CompletedProcess:
    return subprocess.run([ROOT / ".ci/notes", version], capture_output=True, text=True, check=False)


def test_a_release_has_its_section_as_notes():
    said = notes(__version__)
    assert (said.returncode, said.stderr) == (0, "")
    section = CHANGELOG.split(f"\n## [{__version__}]", 1)[1].split("\n", 1)[1].split("\n## ", 1)[0]
    assert said.stdout.strip() == section.strip()
    assert "\n### " in said.stdout


@pytest.mark.parametrize("version", ["99.0.0", "0.1", ".*", ""])
def test_a_version_without_a_section_is_not_released(version):
    said = notes(version)
    assert (said.returncode, said.stdout) == (1, "")
    assert "no section" in said.stderr


def test_the_newest_section_is_about_this_version():
    assert re.findall(r"^## \[(\d[^\]]*)\]", CHANGELOG, re.MULTILINE)[0] == __version__


def test_every_make_target_that_contributors_and_workflows_are_told_of_exists():
    told = set(re.findall(r"(?:^|`)make ([a-z-]+)", CONTRIBUTING, re.MULTILINE))
    for path in WORKFLOWS:
        told |= set(re.findall(r"\bmake (?:-s )?([a-z-]+)", path.read_text()))
    assert {"lint", "test", "image", "version"} <= told <= targets()


def test_a_contributor_runs_a_test_after_ten_lines():
    (block,) = re.findall(r"```sh\n(.*?)```", CONTRIBUTING, re.DOTALL)
    assert len(block.splitlines()) <= 10
    for path in re.findall(r"pytest.* (tests/\S+\.py)", block):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_little_and_is_pinned(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    for uses, comment in re.findall(r"uses: (\S+)(.*)", text):
        if uses.startswith("./"):
            assert (ROOT / uses).is_file()
        else:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", uses), uses
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), uses
    for job in workflow["jobs"].values():
        assert "uses" in job or job["timeout-minutes"] <= 60
        for step in job.get("steps", ()):
            # Scripts take what others can name from the environment, never from the text of the script.
            assert "${{" not in step.get("run", "")
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_one_action_has_one_version():
    pinned = {}
    for path in WORKFLOWS:
        for action, commit in re.findall(r"uses: ([\w./-]+)@(.*)", path.read_text()):
            pinned.setdefault(action, set()).add(commit)
    assert {action: commits for action, commits in pinned.items() if len(commits) > 1} == {}


def test_scripts_that_workflows_run_are_there():
    for path in WORKFLOWS:
        for script in re.findall(r"(?<!\S)(\.ci/\S+)", path.read_text()):
            assert (ROOT / script).stat().st_mode & 0o111, script


def test_the_tested_versions_begin_with_the_oldest_that_is_supported():
    (path,) = (path for path in WORKFLOWS if path.name == "tests.yml")
    versions = yaml.safe_load(path.read_text())["jobs"]["tests"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"].split(",")[0] == f">={versions[0]}"
    assert len(versions) > 1


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_is_one(path):
    """What GitHub's syntax for issue forms asks for; a form that lacks it is not offered."""
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    asked = [element for element in form["body"] if element["type"] != "markdown"]
    assert asked
    for element in form["body"]:
        assert element["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert element["attributes"]["value" if element["type"] == "markdown" else "label"]
    for element in asked:
        assert re.fullmatch(r"[\w-]+", element["id"])
        assert isinstance(element["validations"]["required"], bool)
        assert element["type"] != "dropdown" or len(element["attributes"]["options"]) > 1
    assert len({element["id"] for element in asked}) == len(asked)
    labels = [element["attributes"]["label"] for element in asked]
    assert len(set(labels)) == len(labels)


def test_a_bug_report_asks_for_what_helps():
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE/bug.yml").read_text())
    needed = {element["id"]: element["attributes"]["label"] for element in form["body"] if "id" in element}
    assert "`edge-classifier doctor`" in needed["doctor"]
    assert "`edge-classifier --version`" in needed["version"]


def test_security_reports_are_sent_elsewhere():
    config = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE/config.yml").read_text())
    assert config["blank_issues_enabled"] is False
    for link in config["contact_links"]:
        assert set(link) == {"name", "url", "about"}
        assert link["url"].startswith("https://")
    assert any("security" in link["name"] and "privately" in link["about"] for link in config["contact_links"])


def test_dependency_updates_look_where_dependencies_are():
    config = yaml.safe_load((GITHUB / "dependabot.yml").read_text())
    assert config["version"] == 2
    found = {update["package-ecosystem"]: update for update in config["updates"]}
    assert {"pip", "github-actions", "docker"} <= set(found)
    for update in found.values():
        assert update["schedule"]["interval"] == "weekly"
        for folder in update.get("directories", [update.get("directory")]):
            assert (ROOT / folder.strip("/")).is_dir()
    (onnxruntime,) = (entry for entry in found["pip"]["ignore"] if entry["dependency-name"] == "onnxruntime")
    below = re.search(r'"onnxruntime>=[\d.]+,<([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert onnxruntime["versions"] == [f">={below}"]

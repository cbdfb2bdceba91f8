"""The field's words, and none of our own that they have replaced."""

import re
import subprocess

import pytest

from tests.conftest import ROOT

#: What is said instead of each of these stands in CHANGELOG.md where it was public.
OLD = {
    "a worker": r"[Ll]anes?|LANES|threads_per_lane",
    "a body reader and its buffered bodies": r"Intake|intake|held_bytes|HELD_BYTES",
    "an error format": r"[Dd]ialects?|DIALECT",
    "a request record, the telemetry middleware": r"Observation|Observer",
    "a decode budget": r"Room\(",
    "a frame cache": r"Frames|classifier_frames\w*",
    "a directory watcher, a reloading value": r"Watch|Watched",
    "a model updater": r"Updates\(|swap\.py",
    "headers": r"head_timeout\w*|HEAD_TIMEOUT\w*|head-timeout|head-too-large|HEAD_TOO_\w+",
    "metrics by their unit": r"classifier_service_seconds|classifier_stage_seconds",
    "exclusive, multithreaded": r"threads_alone|widen",
    "tune_malloc, trim_heap": r"keep_little|give_back_freed_memory",
    "remove_head, attach_head, has_checksum": r"take_off|put_on|sealed",
    "RunAborted, ResultsFileError": r"BrokenOff|Damaged",
    "the model builder, the bundled model, at random, resumed": r"workshop|model in the box|by lot|gone on with",
}
#: Where old names are told to those who know them, and words of others' programs and tests' own classes.
ELSEWHERE = {
    "CHANGELOG.md",
    "app/settings.py",
    "tests/test_settings.py",
    "tests/test_words.py",
    "tests/bench/test_masking.py",
}


def texts() -> dict[str, str]:
    """Every text file that is tracked, but for others' code and lists of packages."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    ours = [name for name in listed if name and not name.startswith(("requirements/", "app/http/page/swagger/"))]
    found = {}
    for name in ours:
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in data[:1000]:
            found[name] = data.decode()
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
@pytest.mark.parametrize("instead", OLD)
def test_old_words_are_gone(instead):
    old = re.compile(rf"(?<![\w-])(?:{OLD[instead]})(?![\w-])")
    files = texts()
    assert len(files) > 200
    used = {name: sorted(set(old.findall(text))) for name, text in files.items() if name not in ELSEWHERE}
    assert {name: words for name, words in used.items() if words} == {}, f"the word is: {instead}"

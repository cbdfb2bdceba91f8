import os

import pytest
from pydantic import ValidationError

from app import settings
from app.cli.doctor import findings
from app.cli.local import wrong_settings
from app.errors import ModelError
from app.main import planned_cpus, request_limits
from app.registry import source
from app.settings import Settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MODELS", tmp_path)

    def make(*names):
        for age, name in enumerate(names):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (1000 + age, 1000 + age))
        return tmp_path

    return make


def names(**values):
    settings = Settings(**values)
    return [path.name for path in source.model_paths(settings.model, settings.precision)]


def test_the_newest_int8_model_is_served(folder):
    folder("b.int8.onnx", "a.int8.onnx", "c.fp32.onnx")
    assert names() == ["a.int8.onnx"]


def test_fp32_where_there_is_no_int8(folder):
    folder("c.fp32.onnx")
    assert names() == ["c.fp32.onnx"]


def test_the_bundled_model_where_there_is_no_other(folder):
    folder()
    (path,) = source.model_paths(None, None)
    assert path.parent == source.BUNDLED
    assert path.is_file()
    assert source.why_served(None, path).startswith("bundled with the service")
    built = folder("a.fp32.onnx") / "a.fp32.onnx"
    assert source.model_paths(None, None) == [built]
    assert source.why_served(None, built).startswith("the newest one in")


def test_precision(folder):
    models = folder("a.fp32.onnx", "a.int8.onnx", "b.int8.onnx")
    assert names(precision="fp32", model=models / "a.int8.onnx") == ["a.fp32.onnx"]
    assert names(precision="auto", model=models / "a.int8.onnx") == ["a.int8.onnx", "a.fp32.onnx"]
    assert names(precision="auto") == ["b.int8.onnx"]
    with pytest.raises(ModelError, match=r"b\.fp32"):
        names(precision="fp32")


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("CLASSIFIER_PORT", "1234")
    monkeypatch.setenv("CLASSIFIER_MODEL", "x.onnx")
    assert (Settings().port, names()) == (1234, ["x.onnx"])


@pytest.mark.parametrize("value", [{"port": -1}, {"max_pixels": 0}, {"log_level": "loud"}, {"precision": "int4"}])
def test_nonsense_is_refused(value):
    with pytest.raises(ValidationError):
        Settings(**value)


@pytest.mark.parametrize("value", ["classifier", "/", "/classifier/", "//a", "/a b", "http://host/a", "", "/a?b", "/ä"])
def test_a_path_prefix_has_one_form(value):
    with pytest.raises(ValidationError, match="with a slash before it and none behind"):
        Settings(path_prefix=value)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("CLASSIFIER_MODLE", "did you mean CLASSIFIER_MODEL?"),
        ("CLASSIFIER_API_KEY", "did you mean CLASSIFIER_API_KEYS?"),
        ("CLASSIFIER_TLS_CERT", "did you mean CLASSIFIER_TLS_CERTIFICATE?"),
        ("CLASSIFIER_MAX_BODY", "did you mean CLASSIFIER_MAX_BODY_BYTES?"),
        ("classifier_prot", "did you mean CLASSIFIER_PORT?"),
        ("CLASSIFER_PORT", "did you mean CLASSIFIER_PORT?"),
        ("CLASSIFIERS_MAX_PIXELS", "did you mean CLASSIFIER_MAX_PIXELS?"),
        ("CLASSIFIER_COFFEE_MUGS", "docs/configuration.md has a table of those that there are"),
        ("CLASSIFIER_", "docs/configuration.md has a table of those that there are"),
        # systemd's own names have no prefix.
        ("CLASSIFIER_WATCHDOG_USEC", "no such setting"),
    ],
)
def test_a_misspelt_variable_is_refused(monkeypatch, variable, said):
    monkeypatch.setenv(variable, "8080")
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = wrong_settings(raised.value)
    assert line.startswith(f"{variable}: there is no such setting; ")
    assert said in line
    assert "8080" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"trusted_proxies": "nginx"}, "CLASSIFIER_TRUSTED_PROXIES: 'nginx' does not appear to be"),
        ({"path_prefix": "classifier/"}, "CLASSIFIER_PATH_PREFIX: write it as /classifier"),
        ({"cors_origins": "panel"}, "CLASSIFIER_CORS_ORIGINS: panel is no origin"),
        ({"allowed_hosts": "http://gateway"}, "CLASSIFIER_ALLOWED_HOSTS: http://gateway is no host name"),
        ({"tls_key": "key.pem"}, "CLASSIFIER_TLS_KEY needs CLASSIFIER_TLS_CERTIFICATE too"),
        ({"port": "http"}, "CLASSIFIER_PORT: Input should be a valid integer"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(values, said):
    with pytest.raises(ValidationError) as raised:
        Settings(**values)
    (line,) = wrong_settings(raised.value)
    assert line.startswith(said)


OLD_NAMES = [
    ("CLASSIFIER_LANES", "3", "workers", 3),
    ("CLASSIFIER_MAX_HELD_BYTES", "70000", "max_buffered_bytes", 70_000),
    ("CLASSIFIER_HEAD_TIMEOUT_SECONDS", "2.5", "header_timeout_seconds", 2.5),
]


@pytest.mark.parametrize(("variable", "value", "field", "meaning"), OLD_NAMES)
def test_old_names_still_work_and_are_told(monkeypatch, variable, value, field, meaning):
    monkeypatch.setenv(variable, value)
    assert getattr(Settings(), field) == meaning
    (line,) = settings.deprecated()
    assert line.startswith(f"{variable} is called CLASSIFIER_{field.upper()} now")
    assert any(finding.found == line for finding in findings())


@pytest.mark.parametrize(("variable", "value", "field", "meaning"), OLD_NAMES)
def test_the_new_name_counts_where_both_are_set(monkeypatch, variable, value, field, meaning):
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv(f"CLASSIFIER_{field.upper()}", "7")
    assert getattr(Settings(), field) == 7


def test_a_wrong_value_under_an_old_name(monkeypatch):
    monkeypatch.setenv("CLASSIFIER_LANES", "many")
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = wrong_settings(raised.value)
    assert line.startswith("CLASSIFIER_WORKERS: ")


def test_nothing_is_told_where_nothing_is_old():
    assert settings.deprecated([("CLASSIFIER_WORKERS", "2"), ("PATH", "/bin")]) == []


def test_all_misspelt_variables_are_named_at_once(monkeypatch):
    for variable in ("CLASSIFIER_PROT", "CLASSIFIER_LANE"):
        monkeypatch.setenv(variable, "1")
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert [line.partition(":")[0] for line in "\n".join(wrong_settings(raised.value)).splitlines()] == [
        "CLASSIFIER_LANE",
        "CLASSIFIER_PROT",
    ]


@pytest.mark.parametrize("variable", ["CLASSIFICATION_PORT", "CLASSROOM_HOST", "EDGE_CLASSIFIER_PORT", "PORT", "CLASS"])
def test_variables_of_others_are_theirs(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert Settings().port == 8000


@pytest.mark.parametrize("service", ["CLASSIFIER", "CLASSIFIER_EDGE", "CLASSIFIERS"])
def test_what_kubernetes_sets_for_a_service_of_our_name(monkeypatch, service):
    """As kubelet does for each Service of the namespace, where a pod does not say enableServiceLinks: false."""
    monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.11")
    monkeypatch.setenv(f"{service}_SERVICE_PORT", "80")
    monkeypatch.setenv(f"{service}_SERVICE_PORT_HTTP", "80")
    monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.11:80")
    for protocol in ("TCP", "UDP"):
        monkeypatch.setenv(f"{service}_PORT_80_{protocol}", f"{protocol.lower()}://10.0.0.11:80")
        monkeypatch.setenv(f"{service}_PORT_80_{protocol}_PROTO", protocol.lower())
        monkeypatch.setenv(f"{service}_PORT_80_{protocol}_PORT", "80")
        monkeypatch.setenv(f"{service}_PORT_80_{protocol}_ADDR", "10.0.0.11")
    assert Settings().port == 8000


def test_lanes_can_be_set():
    assert planned_cpus(Settings(workers=3)).count == 3
    assert planned_cpus(Settings()).count >= 1


def test_limits_follow_the_free_memory():
    settings = Settings()
    assert request_limits(settings, None).buffered_bytes == 64_000_000
    tight = request_limits(settings, 20_000_000)
    assert (tight.buffered_bytes, tight.decode_bytes) == (5_000_000, 10_000_000)
    assert tight.body_bytes == 5_000_000
    ample = request_limits(settings, 2_000_000_000)
    assert (ample.buffered_bytes, ample.decode_bytes) == (64_000_000, 256 << 20)
    assert request_limits(settings, 400_000_000).decode_bytes == 200_000_000
    chosen = request_limits(Settings(max_buffered_bytes=5, max_decode_bytes=7), 10**9)
    assert (chosen.buffered_bytes, chosen.decode_bytes) == (5, 7)

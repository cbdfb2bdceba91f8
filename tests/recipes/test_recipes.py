"""What docs/clients has for Home Assistant and Node-RED, in these programs: a label, and none where there is none."""

import pytest

from tests.recipes.conftest import GREEN, GREY
from tests.recipes.programs import HomeAssistant, NodeRed

#: What a camera may send instead of a picture: an address, a type and a status.
NO_PICTURES = (
    (b"<!doctype html><title>Log in</title>", "text/html", 200),
    (b"Who are you?", "text/plain", 401),
    (b"", "image/jpeg", 200),
)


@pytest.mark.parametrize("program", [HomeAssistant, NodeRed])
def test_a_label_is_told_only_where_there_is_one(tmp_path, camera, service, program):
    with program(tmp_path, camera.port, service.port) as running:
        running.shows("red")
        with camera.showing(GREY):
            running.shows("nothing known")
        for sent in NO_PICTURES:
            with camera.showing(*sent):
                running.shows("unavailable")
            running.shows("red")
        camera.go()
        running.shows("unavailable")
        camera.come()
        with camera.showing(GREEN):
            running.shows("green")
        service.go()
        running.shows("unavailable")
        service.come()
        running.shows("red")


def test_a_camera_of_home_assistants(tmp_path, camera, service):
    """The second configuration: no picture is looked at twice."""
    with HomeAssistant(tmp_path, camera.port, service.port, block=1) as running:
        running.add_camera(camera.port)
        running.shows("red")
        camera.go()
        running.shows("unavailable")
        camera.come()
        with camera.showing(GREY):
            running.shows("nothing known")
        service.go()
        running.shows("unavailable")
        service.come()
        running.shows("red")


def test_home_assistant_says_whether_the_service_is_there(tmp_path, camera, service):
    with HomeAssistant(tmp_path, camera.port, service.port) as running:
        assert running.update("binary_sensor.edge_classifier") == "on"
        service.go()
        assert running.update("binary_sensor.edge_classifier") == "unavailable"
        service.come()
        assert running.update("binary_sensor.edge_classifier") == "on"

"""Where no container engine answers, tests that need one are skipped, and say why."""

import pytest

from spine.testing import containers


def test_without_an_engine_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "why_no_engine", lambda: "no container engine answers: nobody home")
    with (
        pytest.raises(pytest.skip.Exception, match="no container engine answers: nobody home"),
        containers.container("redis:7.2"),
    ):
        pass


def test_an_engine_that_cannot_be_reached_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    containers.why_no_engine.cache_clear()
    reason = containers.why_no_engine()
    containers.why_no_engine.cache_clear()
    assert reason is not None
    assert reason.startswith("no container engine answers")


@pytest.mark.containers
def test_a_container_answers(spine_container_url: str) -> None:
    from spine.blocking import Spine

    with Spine(spine_container_url) as client:
        assert client.publish("a.b").seq

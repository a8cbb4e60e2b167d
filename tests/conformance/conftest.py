"""The servers that the suite is for: where a container engine answers, several versions of Redis and Valkey as well."""

import pytest

from spine.testing.containers import IMAGES

CONTAINERS = [pytest.param(f"docker:{image}", id=image, marks=pytest.mark.containers) for image in IMAGES]


@pytest.fixture(scope="session", params=["memory", "embedded", *CONTAINERS])
def spine_server_choice(request: pytest.FixtureRequest) -> str:
    """Each test runs once for each kind of server."""
    return str(request.param)

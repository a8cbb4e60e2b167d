"""Servers in containers: the versions of Redis and Valkey that spine is tried on, where a container engine answers."""

from __future__ import annotations

import gc
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest

IMAGES = (
    "redis:6.2",
    "redis:7.2",
    "redis:7.4",
    "redis:8.2",
    "valkey/valkey:7.2",
    "valkey/valkey:8.1",
    "valkey/valkey:9.0",
)
PORT = 6379
START_TIMEOUT_S = 60.0
POLL_S = 0.05


@cache
def why_no_engine() -> str | None:
    """Return why no container can be started; ``None`` when one can."""
    try:
        from testcontainers.core.docker_client import DockerClient
    except ImportError as error:
        return f"{error.name} is not installed: pip install testcontainers"
    reason = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a failed attempt leaves its socket to the collector
        try:
            DockerClient().client.ping()
        except Exception as error:  # whatever the engine's client has to say
            reason = f"no container engine answers: {error}"
        gc.collect()
    return reason


@contextmanager
def container(image: str) -> Iterator[str]:
    """Run a server of `image` and yield its URL; the test is skipped, with the reason, where there is no engine."""
    reason = why_no_engine()
    if reason is not None:
        pytest.skip(reason)
    from testcontainers.core.container import DockerContainer

    with DockerContainer(image).with_exposed_ports(PORT) as running:
        host, port = running.get_container_host_ip(), int(running.get_exposed_port(PORT))
        _wait_until_it_answers(host, port, image)
        yield f"redis://{host}:{port}/0"


def _wait_until_it_answers(host: str, port: int, image: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not _answers(host, port):
        if time.monotonic() > end:
            raise RuntimeError(f"{image} did not answer on {host}:{port} within {START_TIMEOUT_S:g} s")
        time.sleep(POLL_S)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False

"""A connection that fails says what is amiss and what to do, whatever the way it fails."""

from __future__ import annotations

import ssl

import pytest
from redis.exceptions import AuthenticationError, InvalidResponse
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from spine.errors import Misconfigured
from spine.server_url import check_url
from spine.unreachable import diagnosed, no_connection


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def untrusted(why: str) -> Exception:
    cause = ssl.SSLCertVerificationError(1, f"certificate verify failed: {why}")
    cause.verify_message = why
    return caused(RedisConnectionError("Error 1 connecting"), cause)


@pytest.mark.parametrize(
    ("url", "error", "said", "remedy"),
    [
        ("rediss://h", untrusted("self-signed certificate"), "self-signed certificate", "?ssl_ca_certs=FILE"),
        ("rediss://h", untrusted("IP address mismatch, certificate is not valid"), "mismatch", "ssl_check_hostname"),
        ("rediss://h", RedisTimeoutError("Timeout connecting to server"), "no answer", "redis://"),
        ("redis://h", RedisTimeoutError("Timeout connecting to server"), "no answer", "check the URL"),
        ("redis://h", caused(RedisConnectionError("reset"), ConnectionResetError(104, "reset")), "reset", "rediss://"),
        ("rediss://h", caused(RedisConnectionError("reset"), ConnectionResetError(104, "x")), "reset", "ssl_certfile"),
        ("redis://h", InvalidResponse('Protocol error, got "H"'), "does not speak", "host and port"),
        ("redis://h", AuthenticationError("WRONGPASS invalid pair."), "invalid pair", "user and password"),
        ("redis://h", RedisConnectionError("Error 111 connecting to h:6379."), "Error 111", "Start it"),
    ],
)
def test_what_is_amiss_and_what_to_do(url: str, error: Exception, said: str, remedy: str) -> None:
    error = caused(error, TimeoutError()) if isinstance(error, RedisTimeoutError) else error
    found = diagnosed(url, error)
    assert said in found[0]
    assert remedy in found[1]
    assert not found[0].endswith(".")


def test_the_whole_sentence_shows_no_password() -> None:
    said = no_connection("redis://u:secret@h/0", RedisConnectionError("Error 111 connecting to h:6379."))
    assert said == "no Redis at redis://u:***@h/0: Error 111 connecting to h:6379. Nothing was stored. " + (
        "Start it, or check the URL."
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://host/x", "the database '/x' is no number"),
        ("redis://host?foo=bar", "there is no option 'foo'"),
        ("redis://host:port", "Port could not be cast"),
        ("rediss://host?ssl_cert_reqs=bogus", "bogus"),
        ("rediss://host?ssl_ca_certs=/no/such.pem", "ssl_ca_certs: there is no file '/no/such.pem'"),
        ("http://host", "is not a URL of a server"),
    ],
)
def test_what_is_no_url_is_said_before_anything_is_opened(url: str, said: str) -> None:
    with pytest.raises(Misconfigured) as error:
        check_url(url)
    assert said in str(error.value)

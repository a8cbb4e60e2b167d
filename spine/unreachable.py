"""Why there is no connection to a server, in words that say what to do about it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from redis.exceptions import AuthenticationError, InvalidResponse

from spine.server_url import redacted

CHECK = "Start it, or check the URL."
YOUR_CERTIFICATE = "If it asks clients for a certificate, add ?ssl_certfile=FILE&ssl_keyfile=FILE to the URL."


def no_connection(url: str, error: Exception) -> str:
    """Return what to tell of a connection to `url` that failed with `error`: what happened, and what to do."""
    reason, remedy = diagnosed(url, error)
    return f"no Redis at {redacted(url)}: {reason}. Nothing was stored. {remedy}"


def no_login(url: str, error: Exception) -> str:
    """Return what to tell of a server that refused the login."""
    reason, remedy = diagnosed(url, error)
    return f"{redacted(url)} refused the login: {reason}. Nothing was stored. {remedy}"


def diagnosed(url: str, error: Exception) -> tuple[str, str]:
    """Return what is amiss where a connection to `url` failed with `error`, and what to do."""
    if isinstance(error, AuthenticationError):
        return str(error).split(". ")[0].rstrip("."), "Check user and password in the URL."
    if "DB index" in str(error):
        return "there is no database of that number", "Use a smaller one at the end of the URL."
    tls = url.startswith("rediss://")
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message.rstrip('.')}", _untrusted(cause)
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}", _tls_failed(cause)
    if any(isinstance(cause, InvalidResponse) for cause in causes):
        return "what answers there does not speak the protocol of Redis", "Check host and port."
    if any(isinstance(cause, TimeoutError) for cause in causes) or not str(error):
        remedy = "If that port does not speak TLS, use redis://." if tls else "Is it frozen, or a firewall in between?"
        return "no answer in time", f"{remedy} {CHECK}"
    if any(isinstance(cause, ConnectionResetError) for cause in causes) or "closed by server" in str(error).lower():
        remedy = YOUR_CERTIFICATE if tls else f"If that port speaks TLS, use rediss://. {CHECK}"
        return str(error).rstrip("."), remedy
    return str(error).rstrip("."), CHECK


def _untrusted(error: ssl.SSLCertVerificationError) -> str:
    if "mismatch" in error.verify_message:
        return "Use the name that is in the certificate, or add ?ssl_check_hostname=false to the URL."
    return (
        "Name the file of the CA that signed it, or of the certificate itself, in the URL: ?ssl_ca_certs=FILE; "
        "?ssl_cert_reqs=none trusts anybody."
    )


def _tls_failed(error: ssl.SSLError) -> str:
    if "CERTIFICATE_REQUIRED" in str(error.reason):
        return YOUR_CERTIFICATE
    return "Check the certificate files in the URL; if that port does not speak TLS, use redis://."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

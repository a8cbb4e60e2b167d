"""The options that commands share, and how their values are read."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

CONNECTION = "Connection"
SCHEMES = ("redis://", "rediss://", "unix://")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ago = re.compile(r"-((?:\d+(?:\.\d+)?[smhdw])+)")
_part = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class Format(StrEnum):
    """How data is written to stdout."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"


class Durability(StrEnum):
    """What an acknowledged publish has survived (see `spine.Spine`)."""

    MEMORY = "memory"
    DISK = "disk"
    REPLICAS = "replicas"


def _checked_url(value: str | None) -> str | None:
    if value and not value.startswith(SCHEMES):
        raise typer.BadParameter(f"a server's URL starts with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    if value:
        from spine.errors import Misconfigured
        from spine.server_url import check_url

        try:
            check_url(value)
        except Misconfigured as error:
            raise typer.BadParameter(str(error)) from None
    return value or None


def moment(text: str, now: datetime | None = None) -> int | datetime:
    """Return the point of the log that `text` names: a seq, or a time.

    Takes ``1200`` (a seq), ``-2h`` or ``-1d12h`` (ago), ``2026-11-20``, ``"2026-11-20 14:00"`` and any ISO 8601 time,
    ``14:00`` (today), ``now``. Times without a zone are local. Raises `typer.BadParameter`.
    """
    now = now or datetime.now().astimezone()
    text = text.strip()
    if text.isdecimal():
        return int(text)
    if text == "now":
        return now
    if found := _ago.fullmatch(text):
        parts = _part.findall(found[1])
        try:
            return now - sum((timedelta(**{UNITS[unit]: float(amount)}) for amount, unit in parts), timedelta())
        except OverflowError:
            raise typer.BadParameter(f"{text!r} is before the first year that there is") from None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.combine(now.date(), time.fromisoformat(text)).astimezone()
    except ValueError:
        raise typer.BadParameter(
            f'{text!r} is neither a seq (1200), a time ago (-2h, -1d12h) nor a time ("2026-11-20 14:00", 14:00, now)'
        ) from None


def optional_moment(text: str | None) -> int | datetime | None:
    """Return `moment` of `text`; ``None`` where there is none."""
    return None if text is None else moment(text)


def keep_of(text: str) -> timedelta | int | Literal["forever"]:
    """Return what `text` says is to be kept: an age (``30d``, ``1d12h``), the newest so many, or ``forever``."""
    if text == "forever":
        return "forever"
    if text.isdecimal():
        return int(text)
    now = datetime.now().astimezone()
    if not _ago.fullmatch(f"-{text}"):
        raise typer.BadParameter(f"{text!r} is neither an age (30d, 12h), a number of events, nor forever")
    since = moment(f"-{text}", now)
    assert isinstance(since, datetime)
    return now - since


def split(values: list[str] | None) -> tuple[str, ...]:
    """Return the values of an option that may be given several times and hold several, joined by commas."""
    return tuple(part for value in values or () for part in value.split(",") if part)


def selection(types: list[str] | None, key: str | None, correlation: str | None) -> dict[str, Any]:
    """Return which events are wanted, by the names that `Spine.replay`, `tail` and `history` have for it."""
    return {"types": split(types), "key": key, "correlation": correlation}


MOMENT = "a seq, -2h, or a time"

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="SPINE_URL",
        callback=_checked_url,
        help="redis://, rediss:// or unix:// URL of the server; without one, the embedded server of the project.",
        rich_help_panel=CONNECTION,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", envvar="SPINE_NAMESPACE", help="Which namespace (default: default).", rich_help_panel=CONNECTION
    ),
]
Output = Annotated[
    Format | None,
    typer.Option("--output", "-o", help="How data is written (default: table on a terminal, else ndjson)."),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", "-t", metavar="TYPE", help="Only these types; * stands for anything, may be repeated."),
]
Key = Annotated[str | None, typer.Option("--key", "-k", help="Only this key.")]
Correlation = Annotated[str | None, typer.Option("--correlation", help="Only this correlation.")]
AppDir = Annotated[Path, typer.Option("--app-dir", help="Where modules are looked for first.")]

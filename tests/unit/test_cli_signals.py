"""Signals while a command loads, connects, or is told not to mind them."""

from __future__ import annotations

import asyncio
import signal
import sys
import types
from typing import Any

import pytest

from spine.cli import main
from spine.cli.signals import before, handled


def test_a_ctrl_c_while_the_commands_load_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    loading: Any = types.ModuleType("spine.cli.app")
    loading.app = interrupted
    monkeypatch.setitem(sys.modules, "spine.cli.app", loading)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130


def test_a_hang_up_is_not_minded_where_nohup_says_so() -> None:
    was = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(lambda number, frame: None, (signal.SIGHUP, signal.SIGTERM)):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, was)


async def test_what_waits_is_broken_off_when_the_end_is_asked_for() -> None:
    stop, broken = asyncio.Event(), asyncio.Event()

    async def connecting() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            broken.set()
            raise

    asyncio.get_running_loop().call_soon(stop.set)
    assert not await before(stop, connecting())
    assert broken.is_set()
    assert await before(asyncio.Event(), asyncio.sleep(0))
    with pytest.raises(ZeroDivisionError):
        await before(asyncio.Event(), fails())


async def fails() -> None:
    raise ZeroDivisionError

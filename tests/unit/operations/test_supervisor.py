"""How soon a dead worker is replaced."""

from __future__ import annotations

import signal

from spine.operations.supervisor import LONGEST_DELAY_S, described, restart_delay_s


def test_the_first_death_is_answered_quickly_and_a_loop_of_deaths_slowly() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(1, 100)]
    assert delays[0] == 0.1
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S


def test_an_end_is_said_in_words() -> None:
    assert described(3) == "exit code 3"
    assert described(-signal.SIGKILL) == "SIGKILL"
    assert described(-200) == "signal 200"

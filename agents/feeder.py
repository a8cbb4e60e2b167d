"""The feeder plays conversations into the spine: each in its order, many at once."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from agents import rules
from agents.dialogue import Dialogue, Service
from agents.events import Booking, Cancellation, Closed, Opened
from spine import Context, InvalidInput, Priority, Spine

CONVERSATIONS_AT_ONCE = 64  # more would only wait longer, and the run be seen to stand still


class Pace:
    """Turns per second over all conversations together; as fast as the spine takes them where there is no rate."""

    def __init__(self, rate: float | None) -> None:
        self._interval_s = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Return when it is the caller's turn."""
        if not self._interval_s:
            return
        now = asyncio.get_running_loop().time()
        mine = max(self._next, now)
        self._next = mine + self._interval_s
        await asyncio.sleep(mine - now)


async def start_run(spine: Spine, conversations: int) -> int:
    """Record that a run begins and return its number, which no other run in the namespace has."""
    return (await spine.publish("run.started", {"conversations": conversations}, key="runs")).seq


def conversation_key(run: int, conversation: str) -> str:
    """The key, session and correlation of a conversation: told apart from the same one in another run."""
    return f"{run}:{conversation}"


async def feed(
    spine: Spine,
    run: int,
    dialogues: Sequence[Dialogue],
    schema: dict[str, Service],
    *,
    rate: float | None = None,
    at_once: int = CONVERSATIONS_AT_ONCE,
    taken_back: Iterable[Booking] = (),
) -> None:
    """Play all conversations to their end; at most `at_once` of them are open at any time.

    Args:
        spine: where to.
        run: what `start_run` returned.
        dialogues: the conversations.
        schema: the services that they talk about.
        rate: turns per second over all conversations; None is as fast as the spine takes them.
        at_once: how many conversations are played side by side.
        taken_back: bookings that the customer cancels as soon as they are agreed.

    Raises:
        ExceptionGroup: of ValueError, where a turn is too large for an event; the other conversations end as well.
    """
    pace = Pace(rate)
    regretted: defaultdict[str, list[Booking]] = defaultdict(list)
    for booking in taken_back:
        regretted[booking.conversation].append(booking)
    free = asyncio.Semaphore(at_once)

    async def one(dialogue: Dialogue) -> None:
        async with free:
            key = conversation_key(run, dialogue.dialogue_id)
            opening = rules.opening(dialogue, schema)
            try:
                await _play(spine, key, dialogue, opening, pace, regretted[dialogue.dialogue_id])
            except InvalidInput as error:
                raise ValueError(f"conversation {dialogue.dialogue_id} cannot be played: {error}") from error

    async with asyncio.TaskGroup() as group:
        for dialogue in dialogues:
            group.create_task(one(dialogue), name=f"conversation {dialogue.dialogue_id}")


def every(nth: int | None, dialogues: Iterable[Dialogue], schema: dict[str, Service]) -> list[Booking]:
    """Every `nth` booking that the conversations agree to, in the order of the data; none for None."""
    if not nth:
        return []
    agreed = [requirement.booking for dialogue in dialogues for requirement in rules.requirements(dialogue, schema)]
    return agreed[nth - 1 :: nth]


async def cancel(spine: Spine, conversation: str, booking: Booking) -> None:
    """Take a booking back, as a customer's button would: urgent, so that it overtakes what waits.

    Args:
        spine: where to.
        conversation: the key of the conversation in which it was agreed.
        booking: which one.
    """
    await spine.publish(
        "customer.cancelled",
        Cancellation.about(booking),
        key=booking.key(conversation),
        context=Context(correlation=conversation, session_id=conversation),
        priority=Priority.URGENT,
    )


async def _play(
    spine: Spine, key: str, dialogue: Dialogue, opening: Opened, pace: Pace, regretted: list[Booking]
) -> None:
    context = Context(correlation=key, session_id=key)

    async def say(type: str, payload: BaseModel) -> None:
        await spine.publish(type, payload, context=context)

    await say("conversation.opened", opening)
    for turn, speaker in rules.turns(dialogue):
        await pace.wait()
        await say("turn.user" if speaker == "USER" else "turn.system", turn)
        for booking in regretted:
            if booking.turn == turn.turn:
                await cancel(spine, key, booking)
    await say("conversation.closed", Closed(conversation=dialogue.dialogue_id, turns=len(dialogue.turns)))

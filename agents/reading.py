"""Reading a directory of conversations: `schema.json`, and every file with `dialogues` in its name.

Whatever is wrong with them is found here, before anything is played, and says in which file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from agents.dialogue import Dialogue, Service

SCHEMA = "schema.json"
_SERVICES = TypeAdapter(list[Service])
_DIALOGUES = TypeAdapter(list[Dialogue])


class Identified(Protocol):
    """What is read of a conversation: all of it, or what became of its bookings."""

    @property
    def dialogue_id(self) -> str:
        """Its id in the file."""
        ...


Read = TypeVar("Read")
ReadOf = TypeVar("ReadOf", bound=Identified)


def load_schema(directory: Path) -> dict[str, Service]:
    """The services of `schema.json` by name.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not in the format.
    """
    file = directory / SCHEMA
    if not file.is_file():
        raise FileNotFoundError(f"no {SCHEMA} in {directory}: it belongs beside the conversations of its services")
    return {service.service_name: service for service in _parsed(file, _SERVICES)}


def load_dialogues(directory: Path) -> list[Dialogue]:
    """Every conversation of a directory, file by file, each with an id of its own.

    Raises:
        FileNotFoundError: the directory holds no conversations.
        ValueError: a file is not in the format.
    """
    files = read_files(directory, _DIALOGUES)
    return [one.model_copy(update={"dialogue_id": name}) for conversations in files for name, one in conversations]


def check_services(dialogues: list[Dialogue], schema: dict[str, Service]) -> None:
    """Raise ValueError where a conversation is about a service that the schema does not have."""
    for dialogue in dialogues:
        for name in dialogue.about:
            if name not in schema:
                raise ValueError(f"conversation {dialogue.dialogue_id} is about {name}, which {SCHEMA} does not have")


def read_files(directory: Path, format: TypeAdapter[list[ReadOf]]) -> Iterator[list[tuple[str, ReadOf]]]:
    """The conversations of each file, by the names that tell them apart.

    That is their id. One that has come before gets the name of its file in front: the parts of the dataset number
    theirs anew.
    """
    names: set[str] = set()
    for file in _dialogue_files(directory):
        conversations = []
        for one in _parsed(file, format):
            name = _unlike(names, file, one.dialogue_id)
            names.add(name)
            conversations.append((name, one))
        yield conversations


def _dialogue_files(directory: Path) -> list[Path]:
    files = sorted(file for file in directory.glob("*dialogues*.json") if file.is_file())
    if not files:
        raise FileNotFoundError(f"no dialogues_*.json or *_dialogues_*.json in {directory}")
    return files


def _unlike(names: set[str], file: Path, dialogue_id: str) -> str:
    name = dialogue_id if dialogue_id not in names else f"{file.stem}/{dialogue_id}"
    number = 1
    while name in names:
        number += 1
        name = f"{file.stem}/{dialogue_id}#{number}"
    return name


def _parsed(file: Path, format: TypeAdapter[Read]) -> Read:
    try:
        return format.validate_json(file.read_text(encoding="utf-8-sig"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file} is not in the format: {where and f'{where}: '}{first['msg']}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not in the format: {error}") from None

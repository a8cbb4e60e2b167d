"""Reading conversations: the format, and what the readers refuse."""

import json
from pathlib import Path

import pytest

from agents.dialogue import Dialogue
from agents.outcomes import load_outcomes
from agents.reading import check_services, load_dialogues, load_schema

DIALOGUE = {"dialogue_id": "a", "services": ["S"], "turns": [{"speaker": "USER", "utterance": "Hi", "frames": []}]}


def write(directory: Path, **files: list[object]) -> None:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_both_names_of_files_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, dev_dialogues_001=[DIALOGUE | {"dialogue_id": "b"}], dialogues_001=[DIALOGUE], notes=[1])
    assert [dialogue.dialogue_id for dialogue in load_dialogues(tmp_path)] == ["b", "a"]


def test_a_directory_without_conversations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no dialogues_\*\.json"):
        load_dialogues(tmp_path)


def test_conversations_of_one_id_are_told_apart_by_their_files(tmp_path: Path) -> None:
    write(tmp_path, dev_dialogues_001=[DIALOGUE], test_dialogues_001=[DIALOGUE, DIALOGUE, DIALOGUE])
    names = [dialogue.dialogue_id for dialogue in load_dialogues(tmp_path)]
    assert names == ["a", "test_dialogues_001/a", "test_dialogues_001/a#2", "test_dialogues_001/a#3"]


def test_outcomes_go_by_the_same_names(tmp_path: Path) -> None:
    """The second conversation of an id books something else than the first."""
    for part, value in (("dev", "1"), ("test", "2")):
        call = {"service": "S", "service_call": {"method": "Book", "parameters": {"a": value}}}
        turns = [*DIALOGUE["turns"], {"speaker": "SYSTEM", "frames": [call]}]
        write(tmp_path, **{f"{part}_dialogues_001": [DIALOGUE | {"turns": turns}]})
    intent = {"name": "Book", "is_transactional": True, "required_slots": ["a"]}
    write(tmp_path, schema=[{"service_name": "S", "intents": [intent]}])
    known = load_outcomes(tmp_path, load_schema(tmp_path))
    assert list(known) == [dialogue.dialogue_id for dialogue in load_dialogues(tmp_path)]
    assert [outcome.booking.parameters["a"] for outcomes in known.values() for outcome in outcomes] == ["1", "2"]
    assert [outcome.booking.conversation for outcomes in known.values() for outcome in outcomes] == list(known)


def test_a_directory_of_that_name_is_no_file_of_conversations(tmp_path: Path) -> None:
    write(tmp_path, dialogues_001=[DIALOGUE])
    (tmp_path / "dialogues_002.json").mkdir()
    assert len(load_dialogues(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1', "Invalid JSON"),
        (
            b'[{"dialogue_id": "a", "turns": [{"speaker": "USER", "frames": 1}]}]',
            r"0\.turns\.0\.frames: Input should be",
        ),
        (b"\xff", "can't decode byte"),
    ],
)
def test_a_file_that_is_not_in_the_format_is_named_and_the_place_in_it(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "dialogues_001.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is not in the format: .*{message}"):
        load_dialogues(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "dialogues_001.json").write_text(json.dumps([DIALOGUE]), encoding="utf-8-sig")
    assert len(load_dialogues(tmp_path)) == 1


def test_a_missing_schema_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no schema\.json in .*: it belongs beside the conversations"):
        load_schema(tmp_path)


@pytest.mark.parametrize("where", ["services", "frames"])
def test_a_conversation_about_an_unknown_service_is_refused_by_name(where: str) -> None:
    about = (
        {"services": ["B"]} if where == "services" else {"turns": [{"speaker": "USER", "frames": [{"service": "B"}]}]}
    )
    dialogue = Dialogue.model_validate(DIALOGUE | {"services": []} | about)
    with pytest.raises(ValueError, match=r"conversation a is about B, which schema\.json does not have"):
        check_services([dialogue], {})


def test_what_an_agent_sees_holds_no_outcome(shipped: Path) -> None:
    raw = (shipped / "dialogues_001.json").read_text()
    seen = "".join(dialogue.model_dump_json() for dialogue in load_dialogues(shipped))
    for outcome in ("service_call", "service_results"):
        assert outcome in raw
        assert outcome not in seen


def test_a_file_without_calls_has_no_outcomes_known(shipped: Path, tmp_path: Path) -> None:
    for file in shipped.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    stripped = tmp_path / "dialogues_001.json"
    stripped.write_text(stripped.read_text().replace('"service_call"', '"was_call"'))
    known = load_outcomes(tmp_path, load_schema(tmp_path))
    assert set(known) == {d["dialogue_id"] for d in json.loads((shipped / "dialogues_002.json").read_text())}


def test_the_shipped_conversations_are_sound(shipped: Path) -> None:
    """Slots and intents exist, spans cut out the value, speakers alternate: what the format promises."""
    schema = {service["service_name"]: service for service in json.loads((shipped / "schema.json").read_text())}
    for file in shipped.glob("dialogues_*.json"):
        for dialogue in json.loads(file.read_text()):
            for index, turn in enumerate(dialogue["turns"]):
                assert turn["speaker"] == ("USER", "SYSTEM")[index % 2]
                for frame in turn["frames"]:
                    assert frame["service"] in dialogue["services"]
                    _sound(turn, frame, schema[frame["service"]])


def _sound(turn: dict, frame: dict, service: dict) -> None:
    slots = {slot["name"]: slot for slot in service["slots"]}
    intents = {intent["name"]: intent for intent in service["intents"]}
    said = {(act["slot"], value) for act in frame["actions"] for value in act["values"]}
    for span in frame["slots"]:
        assert (span["slot"], turn["utterance"][span["start"] : span["exclusive_end"]]) in said
    for act in frame["actions"]:
        assert len(act["values"]) == len(act["canonical_values"])
        assert act["slot"] in {*slots, "", "intent", "count"}
        if act["slot"] in slots and slots[act["slot"]]["is_categorical"]:
            assert set(act["canonical_values"]) <= set(slots[act["slot"]]["possible_values"])
    if state := frame.get("state"):
        assert state["active_intent"] in {*intents, "NONE"}
        assert set(state["slot_values"]) <= set(slots)
    if call := frame.get("service_call"):
        intent = intents[call["method"]]
        assert set(intent["required_slots"]) <= set(call["parameters"])
        assert set(call["parameters"]) <= {*intent["required_slots"], *intent["optional_slots"]}
        assert all(set(result) <= set(intent["result_slots"]) for result in frame["service_results"])

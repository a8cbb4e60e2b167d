"""What may be a name, a key or a pattern, and what the refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.errors import InvalidInput, InvalidName
from spine.names import check_agent_name, check_key, check_name, check_pattern, check_type, matcher

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
names = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "._-", max_size=127))


@given(names)
def test_a_name_of_the_allowed_form_is_taken_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "Order.placed", ".a", "-a", "_a", "a b", "a\n", "a*", "a:b", "a/b", "{a}", "é", "a" * 129, "a\0", "１"],
)
def test_any_other_name_is_refused_and_the_refusal_says_what_to_use(name: str) -> None:
    with pytest.raises(InvalidName, match="use 1 to 128 of a-z 0-9") as refusal:
        check_name(name)
    assert refusal.value.stored is False


@pytest.mark.parametrize("name", [None, 7, b"order", ["order"]])
def test_what_is_not_text_is_no_name(name: object) -> None:
    with pytest.raises(InvalidName):
        check_name(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["spine.reply", "@scheduling"])
def test_the_systems_own_types_are_not_for_users(name: str) -> None:
    with pytest.raises(InvalidName, match=r"reserved.*Nothing was stored"):
        check_type(name)


def test_an_agent_is_named_without_its_at_sign_and_leaves_room_for_it() -> None:
    assert check_agent_name("a" * 127)
    for name in ("@scheduling", "a" * 128):
        with pytest.raises(InvalidName, match=r"at most 127.*Nothing was stored"):
            check_agent_name(name)


@given(st.text(min_size=1, max_size=256))
def test_a_key_is_any_text_of_at_most_256_bytes_of_utf8(key: str) -> None:
    if len(key.encode()) <= 256:
        assert check_key(key) == key
    else:
        with pytest.raises(InvalidName, match="at most 256 bytes"):
            check_key(key)


@pytest.mark.parametrize("key", ["", None, 7, b"key", "x" * 257, "é" * 129, "\ud800", "a" * 100 + "\udfff"])
def test_any_other_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidInput):
        check_key(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["ключ", "鍵" * 85, " ", "a\nb", "{}", "key:with:colons", "\0"])
def test_a_key_may_hold_what_redis_keys_use_themselves(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("order.*", ["order.placed", "order.", "order.a.b"], ["order", "orders.placed", "xorder.placed"]),
        ("*", ["a", "@scheduling"], []),
        ("*.placed", ["order.placed"], ["order.placed.twice"]),
        ("order.*.failed", ["order.payment.failed"], ["order.failed"]),
        ("a.b", ["a.b"], ["axb", "a.bc"]),
        ("@*", ["@scheduling"], ["scheduling"]),
    ],
)
def test_a_star_stands_for_any_characters_and_a_dot_for_itself(
    pattern: str, matched: list[str], not_matched: list[str]
) -> None:
    matches = matcher([pattern])
    assert [name for name in matched if not matches(name)] == []
    assert [name for name in not_matched if matches(name)] == []


def test_several_patterns_match_what_any_of_them_does_and_none_matches_everything() -> None:
    assert [name for name in ("a.b", "c.d", "e.f") if matcher(["a.*", "e.f"])(name)] == ["a.b", "e.f"]
    assert matcher(())("anything")
    assert matcher(None)("anything")
    assert matcher("a.*")("a.b")


@pytest.mark.parametrize("pattern", ["", "A*", "order .*", "[a]", "a?", "*" * 129])
def test_a_pattern_of_another_form_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidName, match="not a valid type or pattern"):
        check_pattern(pattern)

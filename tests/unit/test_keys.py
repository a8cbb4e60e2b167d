"""Keys: one slot, told apart, and the same partition in every process and language."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.errors import InvalidName
from spine.keys import Keys, namespace_of, namespaces_pattern, partition_of


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 64))
def test_the_partition_of_a_key_is_the_crc_of_its_utf8_bytes(key: str, partitions: int) -> None:
    assert partition_of(key, partitions) == zlib.crc32(key.encode("utf-8")) % partitions


def test_partitions_are_those_that_any_other_implementation_would_compute() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926
    assert partition_of("123456789", 8) == 0xCBF43926 % 8


def test_a_namespace_lies_in_one_slot_and_is_found_by_its_meta_key() -> None:
    keys = Keys("acme")
    assert keys.meta == "spine:{acme}:meta"
    assert namespace_of(keys.meta) == "acme"
    assert namespaces_pattern() == "spine:{*}:meta"
    for key in (keys.log(0, 1, "a.b"), keys.by_key(3, "k}{:"), keys.by_correlation("c"), keys.dedupe("d")):
        assert key.startswith("spine:{acme}:")


@pytest.mark.parametrize("namespace", ["", "Acme", "a{b}", "a*", "a b"])
def test_a_namespace_of_another_form_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidName):
        Keys(namespace)


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 7), st.integers(0, 7))
def test_different_keys_and_correlations_never_share_an_index(one: str, other: str, left: int, right: int) -> None:
    keys = Keys("acme")
    if (one, left) != (other, right):
        assert keys.by_key(left, one) != keys.by_key(right, other)
    assert keys.by_key(left, one) != keys.by_correlation(other)

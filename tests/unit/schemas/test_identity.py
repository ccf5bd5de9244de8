from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepweave_schemas import identity, mint


def test_shards_are_fnv_1a_32_and_the_same_for_ever() -> None:
    """Known answers: tasks that exist must be found where they are."""
    assert identity.shard_of("", 2**32) == 0x811C9DC5
    assert identity.shard_of("a", 2**32) == 0xE40C292C
    assert identity.shard_of("foobar", 2**32) == 0xBF9CF968
    assert identity.shard_of("0198c0de-0000-7000-8000-000000000001", 8) == 3


def test_step_uuids_are_the_same_for_ever() -> None:
    known = identity.step_uuid("0198c0de-0000-7000-8000-000000000001", "greet")
    assert known == "3c1fc76d-81b3-83bb-a553-c275664fbef3"


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_derived_uuids_differ_where_the_parts_do(one: list[str], other: list[str]) -> None:
    derived = identity.derived_uuid(*one)
    assert identity.is_uuid(derived)
    assert derived[14] == "8" and derived[19] in "89ab", "a UUIDv8"
    assert (derived == identity.derived_uuid(*other)) is (one == other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0198c0de",
        "0198C0DE-0000-7000-8000-000000000001",
        "0198c0de-0000-7000-8000-000000000001\n",
        "0198c0de00007000800000000000000001",
    ],
)
def test_only_the_canonical_form_is_a_uuid(text: str) -> None:
    assert not identity.is_uuid(text)


def test_the_order_of_keys_does_not_change_a_digest() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}
    other = {"b": {"d": None, "c": [1, 2]}, "a": 1}
    assert identity.content_digest(one) == identity.content_digest(other)
    assert identity.content_digest(one) != identity.content_digest({**one, "a": 2})
    assert identity.content_digest([1, 2]) != identity.content_digest([2, 1])


def test_fresh_ids_are_version_7_and_in_the_order_of_time() -> None:
    before = mint.now_ms()
    ids = [mint.uuid7() for _ in range(1_000)]
    after = mint.now_ms()
    assert len(set(ids)) == len(ids)
    assert all(identity.is_uuid(one) and one[14] == "7" and one[19] in "89ab" for one in ids)
    stamps = [int(one[:8] + one[9:13], 16) for one in ids]
    assert stamps == sorted(stamps)
    assert before <= stamps[0] and stamps[-1] <= after


def test_entropy_is_96_bits_and_never_twice_the_same() -> None:
    drawn = {mint.entropy() for _ in range(1_000)}
    assert len(drawn) == 1_000
    assert all(len(bytes.fromhex(one)) == 12 for one in drawn)


def test_equal_numbers_look_alike() -> None:
    same = {"a": [1.0, {"b": -2.0}], "c": 100.0, "d": "1.0", 'e"\\': 0.5, "f": -0.0, "3.0": "\\", "g": 4.0}
    written = identity.content_json(same)
    assert written == b'{"3.0":"\\\\","a":[1,{"b":-2}],"c":100,"d":"1.0","e\\"\\\\":0.5,"f":0,"g":4}'
    for kept in ({"a": 1e300}, {"a": 1.05}, {"a": 0.1, "b": "5.0"}, {"a": 1.0e-7}, {}):
        assert identity.content_json(kept) == identity.canonical_json(kept)


def test_deep_values_are_no_trouble() -> None:
    value: object = 1.0
    for _ in range(400):
        value = [value]
    assert identity.content_json(value) == b"[" * 400 + b"1" + b"]" * 400

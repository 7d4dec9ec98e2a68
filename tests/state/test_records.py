"""Records: what is stored is what is read, and what cannot be served is refused with its reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from flyproxy.apps.model import VERSION, App, Check, Concurrency, Port, Service, TlsOptions
from flyproxy.state import records
from flyproxy.state.records import Health, Host, Hostname, Invalid, Ip, Machine, Record, Region, decode, encode, key_of
from tests.state.fakes import host, http_app, machine

FULL_APP = App(VERSION, "hello", (Service(
    "tcp", 9000, (Port(443, 444, ("tls", "http"), False, True, 2, 5, 6, TlsOptions(("h2",), ("TLSv1.3",), True)),),
    Concurrency("requests", 5, 9), "hash", "header:x-user", True, (Check("http", headers=(("a", "b"),)),),
),), ("build",))
ALL: list[tuple[Record, str]] = [
    (FULL_APP, "g"),
    (Machine(VERSION, "m-1", "hello", "fd00::1", 8080, "ams", "h1", True), "r-ams"),
    (Hostname(VERSION, "*.example.com", "hello"), "g"),
    (Ip(VERSION, "192.0.2.1", None), "g"),
    (Region(VERSION, "ams"), "g"),
    (Host(VERSION, "h-1", "ams", "10.9.0.1", (7443, 7444), 1_800_000_000, ("edge", "worker"), True), "g"),
    (Health(VERSION, "m-1", "critical", "refused"), "r-ams"),
]


@pytest.mark.parametrize(("record", "scope"), ALL, ids=lambda value: type(value).__name__)
def test_every_record_is_read_as_it_was_written(record: Record, scope: str) -> None:
    assert decode(scope, key_of(record)[1], encode(record)) == record


def test_a_host_whose_record_was_written_before_there_was_tls_has_none() -> None:
    old = Host(VERSION, "h-1", "ams", "10.9.0.1", (7443,), 1_800_000_000, ("worker",))
    fields = msgspec.json.decode(encode(old))
    assert fields[-1] is False and decode("g", "node.h-1", msgspec.json.encode(fields[:-1])) == old


@pytest.mark.parametrize(("record", "scope"), ALL, ids=lambda value: type(value).__name__)
def test_fields_that_a_newer_writer_appended_are_left_aside(record: Record, scope: str) -> None:
    grown = msgspec.json.encode([*msgspec.json.decode(encode(record)), {"new": 1}])
    assert decode(scope, key_of(record)[1], grown) == record


def test_fields_that_an_older_writer_did_not_know_have_their_defaults() -> None:
    old = b'[1,"m-1","hello","10.0.0.1",0,"ams","h1"]'
    assert decode("r-ams", "machine.m-1", old) == machine("m-1", "hello")


GOOD = encode(machine("m-1", "hello"))


@pytest.mark.parametrize(("value", "reason"), [
    (b"", "truncated"),
    (GOOD[:-1], "truncated"),
    (b"\xff\xfe", "malformed"),
    (b'"text"', "Expected `array`"),
    (b"{}", "Expected `array`"),
    (b"null", "Expected `array`"),
    (b"[]", "at least length"),
    (b"[1]", "at least length"),
    (b'[2,"completely","different"]', "version 2 of the record is not known"),
    (b'[99,"m-1","hello","10.0.0.1",0,"ams","h1"]', "version 99"),
    (b'["1","m-1","hello","10.0.0.1",0,"ams","h1"]', "Expected `int`"),
    (b'[1,"m-1","hello","10.0.0.1","80","ams","h1"]', "Expected `int`"),
    (b'[1,"m-1","hello","10.0.0.1",70000,"ams","h1"]', "port must be"),
    (b'[1,"m-1","hello","10.0.0.1",-1,"ams","h1"]', "port must be"),
    (b'[1,"m-1","hello","10.0.0.1",1e99,"ams","h1"]', "Expected `int`"),
    (b'[1,"m-1","hello","no address",0,"ams","h1"]', "not an IP address"),
    (b'[1,"m-1","hello","0.0.0.0",0,"ams","h1"]', "no address that a connection"),
    (b'[1,"m-1","hello","224.0.0.1",0,"ams","h1"]', "no address that a connection"),
    (b'[1,"m-1","hello","::ffff:10.0.0.1",0,"ams","h1"]', "one spelling"),
    (b'[1,"m-1","He llo","10.0.0.1",0,"ams","h1"]', "app's name"),
    (b'[1,"m-1","hello","10.0.0.1",0,"ams","' + b"h" * 99 + b'"]', "host must be"),
    (b'[1,"m-2","hello","10.0.0.1",0,"ams","h1"]', "belongs to 'machine.m-2'"),
    (b'[1,"m-1","hello","10.0.0.1",0,"syd","h1"]', "scope 'r-syd'"),
    (b"[" * 60000, "cannot be read"),
    (b'[1,"' + b"x" * 70000 + b'"]', "more than the 65536"),
])
def test_case_101_a_bad_record_is_refused_with_its_reason(value: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        decode("r-ams", "machine.m-1", value)


@pytest.mark.parametrize("key", ["", "app", "nothing.x", "svc.hello", "app.other"])
def test_case_101_a_record_at_a_key_that_is_not_its_own_is_refused(key: str) -> None:
    with pytest.raises(Invalid):
        decode("g", key, encode(http_app("hello")))


@pytest.mark.parametrize(("record", "reason"), [
    (http_app("hello", port=0), "port 0"),
    (http_app("hello", internal=70000), "internal_port"),
    (App(VERSION, "x" * 64), "app's name"),
    (Hostname(VERSION, "UPPER.example", "hello"), "not a normal host name"),
    (Hostname(VERSION, "a b", "hello"), "not a normal host name"),
    (Ip(VERSION, "::ffff:192.0.2.1", "hello"), "one spelling"),
    (Region(VERSION, "A"), "region must be"),
    (Health(VERSION, "bad id", "passing"), "id must be"),
    (host("Bad"), "a host's id must be"),
    (host("h1", region="A"), "region must be"),
    (host("h1", address="0.0.0.0"), "no address that a connection"),
    (host("h1", epoch=0), "the epoch must be"),
    (host("h1", epoch=1 << 32), "the epoch must be"),
    (structs.replace(host("h1"), roles=()), "at least one"),
    (structs.replace(host("h1"), roles=("edge", "edge"), ports=()), "each of its roles once"),
    (structs.replace(host("h1"), ports=(0,)), "ports must be from 1"),
    (structs.replace(host("h1"), ports=(7443,) * 65), "at most 64"),
    (structs.replace(host("h1"), ports=()), "role worker have backhaul ports"),
    (structs.replace(host("h1"), roles=("edge",)), "and only these"),
])
def test_case_101_a_record_with_impossible_values_is_refused(record: Record, reason: str) -> None:
    own, key = key_of(record)
    with pytest.raises(Invalid, match=reason):
        decode(own, key, encode(record))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["app.hello", "host.a.example", "ip." + "0" * 32, "region.ams", "node.h", "machine.m", "health.m"])


@settings(max_examples=500, deadline=None)
@given(KEYS, st.one_of(st.binary(max_size=80), st.lists(JSON, max_size=9).map(msgspec.json.encode)))
def test_case_101_no_value_does_anything_but_pass_or_be_refused(key: str, value: bytes) -> None:
    try:
        record = decode("g", key, value)
    except Invalid as error:
        assert str(error)
    else:
        assert key_of(record)[1] == key
        assert list(records.problems(record)) == []


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_case_101_a_record_with_any_field_replaced_passes_or_is_refused(item: tuple[Record, str], data: Any) -> None:
    record, scope = item
    fields = msgspec.json.decode(encode(record))
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(JSON)
    try:
        decode(scope, key_of(record)[1], msgspec.json.encode(fields))
    except Invalid as error:
        assert str(error)


def test_an_app_too_large_for_a_record_is_refused_when_written() -> None:
    with pytest.raises(Invalid, match="more than the 65536"):
        encode(App(VERSION, "hello", (), tuple("k" * 100 for _ in range(1000))))


@pytest.mark.parametrize(("given", "normal"), [
    ("Example.COM", "example.com"), ("example.com.", "example.com"), ("*.Example.com", "*.example.com"),
    ("*.localhost", "*.localhost"), ("bücher.example", "xn--bcher-kva.example"), ("a_b.example", "a_b.example"),
    ("hello", "hello"), ("127.0.0.1", "127.0.0.1"),
    ("", ""), ("*", ""), ("*.", ""), ("a..b", ""), (".a", ""), ("-a.example", ""), ("a-.example", ""), ("a b", ""),
    ("a.example:80", ""), ("http://a", ""), ("a.*.b", ""), ("*.*.a", ""), ("_.a", ""), ("x" * 64 + ".a", ""),
    (".".join(["abcdefg"] * 40), ""), ("[::1]", ""), ("a\n.b", ""), ("\ud800", ""),
])
def test_host_names_have_one_spelling(given: str, normal: str) -> None:
    assert records.normal_host(given) == normal


def test_wildcards_and_addresses_become_keys_that_every_store_can_hold() -> None:
    assert records.host_key("*.example.com") == "host._.example.com"
    assert records.ip_key("192.0.2.1") == "ip." + "0" * 20 + "ffff" + "c0000201"
    assert records.ip_key("::ffff:192.0.2.1") == records.ip_key("192.0.2.1")

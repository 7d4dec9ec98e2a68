"""Live fields merged into records: pure."""

from flyproxy.control.live import closenesses, port_states, with_closeness, with_in_flight, with_port_states


def row(port, state="listening", service_port=None):
    return {"address": "::", "port": port, "service_port": service_port or port, "source": "app", "state": state}


def app(*ports):
    return {"name": "hello", "services": [{"internal_port": 8080, "ports": list(ports)}]}


def states_of(merged):
    return [port["state"] for port in merged["services"][0]["ports"]]


def test_a_port_has_the_state_of_its_listener():
    states = port_states([row(8080, service_port=80), row(9000, "not allowed: add it to app_ports")])
    merged = with_port_states(app({"port": 80}, {"port": 9000}, {"port": 9999}), states)
    assert states_of(merged) == ["listening", "not allowed: add it to app_ports", "unknown"]


def test_a_port_that_listens_on_one_address_is_listening():
    assert port_states([row(80), row(80, "failed: Address already in use")]) == {80: "listening"}
    assert port_states([row(80, "failed: Address already in use"), row(80)]) == {80: "listening"}


def test_a_port_of_the_backhaul_says_nothing_of_a_port_of_apps():
    assert port_states([{**row(7443), "source": "backhaul"}]) == {}


def test_what_the_record_explains_stays():
    merged = with_port_states(app({"port": 443, "state": "waiting: tls"}), {443: "listening"})
    assert states_of(merged) == ["waiting: tls"]


def test_a_range_is_as_good_as_its_worst_port():
    ports = {"start_port": 9000, "end_port": 9002}
    states = port_states([row(9000), row(9001), row(9002)])
    assert states_of(with_port_states(app(ports), states)) == ["listening"]
    states[9001] = "failed: Address already in use"
    assert states_of(with_port_states(app(ports), states)) == ["failed: Address already in use (port 9001)"]


def test_the_given_record_is_not_changed():
    given = app({"port": 80})
    with_port_states(given, {80: "listening"})
    assert given == app({"port": 80})


def test_load_is_null_for_a_machine_that_the_table_does_not_have():
    assert with_in_flight({"id": "m1"}, {"m1": 3})["in_flight"] == 3
    assert with_in_flight({"id": "m2"}, {"m1": 3})["in_flight"] is None


def test_each_host_shows_how_far_it_is_and_this_one_does_not():
    words = {0: ("unknown", 0, None), 3: ("direct", 1500, None), 5: ("via", 90_000, 3), 6: ("down", 700, 9)}
    known = closenesses([{"slot": slot, "id": f"h{slot}"} for slot in words], words.__getitem__)
    assert known == {
        "h0": {"state": "unknown", "rtt_ms": None, "via": None}, "h3": {"state": "direct", "rtt_ms": 1.5, "via": None},
        "h5": {"state": "via", "rtt_ms": 90.0, "via": "h3"}, "h6": {"state": "down", "rtt_ms": None, "via": None},
    }
    assert with_closeness({"id": "h3", "here": False}, known)["closeness"] == known["h3"]
    assert with_closeness({"id": "h3", "here": True}, known)["closeness"] is None
    assert with_closeness({"id": "new", "here": False}, known)["closeness"] is None

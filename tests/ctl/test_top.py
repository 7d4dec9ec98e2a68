"""Rates from two metrics pages: pure."""

from flyproxy.ctl.top import Totals, rates, totals

PAGE = """\
# HELP fly_edge_http_responses_count answers
fly_edge_http_responses_count{app="hello",region="loc",host="h",status="200"} 100
fly_edge_http_responses_count{app="hello",region="loc",host="h",status="503"} 5
fly_edge_http_response_time_seconds_bucket{app="hello",region="loc",host="h",status="200",le="1"} 7
fly_edge_tcp_connects_count{app="hello",region="loc",host="h"} 12
fly_edge_tcp_disconnects_count{app="hello",region="loc",host="h"} 9
fly_edge_data_in{app="hello",region="loc",host="h"} 1.5e+03
fly_edge_data_out{app="hello",region="loc",host="h"} 2000
fly_edge_data_out{app="world",region="loc",host="h"} 10
fly_app_http_responses_count{app="hello",region="loc",host="h",instance="m",status="200"} 99
"""


def test_counters_are_summed_per_app():
    assert totals(PAGE) == {"hello": Totals(105, 5, 3, 1500, 2000), "world": Totals(data_out=10)}


def test_rates_are_per_second_and_connections_are_now():
    after = {"hello": Totals(205, 7, 4, 2500, 2000), "world": Totals(data_out=10)}
    rows = rates(totals(PAGE), after, 2.0)
    assert rows[0] == {"app": "hello", "requests_per_second": 50.0, "errors_per_second": 1.0, "connections": 4,
                       "in_bytes_per_second": 500, "out_bytes_per_second": 0}


def test_the_busiest_app_comes_first_and_a_new_one_counts_from_zero():
    rows = rates({}, {"idle": Totals(), "busy": Totals(10)}, 1.0)
    assert [row["app"] for row in rows] == ["busy", "idle"]


def test_a_restarted_proxy_gives_no_negative_rates():
    assert rates({"a": Totals(100)}, {"a": Totals(1)}, 1.0)[0]["requests_per_second"] == 0

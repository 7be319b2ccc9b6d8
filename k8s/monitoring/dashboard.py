#!/usr/bin/env python3
"""Writes dashboard.json, the Grafana dashboard: python3 k8s/monitoring/dashboard.py > k8s/monitoring/dashboard.json

Rows of panels as data. Every query takes the dashboard's variables `job`, `namespace` and `route`.
"""

import json
import sys

WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6
SELECT = 'job=~"$job",namespace=~"$namespace"'
ROUTE = SELECT + ',route=~"$route"'
# Brings the name of the route's preset.
SENDER = f"* on (instance, route) group_left (provider) hookmoat_route_info{{{SELECT}}}"

# Title of a row, then its panels: kind, title, what it tells, unit, width, queries as (legend, expression).
ROWS = [
    ("At a glance", [
        ("stat", "Requests", "Requests a second.", "reqps", QUARTER,
         [("", f"sum(rate(hookmoat_requests_total{{{ROUTE}}}[$__rate_interval]))")]),
        ("stat", "Forwarded or acknowledged", "Share of all requests that the sender may forget.", "percentunit", QUARTER,
         [("", f'sum(rate(hookmoat_requests_total{{{ROUTE},outcome=~"forwarded|queued|duplicate|replayed|handshake|ignored"}}'
               f"[$__rate_interval])) / sum(rate(hookmoat_requests_total{{{ROUTE}}}[$__rate_interval]))")]),
        ("stat", "Oldest waiting event", "Age of the oldest event that is neither delivered nor given up.", "s", QUARTER,
         [("", f"max(hookmoat_queue_oldest_seconds{{{SELECT}}})")]),
        ("stat", "Certificate ends in", "The one that ends first.", "s", QUARTER,
         [("", f"min(hookmoat_certificate_not_after_seconds{{{SELECT}}}) - time()")]),
    ]),
    ("Traffic", [
        ("timeseries", "Requests by route", "", "reqps", HALF,
         [("{{route}}", f"sum by (route) (rate(hookmoat_requests_total{{{ROUTE}}}[$__rate_interval]))")]),
        ("timeseries", "Requests by outcome", "Forwarded, or the reason of the refusal.", "reqps", HALF,
         [("{{outcome}}", f"sum by (outcome) (rate(hookmoat_requests_total{{{ROUTE}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Refused for the signature", "The sender sees one answer; here are the reasons.", "reqps", HALF,
         [("{{route}} {{outcome}}",
           f'sum by (route, outcome) (rate(hookmoat_requests_total{{{ROUTE},outcome=~"signature_.+|timestamp_.+"}}'
           "[$__rate_interval])) > 0")]),
        ("timeseries", "Would have been refused", "What checks in observe mode let pass.", "reqps", HALF,
         [("{{route}} {{check}} {{reason}}",
           f"sum by (route, check, reason) (rate(hookmoat_observed_total{{{ROUTE}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Events by type", "For routes with a list of `events`.", "reqps", HALF,
         [("{{route}} {{event}}", f"sum by (route, event) (rate(hookmoat_events_total{{{ROUTE}}}[$__rate_interval]))")]),
        ("timeseries", "Body bytes", "", "Bps", HALF,
         [("{{route}}", f"sum by (route) (rate(hookmoat_request_body_bytes_total{{{ROUTE}}}[$__rate_interval]))")]),
    ]),
    ("Latency", [
        ("timeseries", "99th percentile by stage",
         "body: waiting for the sender; checks: ours; backend: theirs.", "s", HALF,
         [("{{stage}}",
           "histogram_quantile(0.99, sum by (stage, le) "
           f"(rate(hookmoat_request_duration_seconds_bucket{{{ROUTE}}}[$__rate_interval])))")]),
        ("timeseries", "Median by stage", "", "s", HALF,
         [("{{stage}}",
           "histogram_quantile(0.5, sum by (stage, le) "
           f"(rate(hookmoat_request_duration_seconds_bucket{{{ROUTE}}}[$__rate_interval])))")]),
    ]),
    ("Senders and backends", [
        ("timeseries", "Requests by sender", "By preset; without one, the route's own scheme.", "reqps", HALF,
         [("{{provider}}", f"sum by (provider) (rate(hookmoat_requests_total{{{ROUTE}}}[$__rate_interval]) {SENDER})")]),
        ("timeseries", "Refused by sender", "Share of each sender's requests that a check refused: its health.", "percentunit", HALF,
         [("{{provider}}",
           f'sum by (provider) (rate(hookmoat_requests_total{{{ROUTE},outcome!~"forwarded|queued|duplicate.*|replayed|handshake|'
           f'ignored|backend_.+"}}[$__rate_interval]) {SENDER}) / '
           f"sum by (provider) (rate(hookmoat_requests_total{{{ROUTE}}}[$__rate_interval]) {SENDER})")]),
        ("timeseries", "Copies", "Senders repeat what was not answered in time.", "reqps", THIRD,
         [("{{route}} {{outcome}}",
           f'sum by (route, outcome) (rate(hookmoat_requests_total{{{ROUTE},outcome=~"duplicate.*|replayed"}}'
           "[$__rate_interval])) > 0")]),
        ("timeseries", "Answers of backends", "", "reqps", THIRD,
         [("{{route}} {{code}}",
           f"sum by (route, code) (rate(hookmoat_backend_responses_total{{{ROUTE}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Backends that did not answer", "", "reqps", THIRD,
         [("{{route}} {{outcome}}",
           f'sum by (route, outcome) (rate(hookmoat_requests_total{{{ROUTE},outcome=~"backend_.+"}}[$__rate_interval])) > 0'
           )]),
    ]),
    ("Queue", [
        ("timeseries", "Events in the queue", "", "short", THIRD,
         [("{{queue}} {{state}}", f"sum by (queue, state) (hookmoat_queue_events{{{SELECT}}})")]),
        ("timeseries", "Age of the oldest", "", "s", THIRD,
         [("{{queue}}", f"max by (queue) (hookmoat_queue_oldest_seconds{{{SELECT}}})")]),
        ("timeseries", "Given up", "Dead letters by reason.", "short", THIRD,
         [("{{route}} {{reason}}",
           f"sum by (route, reason) (increase(hookmoat_dead_letters_total{{{ROUTE}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Attempts", "What attempts of background delivery met.", "reqps", HALF,
         [("{{route}} {{result}}",
           f"sum by (route, result) (rate(hookmoat_delivery_attempts_total{{{ROUTE}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Time until durable", "99th percentile; the sender waits for this.", "s", HALF,
         [("", f"histogram_quantile(0.99, sum by (le) (rate(hookmoat_enqueue_duration_seconds_bucket{{{SELECT}}}"
               "[$__rate_interval])))")]),
    ]),
    ("State, limits, material", [
        ("timeseries", "Event IDs held", "", "short", THIRD, [("{{instance}}", f"hookmoat_seen_ids{{{SELECT}}}")]),
        ("timeseries", "Over a rate limit", "", "reqps", THIRD,
         [("{{route}}",
           f'sum by (route) (rate(hookmoat_requests_total{{{ROUTE},outcome="rate_limited"}}[$__rate_interval])) > 0')]),
        ("timeseries", "Decided without the store", "", "reqps", THIRD,
         [("{{route}} {{check}} {{decision}}",
           f"sum by (route, check, decision) (rate(hookmoat_state_degraded_total{{{ROUTE}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Age of fetched ranges and keys", "", "s", THIRD,
         [("{{kind}} {{source}}", f"max by (kind, source) (hookmoat_fetched_age_seconds{{{SELECT}}})")]),
        ("timeseries", "Body bytes in memory", "", "bytes", THIRD,
         [("{{instance}}", f"hookmoat_body_memory_bytes{{{SELECT}}}")]),
        ("timeseries", "Spans of traces", "What the collector did not take is lost.", "short", THIRD,
         [("exported", f"sum(rate(hookmoat_spans_exported_total{{{SELECT}}}[$__rate_interval]))"),
          ("dropped: {{reason}}", f"sum by (reason) (rate(hookmoat_spans_dropped_total{{{SELECT}}}[$__rate_interval]))")]),
        ("timeseries", "Connections", "Open, beside how many there may be.", "short", HALF,
         [("{{instance}} open", f"hookmoat_connections{{{SELECT}}}"),
          ("{{instance}} at most", f"hookmoat_connections_max{{{SELECT}}}")]),
        ("timeseries", "Connections closed unanswered", "Denied, over a bound, or broken before HTTP.", "cps", HALF,
         [("{{reason}}", f"sum by (reason) (rate(hookmoat_connections_closed_total{{{SELECT}}}[$__rate_interval])) > 0"),
          ("not accepted", f"sum(rate(hookmoat_accept_errors_total{{{SELECT}}}[$__rate_interval])) > 0")]),
        ("timeseries", "Requests in flight", "", "short", THIRD,
         [("{{instance}}", f"hookmoat_requests_in_flight{{{SELECT}}}")]),
    ]),
]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(number, kind, title, description, unit, queries, at):
    return {
        "id": number,
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if kind == "timeseries" else {},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for i, (legend, expression) in enumerate(queries)
        ],
    }


def panels():
    number, y = 0, 0
    for title, row in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": WIDE, "h": 1}}
        y, x = y + 1, 0
        for kind, name, description, unit, width, queries in row:
            height = 4 if kind == "stat" else 8
            if x + width > WIDE:
                x, y = 0, y + height
            number += 1
            yield panel(number, kind, name, description, unit, queries, {"x": x, "y": y, "w": width, "h": height})
            x += width
        y += height


def variable(name, query, label):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "query": query, "refresh": 2,
            "multi": True, "includeAll": True, "allValue": ".*", "sort": 1,
            "current": {"text": "All", "value": "$__all"}}


DASHBOARD = {
    "uid": "hookmoat",
    "title": "Hookmoat",
    "description": "Webhooks: who sends, what is refused and why, what waits, what failed.",
    "tags": ["hookmoat", "webhooks"],
    "schemaVersion": 39,
    "version": 1,
    "editable": True,
    "graphTooltip": 1,
    "refresh": "30s",
    "time": {"from": "now-6h", "to": "now"},
    "timezone": "browser",
    "templating": {"list": [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        variable("job", "label_values(hookmoat_build_info, job)", "Job"),
        variable("namespace", 'label_values(hookmoat_build_info{job=~"$job"}, namespace)', "Namespace"),
        variable("route", f"label_values(hookmoat_requests_total{{{SELECT}}}, route)", "Route"),
    ]},
    "annotations": {"list": [
        {"name": "Reloads", "datasource": DATASOURCE, "enable": True, "iconColor": "blue",
         "expr": f"changes(hookmoat_config_loaded_timestamp_seconds{{{SELECT}}}[$__interval]) > 0"},
    ]},
    "panels": list(panels()),
}

json.dump(DASHBOARD, sys.stdout, indent=2)
print()

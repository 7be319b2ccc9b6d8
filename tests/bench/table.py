#!/usr/bin/env python3
"""Writes the README's table from a result of the harness: table.py OUT.json

Between the lines `<!-- bench:table -->` and `<!-- /bench:table -->`. Figures are medians over the rounds with their range;
a contender that was not measured keeps no line.
"""
import json
import re
import statistics
import sys

NAMES = [
    ("hookmoat", "**Hookmoat**, all checks"),
    ("pingora-plain", "Plain Pingora proxy, no checks"),
    ("nginx-lua", "nginx + Lua, all checks"),
    ("haproxy-verify", "HAProxy, all checks"),
    ("envoy-lua", "Envoy + Lua, all checks"),
    ("tcp-relay", "Bare TCP relay, the floor"),
]
# Title, scenario, whether it is CPU (microseconds for each request) or latency (p99, milliseconds).
COLUMNS = [
    ("CPU 1 KiB", "max1k", "cpu"),
    ("16 KiB", "max16k", "cpu"),
    ("1 MiB", "max1m", "cpu"),
    ("1 KiB at 1000/s", "o1k", "cpu"),
    ("1 KiB TLS at 1000/s", "tls1k", "cpu"),
    ("p99 1 KiB", "o1k", "p99"),
    ("16 KiB", "o16k", "p99"),
    ("1 MiB", "o1m", "p99"),
]


def short(value):
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def cell(runs, kind):
    good = [run for run in runs if "error" not in run and run["completed"]]
    if not good:
        return "–"
    if kind == "cpu":
        values = [run["cpu"]["proxy"]["us_per_req"] for run in good]
        return f"{short(statistics.median(values))} ({short(min(values))}–{short(max(values))})"
    return short(statistics.median(run["lat_us"]["p99"] / 1000 for run in good))


def memory(runs):
    peaks = [run["cpu"]["proxy"]["pss_kb"] / 1024 for scenario in runs.values() for run in scenario if "error" not in run]
    return f"{max(peaks):.0f}" if peaks else "–"


def main():
    runs = json.load(open(sys.argv[1]))["runs"]
    columns = [column for column in COLUMNS if any(column[1] in scenarios for scenarios in runs.values())]
    lines = ["| | " + " | ".join(title for title, _, _ in columns) + " | memory, peak MiB |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for name, title in NAMES:
        if name in runs:
            cells = [cell(runs[name].get(scenario, []), kind) for _, scenario, kind in columns]
            lines.append(f"| {title} | " + " | ".join(cells + [memory(runs[name])]) + " |")
    readme = open("README.md", encoding="utf-8").read()
    begin, end = "<!-- bench:table -->\n", "<!-- /bench:table -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(readme):
        sys.exit(f"README.md has no {begin.strip()}")
    table = "\n".join(lines)
    readme = pattern.sub(lambda _: f"{begin}\n{table}\n\n{end}", readme)
    open("README.md", "w", encoding="utf-8").write(readme)
    print(table)


main()

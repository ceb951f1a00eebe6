#!/usr/bin/env python3
"""What the sample data says on Thu 2026-11-19, computed without any of nightcrew's own code.

Builds the warehouse from `warehouse.sql` in memory, runs the shipped `signups.sql` over it, reads `checkout.json`, computes
`usual: median_same_weekday(8)` and the flags of `analytics-report` by hand, and compares the result with the table in
README.md; no other day may have a flag. Exits 1 when something differs. With `--write` it writes `checkout.json` anew first.
"""

import datetime
import json
import pathlib
import sqlite3
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
QUERY = HERE.parents[2] / "pipelines" / "sql" / "signups.sql"
FIRST, LAST = datetime.date(2026, 5, 1), datetime.date(2026, 11, 19)


def days():
    return [FIRST + datetime.timedelta(days=n) for n in range((LAST - FIRST).days + 1)]


def checkout_rows():
    """A day's checkout attempts and errors; like the warehouse, a function of the day's number alone."""
    weight = [97, 101, 100, 98, 104, 82, 76]  # per cent of a Wednesday, Monday first
    for n, day in enumerate(days()):
        attempts = (9_900 + 3 * n) * weight[day.weekday()] * (1_000 + n * 10 % 43 - 21) // 100_000
        browsers = {
            "Chrome": attempts * (175 + n * 13 % 37 - 18) // 100_000,
            "Safari 18": attempts * (95 + n * 7 % 23 - 11) // 100_000,
            "Firefox": attempts * (78 + n * 11 % 19 - 9) // 100_000,
            "Edge": attempts * (59 + n * 5 % 13 - 6) // 100_000,
        }
        burst = "none"
        if day == LAST:  # the anomaly
            browsers["Safari 18"] += 172
            burst = "Safari 18, from 14:10 until the end of the day: 172 errors, all at the step `pay`"
        errors = sum(browsers.values())
        yield {
            "day": day.isoformat(),
            "attempts": attempts,
            "errors": errors,
            "rate_pct": round(100 * errors / attempts, 1),
            "browsers": ", ".join(f"{name}: {count}" for name, count in browsers.items()),
            "burst": burst,
        }


def write_checkout():
    rows = ",\n".join("    " + json.dumps(row) for row in checkout_rows())
    (HERE / "checkout.json").write_text('{\n  "data": [\n' + rows + "\n  ]\n}\n")


def sources():
    db = sqlite3.connect(":memory:")
    started = time.perf_counter()
    db.executescript((HERE / "warehouse.sql").read_text())
    print(f"warehouse.sql built in {1000 * (time.perf_counter() - started):.0f} ms", file=sys.stderr)
    cursor = db.execute(QUERY.read_text(), {"from": FIRST.isoformat(), "to": LAST.isoformat()})
    names = [column[0] for column in cursor.description]
    yield "signups", [dict(zip(names, row)) for row in cursor]
    yield "checkout", json.loads((HERE / "checkout.json").read_text())["data"]


def metrics(data, at):
    """(metric, value, usual, change, change_pct, flagged) on the day `at`, as `compute` defines them."""
    for source, rows in data:
        by_day = {row["day"]: row for row in rows}
        assert len(by_day) == len(rows) == len(days()), f"{source}: one row a day"
        same_weekday = [(at - datetime.timedelta(weeks=week)).isoformat() for week in range(1, 9)]
        for column, value in by_day[at.isoformat()].items():
            if isinstance(value, str):
                continue
            usual = statistics.median(by_day[day][column] for day in same_weekday)
            change = value - usual
            pct = 100 * change / usual if usual else (0 if value == 0 else 100)
            yield f"{source}.{column}", value, usual, change, pct, abs(pct) > 15 and abs(change) >= 20


def table(data, at):
    lines = ["| metric | value | usual | change | change_pct | flagged |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for metric, value, usual, change, pct, flagged in metrics(data, at):
        lines.append(f"| {metric} | {value:g} | {usual:g} | {change:+g} | {pct:+.2f} | {'yes' if flagged else 'no'} |")
    return "\n".join(lines)


def main():
    if "--write" in sys.argv[1:]:
        write_checkout()
    data = list(sources())
    found = table(data, LAST)
    print(found)
    for day in days()[56:-1]:
        for metric in metrics(data, day):
            if metric[-1]:
                sys.exit(f"{day}: {metric[0]} is flagged too")
    if found not in (HERE / "README.md").read_text():
        sys.exit("README.md tells other figures")


if __name__ == "__main__":
    main()

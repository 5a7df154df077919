"""The table that the suite prints, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults.suite import Outcome


def table(outcomes: Sequence[Outcome], projected: float, seconds: float) -> str:
    """Row, scenario, store, tries, how many held, seconds; then kills by phase; then breaches."""
    lines = ["", f"{'scenario':38} {'store':10} {'tries':>5} {'held':>5} {'seconds':>8}"]
    row = ""
    for outcome in outcomes:
        if outcome.fault.row != row:
            row = outcome.fault.row
            lines.append(row)
        mark = "" if outcome.good else "  FAILED"
        lines.append(
            f"  {outcome.fault.name:36} {outcome.store:10} {outcome.tries:5} {outcome.held:5} "
            f"{outcome.seconds:8.0f}{mark}"
        )
    lines += ["", "kills by phase"]
    for (what, store), hits in _kills(outcomes).items():
        phases = ", ".join(f"{phase} {count}" for phase, count in sorted(hits.items()))
        lines.append(f"  {hits.total():3} {what}, {store}: {phases}")
    breaches = [
        f"  {outcome.fault.name} on {outcome.store}: {text}"
        for outcome in outcomes
        for text in outcome.breaches
    ]
    lines += ["", *(["what did not hold", *breaches] if breaches else ["everything held"])]
    lines.append(f"projected {projected / 60:.1f} min, took {seconds / 60:.1f} min")
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome], seed: int, projected: float, seconds: float) -> str:
    """The same, with the machine, the time and the commit."""
    return json.dumps(
        {
            "seed": seed,
            "commit": _commit(),
            "command": f"python -m faults {re.sub(r'--json[ =][^ ]+', '', ' '.join(sys.argv[1:]))}",
            "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "projected_seconds": projected,
            "outcomes": [_outcome(outcome) for outcome in outcomes],
            "kills": {
                f"{what}, {store}": dict(hits) for (what, store), hits in _kills(outcomes).items()
            },
        },
        indent=1,
    )


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "row": outcome.fault.row,
        "scenario": outcome.fault.name,
        "store": outcome.store,
        "tries": outcome.tries,
        "held": outcome.held,
        "seconds": round(outcome.seconds, 1),
        "kills": dict(outcome.hits),
        "breaches": outcome.breaches,
    }


def _kills(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], Counter[str]]:
    found: dict[tuple[str, str], Counter[str]] = {}
    for outcome in outcomes:
        if outcome.hits:
            key = (outcome.fault.row, outcome.store)
            found.setdefault(key, Counter()).update(outcome.hits)
    return found


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(), re.M)
    return names[0] if names else platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    return done.stdout.strip() or "no checkout"

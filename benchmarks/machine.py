"""The machine, the code and the command, recorded with every result."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hpsearch.system.hardware import processor


def machine() -> dict[str, Any]:
    found = processor()
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return {
        "cpu": f"{found.name or '?'} (family {found.family or '?'}, model {found.model or '?'})",
        "commit": subprocess.run(head, capture_output=True, text=True).stdout.strip() or None,
        "command": shlex.join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def conclude(
    file: Path | None, about: dict[str, Any], results: list[dict[str, Any]], missed: list[str]
) -> int:
    """Write the results, say which goals were missed, and return the exit code."""
    if file:
        file.write_text(json.dumps({"machine": about, "results": results}, indent=1))
    print("every goal is met" if not missed else "missed: " + "; ".join(missed))
    return 1 if missed else 0

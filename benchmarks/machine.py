"""What stands beside every figure: the machine, the code and the command."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text()
    # Some virtual machines hide the model's name: family and model tell the generation.
    found = (re.search(rf"{key}\s*:\s*(.*)", text) for key in ("model name", "cpu family", "model"))
    named, family, number = (match[1] if match else "?" for match in found)
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return {
        "cpu": f"{named} (family {family}, model {number})",
        "commit": subprocess.run(head, capture_output=True, text=True).stdout.strip() or None,
        "command": shlex.join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }

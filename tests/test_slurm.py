"""The job of docs/slurm.md, with a store and a search of this machine's size."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from support.commands import PROGRAMS, SIZES, Process

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[1] / "docs" / "slurm.md"


def test_a_job_ends_at_slurm_s_signal_and_the_same_script_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [script] = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    options = " ".join(["--trials 1 --epochs 12 --targets mu", *SIZES])
    for part, here in (
        ("postgresql://me@db.example.org/hpsearch", f"sqlite:///{tmp_path}/store.db"),
        ("search_spaces/table3_log.yaml", f"search_spaces/quick.yaml {options}"),
        ("/shared/me/runs", str(tmp_path / "runs")),
        ("$HOME/hpsearch/.venv/bin", str(PROGRAMS)),
    ):
        assert script.count(part) == 1
        script = script.replace(part, here)
    (tmp_path / "job.sh").write_text(script)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    with Process(tmp_path, "bash", "job.sh") as job:
        job.read_until("trial 0: epoch 1,")
        os.kill(job.pid, signal.SIGTERM)  # the batch shell alone, as B: has it
        code, errors = job.wait()
    assert code == 128 + signal.SIGTERM
    assert "hpsearch: interrupted; to resume, type: hpsearch launch" in errors
    with Process(tmp_path, "bash", "job.sh") as job:
        job.read_until("so far: 0 complete, 1 resumed from epoch ")
        job.read_until("1 of 1 complete")
        assert job.wait()[0] == 0

"""`make faults`: the whole table, or a part of it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from faults.report import as_json, table
from faults.stores import KINDS
from faults.suite import Suite
from faults.table import faults


def main() -> int:
    """Run what is asked for; 0 if everything held."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all random instants")
    parser.add_argument("--only", metavar="WORD", help="scenarios whose name or row has this word")
    parser.add_argument("--store", choices=KINDS, help="on this kind of store alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes here")
    parser.add_argument("--keep", action="store_true", help="leave the folders of the tries")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    given = parser.parse_args()

    chosen = [f for f in faults() if not given.only or given.only in f"{f.name} {f.row}"]
    stores = [given.store] if given.store else list(KINDS)
    projected = sum(
        fault.seconds * fault.tries for fault in chosen for kind in fault.stores if kind in stores
    )
    if given.list:
        for fault in chosen:
            print(f"{fault.name:40} {fault.row}")
        return 0
    print(f"{len(chosen)} scenarios, seed {given.seed}, about {projected / 60:.0f} min", flush=True)
    began = time.monotonic()
    with Suite(given.seed, given.keep, lambda line: print(line, flush=True)) as suite:
        outcomes = list(suite.run(chosen, stores))
    seconds = time.monotonic() - began
    print(table(outcomes, projected, seconds))
    if given.json:
        given.json.write_text(as_json(outcomes, given.seed, projected, seconds))
    return 0 if outcomes and all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

"""`make faults`: the whole table, or a part of it."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults.report import as_json, table
from faults.stores import KINDS
from faults.suite import Outcome, Suite
from faults.table import Fault, faults


def main() -> int:
    """Run what is asked for; 0 if everything held."""
    # A shell without job control starts what runs in its background with SIGINT ignored, and so
    # would be every launch that a scenario interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    streams = [_seconds(chosen, store) for store in stores]
    projected = max(streams)
    if given.list:
        for fault in chosen:
            print(f"{fault.name:40} {fault.row}")
        return 0
    print(f"{len(chosen)} scenarios, seed {given.seed}, about {projected / 60:.0f} min", flush=True)
    began = time.monotonic()
    outcomes = _side_by_side(chosen, stores, given.seed, given.keep)
    seconds = time.monotonic() - began
    print(table(outcomes, projected, seconds))
    if given.json:
        given.json.write_text(as_json(outcomes, given.seed, projected, seconds))
    return 0 if outcomes and all(outcome.good for outcome in outcomes) else 1


def _seconds(chosen: list[Fault], store: str) -> float:
    return sum(fault.seconds * fault.tries for fault in chosen if store in fault.stores)


def _side_by_side(chosen: list[Fault], stores: list[str], seed: int, keep: bool) -> list[Outcome]:
    """Each store's tries in a thread of their own: a launch that starts seldom fills two cores."""
    suites = {store: Suite(seed, keep, lambda line: print(line, flush=True)) for store in stores}

    def run(store: str) -> list[Outcome]:
        with suites[store] as suite:
            return list(suite.run(chosen, [store]))

    with ThreadPoolExecutor(len(stores)) as pool:
        try:
            parts = list(pool.map(run, stores))
        except KeyboardInterrupt:
            for suite in suites.values():
                suite.abort()
            raise
    found = {(outcome.fault.name, outcome.store): outcome for part in parts for outcome in part}
    order = [(fault.name, store) for fault in chosen for store in stores]
    return [found[key] for key in order if key in found]


if __name__ == "__main__":
    sys.exit(main())

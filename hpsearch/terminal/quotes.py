"""Lines for a terminal: the estimated cost of a search or an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpsearch.ablation.quote import PlanQuote
from hpsearch.config.architecture import count_weights
from hpsearch.config.run import TrialConfig
from hpsearch.cost.accuracy import QuoteAccuracy
from hpsearch.cost.timings import TimedConfig
from hpsearch.errors import HpsearchError
from hpsearch.report.text import duration
from hpsearch.search.quote import Quote


def timed_line(timed: TimedConfig) -> str:
    """Return the measured cost of a configuration, from a few training steps."""
    timing = timed.timing
    return (
        f"{_named(timed.config)}: {timing.step_seconds * 1e3:4.0f} ms a step, "
        f"{duration(timing.epoch_seconds)} an epoch, {timing.memory_bytes / 1e9:.1f} GB"
    )


def untimed_line(config: TrialConfig, error: HpsearchError) -> str:
    """Return the reason why a configuration could not be timed."""
    return f"{_named(config)}: {error}"


def _named(config: TrialConfig) -> str:
    network = config.network
    features = f"{network.featurization_scalars}x0+{network.featurization_vectors}x1"
    return (
        f"  {count_weights(network, len(config.targets)):>11,} weights, {features:>9}, "
        f"batch {config.training.batch_size:2}"
    )


def search_quote_lines(quote: Quote) -> Iterator[str]:
    """Yield the estimated cost of a search."""
    figures = quote.to_dict()
    draws = figures["draws"]
    yield (
        f"quote, from {quote.timed} timed configurations"
        + (f" (typical error {quote.typical_error:.0%})" if quote.typical_error else "")
        + f" and {draws} drawn ones:"
    )
    if quote.refused:
        share = f"{quote.refused / draws:.0%} of the draws are beyond it and refused"
        yield f"  budget    {share if quote.timings else _all_refused(quote)}"
    if not quote.timings:
        return
    weights, epochs, memory = (
        figures[name] for name in ("weights", "epoch_seconds", "memory_bytes")
    )
    yield f"  weights   {weights['least']:,}-{weights['most']:,}, middle {weights['middle']:,.0f}"
    yield (
        f"  epoch     {duration(epochs['least'])} to {duration(epochs['most'])}, "
        f"middle {duration(epochs['middle'])}"
    )
    fits = "" if quote.too_large is None else f"; {_fit(quote)}"
    yield f"  memory    {memory['least'] / 1e9:.1f}-{memory['most'] / 1e9:.1f} GB a trial{fits}"
    yield f"  disk      at most {quote.disk_bytes / 1e9:.2g} GB of checkpoints and weights"
    if quote.done:
        yield f"  done      {quote.done} of {quote.done + quote.trials}"
    yield f"  in all    {_hours(quote)}"
    yield f"  devices   {_two_digits(quote.device_hours)} {quote.device}-hours"


def _two_digits(number: float) -> str:
    """Return ``0.031``, ``3.1``, ``310``."""
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _all_refused(quote: Quote) -> str:
    return f"every one of {quote.refused} draws is beyond the budget"


def _fit(quote: Quote) -> str:
    assert quote.too_large is not None
    assert quote.memory is not None
    have = f"{quote.memory / 1e9:.1f} GB that each of {quote.places} may have"
    if quote.too_large == 0:
        return f"all of the space fits into the {have}"
    return f"{quote.too_large:.0%} of the space does not fit into the {have}"


def _hours(quote: Quote) -> str:
    low, middle, high = (duration(seconds) for seconds in quote.seconds)
    return (
        f"{quote.trials} trials take {middle} ({low} to {high}), {quote.places} at a time; "
        "trials that diverge come on top"
    )


def short_quote_line(quote: Quote) -> str:
    """Return the estimate in one line, as a launch prints it."""
    if not quote.timings:
        return f"quote: none, since {_all_refused(quote)}"
    memory = max(timing.memory_bytes for timing in quote.timings)
    return f"quote: {_hours(quote)}; up to {memory / 1e9:.1f} GB each"


def accuracy_lines(accuracy: QuoteAccuracy | None) -> Iterator[str]:
    """Yield the errors of a search's estimate; no lines if it had none."""
    if accuracy is None:
        return
    median = f"the median of {accuracy.trials} trial{'s' * (accuracy.trials > 1)}"
    if accuracy.epoch_error is not None:
        yield f"the quoted seconds of an epoch were {accuracy.epoch_error:.0%} off, {median}"
    if accuracy.memory_error is not None:
        yield f"the quoted memory was {accuracy.memory_error:.0%} off, {median}"
    error = accuracy.hours_error
    if accuracy.quoted is not None and error is not None:
        low, middle, high = accuracy.quoted
        failed = accuracy.failed_seconds
        yield (
            f"the trials together took {duration(accuracy.seconds)}, quoted were "
            f"{duration(middle)} ({duration(low)} to {duration(high)}): {abs(error):.0%} too "
            f"{'long' if error > 0 else 'short'}"
            + (f"; failed ones took {duration(failed)} besides" if failed else "")
        )


def shorter_line(ways: Sequence[tuple[str, float]]) -> str:
    """Return a line that says how to shorten a search of more than a day."""
    options = ", ".join(f"{option} makes it {duration(seconds)}" for option, seconds in ways)
    return (
        f"that is more than a day on this machine: {options or 'no option of a launch helps'}; "
        "more cores, GPUs (--gpus-per-trial) or machines (--address) divide it"
    )


def quote_lines(quote: PlanQuote) -> Iterator[str]:
    """Yield the estimated cost of an ablation, from a few training steps of every arm."""
    for name, timing in quote.timings.items():
        yield (
            f"  {name}: {timing.step_seconds * 1e3:.0f} ms a step, "
            f"{duration(timing.epoch_seconds)} an epoch, {duration(quote.run_seconds[name])} a run "
            f"of {quote.epochs[name]} epochs; {timing.memory_bytes / 1e9:.1f} GB"
        )
    yield (
        f"in all at most {duration(quote.seconds)} with {quote.places} at a time "
        f"({duration(quote.total_seconds)} of runs); early stopping may shorten it, and runs side "
        "by side slow each other down where memory is the limit"
    )

"""Lines for a terminal: the estimated cost of a search or an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpsearch.ablation.quote import PlanQuote
from hpsearch.config.architecture import weights_of
from hpsearch.config.run import TrialConfig
from hpsearch.cost.accuracy import QuoteAccuracy
from hpsearch.cost.timings import TimedConfig
from hpsearch.report.text import duration
from hpsearch.search.quote import Quote
from hpsearch.system.errors import HpsearchError


def timed_line(timed: TimedConfig) -> str:
    """Return the measured cost of a configuration, from a few training steps."""
    timing = timed.timing
    return (
        f"{_named(timed.config)}: {timing.step_seconds * 1e3:4.0f} ms per step, "
        f"{duration(timing.epoch_seconds)} per epoch, {timing.memory_bytes / 1e9:.1f} GB"
    )


def untimed_line(config: TrialConfig, error: HpsearchError) -> str:
    """Return the reason why a configuration could not be timed."""
    return f"{_named(config)}: {error}"


def _named(config: TrialConfig) -> str:
    network = config.network
    features = f"{network.featurization_scalars}x0+{network.featurization_vectors}x1"
    return (
        f"  {weights_of(config):>11,} weights, {features:>9}, batch {config.training.batch_size:2}"
    )


def search_quote_lines(quote: Quote) -> Iterator[str]:
    """Yield the estimated cost of a search."""
    figures = quote.to_dict()
    draws = figures["draws"]
    error = f" (typical error {100 * quote.typical_error:.0f} %)" if quote.typical_error else ""
    yield f"estimate from {quote.timed} timed and {draws} sampled configurations{error}:"
    if quote.refused:
        share = f"{100 * quote.refused / draws:.0f} % of the sampled configurations"
        refused = f"{share} exceed it and are refused"
        yield f"  budget    {refused if quote.timings else _all_refused(quote)}"
    if not quote.timings:
        return
    weights, epochs, memory = (
        figures[name] for name in ("weights", "epoch_seconds", "memory_bytes")
    )
    yield f"  weights   {weights['least']:,}-{weights['most']:,}, median {weights['middle']:,.0f}"
    yield (
        f"  epoch     {duration(epochs['least'])} to {duration(epochs['most'])}, "
        f"median {duration(epochs['middle'])}"
    )
    fits = "" if quote.too_large is None else f"; {_fit(quote)}"
    yield f"  memory    {memory['least'] / 1e9:.1f}-{memory['most'] / 1e9:.1f} GB per trial{fits}"
    yield f"  disk      at most {quote.disk_bytes / 1e9:.2g} GB of checkpoints and weights"
    if quote.planned_epochs is not None:
        share = f"{100 * quote.planned_epochs / quote.epochs:.0f} % of the {quote.epochs:,.0f}"
        yield f"  epochs    about {quote.planned_epochs:,} with early stopping, {share} without it"
    if quote.done:
        yield f"  done      {quote.done} of {quote.done + quote.trials}"
    yield f"  total     {_hours(quote)}"
    yield f"  devices   {_two_digits(quote.device_hours)} {quote.device}-hours"


def _two_digits(number: float) -> str:
    """Return ``0.031``, ``3.1``, ``310``."""
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _all_refused(quote: Quote) -> str:
    return f"all {quote.refused} sampled configurations exceed the budget"


def _fit(quote: Quote) -> str:
    assert quote.too_large is not None
    assert quote.memory is not None
    available = f"the {quote.memory / 1e9:.1f} GB available per trial ({quote.places} at a time)"
    if quote.too_large == 0:
        return f"the whole space fits into {available}"
    return f"{100 * quote.too_large:.0f} % of the space does not fit into {available}"


def _hours(quote: Quote) -> str:
    low, middle, high = (duration(seconds) for seconds in quote.seconds)
    return (
        f"{quote.trials} trials take {middle} ({low} to {high}), {quote.places} at a time, "
        "not counting trials that diverge"
    )


def short_quote_line(quote: Quote) -> str:
    """Return the estimate in one line, as a launch prints it."""
    if not quote.timings:
        return f"estimate: none, because {_all_refused(quote)}"
    memory = max(timing.memory_bytes for timing in quote.timings)
    return f"estimate: {_hours(quote)}; up to {memory / 1e9:.1f} GB per trial"


def accuracy_lines(accuracy: QuoteAccuracy | None) -> Iterator[str]:
    """Yield the errors of a search's estimate; no lines if it had none."""
    if accuracy is None:
        return
    yield str(accuracy)
    if accuracy.quoted is not None and accuracy.hours_error is not None:
        low, middle, high = accuracy.quoted
        failed = accuracy.failed_seconds
        yield (
            f"sum of all trials: estimated {duration(middle)} ({duration(low)} to "
            f"{duration(high)}), in fact {duration(accuracy.seconds)}"
            + (f"; failed trials took {duration(failed)} more" if failed else "")
        )


def shorter_line(ways: Sequence[tuple[str, float]]) -> str:
    """Return a line that says how to shorten a search of more than a day."""
    options = ", ".join(f"{option} ({duration(seconds)})" for option, seconds in ways)
    shorter = f"shorter with {options}" if ways else "no option of a launch shortens it"
    return (
        f"this is more than a day on this machine; {shorter}; more cores, GPUs (--gpus-per-trial) "
        "or machines (--address) divide the time"
    )


def quote_lines(quote: PlanQuote) -> Iterator[str]:
    """Yield the estimated cost of an ablation, from a few training steps of every arm."""
    for name, timing in quote.timings.items():
        yield (
            f"  {name}: {timing.step_seconds * 1e3:.0f} ms per step, "
            f"{duration(timing.epoch_seconds)} per epoch, {duration(quote.run_seconds[name])} per "
            f"run of {quote.epochs[name]} epochs; {timing.memory_bytes / 1e9:.1f} GB"
        )
    yield (
        f"total: at most {duration(quote.seconds)}, {quote.places} at a time (sum of all runs: "
        f"{duration(quote.total_seconds)}); early stopping may shorten it, and runs at the same "
        "time may slow each other down"
    )

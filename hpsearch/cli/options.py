"""The options that commands share, with their checks and shell completions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from hpsearch.system.errors import InputError, one_line

if TYPE_CHECKING:
    from hpsearch.api.callbacks import Callback

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def parse_formats(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """Callback that parses a list of report formats."""
    from hpsearch.cli import completion

    formats = parse_names(context, option, text)
    for name in formats:
        if name not in completion.FORMATS:
            known = ", ".join(completion.FORMATS)
            raise InputError(f"a format must be one of {known}; got '{name}'")
    return formats


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def example(text: str) -> str:
    """Return the end of a help text that shows ``text`` as an example."""
    return f"\b\nExample:\n  {text}"


def _options(*decorators: Decorator) -> Decorator:
    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def at_least(least: float, *, above: bool = False) -> Callable[..., Any]:
    """Return a callback that refuses numbers below ``least``; with ``above``, also ``least``."""

    def check(context: click.Context, option: click.Parameter, value: float | None) -> Any:
        if value is None or (value > least if above else value >= least):
            return value
        raise InputError(
            f"{option.opts[0]} must be {'above' if above else 'at least'} {least:g}, "
            f"got {value:g}; raise it"
        )

    return check


def parse_names(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[str, ...]:
    """Callback that parses a list of names; empty if the option was not given."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise InputError(
            f"{option.opts[0]} must be names, separated by commas, got '{text}'; leave it out for "
            "the default"
        )
    return names


def _offer(choices: Sequence[str]) -> list[CompletionItem]:
    return [CompletionItem(choice) for choice in choices]


def complete_experiment(*kinds: str) -> Completer:
    """Return a completer of the experiments in the store of ``--storage`` or the environment."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from hpsearch.cli import completion

        names = completion.experiments(context.params.get("storage"), kinds)
        return _offer([name for name in names if name.startswith(incomplete)])

    return complete


def complete_choice(name: str, *, several: bool = False) -> Completer:
    """Return a completer of the choices in `cli.completion`; ``several`` allows a list of them."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from hpsearch.cli import completion

        choices = getattr(completion, name)
        if several:
            return _offer(completion.listed(choices, incomplete))
        return _offer([choice for choice in choices if choice.startswith(incomplete)])

    return complete


def complete_export(
    context: click.Context, argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the shipped configuration, and files."""
    shipped = complete_choice("EXPORTS")(context, argument, incomplete)
    return [*shipped, CompletionItem(incomplete, type="file")]


def complete_space(
    context: click.Context, argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the shipped spaces, and files."""
    from hpsearch.system import installation

    names = sorted(path.stem for path in installation.folder("search_spaces").glob("*.yaml"))
    shipped = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*shipped, CompletionItem(incomplete, type="file")]


storage_option = click.option(
    "--storage",
    metavar="URL",
    help="The store: sqlite:///FILE or postgresql://USER@HOST/DATABASE (password from the "
    "environment or .pgpass). Default: $HPSEARCH_STORAGE, else sqlite:///storage/hpsearch.db.",
)


output_folder_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    required=True,
    help="The folder to write into.",
)


def _check_device(context: click.Context, option: click.Parameter, name: str) -> str:
    """Callback that checks the device's name without torch, whose import takes seconds."""
    if name.partition(":")[0] in ("cpu", "cuda"):
        return name
    raise InputError(f"the device must be cpu or cuda (cuda:1 for the second GPU), got '{name}'")


device_option = click.option(
    "--device",
    callback=_check_device,
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="cpu or cuda.",
)


pages_option = click.option(
    "--pages",
    "own_pages",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    metavar="FOLDER",
    help="Also show the pages in this folder. Pages are Python files: their code is run.",
)


size_options = _options(
    click.option(
        "--train-size", type=int, callback=at_least(2), metavar="N", help="Training molecules."
    ),
    click.option(
        "--validation-size",
        type=int,
        callback=at_least(1),
        metavar="N",
        help="Validation molecules.",
    ),
    click.option(
        "--test-size", type=int, callback=at_least(1), metavar="N", help="Test molecules."
    ),
)


epochs_option = click.option(
    "--epochs",
    type=int,
    callback=at_least(1),
    metavar="N",
    help="Epochs of a run, at most.",
)


targets_option = click.option(
    "--targets",
    callback=parse_names,
    metavar="NAMES",
    shell_complete=complete_choice("TARGETS", several=True),
    help="Targets, separated by commas, e.g. mu,U0; or all.",
)


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Use the molecules and targets in the data section of this YAML file.",
)


def _read_trackers(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[Callback, ...]:
    """Callback that makes the trackers; a folder that cannot be written is refused."""
    return tuple(map(_read_tracker, texts))


def _read_tracker(text: str) -> Callback:
    from hpsearch.api.inputs import require_writable

    kind, _, folder = text.partition(":")
    if kind != "tensorboard" or not folder:
        raise InputError(
            f"--log-to must be tensorboard:FOLDER, got '{one_line(text)}'; other trackers can be "
            "used from Python, see docs/python.md"
        )
    require_writable(Path(folder))
    from hpsearch.api.tensorboard import TensorBoard

    return TensorBoard(folder)


log_option = click.option(
    "--log-to",
    multiple=True,
    callback=_read_trackers,
    metavar="TRACKER:FOLDER",
    help="Also write epochs, parameters and verdicts for a tracker: tensorboard:FOLDER.",
)


schedule_option = click.option(
    "--schedule",
    metavar="NAME",
    shell_complete=complete_choice("SCHEDULES"),
    help="plateau (the paper's), cosine (short runs) or constant_cooldown (early stopping).",
)


def _gathered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``command`` with the options of a placement as one argument, ``placement``."""

    @functools.wraps(command)
    def gathering(**options: Any) -> Any:
        from hpsearch.executor import Placement

        placed = {field.name: options.pop(field.name) for field in fields(Placement)}
        return command(placement=Placement(**placed), **options)

    return gathering


def placement_options(noun: str) -> Decorator:
    """Return the options that say where runs are placed; ``noun`` is the word for a run."""
    return _options(
        click.option(
            "--max-concurrent",
            type=int,
            callback=at_least(1),
            metavar="N",
            help=f"{noun.capitalize()}s at a time, at most; default: as many as there is room for.",
        ),
        click.option(
            f"--cpus-per-{noun}",
            "cpus_per_run",
            type=float,
            callback=at_least(0, above=True),
            metavar="N",
            default=1.0,
            show_default=True,
            help=f"CPU cores per {noun}.",
        ),
        click.option(
            f"--gpus-per-{noun}",
            "gpus_per_run",
            type=float,
            callback=at_least(0),
            metavar="N",
            default=0.0,
            show_default=True,
            help=f"GPUs per {noun}: 0, 1, or a fraction to share a GPU.",
        ),
        click.option(
            "--device",
            metavar="NAME",
            help=f"cpu or cuda; default: cuda if a {noun} is given a GPU, else cpu.",
        ),
        click.option(
            "--address", metavar="ADDRESS", help="A running Ray cluster: auto, or host:port."
        ),
        click.option(
            "--runs",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            help="Folder of the checkpoints, shared by all machines of a cluster. Default: runs "
            "next to the SQLite file, else storage/runs.",
        ),
        click.option(
            "--deadline",
            "deadline_seconds",
            type=float,
            callback=at_least(0, above=True),
            metavar="SECONDS",
            default=43_200.0,
            show_default=True,
            help=f"Longest time of an epoch; a {noun} that sends nothing for longer is ended.",
        ),
        click.option(
            "--if-held",
            type=click.Choice(["give-up", "wait"]),
            default="give-up",
            show_default=True,
            help="If another launch is active: give up, or wait until it ends. A dead launch is "
            "replaced in both cases.",
        ),
        _gathered,
    )


def require_dry_run(dry_run: bool, as_json: bool) -> None:
    """Refuse ``--json`` without ``--dry-run``."""
    if as_json and not dry_run:
        raise InputError("--json must come with --dry-run, got it alone; add --dry-run")

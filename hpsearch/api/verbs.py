"""The functions of ``import hpsearch``. Each imports what it needs when it is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpsearch.api import arguments
from hpsearch.api.arguments import PathLike
from hpsearch.api.callbacks import Callback
from hpsearch.api.stored import Ablation, Store, Study

if TYPE_CHECKING:
    from hpsearch.config.export import Winner
    from hpsearch.config.run import DataConfig, TrialConfig
    from hpsearch.config.space import SearchSpace
    from hpsearch.data.molecule import Molecules
    from hpsearch.executor import Placement
    from hpsearch.models.model import Model
    from hpsearch.nn import MultiTargetNetwork

Say = Callable[[str], None]


def open_store(url: str | None = None) -> Store:
    """Open a store for reading.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``; by default
            ``$HPSEARCH_STORAGE``, else ``sqlite:///storage/hpsearch.db``.

    Raises:
        InputError: there is no store at ``url``, or it cannot be reached.
    """
    return Store.open(arguments.text("url", url))


def read_space(file: PathLike) -> SearchSpace:
    """Read a search space.

    Args:
        file: its YAML file, or the name of a shipped one: ``quick``, ``table3``, ``table3_log``.

    Raises:
        InputError: there is no such file, or it is not valid.
    """
    from hpsearch.config.space import SearchSpace
    from hpsearch.system.installation import find_space

    return SearchSpace.load(find_space(str(arguments.path("file", file))))


def read_configuration(file: PathLike) -> Winner:
    """Read an exported configuration.

    Args:
        file: a file that `export-best` or ``Configuration.write`` wrote, or ``paper_l1net``.

    Raises:
        InputError: there is no such file, or it is not valid.
    """
    from hpsearch.config.export import find_configuration

    return find_configuration(str(arguments.path("file", file)))


def read_data(file: PathLike) -> DataConfig:
    """Read the ``data`` section of a declaration, a search space or an exported configuration.

    Raises:
        InputError: the file cannot be read, or its section is not valid.
    """
    from hpsearch.config.run import DataConfig

    return DataConfig.read(arguments.path("file", file))


def load_molecules(data: DataConfig | PathLike | None = None, say: Say | None = print) -> Molecules:
    """Load the molecules of a declaration, or QM9; the first call makes the cache.

    Args:
        data: a declaration, or its file; ``None`` for QM9.
        say: called with lines about the labels that were found; ``None`` says nothing.

    Raises:
        InputError: the molecules cannot be read, or are not as declared.
    """
    from hpsearch.api import inputs
    from hpsearch.config.run import DataConfig

    declared = DataConfig() if data is None else _declared(data)
    assert declared is not None
    return inputs.load_molecules(declared, say or _silent)


def build_network(configuration: Winner | TrialConfig | PathLike) -> MultiTargetNetwork:
    """Build the untrained network of a configuration, with the initial weights of its seed.

    A training also calibrates it on some molecules (`MultiTargetNetwork.calibrate`).

    Args:
        configuration: a configuration, an exported one, or its file; ``paper_l1net`` is shipped.

    Returns:
        A `torch.nn.Module`. Called with elements ``[A]`` (index among the elements of the
        molecules), positions ``[A, 3]`` in Å and counts ``[M]``, it returns the normalised outputs
        ``[M, T]`` of T targets for M molecules with A atoms together.

    Raises:
        InputError: there is no such file, or it is not valid.
    """
    import torch

    from hpsearch.config.run import TrialConfig
    from hpsearch.nn import MultiTargetNetwork

    if isinstance(configuration, TrialConfig):
        config = configuration
    else:
        config = _configuration(configuration).config
    targets = [config.target_table[name] for name in config.targets]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return MultiTargetNetwork(
            config.network,
            len(targets),
            config.data.element_count,
            [target.extensive for target in targets],
        )


def load_model(folder: PathLike) -> Model:
    """Read the model in a folder; ``model.predict(...)`` predicts with it.

    Raises:
        InputError: the folder has no model, or one that was damaged, edited or written by another
            version.
    """
    from hpsearch.models.folder import read_model

    return read_model(arguments.path("folder", folder))


def launch(
    space: SearchSpace | PathLike,
    *,
    study: str | None = None,
    store: str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    data: DataConfig | PathLike | None = None,
    targets: Sequence[str] = (),
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
    seed: int | None = None,
    sampler: str | None = None,
    enqueue: Sequence[PathLike] = (),
    open_test_set: bool = False,
    force: bool = False,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float = 0.0,
    max_concurrent: int | None = None,
    device: str | None = None,
    address: str | None = None,
    runs: PathLike | None = None,
    deadline_seconds: float = 43_200.0,
    if_held: Literal["give-up", "wait"] = "give-up",
    callbacks: Iterable[Callback] = (),
    say: Say | None = print,
) -> Study:
    """Run or resume a search; as ``hpsearch launch``, whose options it has.

    It returns when all trials have ended. Ctrl-C, or the stop button of a notebook, ends it in
    order; the same call resumes it.

    Args:
        space: a search space, its file, or the name of a shipped one.
        study: the study's name; by default the space's.
        store: the store's URL; by default as for `open_store`. It is created if it is missing.
        trials: number of trials to finish; by default the space's, or the study's larger number.
        epochs: of a trial, at most.
        data: a declaration of molecules, or its file; by default the space's molecules.
        targets: names; by default the space's.
        train_size: training molecules.
        validation_size: validation molecules.
        test_size: test molecules.
        seed: of the sampler and the trials.
        sampler: ``random``, ``tpe``, ``gp`` or ``qmc``.
        enqueue: files of known configurations that come first, or ``paper_l1net``.
        open_test_set: whether to record every trial's test loss, as the paper did. Then the test
            set is no longer independent.
        force: whether to go on although the space, the molecules or the split have changed.
        cpus_per_trial: CPU cores of a trial.
        gpus_per_trial: GPUs of a trial: 0, 1, or a fraction to share a GPU.
        max_concurrent: most trials at a time; by default as many as there is room for.
        device: ``cpu`` or ``cuda``; by default ``cuda`` if a trial is given a GPU.
        address: a running Ray cluster, ``auto`` or ``host:port``.
        runs: folder of the checkpoints; by default next to the SQLite file.
        deadline_seconds: longest time of an epoch; a trial that sends nothing for longer is ended.
        if_held: what to do if another launch is active.
        callbacks: told every event.
        say: called with each line of progress; ``None`` says nothing.

    Returns:
        The study, open for reading.

    Raises:
        InputError: an argument is wrong, or another launch is active.
        HpsearchError: the search cannot go on. What was trained is kept.
        KeyboardInterrupt: it was interrupted. The same call resumes it.
    """
    from hpsearch.api.drive import Voice
    from hpsearch.api.search import SearchRequest, train_search
    from hpsearch.config.space import SearchSpace

    voice = Voice.of(_voice(say))
    given = arguments.path_or("space", space, SearchSpace, "a search space")
    told = arguments.callbacks(callbacks)
    wait = arguments.choice("if_held", if_held, ("give-up", "wait")) == "wait"
    store = arguments.text("store", store)
    request = SearchRequest.check(
        str(given) if isinstance(given, Path) else given,
        study=arguments.text("study", study),
        storage=store,
        runs=None if runs is None else arguments.path("runs", runs),
        enqueue=arguments.names("enqueue", enqueue),
        data=_declared(data),
        targets=arguments.names("targets", targets),
        force=force,
        placement=_placement(
            cpus_per_trial, gpus_per_trial, max_concurrent, device, address, deadline_seconds
        ),
        overrides={
            "trials": trials,
            "epochs": epochs,
            "train_size": train_size,
            "validation_size": validation_size,
            "test_size": test_size,
            "seed": seed,
            "sampler": sampler,
        },
        writes=True,
        say=voice.say,
    )
    name = train_search(
        request,
        voice,
        evaluate_test=open_test_set,
        wait=wait,
        callbacks=told,
    )
    return Store.open(store).study(name)


def ablate(
    configuration: Winner | PathLike,
    *,
    name: str | None = None,
    store: str | None = None,
    targets: Sequence[str] = (),
    variants: Sequence[str] = (),
    variants_file: PathLike | None = None,
    match: Literal["dims", "params"] = "dims",
    repeats: int = 1,
    vary_split: bool = False,
    epochs: int | None = None,
    schedule: str | None = None,
    plateau_patience: int | None = None,
    early_stopping_patience: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    data: DataConfig | PathLike | None = None,
    train_size: int | None = None,
    validation_size: int | None = None,
    test_size: int | None = None,
    split_seed: int | None = None,
    seed: int | None = None,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    max_concurrent: int | None = None,
    device: str | None = None,
    address: str | None = None,
    runs: PathLike | None = None,
    deadline_seconds: float = 43_200.0,
    if_held: Literal["give-up", "wait"] = "give-up",
    callbacks: Iterable[Callback] = (),
    say: Say | None = print,
) -> Ablation:
    """Train variants of a configuration without vectors; as ``hpsearch ablate``.

    It returns when all cells have ended. The same call again trains only the missing ones.

    Args:
        configuration: `Study.best`, an exported configuration, its file, or ``paper_l1net``.
        name: of the ablation; by default the configuration's name and a hash.
        store: the store's URL; by default as for `open_store`. It is created if it is missing.
        targets: names, or ``all``; by default the configuration's.
        variants: names of the arms, such as ``L1Net`` and ``L0Net``; by default all.
        variants_file: YAML file that declares more variants.
        match: what arms without vectors have in common with the winner: ``dims``, the number of
            feature components, as in the paper; ``params``, nearly the number of weights.
        repeats: runs per arm and target.
        vary_split: whether repeats also have other training and validation molecules.
        epochs: of a run, at most.
        schedule: ``plateau``, ``cosine`` or ``constant_cooldown``.
        plateau_patience: epochs without improvement before the learning rate is reduced.
        early_stopping_patience: epochs without improvement before a run ends.
        batch_size: molecules per step.
        learning_rate: Adam's initial learning rate.
        data: a declaration of molecules, or its file; by default the configuration's.
        train_size: training molecules.
        validation_size: validation molecules.
        test_size: test molecules.
        split_seed: seed of the random split.
        seed: that the repeats derive from.
        cpus_per_run: CPU cores of a run.
        gpus_per_run: GPUs of a run: 0, 1, or a fraction to share a GPU.
        max_concurrent: most runs at a time; by default as many as there is room for.
        device: ``cpu`` or ``cuda``; by default ``cuda`` if a run is given a GPU.
        address: a running Ray cluster, ``auto`` or ``host:port``.
        runs: folder of the checkpoints; by default next to the SQLite file.
        deadline_seconds: longest time of an epoch; a run that sends nothing for longer is ended.
        if_held: what to do if another launch is active.
        callbacks: told every event.
        say: called with each line of progress; ``None`` says nothing.

    Returns:
        The ablation, open for reading.

    Raises:
        InputError: an argument is wrong, or another launch is active.
        HpsearchError: some cells failed; the others are stored.
        KeyboardInterrupt: it was interrupted. The same call resumes it.
    """
    from hpsearch.api.ablation import AblationRequest, train_ablation
    from hpsearch.api.drive import Voice

    voice = Voice.of(_voice(say))
    told = arguments.callbacks(callbacks)
    wait = arguments.choice("if_held", if_held, ("give-up", "wait")) == "wait"
    store = arguments.text("store", store)
    winner = _configuration(configuration)
    is_file = isinstance(configuration, (str, os.PathLike))
    request = AblationRequest.check(
        winner,
        name=arguments.text("name", name),
        stem=arguments.path("configuration", configuration).stem if is_file else None,
        storage=store,
        runs=None if runs is None else arguments.path("runs", runs),
        targets=arguments.names("targets", targets),
        variants=arguments.names("variants", variants),
        variants_file=(
            None if variants_file is None else arguments.path("variants_file", variants_file)
        ),
        match=arguments.choice("match", match, ("dims", "params")),
        repeats=int(arguments.number("repeats", repeats)),
        vary_split=vary_split,
        data=_declared(data),
        placement=_placement(
            cpus_per_run, gpus_per_run, max_concurrent, device, address, deadline_seconds
        ),
        overrides={
            "epochs": epochs,
            "schedule": schedule,
            "plateau_patience": plateau_patience,
            "early_stopping_patience": early_stopping_patience,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "train_size": train_size,
            "validation_size": validation_size,
            "test_size": test_size,
            "split_seed": split_seed,
            "seed": seed,
        },
        writes=True,
        say=voice.say,
    )
    done = train_ablation(request, voice, wait=wait, callbacks=told)
    return Store.open(store).ablation(done)


def _silent(line: str) -> None:
    """Say nothing."""


def _voice(say: Say | None) -> Say:
    if say is not None and not callable(say):
        raise arguments.wrong("say", "a function or None", say)
    return say or _silent


def _declared(data: DataConfig | PathLike | None) -> DataConfig | None:
    from hpsearch.config.run import DataConfig

    if data is None:
        return None
    given = arguments.path_or("data", data, DataConfig, "a declaration of molecules")
    return DataConfig.read(given) if isinstance(given, Path) else given


def _configuration(given: Winner | PathLike) -> Winner:
    from hpsearch.config.export import Winner, find_configuration

    found = arguments.path_or("configuration", given, Winner, "a configuration of Study.best()")
    return find_configuration(str(found)) if isinstance(found, Path) else found


def _placement(
    cpus: float,
    gpus: float,
    max_concurrent: int | None,
    device: str | None,
    address: str | None,
    deadline_seconds: float,
) -> Placement:
    from hpsearch.executor import Placement

    return Placement(
        None if max_concurrent is None else int(arguments.number("max_concurrent", max_concurrent)),
        arguments.number("the CPUs of a run", cpus),
        arguments.number("the GPUs of a run", gpus),
        arguments.text("device", device),
        arguments.text("address", address),
        arguments.number("deadline_seconds", deadline_seconds),
    )

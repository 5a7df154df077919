"""Search spaces: Table 3 as printed, every draw valid, every fault one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FixedTrial

from hpsearch.config.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    split_components,
)
from hpsearch.config.run import DataConfig, TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.config.targets import TARGET_NAMES
from hpsearch.system.errors import InputError

SPACES = Path(__file__).resolve().parents[1] / "search_spaces"
TABLE3 = (SPACES / "table3.yaml").read_text("utf-8")

# Table 3 of arXiv 2008.08461, row by row: our name, minimum, maximum.
PRINTED: list[tuple[str, str, float, float]] = [
    ("Batch Size", "batch_size", 8, 25),
    ("Learning Rate", "learning_rate", 1e-6, 3e-1),
    ("Size of Embedding", "embedding_size", 80, 144),
    ("Featurization Components (FC)", "featurization_components", 80, 144),
    ("Featurization Representation", "featurization_scalar_fraction", 0.0, 1.0),
    ("Featurization Conv & GBs", "featurization_blocks", 2, 5),
    ("Number of Radial Bases", "radial_functions", 25, 100),
    ("Radial Maximum (Å)", "radial_maximum_angstrom", 1.2, 30.0),
    ("Radial MLP Layers", "radial_mlp_layers", 1, 3),
    ("Radial MLP Neurons", "radial_mlp_neurons", 80, 144),
    ("Output Components (OC)", "output_components", 64, 128),
    ("Output Representation", "output_scalar_fraction", 0.0, 1.0),
    ("Output Conv & GBs", "output_blocks", 1, 2),
    ("Output MLP Layers", "output_mlp_layers", 1, 3),
    ("Output MLP Neurons", "output_mlp_neurons", 80, 144),
]


@pytest.fixture
def table3() -> SearchSpace:
    return SearchSpace.load(SPACES / "table3.yaml")


def _study(seed: int) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


@pytest.mark.parametrize(("row", "name", "low", "high"), PRINTED)
def test_table_3_row(table3: SearchSpace, row: str, name: str, low: float, high: float) -> None:
    parameter = table3.parameters[name]
    assert isinstance(parameter, (IntParameter, FloatParameter))
    assert (parameter.low, parameter.high, parameter.scale) == (low, high, "linear")
    assert isinstance(parameter, FloatParameter) == isinstance(high, float)


def test_the_rest_of_table_3(table3: SearchSpace) -> None:
    basis = table3.parameters["radial_basis"]
    assert isinstance(basis, CategoricalParameter)
    assert basis.choices == ("cosine", "gaussian", "bessel")
    assert set(table3.parameters) == {name for _, name, _, _ in PRINTED} | {"radial_basis"}
    assert table3.network == {"residual": True, "softplus_beta": 5.0}
    conditional = {name: p.when for name, p in table3.parameters.items() if p.when}
    assert conditional == {
        "output_components": {"output_blocks": (2,)},
        "output_scalar_fraction": {"output_blocks": (2,)},
    }


def test_the_paper_s_search(table3: SearchSpace) -> None:
    assert (table3.version, table3.trials, table3.sampler) == (1, 40, "random")
    assert table3.targets == TARGET_NAMES
    assert table3.training == {
        "epochs": 10,
        "schedule": "plateau",
        "plateau_factor": 0.5,
        "plateau_patience": 5,
        "minimum_learning_rate": 1e-7,
        "early_stopping_patience": 50,
    }
    assert (table3.data.train_size, table3.data.validation_size) == (109_000, 1_000)
    assert table3.data.test_size is None


def test_table3_log_differs_in_the_learning_rate_s_scale(table3: SearchSpace) -> None:
    log = SearchSpace.load(SPACES / "table3_log.yaml")
    one = table3.model_dump(mode="json", exclude={"name", "description"})
    other = log.model_dump(mode="json", exclude={"name", "description"})
    assert other["parameters"]["learning_rate"].pop("scale") == "log"
    assert one["parameters"]["learning_rate"].pop("scale") == "linear"
    assert one == other
    assert log.hash != table3.hash


def test_every_draw_is_a_configuration(table3: SearchSpace) -> None:
    study = _study(0)
    drawn = []
    for _ in range(2000):
        trial = study.ask()
        config = table3.suggest(trial)
        assert TrialConfig.from_dict(config.to_dict()) == config
        network = config.network
        assert ("output_components" in trial.params) == (network.output_blocks == 2)
        assert 80 - 2 <= network.featurization_scalars + 3 * network.featurization_vectors <= 146
        drawn.append(network)
    assert {n.output_blocks for n in drawn} == {1, 2}
    assert {n.featurization_blocks for n in drawn} == {2, 3, 4, 5}
    assert {n.radial_basis for n in drawn} == {"cosine", "gaussian", "bessel"}
    assert min(n.radial_functions for n in drawn) == 25
    assert max(n.radial_functions for n in drawn) == 100


@pytest.mark.parametrize(("fraction", "scalars", "vectors"), [(0.0, 0, 48), (1.0, 144, 0)])
def test_the_extremes(table3: SearchSpace, fraction: float, scalars: int, vectors: int) -> None:
    for end in ("low", "high"):
        values: dict[str, Any] = {
            name: p.choices[0] if isinstance(p, CategoricalParameter) else getattr(p, end)
            for name, p in table3.parameters.items()
        }
        values |= {
            "output_blocks": 2,
            "featurization_components": 144,
            "featurization_scalar_fraction": fraction,
            "output_components": 128,
            "output_scalar_fraction": 1 - fraction,
        }
        network = table3.suggest(FixedTrial(values)).network
        assert (network.featurization_scalars, network.featurization_vectors) == (scalars, vectors)
        assert (network.output_scalars, network.output_vectors) == (
            (128, 0) if fraction == 0 else (0, 43)
        )


def test_components_are_never_all_lost() -> None:
    assert split_components(144, 57 / 144) == (57, 29)
    for components in range(3, 200):
        for step in range(201):
            assert sum(split_components(components, step / 200)) > 0


def test_a_parameter_without_effect_is_not_drawn(table3: SearchSpace) -> None:
    values = {
        name: p.choices[0] if isinstance(p, CategoricalParameter) else p.low
        for name, p in table3.parameters.items()
    }
    trial = FixedTrial(values)
    network = table3.suggest(trial).network
    assert (network.output_blocks, network.output_scalars, network.output_vectors) == (1, 0, 0)
    assert set(trial.params) == set(values) - {"output_components", "output_scalar_fraction"}


def test_draws_repeat_with_the_seed(table3: SearchSpace) -> None:
    one, same, other = (
        [table3.suggest(study.ask()) for _ in range(5)] for study in map(_study, (1, 1, 2))
    )
    assert one == same
    assert one != other


def test_draws_do_not_depend_on_the_file_s_order(table3: SearchSpace) -> None:
    shuffled = SearchSpace.parse(_reversed_parameters(TABLE3), "f.yaml")
    assert list(shuffled.parameters) == list(table3.parameters)[::-1]
    assert shuffled.suggest(_study(3).ask()) == table3.suggest(_study(3).ask())
    assert shuffled.hash == table3.hash


def _reversed_parameters(text: str) -> str:
    head, _, body = text.partition("parameters:\n")
    lines = [line for line in body.splitlines() if not line.lstrip().startswith("#")]
    return head + "parameters:\n" + "\n".join(reversed(lines)) + "\n"


def test_training_seeds(table3: SearchSpace) -> None:
    seeds = [table3.training_seed(number) for number in range(1000)]
    assert len(set(seeds)) == 1000
    assert seeds[:2] == [table3.with_overrides(trials=7).training_seed(n) for n in range(2)]
    assert seeds[0] != table3.with_overrides(seed=1).training_seed(0)
    # Pinned: a study that is continued by a later version must not change its seeds.
    assert seeds[0] == 745682570
    study = _study(0)
    trials = [study.ask() for _ in range(2)]
    assert [table3.suggest(trial).training.seed for trial in trials] == seeds[:2]


def test_the_hash_ignores_comments_and_prose(table3: SearchSpace) -> None:
    bare = "\n".join(re.sub(r"\s*#.*", "", line) for line in TABLE3.splitlines())
    assert SearchSpace.parse(bare, "f.yaml").hash == table3.hash
    retold = re.sub("description: .*", "description: other", TABLE3)
    assert SearchSpace.parse(retold, "f.yaml").hash == table3.hash


def test_the_hash_knows_every_number(table3: SearchSpace) -> None:
    seen = {table3.hash}
    content = table3.model_dump(mode="json")
    leaves = list(_numbers(content))
    assert len(leaves) > 40
    for holder, key in leaves:
        value = holder[key]
        for other in (value + 1, value - 1, value * 0.9, 0.1):
            holder[key] = other
            try:
                space = SearchSpace.parse(yaml.safe_dump(content), "f.yaml")
            except InputError:
                continue
            assert space.hash not in seen
            seen.add(space.hash)
            break
        holder[key] = value
    # The version, the two conditions and what they allow of output_blocks have one valid number.
    assert len(seen) - 1 == len(leaves) - 4


def _numbers(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every number in nested data, as its holder and its key there."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, (dict, list)):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield values, key


def test_the_record_is_read_back(table3: SearchSpace) -> None:
    for space in (table3, table3.with_overrides(trials=3, targets=["U0"], test_size=10)):
        record = space.to_provenance()
        back = SearchSpace.from_provenance(record)
        assert back == space
        assert (back.hash, back.text) == (space.hash, TABLE3)
        record["content"]["trials"] = 4
        with pytest.raises(InputError, match="changed in the store"):
            SearchSpace.from_provenance(record)
    with pytest.raises(InputError, match="must have content and text"):
        SearchSpace.from_provenance({})


def test_overrides(table3: SearchSpace) -> None:
    assert table3.with_overrides() == table3
    space = table3.with_overrides(
        trials=3,
        epochs=2,
        train_size=100,
        validation_size=20,
        test_size=30,
        targets=["Cv", "mu"],
        seed=9,
        sampler="tpe",
    )
    config = space.suggest(_study(0).ask())
    assert (space.trials, space.seed, space.sampler) == (3, 9, "tpe")
    assert config.targets == ("mu", "Cv")
    assert config.training.epochs == 2
    data = config.data
    assert (data.train_size, data.validation_size, data.test_size) == (100, 20, 30)
    assert space.hash != table3.hash
    # An override leaves the space that it was made from alone.
    assert table3 == SearchSpace.load(SPACES / "table3.yaml")


def test_an_override_fixes_what_was_searched() -> None:
    text = TABLE3.replace("  epochs: 10\n", "")
    space = SearchSpace.parse(text + "  epochs: {type: int, low: 2, high: 9}\n", "f.yaml")
    assert "epochs" not in space.with_overrides(epochs=3).parameters
    assert space.with_overrides(epochs=3).training["epochs"] == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"train_size": 1}, "--train-size must be at least 2, got 1"),
        ({"targets": ["muh"]}, "got 'muh'; did you mean mu?"),
        ({"targets": ["u0"]}, "got 'u0'; did you mean U0?"),
        ({"targets": []}, "at least one target is needed"),
        ({"sampler": "grid"}, "sampler must be one of random, tpe"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_a_bad_override(table3: SearchSpace, override: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        table3.with_overrides(**override)
    (field,) = override
    assert str(caught.value).startswith(f"--{field.replace('_', '-')}")
    assert message in str(caught.value)


def test_a_split_file_lies_beside_its_space_and_decides_the_sizes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (SPACES / "quick.yaml").read_text()
    head, _, tail = text.partition("\ndata:")
    path.write_text(f"{head}\ndata: {{split_file: mine.json}}{tail[tail.index(chr(10) * 2) :]}")
    space = SearchSpace.load(os.path.relpath(path))
    assert space.data.split_file == str(tmp_path / "mine.json")
    assert space.with_overrides(epochs=3).data == space.data
    for name in ("train_size", "validation_size", "test_size"):
        # The default too: it would be ignored as silently as any other size.
        size = DataConfig.model_fields[name].default or 5
        with pytest.raises(InputError, match=rf"--{name.replace('_', '-')} must be left out.*mine"):
            space.with_overrides(**{name: size})
    path.write_text(path.read_text().replace("mine.json}", "mine.json, train_size: 77}"))
    with pytest.raises(InputError, match=r"mine.yaml:\d+: .*train_size must be left out.*got 77"):
        SearchSpace.load(path)


# (text in table3.yaml, what replaces it, message); the fault is on the first changed line.
_WHEN = ", when: {output_blocks: 2}"
FAULTS = [
    ("low: 8,", "low: 0,", "parameters.batch_size.low must be at least 1, got 0; raise it"),
    ("low: 8,", "low: 80,", "high must be at least low, got low 80 and high 25; swap them"),
    ("low: 8,", "low: 8.0,", "low must be an integer, got 8.0; write 8"),
    ("low: 8,", "lo: 8,", "batch_size.lo must be a known key, got lo; did you mean low?"),
    ("low: 8, ", "", "parameters.batch_size.low must be given"),
    ("high: 25}", "high: 25000000000}", "high must be at most 2147483647"),
    ("type: int, low: 8", "type: float, low: 8", "type must be categorical or int, got float"),
    ("type: int, low: 8", "type: integer, low: 8", "type must be one of int, float, categorical"),
    ("type: int, low: 8", "low: 8", "parameters.batch_size.type must be given"),
    ("low: 1.0e-6", "low: 1e-6", "low must be a number, got the text '1e-6'; write 1.0e-6"),
    ("low: 1.0e-6", "low: 0.0", "parameters.learning_rate.low must be above 0"),
    ("low: 1.2,", "low: .inf,", "must be a finite number, got .inf"),
    ("low: 1.2,", "low: 1:30,", "must be a plain decimal number, got 1:30"),
    ("scale: linear", "scale: cubic", "scale must be one of linear, log"),
    ("low: 0.0, high: 1.0}", "low: 0.0, high: 1.0, scale: log}", "above 0 on a log scale, got 0.0"),
    ("high: 1.0}", "high: 1.5}", "featurization_scalar_fraction.high must be at most 1"),
    ("[cosine,", "[cosin,", "choices[0] must be one of cosine, gaussian, bessel"),
    ("[cosine,", "[cosine, cosine,", "choices must differ, got cosine twice"),
    ("[cosine, gaussian, bessel]", "[]", "choices must have at least 1 entries"),
    ("[cosine, gaussian, bessel]", "cosine", "choices must be a list, got the text 'cosine'"),
    ("[cosine, gaussian, bessel]", "[{}]", "must be true, false, a number or text, got a mapping"),
    ("[cosine, gaussian, bessel]", "[.nan]", "choices[0] must be a finite number"),
    ("low: 8,", "low: 8, otherwise: 9,", "otherwise must be given together with when"),
    ("low: 8,", "low: 8, when: {output_blocks: 1},", "add otherwise"),
    (
        "low: 8,",
        "low: 8, when: {output_blocks: 1}, otherwise: 0,",
        "otherwise must be at least 1, got 0",
    ),
    (_WHEN, ", when: {output_blocks: 2}, otherwise: 9", "must not be given for components"),
    (_WHEN, ", when: {output_blocks: 3}", "must be a value that output_blocks can take, got 3"),
    (_WHEN, ", when: {output_blocks: yes}", "can take, got True"),
    (_WHEN, ", when: {output_block: 2}", "did you mean output_blocks?"),
    (_WHEN, ", when: {residual: yes}", "it is fixed: delete the condition"),
    (_WHEN, ", when: {learning_rate: 0.1}", "got learning_rate, a float"),
    (_WHEN, "", "must have when: {output_blocks: 2}, since a single output convolution"),
    (_WHEN, ", when: {output_blocks: [1, 2]}", "since a single output convolution does not use it"),
    (_WHEN, ", when: {output_blocks: 2, batch_size: 8}", "must be used with every output_blocks"),
    ("  batch_size:", "  batchsize:", "got 'batchsize'; did you mean batch_size?"),
    (
        "  residual: true ",
        "  epochs: 3 ",
        "network.epochs must be a field of network, got 'epochs'",
    ),
    ("  residual: true ", "  residual: 1 ", "network.residual must be true or false, got 1"),
    ("  residual: true ", "  residual: ", "network.residual must be true or false, got nothing"),
    ("  residual: true ", "  residual: true\n  residual: true ", "must be given once"),
    ("  epochs: 10", "  epochs: ten", "training.epochs must be an integer, got the text 'ten'"),
    ("  epochs: 10", "  seed: 1\n  epochs: 10", "every trial's seed follows from the seed"),
    ("  plateau_factor: 0.5", "  plateau_factor: 1.5", "must be below 1.0, got 1.5; lower it"),
    ("trials: 40 ", "trials: 0 ", "trials must be at least 1, got 0"),
    ("version: 1", "version: 2", "version must be 1, got 2"),
    ("name: table3", "name: ../x", "name must match"),
    ("name: table3", "name: no", "got no, which YAML reads as false; put it in quotes"),
    ("sampler: random", "sampler: rndom", "did you mean random?"),
    ("targets: all", "targets: [mu, lumu]", "targets[1]: a target must be one of"),
    ("targets: all", 'targets: "mu\\nx"', "got 'mu\\nx'; did you mean mu?"),
    ("targets: all", f"targets: {'x' * 500}", f"got '{'x' * 60}'"),
    ("targets: all", "targets: []", "at least one target is needed"),
    ("targets: all", "targets: 3", "targets must be a list, got 3"),
    ("  train_size:", "  train_sizes:", "did you mean train_size?"),
    ("  test_size: null ", "  test_size: rest ", "data.test_size must be an integer"),
    ("version: 1", "format: hpsearch-winner/1", "got an exported configuration"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_fault_is_one_line(old: str, new: str, message: str) -> None:
    assert old in TABLE3
    line = TABLE3[: TABLE3.index(old)].count("\n") + 1
    if message.startswith("must be given once"):
        line += 1
    _refused(TABLE3.replace(old, new, 1), line, message)


def _refused(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace.parse(text, "f.yaml")
    found = str(caught.value)
    assert found.startswith(f"f.yaml:{line}: "), found
    assert message in found
    assert "\n" not in found
    assert len(found) < 300


def _line_of(text: str) -> int:
    return TABLE3[: TABLE3.index(text)].count("\n") + 1


def _without(name: str) -> str:
    return re.sub(rf"(?m)^  {name}:.*\n", "", TABLE3)


def _replaced(name: str, new: str) -> str:
    return re.sub(rf"(?m)^  {name}:.*$", new, TABLE3)


def test_fields_that_are_missing_doubled_or_mixed() -> None:
    training, parameters = _line_of("training:\n"), _line_of("parameters:\n")
    _refused(_without("epochs"), training, "epochs must be given, got nothing")
    _refused(_without("softplus_beta"), _line_of("network:\n"), "softplus_beta must be given")
    doubled = TABLE3.replace("  epochs: 10", "  learning_rate: 0.1\n  epochs: 10")
    _refused(doubled, _line_of("  learning_rate:") + 1, "under training and under parameters")
    _refused(
        _without("featurization_scalar_fraction"),
        _line_of("  featurization_components:"),
        "must be given together with featurization_scalar_fraction",
    )
    mixed = _replaced("embedding_size", "  featurization_scalars: {type: int, low: 1, high: 9}")
    line = _line_of("  embedding_size:")
    _refused(mixed, line, "must not be given together with featurization_components")
    _refused(TABLE3[: TABLE3.index("parameters:")], 1, "parameters must be given")
    _refused(
        TABLE3[: TABLE3.index("parameters:")] + "parameters: []", parameters, "must be a mapping"
    )


def test_few_components_could_leave_nothing() -> None:
    text = TABLE3.replace(
        "featurization_components: {type: int, low: 80",
        "featurization_components: {type: int, low: 2",
    )
    _refused(text, _line_of("  featurization_components:"), "low must be at least 3, got 2")


def test_conditions_in_a_circle() -> None:
    text = TABLE3.replace("low: 8,", "low: 8, when: {output_blocks: 1}, otherwise: 7,")
    text = text.replace("low: 1, high: 2}", "low: 1, high: 2, when: {batch_size: 8}, otherwise: 1}")
    _refused(text, _line_of("  batch_size:"), "when must not form a circle")


@pytest.mark.parametrize(
    ("blocks", "when", "message"),
    [
        ("{type: int, low: 1, high: 3}", "2", "must be used with every output_blocks above 1"),
        (
            "{type: int, low: 1, high: 2000000000}",
            "[2, 3]",
            "must be used with every output_blocks",
        ),
        ("{type: int, low: 1, high: 3}", "[2, 3]", ""),
        ("{type: categorical, choices: [1, 3]}", "3", ""),
        ("{type: int, low: 2, high: 3}", "[2, 3]", ""),
        ("{type: int, low: 2, high: 3}", "2", "must be used with every output_blocks"),
    ],
)
def test_which_output_blocks_have_features(blocks: str, when: str, message: str) -> None:
    text = _replaced("output_blocks", f"  output_blocks: {blocks}")
    text = text.replace("output_blocks: 2}", f"output_blocks: {when}}}")
    if message:
        _refused(text, _line_of("  output_components:"), message)
    else:
        _draw(SearchSpace.parse(text, "f.yaml"), 50)


DIRECT = _without("output_scalar_fraction").replace(
    f"output_components: {{type: int, low: 64, high: 128{_WHEN}}}",
    "output_scalars: SCALARS\n  output_vectors: VECTORS",
)


@pytest.mark.parametrize(
    ("scalars", "vectors", "message"),
    [
        (f"low: 1, high: 9{_WHEN}, otherwise: 0", f"low: 0, high: 9{_WHEN}, otherwise: 0", ""),
        (f"low: 0, high: 9{_WHEN}, otherwise: 0", f"low: 0, high: 9{_WHEN}, otherwise: 0", "both"),
        (
            f"low: 1, high: 9{_WHEN}, otherwise: 1",
            f"low: 0, high: 9{_WHEN}, otherwise: 0",
            "single",
        ),
        ("low: 1, high: 9", f"low: 0, high: 9{_WHEN}, otherwise: 0", "single"),
        (
            "low: 1, high: 9, when: {output_blocks: 2, batch_size: 8}, otherwise: 0",
            f"low: 0, high: 9{_WHEN}, otherwise: 0",
            "both",
        ),
        (
            "low: 1, high: 9, when: {output_blocks: 2, batch_size: 8}, otherwise: 0",
            f"low: 2, high: 9{_WHEN}, otherwise: 0",
            "",
        ),
    ],
)
def test_output_widths_given_directly(scalars: str, vectors: str, message: str) -> None:
    text = DIRECT.replace("SCALARS", f"{{type: int, {scalars}}}")
    text = text.replace("VECTORS", f"{{type: int, {vectors}}}")
    if message:
        _refused(text, _line_of("  output_components:"), message)
    else:
        _draw(SearchSpace.parse(text, "f.yaml"), 100)


def test_featurization_widths_given_directly() -> None:
    text = _replaced(
        "featurization_components", "  featurization_scalars: {type: int, LOW, high: 9}"
    )
    text = _without_from(text, "featurization_scalar_fraction")
    text = text.replace("network:\n", "network:\n  featurization_vectors: 0\n")
    _draw(SearchSpace.parse(text.replace("LOW", "low: 1"), "f.yaml"), 50)
    line = _line_of("  featurization_components:") + 1
    _refused(text.replace("LOW", "low: 0"), line, "must not both be 0")
    condition = "when: {output_blocks: 2}, otherwise: 0, low: 1"
    _refused(text.replace("LOW", condition), line, "must not both be 0")


def _without_from(text: str, name: str) -> str:
    return re.sub(rf"(?m)^  {name}:.*\n", "", text)


def test_one_output_block_has_no_width() -> None:
    text = _without_from(_without("output_blocks"), "output_scalar_fraction")
    text = text.replace(_WHEN, "").replace("network:\n", "network:\n  output_blocks: 1\n")
    line = _line_of("  output_components:") + 1
    fraction = text.replace("network:\n", "network:\n  output_scalar_fraction: 1.0\n")
    _refused(fraction, line + 1, "write output_scalars: 0 and output_vectors: 0 instead")
    fixed = _without_from(text, "output_components").replace(
        "network:\n", "network:\n  output_scalars: 0\n  output_vectors: 0\n"
    )
    _draw(SearchSpace.parse(fixed, "f.yaml"), 20)


def test_a_composite_may_be_fixed() -> None:
    text = _without("featurization_scalar_fraction")
    text = text.replace("network:\n", "network:\n  featurization_scalar_fraction: 1.0\n")
    assert {c.network.featurization_vectors for c in _draw(SearchSpace.parse(text, "f"), 20)} == {0}


def test_a_condition_and_its_alternative() -> None:
    text = TABLE3.replace("  plateau_patience: 5\n", "").replace("  schedule: plateau\n", "")
    text += (
        "  schedule: {type: categorical, choices: [plateau, cosine]}\n"
        "  plateau_patience:\n"
        "    {type: int, low: 1, high: 3, when: {schedule: plateau}, otherwise: 9}\n"
    )
    seen = {c.training.schedule: set[int]() for c in _draw(SearchSpace.parse(text, "f"), 60)}
    for config in _draw(SearchSpace.parse(text, "f"), 60):
        seen[config.training.schedule].add(config.training.plateau_patience)
    assert seen == {"plateau": {1, 2, 3}, "cosine": {9}}


@pytest.mark.parametrize("name", ["quick", "table3_log"])
@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler, optuna.samplers.TPESampler])
def test_the_shipped_spaces_draw(name: str, sampler: type[optuna.samplers.BaseSampler]) -> None:
    space = SearchSpace.load(SPACES / f"{name}.yaml")
    study = optuna.create_study(sampler=sampler())
    for value in range(15):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, float(value))


def test_quick_is_small() -> None:
    space = SearchSpace.load(SPACES / "quick.yaml")
    assert (space.sampler, space.targets) == ("tpe", TARGET_NAMES)
    assert 1 <= space.startup_trials < space.trials
    for config in _draw(space, 50):
        assert config.network.output_blocks == 1
        assert config.network.featurization_scalars <= 64
    assert space.data.test_size is not None


def test_the_readme_s_example_is_a_space() -> None:
    readme = (SPACES / "README.md").read_text("utf-8")
    example = readme.split("```yaml\n")[1].split("```")[0]
    _draw(SearchSpace.parse(example, "README.md"), 100)


def test_reading_a_space_needs_no_optuna() -> None:
    program = (
        "import sys; from hpsearch.config.space import SearchSpace; "
        f"SearchSpace.load({str(SPACES / 'table3.yaml')!r}); "
        "heavy = ('optuna', 'torch', 'ray', 'numpy', 'pandas', 'scipy', 'sqlalchemy'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def _draw(space: SearchSpace, draws: int, seed: int = 0) -> list[TrialConfig]:
    study = _study(seed)
    return [space.suggest(study.ask()) for _ in range(draws)]

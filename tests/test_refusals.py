"""Bad input: one line that says what must hold, exit code 2, nothing written.

The commands run inside the process of the tests; `test_cli.py` types some of them for real.
"""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest
from support import commands, whole_chain
from support.commands import ABLATE, LAUNCH, QUICK, free_port, listing
from support.in_process import typed

from hpsearch.config.space import SearchSpace
from hpsearch.store import Store
from hpsearch.system.installation import find_space


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and its export, as the commands leave them."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "storage").mkdir()
    space = SearchSpace.load(find_space("quick")).with_overrides(
        trials=2, epochs=2, targets=("mu", "U0"), train_size=64, validation_size=32, test_size=32
    )
    with Store.create(f"sqlite:///{folder}/storage/hpsearch.db") as store:
        study = whole_chain.search(store, space, name="quick")
        study.winner().write(folder / "best.yaml")
    return folder


@pytest.fixture
def store(searched: Path, tmp_path: Path) -> Path:
    """A copy of the folder with a study and its export."""
    return Path(shutil.copytree(searched, tmp_path / "store"))


def refused(folder: Path, arguments: list[str], *words: str) -> str:
    return commands.refused(folder, arguments, *words, typed=typed)


def trial(*options: str) -> list[str]:
    return [*LAUNCH, "--trials", "1", *options]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("sampler: tpe", "smapler: tpe"), "my.yaml:7: smapler must be a known key, got smapler"),
        (("low: 1.0e-3", "low: 1e-6"), "my.yaml:38: parameters.learning_rate.low must be a number"),
        (("low: 8,", "low: 80,"), "my.yaml:37: parameters.batch_size.high must be at least low"),
        (("targets: all", "targets: [mu, U9]"), "my.yaml:10: targets[1]: a target must be one of"),
        ((QUICK, "trials"), "my.yaml:1: must be a mapping"),
    ],
)
def test_a_wrong_space_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    assert change[0] in QUICK
    (tmp_path / "my.yaml").write_text(QUICK.replace(*change))
    refused(tmp_path, ["launch", "my.yaml"], words)


def test_a_number_that_yaml_reads_as_text_is_respelled(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(QUICK.replace("low: 1.0e-3", "low: 1e-6"))
    refused(tmp_path, ["launch", "my.yaml"], "got the text '1e-6'; write 1.0e-6")


def test_molecules_that_a_space_asks_for_in_vain_are_refused_on_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(QUICK.replace("train_size: 1000", "train_size: 999999"))
    line = QUICK[: QUICK.index("\ndata:")].count("\n") + 2
    refused(tmp_path, ["launch", "mine.yaml"], f"mine.yaml:{line}: train_size + validation_size +")
    option = ["launch", "mine.yaml", "--train-size", "888888"]
    refused(
        tmp_path, option, "hpsearch: train_size + validation_size + test_size must fit", "888,888"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "missing.yaml"], ["missing.yaml", "quick, table3"]),
        (["launch", "."], ["'.'"]),
        (trial("--targets", "mu,U9"), ["'U9'", "mu, alpha"]),
        (trial("--targets", ","), ["--targets must be names", "','"]),
        (trial("--train-size", "130831"), ["130,831 molecules", "130,831 + 32 + 32"]),
        (trial("--sampler", "tpee"), ["random, tpe, gp, qmc", "did you mean tpe?"]),
        (trial("--study", ""), ["name of a study must not be empty"]),
        (trial("--gpus-per-trial", "1000"), ["one GPU at most", "1000", "--gpus-per-trial"]),
        (trial("--gpus-per-trial", "1.5"), ["one GPU at most", "1.5"]),
        (trial("--cpus-per-trial", "9999"), ["9999 CPUs", "--cpus-per-trial"]),
        (trial("--cpus-per-trial", "inf"), ["above 0", "inf"]),
        (trial("--address", "127.0.0.1:9"), ["no Ray cluster answers at '127.0.0.1:9'"]),
        (trial("--runs", "/proc/runs"), ["'/proc/runs' must be writable"]),
        (trial("--storage", "sqlite:////proc/none/x.db"), ["/proc/none"]),
        (trial("--storage", "nonsense"), ["must be a URL", "'nonsense'", "sqlite:///nonsense"]),
        (trial("--storage", ""), ["must be a URL", "got ''"]),
        (trial("--storage", "mysql://me@127.0.0.1/db"), ["SQLite or PostgreSQL", "'mysql:"]),
        (trial("--storage", "me:sesame@127.0.0.1/db"), ["must be a URL", "cannot be parsed"]),
        (trial("--study", "x" * 10_240), ["at most 200 characters; got 10240"]),
        (trial("--study", "a\nb"), ["control characters; got U+000A"]),
        (trial("--nonsense", "1"), ["--nonsense", "hpsearch launch --help"]),
        (trial("--trials", "two"), ["--trials", "'two'"]),
        (trial("--json"), ["--json must come with --dry-run"]),
        (["ablate", "paper_l1net", "--json"], ["--json must come with --dry-run"]),
        (["status", "--json", "--traceback"], ["--traceback must come without --json"]),
        (["launch"], ["SPACE"]),
        (["lanch", "quick"], ["lanch", "Did you mean 'launch'?"]),
        (ABLATE, ["'best.yaml', which is no file", "hpsearch export-best -o best.yaml"]),
        (["ablate", "quick"], ["must be an exported configuration", "launch it instead"]),
        (["ablate", "paper_l1net", "--device", "tpu"], ["must be cpu or cuda, got 'tpu'"]),
        (["ablate", "paper_l1net", "--device", "cuda"], ["--gpus-per-run", "got 0 GPUs"]),
        (
            ["ablate", "paper_l1net", "--variants-file", "nowhere.yaml"],
            ["nowhere.yaml"],
        ),
        (["train", "nowhere/best.yaml", "-o", "o"], ["'nowhere/best.yaml', which is no file"]),
        (["data", "prepare", "--uncharacterized", "x"], ["--archive"]),
        (["dashboard", "--host", "0.0.0.0"], ["no login", "HPSEARCH_TOKEN", "ssh -L"]),
    ],
)
def test_a_wrong_request_is_refused(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    refused(tmp_path, arguments, *words)


@pytest.mark.parametrize("value", ["0", "-3", "nan"])
@pytest.mark.parametrize(
    "option",
    [
        "launch --trials",
        "launch --epochs",
        "launch --train-size",
        "launch --validation-size",
        "launch --test-size",
        "launch --max-concurrent",
        "launch --cpus-per-trial",
        "ablate --repeats",
        "ablate --epochs",
        "ablate --test-size",
        "ablate --batch-size",
        "ablate --early-stopping-patience",
        "ablate --learning-rate",
        "ablate --cpus-per-run",
        "train --epochs",
    ],
)
def test_a_number_too_small_is_refused(tmp_path: Path, option: str, value: str) -> None:
    command, name = option.split()
    refused(tmp_path, [command, "quick", name, value], name, value)


@pytest.mark.parametrize(
    "option",
    [
        "launch --seed",
        "launch --gpus-per-trial",
        "ablate --seed",
        "ablate --plateau-patience",
        "ablate --split-seed",
    ],
)
def test_zero_is_allowed_and_less_is_not(tmp_path: Path, option: str) -> None:
    command, name = option.split()
    refused(tmp_path, [command, "quick", name, "-1"], f"{name} must be at least 0, got -1")


COMMANDS = [
    ["status"],
    ["dashboard"],
    ["export-best", "-o", "out.yaml"],
    ["report", "-o", "out"],
]


@pytest.mark.parametrize("arguments", [*COMMANDS, trial()], ids=lambda a: a[0])
def test_a_server_that_does_not_answer(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "sesame")
    url = f"postgresql://me@127.0.0.1:{free_port()}/db"
    words = ["cannot be reached", "me@127.0.0.1", "start its server"]
    refused(tmp_path, [*arguments, "--storage", url], *words)


@pytest.mark.parametrize(
    "arguments",
    [
        trial("--storage", "postgresql://me:sesame@host/db"),
        ["--debug", "status", "--storage=postgresql://me@host/db?sslpassword=sesame"],
        ["status", "postgresql://me:sesame@host/db"],
        ["report", "-o", "out", "--storage", "postgresql://me:sesame@host:port/db"],
    ],
)
def test_a_password_on_the_command_line_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    before = listing(tmp_path)
    done = typed(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sesame" not in done.stderr
    for mend in ("command line", "HPSEARCH_STORAGE", "PGPASSWORD", ".pgpass", "PGPASSFILE"):
        assert mend in done.stderr.splitlines()[-1]
    assert listing(tmp_path) == before


@pytest.mark.parametrize("token", ["", "short-token", "a token with spaces", "Ångström-Ångström"])
def test_a_weak_token_is_refused(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_TOKEN", token)
    for host in ("127.0.0.1", "0.0.0.0"):
        said = refused(tmp_path, ["dashboard", "--host", host], "HPSEARCH_TOKEN", "openssl rand")
        assert not token or token not in said


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: a[0])
def test_no_store_is_made_by_a_command_that_looks(tmp_path: Path, arguments: list[str]) -> None:
    where = f"no study store at {tmp_path}/storage/hpsearch.db; "
    refused(tmp_path, arguments, where, "`hpsearch launch` makes one")
    nowhere = ["--storage", "sqlite:///../no/such/store.db"]
    refused(tmp_path, [*arguments, *nowhere], f"no study store at {tmp_path}/../no/such/store.db")


EXECUTES = '!!python/object/apply:os.system ["touch executed"]'


@pytest.mark.parametrize("command", ["launch", "ablate", "train"])
def test_a_yaml_file_executes_nothing(store: Path, command: str) -> None:
    text = QUICK if command == "launch" else (store / "best.yaml").read_text()
    (store / "mine.yaml").write_text(f"{text}\nextra: {EXECUTES}\n")
    refused(store, [command, "mine.yaml"], "mine.yaml:", "tag")


NAMES = ["../../x", "x'; DROP TABLE trials; --", "分子 %s {0}", "x" * 10_240, "a\nb\x1b[2J"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_an_odd_name_is_looked_up_literally(store: Path, name: str) -> None:
    refused(store, ["status", "--", name], "quick")


@pytest.mark.parametrize("arguments", COMMANDS[2:], ids=lambda a: a[0])
def test_a_name_is_no_path(store: Path, arguments: list[str]) -> None:
    refused(store, [*arguments, "../../x"], "quick")


def test_a_study_of_another_space_is_left_alone(store: Path) -> None:
    other = [*LAUNCH, "--trials", "3", "--seed", "7"]
    refused(store, other, "study 'quick'", "seed: 0 -> 7", "--study NAME")


NONSENSE = {
    "key": (r"embedding_size:", "embeding_size:", "best.yaml:9: config.network.embeding_size"),
    "text": (r"batch_size: \d+", "batch_size: many", "batch_size must be an integer, got the text"),
    "negative": (r"batch_size: ", "batch_size: -", "batch_size must be at least 1, got -"),
    "not a number": (r"learning_rate: \S+", "learning_rate: .nan", "must be a finite number"),
    "choice": (r"radial_basis: \w+", "radial_basis: sine", "did you mean cosine?"),
    "target": (r"\[mu, U0\]", "[mu, U9]", "'U9'"),
    "format": (r"winner/1", "winner/9", "format must be hpsearch-winner/1"),
    "edited": (r"embedding_size: \d+", "embedding_size: 3", "delete the line fingerprint:"),
    "molecules": (r'(data_hash: "?)\w\w', r"\1zz", "the molecules must be those of"),
    "loss": (r"validation_loss: ", "validation_loss: -", "validation_loss must be at least 0"),
    "cut": (r"(?s)early_stopping.*", "", "best.yaml"),
    "binary": (r"(?s).*", "\0\1", "printable"),
    "empty": (r"(?s).*", "", "best.yaml:1:"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_export_edited_into_nonsense_is_refused(store: Path, kind: str) -> None:
    pattern, replacement, words = NONSENSE[kind]
    text, count = re.subn(pattern, replacement, (store / "best.yaml").read_text(), count=1)
    assert count == 1
    (store / "best.yaml").write_text(text)
    refused(store, ABLATE, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*ABLATE, "--variants", "L9Net"], ["L1Net, L0Net", "'L9Net'"]),
        ([*ABLATE, "--targets", "U9"], ["'U9'"]),
        ([*ABLATE, "--name", ""], ["name of an ablation must not be empty"]),
        ([*ABLATE, "--train-size", "130831"], ["130,831 molecules"]),
        ([*ABLATE, "--gpus-per-run", "1000"], ["one GPU at most", "1000", "--gpus-per-run"]),
        ([*ABLATE, "--schedule", "linear"], ["'plateau', 'cosine' or", "'linear'"]),
        (["status", "nope"], ["quick", "'nope'"]),
        (["export-best", "nope", "-o", "x.yaml"], ["quick", "'nope'"]),
        (["export-best"], ["--output"]),
        (["export-best", "-o", "storage"], ["'storage' is a directory"]),
        (["export-best", "-o", "nowhere/x.yaml"], ["folder that exists"]),
        (["export-best", "-o", "/proc/x.yaml"], ["'/proc/x.yaml' must be writable"]),
        (["export-best", "-o", "x", "--select-on", "test"], ["--open-test-set"]),
        (["report", "nope", "-o", "x"], ["quick", "'nope'"]),
        (["report", "-o", "best.yaml"], ["'best.yaml' is a file"]),
        (["report", "-o", "best.yaml/x"], ["'best.yaml/x' must be writable"]),
        (["report", "-o", "x", "--format", "pdf"], ["html, csv, md, latex", "'pdf'"]),
        (["dashboard", "--port", "99999"], ["127.0.0.1:99999", "--port"]),
        (["train", "best.yaml", "-o", "/proc/x"], ["'/proc/x' must be writable"]),
        (["train", "best.yaml", "-o", "x", "--device", "tpu"], ["cpu or cuda", "'tpu'"]),
        (["train", "best.yaml", "-o", "x", "--device", "cuda:99"], ["'cuda:99'"]),
        (["train", "best.yaml", "-o", "x", "--targets", "U9"], ["'U9'"]),
        (["train", "best.yaml", "--targets", "u0"], ["did you mean U0?"]),
        (["train", "best.yaml", "--test-size", "130000"], ["must be new to the search"]),
        ([*ABLATE, "--test-size", "130000"], ["must be new to the search"]),
    ],
)
def test_a_wrong_request_of_a_store_is_refused(
    store: Path, arguments: list[str], words: list[str]
) -> None:
    refused(store, arguments, *words)


def test_a_port_that_is_taken_is_named(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(store, ["dashboard", "--port", port], f"127.0.0.1:{port}", "--port")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = typed(tmp_path, "--debug", "status")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hpsearch: no study store")

"""An experiment on a user's own molecules: its targets are its own, and no word is of QM9."""

from __future__ import annotations

import csv
import html
import io
import math
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt
from support import whole_chain
from support.made_up import ERRORS, OWN_TARGETS, own_space, run_ablation, run_search
from support.made_up import the_winner as winner_of

from hpsearch.ablation.plan import AblationPlan, CellKey
from hpsearch.ablation.verify import verify_ablation
from hpsearch.config.declaration import TargetDeclaration
from hpsearch.config.run import rebuild
from hpsearch.config.targets import QM9_TARGETS, Targets
from hpsearch.cost.estimate import TimeLeft
from hpsearch.data import own, qm9
from hpsearch.data.molecule import Molecules
from hpsearch.executor import worker
from hpsearch.pages import drawn_targets, panel_title, symbols_of, target_axis
from hpsearch.pages.figures import draw_pages
from hpsearch.pages.files import folder, load_page
from hpsearch.report.model_card import model_cards
from hpsearch.report.render import latex_escape
from hpsearch.report.write import write_report
from hpsearch.results.comparison import comparison_table, over_targets, validation_gaps
from hpsearch.results.findings import AblationFindings
from hpsearch.results.status import read_status
from hpsearch.results.tables import averages, table1
from hpsearch.runs.messages import Completion
from hpsearch.search.study import Study
from hpsearch.search.terms import changes
from hpsearch.store import Store
from hpsearch.system.errors import InputError, MachineError
from hpsearch.system.files import file_part
from hpsearch.terminal.lines import plan_lines
from hpsearch.terminal.progress import Progress, error_text
from hpsearch.terminal.status import status_lines

BASELINES = {
    "mean": {"energy": 912.5, "gap": 1.25},
    "composition": {"energy": 87.5, "gap": 1.125},
}
ODD_NAMES = ("HOMO-LUMO gap (eV)", "ΔH_f", "x" * 64, "50%_x & y_z#", "a^b~c", "=sum", "😀" * 64)
OF_QM9 = re.compile(r"QM9|arXiv|paper|published|\bU0\b|SchNet|109,000|23,885|equilibrium", re.I)


@pytest.fixture(autouse=True)
def no_file(monkeypatch):
    """There is no file of these molecules."""

    def refuse(data, say=None):
        raise InputError(f"{data.molecules.path} must exist")

    monkeypatch.setattr(own, "load", refuse)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A search and an ablation of two repeats on own molecules."""
    url = f"sqlite:///{tmp_path_factory.mktemp('own')}/store.db"
    with Store.create(url) as store:
        fill(store)
    return url


@pytest.fixture
def store(url):
    with Store.open(url) as store:
        yield store


@pytest.fixture
def fresh(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/fresh.db") as store:
        yield store


def fill(store, targets=OWN_TARGETS, *, repeats=2, baselines=BASELINES, trials=3, **options):
    """A search of ``targets`` and an ablation of all of them; returns the ablation's name."""
    winner = winner_of(run_search(store, space=own_space(targets, trials)))
    options = {"targets": ["all"], "repeats": repeats, "baselines": baselines, **options}
    return run_ablation(store, winner, **options)


def named(names):
    return {name: {"unit": "eV"} for name in names}


def draw(page, store, kind=None):
    loaded = load_page(folder() / f"{page}.py")
    return loaded.figure(store, None, kind or loaded.kind)


def titles_of(figure):
    return [annotation.text for annotation in figure.layout.annotations]


# --- The targets of an experiment


def test_study_and_ablation_know_their_targets(store):
    study, ablation = store.find(None, "study"), store.find(None, "ablation")
    for experiment in (study, ablation):
        assert experiment.data.is_own
        assert experiment.targets.names == ("energy", "gap")
        energy = experiment.targets["energy"]
        assert (energy.unit, energy.native_unit, energy.reporting_factor) == ("meV", "eV", 1000.0)
    assert Study.open(store).targets.names == ("energy", "gap")
    assert AblationFindings.read(store).is_own


def test_a_record_without_molecules_is_of_qm9(fresh):
    experiment = fresh.begin_experiment("ablation", "bare", {})
    assert not experiment.data.is_own
    assert experiment.targets is QM9_TARGETS


def test_a_record_that_this_version_cannot_read_says_so(fresh):
    data = {"molecules": {"path": "a.xyz"}, "targets": [{"name": "x", "unit": "eV", "new": 1}]}
    experiment = fresh.begin_experiment("ablation", "later", {"winner": {"config": {"data": data}}})
    with pytest.raises(InputError, match="ablation 'later' must have recorded its molecules"):
        experiment.targets  # noqa: B018


def test_the_plan_takes_the_winner_s_own_targets(store):
    winner = winner_of(Study.open(store))
    plan = AblationPlan.make(winner, targets=["gap", "all"])
    assert plan.targets == ("energy", "gap")
    with pytest.raises(InputError, match="one of energy, gap; got 'mu'"):
        AblationPlan.make(winner, targets=["mu"])


def test_the_export_has_the_units_of_the_targets(store, tmp_path):
    winner = Study.open(store).winner()
    maes = winner.provenance.validation_maes
    assert {name: error.unit for name, error in maes.items()} == {"energy": "meV", "gap": "eV"}
    winner.write(tmp_path / "winner.yaml")
    assert type(winner).read(tmp_path / "winner.yaml") == winner
    text = (tmp_path / "winner.yaml").read_text()
    assert "      - {name: energy, unit: eV, report_in: meV, references: fit}\n" in text
    wrong = text.replace("energy: {mae: 5.0, unit: meV}", "energy: {mae: 5.0, unit: eV}")
    (tmp_path / "winner.yaml").write_text(wrong)
    with pytest.raises(InputError, match=r"validation_maes: energy.unit must be meV, got eV"):
        type(winner).read(tmp_path / "winner.yaml")


# --- The report


def test_table_1_has_no_column_of_the_paper(store):
    table = table1(AblationFindings.read(store))
    assert list(table.index) == ["energy", "gap"]
    assert table["symbol"].tolist() == ["energy", "E_gap"]
    assert table["unit"].tolist() == ["meV", "eV"]
    assert not [column for column in table if column.startswith("paper")]
    assert table.loc["energy", ["mean", "composition", "L1Net"]].tolist() == [912.5, 87.5, 0.5625]
    assert set(averages(table)) == {"relative_L1_L0", "relative_Deep_L0", "relative_L1_Deep"}


def test_no_word_of_the_report_is_of_qm9(store, tmp_path):
    write_report(store, tmp_path, formats=["md", "html", "latex", "csv"])
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {"model_card_energy.md", "model_card_gap.md", "table1.tex"} <= set(texts)
    for name, text in texts.items():
        if name == "report.html":
            text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
        text = text.replace("qm9pack", "")  # a version, as of every package
        if name != "runs.csv":  # the folders of the runs
            assert not OF_QM9.search(text), (name, OF_QM9.search(text))
            assert "/private" not in text, name
    report = texts["report.md"].replace("\\", "")
    assert "| energy | meV | 912.5 | 87.5 | 0.5625 ± 0.7941 |" in report
    assert "± is half of Student's 95 % interval over the repeats." in report
    assert "| data.molecules.path | cells.extxyz |" in report
    assert "| data.targets.energy | unit eV, report_in meV, references fit |" in report
    assert "| data.elements | H, C, S |" in report


def test_the_model_card_says_which_molecules(store):
    cards = model_cards(AblationFindings.read(store))
    energy, gap = cards["model_card_energy.md"], cards["model_card_gap.md"].replace("\\", "")
    for line in (
        "| molecules from the file | cells.extxyz |",
        "| molecules in the file | 130,831 |",
        "| elements | H, C, S |",
        "| method | PBE0/def2-TZVP |",
        "| target | energy in meV, stored in eV; extensive, a sum over atoms |",
    ):
        assert line in energy, line
    assert "fitted to the training molecules by least squares" in energy
    assert "mean and standard deviation per atom." in energy
    assert "| target | gap in eV; intensive, an average |" in gap
    assert "No atomic references" in gap
    assert "mean and standard deviation." in gap
    assert 'target = config.target_table["gap"]' in gap
    compile(re.findall(r"```python\n(.*?)```", cards["model_card_gap.md"], re.S)[0], "card", "exec")


def test_energies_of_qm9_are_not_joined_in_other_molecules(fresh, tmp_path):
    name = fill(fresh, named(["U0", "U", "H", "G"]), baselines={})
    findings = AblationFindings.read(fresh, name)
    assert set(over_targets(comparison_table(findings))["targets"]) == {4}
    write_report(fresh, tmp_path, formats=["md"], distinct=True)
    text = (tmp_path / "report.md").read_text()
    assert "U0, U, H and G" not in text
    assert "| L1Net − L0Net | 4 |" in text


# --- Names


@pytest.fixture(scope="module")
def odd_url(tmp_path_factory):
    """The same with names that are hard to write."""
    url = f"sqlite:///{tmp_path_factory.mktemp('odd')}/store.db"
    with Store.create(url) as store:
        fill(store, named(ODD_NAMES), repeats=1, baselines={}, trials=6)
    return url


@pytest.fixture
def odd(odd_url):
    with Store.open(odd_url) as store:
        yield store


def test_odd_names_reach_every_file(odd, tmp_path):
    written = write_report(odd, tmp_path, pages=draw_pages)
    assert not [line for line in written.problems if "parity" not in line]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table1.csv").read_text())))
    assert [row["target"].removeprefix("'") for row in rows] == list(ODD_NAMES)
    assert rows[ODD_NAMES.index("=sum")]["target"] == "'=sum"
    report = MarkdownIt("commonmark").enable("table").render((tmp_path / "report.md").read_text())
    cells = html.unescape(re.sub("<[^>]*>", "\n", report)).splitlines()
    assert set(ODD_NAMES) <= set(cells)
    assert not re.search("<(em|strong|del|a)>", report)
    latex = (tmp_path / "table1.tex").read_text()
    assert r"50\%\_x \& y\_z\#" in latex
    assert r"a\textasciicircum{}b\textasciitilde{}c" in latex
    assert r"$\Delta$H\_f" in latex
    for name in ODD_NAMES:
        assert (tmp_path / f"model_card_{file_part(name)}.md").exists()


def test_every_character_of_a_unit_has_latex():
    assert latex_escape("cm⁻¹ e·Å² μm µs β η Ω") == (
        r"cm$^-$$^1$ e$\cdot$\AA{}$^2$ $\mu$m $\mu$s $\beta$ $\eta$ $\Omega$"
    )


def test_folders_and_keys_of_odd_names_lead_back_to_them(odd):
    experiment = odd.find(None, "ablation")
    runs = odd.runs(experiment.id)
    assert {CellKey.parse(key).target for key in runs["key"]} == set(ODD_NAMES)
    for directory in runs["directory"]:
        assert max(len(part.encode()) for part in directory.split("/")) <= 200
    assert len(set(runs["directory"])) == len(runs)


def test_a_long_name_is_cut_and_stays_its_own():
    assert file_part("mu") == "mu"
    first, second = file_part("字" * 63 + "a"), file_part("字" * 63 + "b")
    assert first != second
    assert len(first.encode()) <= 180


def test_a_name_of_64_characters_is_stored_whole(odd):
    errors = odd.target_errors(odd.find(None, "study").id)
    assert set(errors["target"]) == set(ODD_NAMES)


# --- The terminal


def test_the_status_has_the_units_of_the_targets(store):
    lines = list(status_lines(read_status(store), "here", "hpsearch status"))
    units = {line.split()[0]: line.split()[4] for line in lines if "complete  " in line}
    assert units["L1Net/energy/0"] == "meV"
    assert units["L1Net/gap/1"] == "eV"


def test_progress_prints_errors_with_the_units_of_the_targets():
    said = []
    targets = own_space().data.all_targets
    progress = Progress("run", TimeLeft([]), say=said.append, targets=targets)
    progress.finished("0", Completion(2, 2, 0.5, 0.5, {"energy": 12.5, "gap": 0.25}))
    assert "test MAE energy 12.5 meV, gap 0.25 eV" in said[0]
    many = own_space(named(f"t{n}" for n in range(100))).data.all_targets
    text = error_text({target.name: 1.0 for target in many}, many)
    assert text.endswith("t11 1 eV and 88 more")


def test_a_plan_of_a_hundred_targets_fits_into_a_line(fresh):
    targets = named(f"t{n}" for n in range(100))
    winner = winner_of(run_search(fresh, space=own_space(targets, 1)))
    first, *_ = plan_lines(AblationPlan.make(winner))
    assert "100 targets (t0, t1," in first
    assert "t11 and 88 more)" in first


# --- Pages


PAGES = ("ablation", "cost", "learning_curves", "targets", "parallel", "importance")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_draws_the_own_targets(page, store):
    drawn = draw(page, store)
    if page == "importance":
        assert drawn is None  # too few trials
        return
    text = drawn.to_json()
    assert "E_gap" in text
    assert not OF_QM9.search(drawn.layout.title.text + str([t.name for t in drawn.data]))


def test_the_panels_have_the_reporting_unit(store):
    assert titles_of(draw("learning_curves", store)) == ["energy (meV)", "E_gap (eV)"]


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("page", PAGES)
def test_one_and_a_hundred_targets_are_drawn(page, count, fresh):
    targets = named(f"t{n}" for n in range(count))
    fill(fresh, targets, repeats=1, baselines={}, trials=6, variants=["L1Net", "L0Net"])
    drawn = draw(page, fresh)
    left_out = "; the first 24 of 100 targets are drawn" in drawn.layout.title.text
    assert left_out == (count == 100 and page in ("cost", "learning_curves", "parallel"))
    assert drawn.layout.height < 4_500
    if page == "learning_curves":
        assert len(titles_of(drawn)) == min(count, 24)


def test_a_symbol_is_shown_as_it_is():
    targets = own_space(
        {
            "one": {"unit": "eV", "symbol": "<b>E</b> & co"},
            "two": {"unit": "eV", "symbol": "same"},
            "three": {"unit": "eV", "symbol": "same"},
        }
    ).data.all_targets
    symbols = symbols_of(targets)
    assert symbols == {"one": "&lt;b&gt;E&lt;/b&gt; &amp; co", "two": "two", "three": "three"}
    assert panel_title(symbols["one"], 3) == symbols["one"]
    assert panel_title("x" * 64, 3) == f"{'x' * 33}<br>{'x' * 31}"
    axis = target_axis(["short", "y" * 64])
    assert axis["tickvals"] == ["short", "y" * 64]
    assert axis["ticktext"] == ["short", "y" * 23 + "…"]
    assert target_axis(["a", "b"]) == {"title": "target"}
    assert drawn_targets(targets, ["three", "one"]) == (["one", "three"], "")


# --- Molecules without a target


KNOWN = np.array([0.5, -1.0, 1.0, -1.5])
"""Their mean absolute value is 1."""


def masked(key):
    """Residuals of five molecules, of which the third has no target."""
    scale = ERRORS[key.split("/")[0]]
    return np.insert(scale * KNOWN, 2, np.nan).tolist()


def test_molecules_without_the_target_are_left_out(fresh, tmp_path):
    name = fill(fresh, repeats=1, residuals=masked)
    findings = AblationFindings.read(fresh, name)
    row = comparison_table(findings).set_index(["first", "second", "target"])
    expected = 0.5 * np.std(np.abs(KNOWN), ddof=1) / math.sqrt(4)
    assert row.loc[("L1Net", "L0Net", "gap"), "molecule_error"] == pytest.approx(expected)
    gap = validation_gaps(findings).set_index("target").loc["gap"]
    deviation = ERRORS[gap["arm"]] * np.std(np.abs(KNOWN), ddof=1)
    # Four of five test molecules have the target, so 400 of 500 validation molecules.
    assert gap["standard_error"] == pytest.approx(deviation * math.sqrt(1 / 400 + 1 / 4))
    card = model_cards(findings)["model_card_gap.md"]
    assert "| test molecules, used once | 4 |" in card
    assert "| test molecules without the target, left out | 1 |" in card
    write_report(fresh, tmp_path, formats=["csv"])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "residuals.csv").read_text())))
    assert [row["molecule"] for row in rows if row["key"] == "L1Net/gap/0"] == list("0134")


def test_verify_takes_the_mean_of_the_known_residuals(fresh):
    name = fill(fresh, repeats=1, residuals=masked)
    assert "test" not in {breach.rule for breach in verify_ablation(fresh, name).breaches}


def test_parity_leaves_out_molecules_without_the_target(fresh):
    name = whole_chain.ablate(
        fresh, whole_chain.search(fresh).winner(), targets=["mu"], variants=["L1Net"]
    )
    module = load_page(folder() / "parity.py").module
    run = module.first_repeats(fresh, fresh.find(name, "ablation").id).iloc[0].copy()
    residuals = run["residuals"].copy()
    residuals[[0, 7]] = np.nan
    run["residuals"] = residuals
    test = module.split_of(run, qm9.load(), {}).test
    rows = module.of_run(run, QM9_TARGETS["mu"], qm9.load(), {})
    assert rows["molecule"].tolist() == np.delete(qm9.load().identifiers[test], [0, 7]).tolist()
    assert set(rows["of_molecules"]) == {len(test) - 2}
    assert rows["prediction"].notna().all()


def test_parity_subtracts_references_fitted_to_the_training_molecules():
    module = load_page(folder() / "parity.py").module
    declared = TargetDeclaration(unit="eV", report_in="meV", references="fit")
    target = declared.target("energy")
    counts = np.array([1, 2, 3, 1])
    # -13 eV an atom in the training molecules 0 to 2; the test molecule has 0.5 eV more.
    molecules = Molecules.assemble(
        np.arange(4),
        counts,
        np.ones(7, np.uint8),
        np.arange(21.0, dtype=np.float32).reshape(7, 3),
        -13.0 * counts[:, None] + [[0], [0], [0], [0.5]],
        elements=[1],
        target_table=Targets([target]),
    )
    left = module.values(molecules, np.array([3]), np.array([0, 1, 2]), target)
    assert left.tolist() == pytest.approx([500.0])
    assert module.quantity(target, "E") == "E minus atomic references"
    plain = TargetDeclaration(unit="eV").target("energy")
    assert module.quantity(plain, "E") == "E"


# --- Workers


def test_a_worker_opens_the_molecules_of_its_run_once(monkeypatch):
    opened = []

    def load(data):
        opened.append(data.molecules.path)
        return f"molecules of {data.molecules.path}"

    monkeypatch.setattr(own, "load", load)
    monkeypatch.setattr(worker, "_opened", {})
    data = own_space().data
    assert worker._molecules(data) == "molecules of /private/folder/cells.extxyz"
    worker._molecules(rebuild(data, training_seed=3))
    assert len(opened) == 1
    worker._molecules(own_space(molecules="/other.extxyz").data)
    worker._molecules(own_space(molecules="/other.extxyz", elements=["H", "S"]).data)
    assert opened[1:] == ["/other.extxyz"] * 2


def test_a_worker_without_the_file_blames_the_machine(monkeypatch):
    monkeypatch.setattr(worker, "_opened", {})
    with pytest.raises(MachineError, match=r"cells.extxyz must exist"):
        worker._molecules(own_space().data)


# --- The terms of a study


def test_a_changed_declaration_is_named_by_its_target():
    stored = {"space": own_space().to_provenance()}
    changed = own_space(OWN_TARGETS | {"gap": {"unit": "Hartree", "extensive": False}})
    assert changes(stored, changed) == [
        "data.targets.gap.symbol: 'E_gap' -> (none)",
        "data.targets.gap.unit: 'eV' -> 'Hartree'",
    ]
    assert changes(stored, own_space(dict(reversed(OWN_TARGETS.items())))) == [
        "data.targets: ['energy', 'gap'] -> ['gap', 'energy']",
        "targets: ['energy', 'gap'] -> ['gap', 'energy']",
    ]

"""Flows and autoregressive models through the scripts: tables, targets, bad input."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sample
import scipy.stats
import train
from bad_input import check_one_line
from small import TINY, changed, trained

import vgm
from vgm import configs
from vgm.data import plane, sources
from vgm.errors import UserError
from vgm.experiment import events, fitting, setup, tables
from vgm.experiment.reporter import Reporter

SHORT = ["--train.num-steps", "40", "--train.eval-every", "20"]
SMALL = [*SHORT, "--model.hidden", "8", "--flow.num-layers", "2"]


def write_table(path, rows, header=None):
    lines = [] if header is None else [",".join(header)]
    lines += [",".join(str(value) for value in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def normal_table(tmp_path, header=("a", "b")):
    """A correlated normal in units of its own."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 2))
    rows = np.stack([1000.0 + 50.0 * z[:, 0], 0.01 * (z[:, 0] + z[:, 1])], -1)
    return write_table(tmp_path / "table.csv", rows, header)


# ---- data


def test_tables_are_read_and_split(tmp_path):
    data = sources.load("table", normal_table(tmp_path))
    assert [len(s.x) for s in (data.train, data.validation, data.test)] == [324, 36, 40]
    assert data.levels == 0
    again = sources.load("table", normal_table(tmp_path, None))
    np.testing.assert_array_equal(data.test.x, again.test.x)
    whole = np.concatenate([data.train.x, data.validation.x, data.test.x])
    np.testing.assert_allclose(whole[:, 0].mean(), 1000.0, atol=10)
    assert len(np.unique(whole[:, 0])) == 400


def test_the_checkerboard_has_its_density():
    x = sources.load("checkerboard", None, num_validation=0).test.x
    cell = np.floor((x + 4.0) / 2.0).astype(int)
    assert ((cell >= 0) & (cell < 4)).all()
    assert ((cell.sum(-1) % 2) == 0).all()
    counts = np.bincount(4 * cell[:, 0] + cell[:, 1], minlength=16)
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    assert (counts > 0).sum() == 8


def test_two_moons_are_where_they_should_be():
    x = plane.two_moons(np.random.default_rng(1), 4000)
    upper = np.abs(np.linalg.norm(x, axis=1) - 1.0)
    lower = np.abs(np.linalg.norm(x - [1.0, 0.5], axis=1) - 1.0)
    # Normal noise of 0.1 off one of the two half circles.
    assert (np.minimum(upper, lower) < 0.45).all()


def test_two_moons_are_as_wide_and_as_many_as_they_should_be():
    x = plane.two_moons(np.random.default_rng(1), 20_000)
    # Of the upper one alone: the other ends at 0.5.
    high = x[x[:, 1] > 0.75]
    spread = (np.linalg.norm(high, axis=1) - 1.0).std()
    # Some five standard errors, 1 / sqrt(2 * 5000), and more of a mean.
    np.testing.assert_allclose(spread, 0.1, rtol=0.1)
    np.testing.assert_allclose(x[:, 0].mean(), 0.5, atol=0.03)


def uniform(generator, count):
    """Drawn in one go: what fewer points share with more of the same stream."""
    return generator.random((count, 2))


def test_test_points_of_the_plane_are_not_those_of_training(monkeypatch):
    monkeypatch.setitem(plane.PLANE, "two-moons", uniform)
    found = plane.load_plane("two-moons")
    assert not np.array_equal(found.train.x[:9], found.test.x[:9])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"line 3: 1 cells where the first has 2"),
        ("1,2\n3,x\n", r"line 2, column 2: 'x' is no finite number"),
        ("1,2\n3,nan\n", r"'nan' is no finite number"),
        ("1,2\n3,4\n", r"has 2 rows; needs at least 10"),
        ("", r"has 0 rows"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        sources.load("table", path, num_validation=0)


# ---- runs


@pytest.mark.parametrize(
    ("path", "name", "called"),
    [
        ("some/wine.csv.gz", "table", "wine"),
        ("some/wine.npz", "red", "red"),
        ("some/wine.v2.npz", "table", "wine.v2"),
        ("some/folder", "table", "table"),
    ],
)
def test_a_file_is_not_called_by_what_its_preset_is_for(path, name, called):
    given = changed("nsf-tabular", {"data.path": Path(path), "data.name": name})
    assert configs.resolved(given).data.name == called
    moved = dataclasses.replace(given.data, path=Path("elsewhere/white.csv"))
    after = configs.resolved(dataclasses.replace(given, data=moved))
    # What a file holds is compared once it is read.
    assert not configs.changed_fields(configs.resolved(given), after)
    built_in = changed("flow-2d", {"data.name": "checkerboard"})
    (differ,) = configs.changed_fields(changed("flow-2d", {}), built_in)
    assert differ.startswith("data.name (two-moons before")


def test_as_many_steps_as_there_are_are_not_drawn():
    few = changed("ddpm-digits", {"diffusion.num_steps": 20})
    assert configs.resolved(few).diffusion.num_times == 0
    assert configs.resolved(changed("ddpm-digits", {})).diffusion.num_times == 32


@pytest.mark.parametrize("kind", ["coin", "gaps", "reals"])
def test_a_density_of_no_reals_is_said_to_be(tmp_path, kind):
    """Of a coin toss it grows as long as it is trained."""
    x = np.random.default_rng(0).normal(size=(100, 3))
    if kind == "coin":
        x[:, 1] = x[:, 1] > 0.5
    elif kind == "gaps":
        x[:50, 1] = np.nan
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
    preset = "vae-tabular" if kind == "gaps" else "nsf-tabular"
    prepared = setup.prepare(changed(preset, {"data.path": tmp_path / "own.npz"}))
    said = tables.repeated(prepared) or "nothing"
    coin = "number 2 of each example is 0 in"
    assert said.startswith(coin if kind == "coin" else "nothing")


def test_a_run_says_why_it_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_validation", lambda *given: lambda params: -1.0)
    prepared = setup.prepare(changed("vae-digits", TINY | {"train.patience": 1}))
    said = []
    fit = fitting.train(prepared, tmp_path, Reporter(say=said.append))
    assert fit.rows[-1]["step"] == 2
    assert said[0].startswith("stopped at step 2: no better bound on validation in 1")


def test_events_are_closed_whatever_comes(tmp_path, monkeypatch):
    """Python 3.12 cannot close at its end what has not written."""
    closed = []

    class Writer:
        def __init__(self, place):
            self.close = lambda: closed.append(place)

    monkeypatch.setattr("tensorboardX.SummaryWriter", Writer)
    with pytest.raises(UserError), events.writer(tmp_path):
        raise UserError("diverged")
    assert closed == [str(tmp_path)]


@pytest.mark.slow
def test_a_table_with_gaps_is_modelled(tmp_path):
    """What a table with empty cells is refused with names a preset that reads it."""
    rng = np.random.default_rng(0)
    rows = [[f"{a:.3f}", f"{a + b:.3f}"] for a, b in rng.normal(size=(60, 2))]
    rows[7][1] = ""
    path = write_table(tmp_path / "gaps.csv", rows, ("a", "b"))
    arguments = ["--data.path", str(path), "--train.num-steps", "4"]
    arguments += ["--optimizer.warmup-steps", "1", "--run-dir", str(tmp_path / "run")]
    assert train.main(["vae-tabular", *arguments]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["data"], result["num_examples"]) == ("gaps", 6)


@pytest.mark.slow
def test_a_table_is_reported_in_its_own_units(tmp_path, capsys):
    arguments = ["nsf-tabular", *SMALL, "--data.path", str(normal_table(tmp_path))]
    arguments += ["--optimizer.learning-rate", "1e-3", "--train.batch-size", "64"]
    run_dir, result = trained(tmp_path, arguments)
    assert result["is_exact"]
    assert result["bits_per_dim"] is None
    # The entropy of that normal: standard deviations 50 and 0.01 sqrt(2), less the
    # correlation, 1/2 log 2.
    entropy = math.log(2 * math.pi * math.e) + math.log(50 * 0.01)
    assert abs(-result["elbo_nats"] - entropy) < 5 * result["elbo_stderr"] + 0.3
    assert (run_dir / "density.png").stat().st_size > 5000
    assert evaluate.main([str(run_dir), "--num-importance-samples", "50"]) == 2
    assert "log p(x) of this model is exact; drop" in capsys.readouterr().err
    model, params = vgm.load(run_dir)
    with np.load(run_dir / "likelihoods.npz") as by_example:
        expected = by_example["elbo"]
    test = sources.load("table", normal_table(tmp_path), num_validation=0).test.x
    np.testing.assert_allclose(model.log_prob(params, test), expected, rtol=1e-4)
    assert sample.main([str(run_dir), "--num-samples", "3"]) == 0


@pytest.mark.slow
def test_a_target_gives_its_normaliser(tmp_path, capsys):
    settings = ["--evaluation.num-importance-samples", "200"]
    arguments = ["flow-target-2d", *SMALL, *settings, "--train.num-steps", "200"]
    run_dir, result = trained(tmp_path, arguments)
    assert result["log_normalizer_nats"] == math.log(4 * math.pi)
    assert result["elbo_nats"] <= result["log_normalizer_nats"] + 0.01
    assert abs(result["log_evidence_nats"] - result["log_normalizer_nats"]) < 0.3
    assert "pareto_k" in result
    assert (run_dir / "density.png").stat().st_size > 5000
    assert evaluate.main([str(run_dir)]) == 0
    assert "log Z" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["nsf-digits", *SMALL, "--flow.noise", "variational", "--model.conditional"],
        ["maf-digits", *SMALL, "--model.architecture", "nsf-autoregressive"],
        ["glow-mnist", *SMALL, "--data.name", "digits", "--data.num-validation", "9"],
        ["flow-2d", *SMALL, "--train.batch-size", "64"],
        ["cnf-2d", *SHORT, "--model.hidden", "8", "--train.batch-size", "64"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_presets_train_to_a_report(arguments, tmp_path):
    few = ["--evaluation.num-importance-samples", "4", "--evaluation.chunk-size", "2"]
    run_dir, result = trained(tmp_path, [*arguments, *few])
    assert math.isfinite(result["elbo_nats"])
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # The error of flow matching is no bound.
    assert all((row["train_bound"] == "") == ("cnf-2d" in arguments) for row in rows)
    # Better than independent coordinates is much to ask of 40 steps; not far below.
    assert result["elbo_nats"] > result["baseline_nats"] - 40
    vgm.load(run_dir)


@pytest.mark.slow
def test_made_trains_on_bits(tmp_path):
    archive = tmp_path / "own.npz"
    x = (np.random.default_rng(0).random((400, 3, 3, 1)) < 0.2).astype(np.uint8)
    x[:, 1] = x[:, 0]  # a row that the one before decides
    np.savez(archive, x_train=x[:300], x_test=x[300:], levels=2)
    arguments = ["made-mnist", *SHORT, "--model.hidden", "32", "--train.num-steps"]
    arguments += ["400", "--data.path", str(archive), "--data.num-validation", "50"]
    arguments += ["--model.dropout", "0", "--optimizer.learning-rate", "1e-2"]
    arguments += ["--optimizer.warmup-steps", "10", "--optimizer.ema-decay", "0.9"]
    _, result = trained(tmp_path, arguments)
    assert result["is_exact"]
    assert result["prior_matching_nats"] == 0.0
    # Six bits of entropy 0.5 nats each where independence pays for nine.
    assert result["elbo_nats"] > result["baseline_nats"] + 0.9


BAD_INPUT = {
    "no layers": (
        ["nsf-digits", "--flow.num-layers", "0"],
        r"flow\.num-layers must be at least 1; got 0",
    ),
    "one bin": (
        ["nsf-digits", "--flow.num-bins", "1"],
        r"flow\.num-bins must be from 2 to 500; got 1",
    ),
    "no tail": (
        ["nsf-digits", "--flow.tail-bound", "0"],
        r"flow\.tail-bound must be positive; got 0",
    ),
    "networks of another family": (
        ["nsf-digits", "--model.architecture", "conv"],
        r"model\.architecture must be realnvp or glow or .* for model\.family 'flow'",
    ),
    "a flow of bits": (
        ["nsf-digits", "--data.observation", "binary"],
        r"data\.observation must be levels or density for model\.family 'diffusion'",
    ),
    "a flow by its weights": (
        ["nsf-digits", "--objective.name", "iwae"],
        r"objective\.name must be elbo or flow-matching for model\.family 'flow'",
    ),
    "a logit of levels": (
        ["nsf-digits", "--flow.transform", "logit"],
        r"flow\.transform must be standardize for data\.observation 'levels'",
    ),
    "noise of reals": (
        ["flow-2d", "--flow.noise", "variational"],
        r"flow\.noise 'variational' needs data\.observation 'levels'",
    ),
    "matching without a velocity": (
        ["flow-2d", "--objective.name", "flow-matching"],
        r"'flow-matching' needs model\.architecture 'continuous'",
    ),
    "a target with data": (
        ["flow-2d", "--flow.target", "banana"],
        r"flow\.target banana or ring and data\.name nothing go together",
    ),
    "a target for another family": (
        ["vae-digits", "--flow.target", "ring", "--data.name", "nothing"],
        r"flow\.target and data\.name 'nothing' are for model\.family 'flow'",
    ),
    "a target on half of the plane": (
        ["flow-target-2d", "--flow.transform", "log"],
        r"flow\.target needs flow\.transform 'standardize'",
    ),
    "draws that are not drawn": (
        ["cnf-2d", "--objective.num-samples", "4"],
        r"objective\.num-samples must be 1 for objective\.name 'flow-matching'",
    ),
    "dropout that is not there": (
        ["glow-mnist", "--model.dropout", "0.1"],
        r"model\.architecture 'glow' has one width, .* and model\.dropout 0",
    ),
    "grey values read as bits": (
        ["made-mnist", "--data.observation", "grey-bernoulli"],
        r"data\.observation must be levels, binary or density for model\.family 'autor",
    ),
    "a logarithm of what is negative": (
        ["flow-2d", "--flow.transform", "log"],
        r"flow\.transform 'log' needs numbers above 0 and below inf; the train split",
    ),
    "a conditional target": (
        ["flow-target-2d", "--model.conditional"],
        r"flow\.target needs objective\.name 'elbo' and no model\.conditional",
    ),
    "no network": (
        ["nsf-digits", "--model.hidden"],
        r"model\.hidden must name at least one width for model\.family 'flow'",
    ),
    "a pyramid too high": (
        [
            "realnvp-digits",
            "--model.architecture",
            "glow",
            "--model.dropout",
            "0",
            "--flow.num-levels",
            "4",
        ],
        r"flow\.num-levels 4 needs .* divisible by 16; got \(8, 8, 1\)",
    ),
    "a likelihood of other data": (
        ["made-mnist", "--data.name", "digits", "--model.likelihood", "normal"],
        r"model\.likelihood must be bernoulli for data\.observation 'binary'",
    ),
    "holes": (
        ["flow-2d", "--data.missing", "nan"],
        r"data\.missing must be 'none' but for model\.family 'vae'",
    ),
    "a coupling of one number": (
        lambda tmp_path: [
            "nsf-tabular",
            "--data.path",
            str(write_table(tmp_path / "one.csv", np.cos(np.arange(20))[:, None])),
        ],
        r"need at least 2 numbers an example; got 1",
    ),
    "a table with semicolons": (
        lambda tmp_path: [
            "nsf-tabular",
            "--data.path",
            str(write_table(tmp_path / "bad.csv", [["1.5;2"], ["2.5;3"]] * 20)),
        ],
        r"'2\.5;3' is no finite number; save the table with ',' between cells",
    ),
    "a table with a word in it": (
        lambda tmp_path: [
            "nsf-tabular",
            "--data.path",
            str(write_table(tmp_path / "bad.csv", [[1, 2]] * 20 + [["x", 2]])),
        ],
        r"bad\.csv, line 21, column 1: 'x' is no finite number",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line(tmp_path, capsys, name):
    check_one_line(tmp_path, capsys, *BAD_INPUT[name])

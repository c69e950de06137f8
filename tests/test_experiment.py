"""Whole runs through the scripts: what they leave, refuse, resume and load."""

import csv
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import compare
import evaluate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sample
import train
from bad_input import check_one_line, damage
from small import changed
from test_data import make_idx_folder

import vgm
from vgm import cli, configs, data, experiment
from vgm.bounds.elbo import single_latent_terms
from vgm.errors import UserError
from vgm.evaluation import figures, likelihood
from vgm.experiment import directory, fitting, setup, storage, tables

ROOT = Path(__file__).parents[1]
QUICK = [
    "vae-digits",
    "--train.num-steps",
    "30",
    "--train.eval-every",
    "10",
    "--model.hidden",
    "16",
    "--model.latent-dim",
    "3",
    "--evaluation.num-importance-samples",
    "20",
    "--evaluation.num-elbo-samples",
    "2",
]
KEYS = set(
    """
    preset model data observation split num_examples elbo_nats reconstruction_nats
    prior_matching_nats denoising_matching_nats log_evidence_nats log_evidence_stderr
    num_importance_samples bits_per_dim baseline_bits_per_dim num_params train_steps
    train_seconds steps_per_second seed versions
    """.split()  # noqa: SIM905
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "quick"
    assert train.main([*QUICK, "--run-dir", str(run_dir)]) == 0
    return run_dir


def test_a_run_leaves_what_it_should(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert {
        "config.json",
        "metrics.csv",
        "checkpoints",
        "params.npz",
        "samples.png",
        "reconstructions.png",
        "curves.png",
        "report.html",
        "result.json",
        "likelihoods.npz",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    result = json.loads((finished_run / "result.json").read_text())
    assert result.keys() >= KEYS
    assert result["split"] == "test"
    assert result["num_examples"] == 297
    total = result["reconstruction_nats"] - result["prior_matching_nats"]
    np.testing.assert_allclose(result["elbo_nats"], total, rtol=1e-6)
    assert result["denoising_matching_nats"] == 0.0
    with (finished_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30"]


def test_the_numbers_of_a_run_agree_with_each_other(finished_run):
    result = json.loads((finished_run / "result.json").read_text())
    with np.load(finished_run / "likelihoods.npz") as by_example:
        evidence = by_example["log_evidence"].astype(np.float64)
        baseline = by_example["baseline"].astype(np.float64)
    np.testing.assert_allclose(evidence.mean(), result["log_evidence_nats"], rtol=1e-9)
    stderr = evidence.std(ddof=1) / np.sqrt(297)
    np.testing.assert_allclose(stderr, result["log_evidence_stderr"], rtol=1e-9)
    bits = -evidence.mean() / (64 * np.log(2))
    np.testing.assert_allclose(bits, result["bits_per_dim"], rtol=1e-9)
    # The baseline by hand: add-one histograms of the training split.
    digits = experiment.prepare(configs.PRESETS["vae-digits"][1]).dataset
    counts = (digits.train.x[..., None] == np.arange(17)).sum(0) + 1.0
    log_p = np.log(counts / counts.sum(-1, keepdims=True))
    by_hand = [
        np.take_along_axis(log_p, x[..., None].astype(int), -1).sum()
        for x in digits.test.x
    ]
    np.testing.assert_allclose(baseline, by_hand, rtol=1e-5)
    assert result["elbo_nats"] < result["log_evidence_nats"]


def test_the_report_is_one_page(finished_run):
    page = (finished_run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert "bits/dim" in page
    assert "± " in page


def test_load_gives_the_parameters_of_the_best_step(finished_run):
    model, params = vgm.load(finished_run)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    with np.load(finished_run / "params.npz") as archive:
        named = {
            jax.tree_util.keystr(place, simple=True, separator="/"): leaf
            for place, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        assert named.keys() == set(archive.files)
        chex.assert_trees_all_equal(named, {n: archive[n] for n in archive.files})
    draws = model.sample(jax.random.key(0), params, 4)
    assert draws.shape == (4, 8, 8, 1)


SPLITS = "train", "validation", "test"


def test_a_run_gives_its_observations(finished_run):
    """As its model takes them, and as its evaluation saw them."""
    model, params = vgm.load(finished_run)
    batch = vgm.observations(finished_run)
    assert batch.condition is None
    keys = jax.random.split(jax.random.key(1), 64)
    bounds = jax.vmap(model.elbo_terms, (0, None, None))(keys, params, batch.x).elbo
    with np.load(finished_run / "likelihoods.npz") as file:
        assert np.corrcoef(np.mean(bounds, 0), file["elbo"])[0, 1] > 0.9
    sizes = [len(vgm.observations(finished_run, name).x) for name in SPLITS]
    assert sizes == [1197, 303, 297]


def test_a_choice_left_open_is_recorded_as_made(finished_run, capsys):
    """A run that was told goes on without being told, whatever is chosen later."""
    config = json.loads((finished_run / "config.json").read_text())["config"]
    assert config["model"]["activation"] == "relu"
    again = [*QUICK, "--run-dir", str(finished_run), "--resume"]
    assert train.main([*again, "--model.activation", "relu"]) == 0
    assert train.main([*again, "--model.activation", "tanh"]) == 2
    assert "activation (relu before, tanh now)" in capsys.readouterr().err


def test_evaluate_gives_the_numbers_of_the_run(finished_run, tmp_path):
    output = tmp_path / "numbers.json"
    assert evaluate.main([str(finished_run), "--output", str(output)]) == 0
    numbers = json.loads(output.read_text())
    result = json.loads((finished_run / "result.json").read_text())
    for name in ("elbo_nats", "log_evidence_nats", "bits_per_dim"):
        np.testing.assert_allclose(numbers[name], result[name], rtol=1e-5)
    assert evaluate.main([str(finished_run), "--output", str(output)]) == 2
    assert evaluate.main([str(finished_run), "--precision", "bfloat16"]) == 2
    assert evaluate.main([str(finished_run), "--split", "validation"]) == 0


def test_surgery_splits_the_divergence(finished_run, tmp_path, capsys):
    output = tmp_path / "numbers.json"
    arguments = ["--surgery", "--num-importance-samples", "2", "--output", str(output)]
    assert evaluate.main([str(finished_run), *arguments]) == 0
    assert "mutual information" in capsys.readouterr().out
    numbers = json.loads(output.read_text())
    parts = numbers["mutual_information_nats"] + numbers["marginal_kl_nats"]
    np.testing.assert_allclose(parts, numbers["average_kl_nats"], rtol=1e-4)
    np.testing.assert_allclose(
        numbers["average_kl_nats"], numbers["prior_matching_nats"], rtol=1e-5
    )


def test_compare_pairs_the_examples_of_two_runs(finished_run, tmp_path, capsys):
    """The difference example by example, and only where both are of the same ones."""
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    with np.load(finished_run / "likelihoods.npz") as archive:
        values = dict(archive)
    values["log_evidence"] = values["log_evidence"] + 1.5
    np.savez(other / "likelihoods.npz", **values)
    assert compare.main([str(finished_run), str(other)]) == 0
    assert "+1.50 ± 0.00" in capsys.readouterr().out
    # Evidences of another K are bounds of another tightness: the ELBOs are compared.
    values["elbo"] = values["elbo"] - 0.25
    np.savez(other / "likelihoods.npz", **values)
    result = json.loads((other / "result.json").read_text())
    tighter = {**result, "num_importance_samples": 7}
    (other / "result.json").write_text(json.dumps(tighter))
    assert compare.main([str(finished_run), str(other)]) == 0
    out = capsys.readouterr().out
    assert "ELBO -0.25 ± 0.00" in out
    assert "+1.50" not in out
    (other / "result.json").write_text(json.dumps(result))
    # Stored in another order they are the same examples; others are others.
    backwards = {name: array[::-1] for name, array in values.items()}
    np.savez(other / "likelihoods.npz", **backwards)
    assert compare.main([str(finished_run), str(other)]) == 0
    assert "+1.50 ± 0.00" in capsys.readouterr().out
    others = {**values, "example": values["example"] + 1}
    np.savez(other / "likelihoods.npz", **others)
    assert compare.main([str(finished_run), str(other)]) == 0
    assert "+1.50" not in capsys.readouterr().out


def test_compare_takes_an_exact_likelihood_for_what_bounds_rise_to(
    finished_run, tmp_path, capsys
):
    """Against an evidence of any K; against an ELBO where there is no evidence."""
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    with np.load(finished_run / "likelihoods.npz") as archive:
        values = dict(archive)
    exact = {name: values[name] for name in ("example", "baseline")}
    exact["elbo"] = values["log_evidence"] - 3.25
    np.savez(other / "likelihoods.npz", **exact)
    result = json.loads((other / "result.json").read_text())
    nothing = dict.fromkeys(("log_evidence_nats", "num_importance_samples"))
    changes = {**result, **nothing, "is_exact": True, "bits_per_dim_of": "elbo"}
    (other / "result.json").write_text(json.dumps(changes))
    for order, said in (((finished_run, other), "-3.25"), ((other, finished_run), "+")):
        assert compare.main([str(run) for run in order]) == 0
        out = capsys.readouterr().out
        assert f"{said}" in out
        assert "3.25 ± 0.00" in out
        assert "exact" in out
        assert "(ELBO)" not in out
    # Of two models without evidence bits per dimension are those of the ELBO.
    bare = {**result, **nothing, "bits_per_dim_of": "elbo"}
    (other / "result.json").write_text(json.dumps(bare))
    np.savez(other / "likelihoods.npz", **exact)
    assert compare.main([str(finished_run), str(other)]) == 0
    out = capsys.readouterr().out
    assert out.count("(ELBO)") == 1
    assert "ELBO -" in out


def test_a_run_says_what_it_trains_on():
    """Before it compiles: nothing else is said for a while."""
    _, preset = configs.PRESETS["vae-digits"]
    said = tables.examples(experiment.prepare(preset))
    assert said == (
        "digits: 1,197 train, 303 validation and 297 test examples of 8 x 8 x 1 "
        "numbers of 17 levels"
    )


def test_a_result_of_minus_infinity_stays_one(finished_run, tmp_path, capsys):
    """An example outside the support: no number is not the same as none measured."""
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    path = other / "result.json"
    result = directory.read_result(finished_run)
    steps = [-1.0, -math.inf]
    storage.write_json(
        path,
        {
            **result,
            "elbo_nats": -math.inf,
            "elbo_stderr": math.nan,
            "denoising_matching_by_step": steps,
        },
    )
    assert json.loads(path.read_text())["elbo_nats"] == "-inf"
    storage.write_json(tmp_path / "a.json", {"data": "inf", "elbo_nats": math.inf})
    assert storage.read_json(tmp_path / "a.json") == {
        "data": "inf",
        "elbo_nats": math.inf,
    }
    back = directory.read_result(other)
    assert back["elbo_nats"] == -math.inf
    assert back["elbo_stderr"] is None
    assert back["denoising_matching_by_step"] == steps
    with np.load(finished_run / "likelihoods.npz") as archive:
        values = dict(archive)
    for name in ("elbo", "log_evidence"):
        values[name][3] = -np.inf
    np.savez(other / "likelihoods.npz", **values)
    assert compare.main([str(other), str(other), str(finished_run)]) == 0
    out = capsys.readouterr().out
    assert "-inf ± -" in out
    assert "+inf ± -" in out
    assert "nan" not in out


@pytest.mark.parametrize(
    ("fields", "formula"),
    [
        ({}, "log p(x)"),
        ({"conditional": True}, "log p(x | label)"),
        ({"observation": "grey-bernoulli"}, "E log p(b), b ~ Bernoulli(x)"),
    ],
)
def test_tables_say_what_the_evidence_is_of(finished_run, fields, formula):
    result = {**directory.read_result(finished_run), **fields}
    rows = {name: how for name, _, how in tables.result_table(result)}
    said = rows[f"evidence, {result['num_importance_samples']} samples"]
    assert said.startswith(f"lower bound on {formula}; ")
    exact = {**result, "is_exact": True, "num_importance_samples": None}
    assert tables.result_table(exact)[0][0] == formula


def test_compare_draws_what_it_prints(finished_run, tmp_path, capsys):
    """A point a run and quantity, at its number; none where there is none."""
    path, drawn = tmp_path / "compared.png", {}
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    result = json.loads((other / "result.json").read_text())
    bare = {**result, "log_evidence_nats": None, "elbo_stderr": None}
    (other / "result.json").write_text(json.dumps(bare))
    save = figures._save

    def keep(figure, path):
        drawn[path] = figure
        save(figure, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_save", keep)
        assert compare.main([str(finished_run), str(other), "--figure", str(path)]) == 0
    assert path.stat().st_size > 1000
    axis = drawn[path].axes[0]
    elbo, evidence = axis.containers
    np.testing.assert_allclose([*elbo[0].get_xdata()], 2 * [result["elbo_nats"]])
    np.testing.assert_allclose(
        [*evidence[0].get_xdata()], [result["log_evidence_nats"]]
    )
    widths = [np.ptp(segment[:, 0]) for segment in elbo[2][0].get_segments()]
    np.testing.assert_allclose(widths, [2 * result["elbo_stderr"], 0.0], atol=1e-9)
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == [str(finished_run), str(other)]
    path.write_bytes(b"mine")
    for flag, said in ((path, "exists already"), (tmp_path / "a.txt", "ends in .png")):
        assert compare.main([str(finished_run), "--figure", str(flag)]) == 2
        assert said in capsys.readouterr().err
    assert path.read_bytes() == b"mine"


def test_a_picture_of_no_finite_bound_is_refused(finished_run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    result = directory.read_result(finished_run)
    nothing = {"elbo_nats": -math.inf, "log_evidence_nats": -math.inf}
    storage.write_json(other / "result.json", {**result, **nothing})
    path = tmp_path / "compared.png"
    assert compare.main([str(other), "--figure", str(path)]) == 2
    assert "no run has a finite bound" in capsys.readouterr().err
    assert not path.exists()


def test_one_nan_is_no_diverged_training():
    """All of them are: training has left no parameters to report on."""
    experiment.results._require_numbers(np.asarray([-1.0, np.nan]))
    with pytest.raises(UserError, match="training diverged"):
        experiment.results._require_numbers(np.asarray([np.nan, np.nan]))


def test_seeds_change_all_of_a_run_but_its_test():
    """Else the paired difference of two runs would be of different bits."""
    one, other = (
        setup.run_keys(changed("cvae-mnist", {"seed": seed})) for seed in (3, 4)
    )
    same = {
        name: bool(jnp.all(jax.random.key_data(a) == jax.random.key_data(b)))
        for (name, a), b in zip(one._asdict().items(), other, strict=True)
    }
    assert [name for name in same if same[name]] == ["test", "baseline"]


def test_compare_knows_a_mass_whose_bits_are_nan(finished_run, tmp_path, capsys):
    """NaN is written as null, as are the bits of a density."""
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    result = directory.read_result(finished_run)
    storage.write_json(other / "result.json", {**result, "bits_per_dim": math.nan})
    for order in ([other, finished_run], [finished_run, other]):
        assert compare.main([str(run) for run in order]) == 0
        assert "bits/dim" in capsys.readouterr().out
    rows = [row[0] for row in tables.result_table(directory.read_result(other))]
    assert "bits/dim" in rows


def test_examples_that_are_nan_are_counted(finished_run):
    """One test example too large for any bound is no diverged training."""
    prepared = experiment.results.of_run(finished_run)
    terms = single_latent_terms(jnp.asarray([-1.0, jnp.nan, -3.0]), jnp.zeros(3))
    values = {
        "elbo": np.asarray(terms.elbo),
        "log_evidence": np.asarray([np.nan, -1.0, -np.inf]),
        "effective_samples": np.ones(3),
        "baseline": -np.ones(3),
    }
    numbers = experiment.numbers.split_numbers(prepared, "test", terms, values)
    assert numbers["num_nan_examples"] == 2
    result = {**directory.read_result(finished_run), **numbers}
    assert [row[1] for row in tables.result_table(result) if row[0] == "NaN"] == [
        "2 of 3"
    ]
    whole = directory.read_result(finished_run)
    assert whole["num_nan_examples"] == 0
    assert "NaN" not in [row[0] for row in tables.result_table(whole)]


def test_sample_writes_an_array_and_a_picture(finished_run, tmp_path, capsys):
    base = str(tmp_path / "drawn")
    arguments = [str(finished_run), "--num-samples", "7", "--output", base]
    assert sample.main(arguments) == 0
    with np.load(base + ".npz") as archive:
        assert archive["samples"].shape == (7, 8, 8, 1)
    assert Path(base + ".png").stat().st_size > 1000
    assert sample.main(arguments) == 2
    assert "--output: " in capsys.readouterr().err
    other = str(tmp_path / "other.npz")
    assert sample.main([*arguments[:-1], other]) == 0
    assert Path(other).exists()
    again = [str(finished_run), "--num-samples", "7", "--seed", "5"]
    assert [sample.main(again), sample.main(again)] == [0, 2]
    with (
        np.load(other) as first,
        np.load(finished_run / "samples-seed-5.npz") as second,
    ):
        assert (first["samples"] != second["samples"]).any()
    assert re.search("--seed: .* exists already", capsys.readouterr().err)


def test_labels_are_of_their_examples_in_any_order():
    x, labels = np.arange(12, dtype=np.float32).reshape(4, 3), np.asarray([1, 0, 1, 2])
    digest = setup._labelled_digest(data.Split(x, labels))
    order = [2, 0, 3, 1]
    assert setup._labelled_digest(data.Split(x[order], labels[order])) == digest
    assert setup._labelled_digest(data.Split(x, labels[order])) != digest


def test_compare_prints_a_table_and_refuses_to_mix(finished_run, tmp_path, capsys):
    assert compare.main([str(finished_run), str(finished_run)]) == 0
    assert "bits/dim" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    result = json.loads((other / "result.json").read_text())
    digest = ("test_digest", "other", "different examples of 'digits'")
    labels = ("labels_digest", "other", "different labels of 'digits'")
    for name, value, *said in (
        ("observation", "binary"),
        ("data", "mnist"),
        ("conditional", True),
        ("target", "ring"),
        ("levels", 256),
        digest,
        labels,
    ):
        older = {key: result[key] for key in result if key != name}
        (other / "result.json").write_text(json.dumps(older))
        assert compare.main([str(finished_run), str(other)]) == 2
        said_of_older = f"{other} was made by an earlier version, which did not record"
        assert f"{said_of_older} {name};" in capsys.readouterr().err
        changed = {**result, name: value}
        (other / "result.json").write_text(json.dumps(changed))
        assert compare.main([str(finished_run), str(other)]) == 2
        line = capsys.readouterr().err
        assert "cannot be compared" in line
        assert (said or [name])[0] in line


@pytest.mark.slow
def test_a_conditional_run_on_files(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    make_idx_folder(folder)
    arguments = [
        "cvae-mnist",
        "--data.path",
        str(folder),
        "--data.num-validation",
        "5",
        "--train.num-steps",
        "4",
        "--train.eval-every",
        "2",
        "--train.batch-size",
        "8",
        "--model.hidden",
        "8",
        "--evaluation.num-importance-samples",
        "3",
        "--optimizer.warmup-steps",
        "1",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert train.main(arguments) == 0
    for extra, status in ((["--label", "3"], 0), (["--label", "12"], 2)):
        output = ["--output", str(tmp_path / f"drawn{status}")]
        assert sample.main([str(tmp_path / "run"), *extra, *output]) == status
    with np.load(tmp_path / "drawn0.npz") as drawn:
        assert drawn["labels"].tolist() == [3] * len(drawn["samples"])


@pytest.mark.parametrize(
    "preset",
    [
        "vae-mnist",
        pytest.param("iwae-mnist", marks=pytest.mark.slow),
        pytest.param("vae-conv-mnist", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_presets_train_on_files(tmp_path, preset):
    make_idx_folder(tmp_path)
    arguments = [
        preset,
        "--data.path",
        str(tmp_path),
        "--data.num-validation",
        "5",
        "--train.num-steps",
        "2",
        "--train.eval-every",
        "2",
        "--train.batch-size",
        "8",
        "--model.hidden",
        "8",
        *(["--model.channels", "2"] if preset == "vae-conv-mnist" else []),
        "--optimizer.warmup-steps",
        "1",
        "--evaluation.num-importance-samples",
        "3",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert train.main(arguments) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    grey = result["observation"] == "grey-bernoulli"
    assert (result["bits_per_dim"] is None) == grey


def command(run_dir, *extra):
    return [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        "vae-digits",
        "--train.num-steps",
        "100",
        "--train.eval-every",
        "5",
        "--model.hidden",
        "16",
        "--evaluation.num-importance-samples",
        "2",
        "--evaluation.num-elbo-samples",
        "1",
        "--run-dir",
        str(run_dir),
        *extra,
    ]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_parameters(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train.main(command(whole)[2:]) == 0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    generator, extra, kills = random.Random(0), (), 0
    for _ in range(2):
        process = subprocess.Popen(command(killed, *extra), **quiet)
        newest, goal = killed / "checkpoints", generator.randint(5, 30)
        deadline = time.monotonic() + 120
        before = last_step(newest)
        while process.poll() is None and time.monotonic() < deadline:
            if last_step(newest) >= before + goal:
                break
            time.sleep(generator.random() * 0.05)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        extra = ("--resume",)
    assert kills == 2
    assert train.main(command(killed, "--resume")[2:]) == 0
    with np.load(whole / "params.npz") as a, np.load(killed / "params.npz") as b:
        assert a.files == b.files
        for name in a.files:
            assert a[name].tobytes() == b[name].tobytes(), name
    for name in ("step", "train_elbo", "validation_bound"):
        assert column(whole, name) == column(killed, name)


def last_step(folder):
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return max(steps, default=0)


def column(run_dir, name):
    with (run_dir / "metrics.csv").open() as file:
        return [row[name] for row in csv.DictReader(file)]


def test_resuming_after_a_corrupt_checkpoint_says_so(finished_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    (run_dir / "result.json").unlink()
    damage(run_dir / "checkpoints" / "30")
    assert train.main([*QUICK, "--run-dir", str(run_dir), "--resume"]) == 0
    output = capsys.readouterr().out
    assert "checkpoint 30 cannot be read" in output
    assert "at step 20" in output
    with (
        np.load(run_dir / "params.npz") as a,
        np.load(finished_run / "params.npz") as b,
    ):
        assert all((a[name] == b[name]).all() for name in a.files)


def idx(damage):
    def arguments(tmp_path):
        make_idx_folder(tmp_path)
        images = tmp_path / "train-images-idx3-ubyte.gz"
        images.write_bytes(damage(images.read_bytes()))
        return ["vae-mnist", "--data.path", str(tmp_path)]

    return arguments


def npz(x):
    def arguments(tmp_path):
        np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
        return ["vae-digits", "--data.path", str(tmp_path / "own.npz")]

    return arguments


def labelled(tmp_path, **labels):
    x = np.zeros((2, 2, 2), int)
    y = np.array([0, 1])
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x, y_train=y, **labels)
    path = ["--data.path", str(tmp_path / "own.npz")]
    extra = ["--data.num-validation", "0", "--train.patience", "0"]
    return ["vae-digits", *path, *extra, "--model.conditional"]


def occupied(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    return ["vae-digits"]


BAD_INPUT = {
    "unknown preset": (["vae-digit"], r"vae-digit.*subcommands: vae-digits"),
    "no preset": ([], r"Expected one of \{vae-digits"),
    "unknown flag": (
        ["vae-digits", "--train.num-step", "3"],
        r"did you mean --train\.num-steps",
    ),
    "wrong type": (["vae-digits", "--train.num-steps", "many"], r"--train\.num-steps"),
    "wrong choice": (["vae-digits", "--objective.name", "x"], r"--objective\.name"),
    "unknown data set": (
        ["vae-digits", "--data.name", "nothing_like_it"],
        r"data\.name 'nothing_like_it'.*--data\.path",
    ),
    "K below 1": (
        ["vae-digits", "--evaluation.num-importance-samples", "0"],
        r"evaluation\.num-importance-samples must be at least 1; got 0",
    ),
    "training K below 1": (
        ["vae-digits", "--objective.num-samples", "0"],
        r"objective\.num-samples must be at least 1",
    ),
    "batch below 1": (
        ["vae-digits", "--train.batch-size", "0"],
        r"train\.batch-size must be at least",
    ),
    "steps below 1": (
        ["vae-digits", "--train.num-steps", "-3"],
        r"train\.num-steps must be at least",
    ),
    "learning rate": (
        ["vae-digits", "--optimizer.learning-rate", "0"],
        r"optimizer\.learning-rate must be positive; got 0",
    ),
    "steps beyond an integer": (
        ["vae-digits", "--train.num-steps", "3000000000"],
        r"train\.num-steps must be below 2\^31; got 3000000000",
    ),
    "seed": (
        ["vae-digits", "--seed", str(2**32)],
        r"seed must be from 0 to 2\^32 - 1; got 4294967296",
    ),
    "a decay that float32 rounds to 1": (
        ["vae-digits", "--optimizer.b2", "0.99999999999"],
        r"optimizer\.b2 must be at least 0 and below 1; got 0\.99999999999",
    ),
    "a number that float32 rounds to 0": (
        ["vae-digits", "--optimizer.eps", "1e-300"],
        r"optimizer\.eps must be positive; got 1e-300",
    ),
    "a folder that is too long a name": (
        ["vae-digits", "--data.path", "x" * 300],
        r"File name too long",
    ),
    "a flag of another network": (
        ["vae-digits", "--model.channels", "64"],
        r"model\.channels is for model\.architecture conv or ladder or vdm-unet or "
        r"ddpm-unet alone; with model\.architecture 'mlp' nothing reads it",
    ),
    "a flag of another family": (
        ["vae-digits", "--diffusion.num-steps", "5"],
        r"diffusion\.num-steps is for model\.family diffusion alone; .* 'vae' nothing",
    ),
    "a precision that nothing has": (
        ["vae-digits", "--model.precision", "bfloat16"],
        r"model\.precision is for model\.family diffusion alone; .* 'vae' nothing",
    ),
    "learning rate NaN": (
        ["vae-digits", "--optimizer.learning-rate", "nan"],
        r"optimizer\.learning-rate must be positive",
    ),
    "likelihood": (
        ["vae-digits", "--model.likelihood", "bernoulli"],
        r"model\.likelihood must be categorical or discretized_logistic",
    ),
    "labels missing": (
        lambda tmp_path: [
            *npz(np.zeros((4, 2, 2), int))(tmp_path),
            "--model.conditional",
            "--data.num-validation",
            "1",
        ],
        r"model\.conditional needs labels",
    ),
    "truncated IDX": (idx(lambda content: content[:-50]), r"damaged or cut short"),
    "wrong magic": (
        idx(lambda content: __import__("gzip").compress(b"\0\0\x08\x01" * 9)),
        r"magic number",
    ),
    "NaN in npz": (npz(np.full((3, 2), np.nan)), r"own\.npz: x_\w+ holds NaN"),
    "dtype of npz": (npz(np.array(["a"])), r"own\.npz: x_\w+ has dtype"),
    "range of npz": (npz(np.full((3, 2), 300)), r"own\.npz: levels run from 300"),
    "missing folder": (
        ["vae-mnist", "--data.path", "nowhere/at/all"],
        r"data\.path .* does not exist",
    ),
    "image size": (
        lambda tmp_path: [
            *npz(np.zeros((4, 6, 6, 1), int))(tmp_path),
            "--model.architecture",
            "conv",
            "--data.num-validation",
            "1",
        ],
        r"height and width divisible by 4",
    ),
    "patience": (
        lambda tmp_path: [
            *npz(np.zeros((4, 2, 2), int))(tmp_path),
            "--data.num-validation",
            "0",
        ],
        r"train\.patience needs a validation split",
    ),
    "label out of range": (
        lambda tmp_path: labelled(tmp_path, y_test=np.array([0, 7])),
        r"model\.conditional needs labels 0 \.\. 1 .* the test split",
    ),
    "labels of test missing": (labelled, r"model\.conditional .* the test split"),
    "occupied run": (occupied, r"--run-dir .* already holds files.*--resume"),
    "gradient of another bound": (
        ["vae-digits", "--objective.gradient", "dreg"],
        r"objective\.gradient must be pathwise or .* got 'dreg'",
    ),
    "a baseline of nothing": (
        ["vae-digits", "--objective.gradient", "score-function"],
        r"objective\.num-samples must be at least 2",
    ),
    "dropout under drawn weights": (
        ["vae-digits", "--objective.gradient", "sticking-the-landing"],
        r"model\.dropout must be 0 .*'sticking-the-landing'.* got 0\.2",
    ),
    "missing integers": (
        ["vae-digits", "--data.missing", "nan"],
        r"data\.missing 'nan' needs data\.observation 'density'",
    ),
    "gammas in no order": (
        ["vdm-digits", "--diffusion.gamma-min", "5", "--diffusion.gamma-max", "5"],
        r"diffusion\.gamma-min must be less than diffusion\.gamma-max",
    ),
    "no step": (
        ["vdm-digits", "--diffusion.num-steps", "0"],
        r"diffusion\.num-steps must be at least 1; got 0",
    ),
    "noise from noise": (
        [
            "vdm-digits",
            "--diffusion.head",
            "eps",
            "--diffusion.degree",
            "0",
            "--diffusion.gamma-max",
            "25",
        ],
        r"diffusion\.gamma-max must be less than 20 with diffusion\.head 'eps'",
    ),
    "an image that cannot be halved so often": (
        [
            "vdm-digits",
            "--model.architecture",
            "ddpm-unet",
            "--model.multipliers",
            "1",
            "1",
            "1",
            "1",
            "1",
        ],
        r"divisible by 16, halved 4 times; got \(8, 8, 1\); use fewer",
    ),
    "networks of another family": (
        ["vdm-digits", "--model.architecture", "conv"],
        r"model\.architecture must be mlp or vdm-unet or ddpm-unet for model\.family",
    ),
    "a diffusion of bits": (
        ["vdm-digits", "--data.observation", "binary"],
        r"data\.observation must be levels or density for model\.family 'diffusion'",
    ),
    "several widths": (
        ["vdm-digits", "--model.hidden", "8", "16", "--model.architecture", "mlp"],
        r"model\.hidden must be one width",
    ),
    "a diffusion by its weights": (
        ["vdm-digits", "--objective.name", "iwae"],
        r"objective\.name must be elbo or weighted",
    ),
    "a schedule learned from no bound": (
        [
            "vdm-digits",
            "--objective.name",
            "weighted",
            "--diffusion.schedule",
            "monotone",
        ],
        r"diffusion\.schedule must be a fixed one for objective\.name 'weighted'",
    ),
    "no interior to learn": (
        ["vdm-digits", "--objective.gradient", "least-variance"],
        r"'least-variance' needs diffusion\.schedule polynomial or monotone",
    ),
    "a plane is no image": (
        """vdm-digits --data.name two-moons --data.observation density
        --diffusion.head v --diffusion.degree 0 --diffusion.decoder normal
        --model.architecture vdm-unet""".split(),  # noqa: SIM905
        r"needs images \(height, width, channels\); these data are \(2,\)",
    ),
    "an interior that the bound does not see": (
        ["vdm-digits", "--diffusion.schedule", "monotone"],
        r"objective\.gradient must be 'least-variance' for diffusion\.schedule poly",
    ),
    "a decoder of reals": (
        ["vdm-digits", "--diffusion.decoder", "normal"],
        r"diffusion\.decoder must be categorical or discretized_normal for levels",
    ),
    "attention nowhere": (
        ["vdm-digits", "--model.attention", "9"],
        r"model\.attention must name resolutions",
    ),
    "draws that are not drawn": (
        ["ddpm-digits", "--objective.num-samples", "4"],
        r"objective\.num-samples must be 1 for objective\.name 'weighted'",
    ),
    "tilts of nothing": (
        ["vdm-digits", "--diffusion.head", "v"],
        r"diffusion\.degree must be 0 without diffusion\.head 'categorical'",
    ),
    "a plane has no sides": (
        ["flow-2d", "--data.mirror"],
        r"data\.mirror needs images; these examples are \(2,\)",
    ),
    "weights without a diffusion": (
        ["vae-digits", "--objective.name", "weighted"],
        r"objective\.name must be elbo or iwae for model\.family 'vae'; got 'weighted'",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line(tmp_path, capsys, name):
    check_one_line(tmp_path, capsys, *BAD_INPUT[name])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], r"already holds files"),
        (["--resume", "--optimizer.b1", "0.5"], r"another optimizer\.b1 \(0\.9 before"),
        (["--resume", "--train.num-steps", "77"], r"with --train\.init-from to go on"),
    ],
    ids=["not resumed", "another configuration", "longer"],
)
def test_a_finished_run_is_never_overwritten(finished_run, capsys, extra, message):
    before = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*")}
    assert train.main([*QUICK, "--run-dir", str(finished_run), *extra]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert before == {p: p.stat().st_mtime_ns for p in finished_run.rglob("*")}


def test_resuming_a_finished_run_changes_nothing(finished_run, capsys):
    before = (finished_run / "result.json").read_bytes()
    assert train.main([*QUICK, "--run-dir", str(finished_run), "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (finished_run / "result.json").read_bytes() == before


@pytest.mark.slow
def test_other_data_than_the_runs_are_refused(tmp_path, capsys):
    archive, run_dir = tmp_path / "own.npz", tmp_path / "run"
    x = np.random.default_rng(0).integers(0, 17, (40, 4))
    splits = {"x_train": x[:35], "x_valid": x[35:], "x_test": x[:5]}
    np.savez(archive, **splits, levels=17)
    arguments = [*QUICK, "--data.path", str(archive), "--run-dir", str(run_dir)]
    assert train.main(arguments) == 0
    (run_dir / "result.json").unlink()
    for digest, other in (
        ("test_digest", {"x_test": x[5:10]}),
        ("train_digest", {"x_train": np.roll(x[:35], 1)}),
        ("validation_digest", {"x_valid": 16 - x[35:]}),
    ):
        np.savez(archive, **(splits | other), levels=17)
        for again in (
            lambda: train.main([*arguments, "--resume"]),
            lambda: evaluate.main([str(run_dir)]),
        ):
            assert again() == 2
            message = capsys.readouterr().err
            assert f"made with other data ({digest}" in message


@pytest.mark.slow
def test_iwae_is_chosen_by_its_own_bound(tmp_path):
    make_idx_folder(tmp_path)
    arguments = [
        "iwae-mnist",
        "--data.path",
        str(tmp_path),
        "--data.num-validation",
        "5",
        "--train.num-steps",
        "4",
        "--train.eval-every",
        "2",
        "--train.batch-size",
        "8",
        "--model.hidden",
        "8",
        "--objective.num-samples",
        "50",
        "--evaluation.num-importance-samples",
        "3",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert train.main(arguments) == 0
    config, _ = directory.read_config(tmp_path / "run")
    prepared = experiment.prepare(config)
    _, params = vgm.load(tmp_path / "run")
    stored = setup.stored_batch(prepared, prepared.dataset.validation)
    bounds = likelihood.example_bounds(
        setup.run_keys(config).validation,
        params,
        jax.tree.map(np.asarray, stored),
        model=prepared.model,
        observe=prepared.observe,
        batch_size=5,
        num_samples=50,
        chunk_size=7,  # another than the run's: the draws are the same
    )
    result = directory.read_result(tmp_path / "run")
    np.testing.assert_allclose(
        result["validation_bound_nats"], np.mean(bounds), rtol=1e-5
    )


@pytest.mark.slow
def test_a_convolutional_vae_uses_its_latents(tmp_path):
    """With relu units its posterior stayed the prior, and it the best of no latents."""
    arguments = ["vae-conv-mnist", "--data.name", "digits", "--data.num-validation"]
    arguments += [
        "0",
        "--train.patience",
        "0",
        "--model.channels",
        "8",
        "--model.hidden",
    ]
    arguments += ["64", "--model.latent-dim", "8", "--train.num-steps", "800"]
    arguments += ["--train.eval-every", "400", "--train.batch-size", "64"]
    arguments += ["--optimizer.learning-rate", "3e-3", "--optimizer.ema-decay", "0.99"]
    arguments += ["--evaluation.no-evidence", "--run-dir", str(tmp_path / "run")]
    assert train.main(arguments) == 0
    result = directory.read_result(tmp_path / "run")
    assert result["prior_matching_nats"] > 2.0
    assert result["bits_per_dim"] < result["baseline_bits_per_dim"] - 0.04


@pytest.mark.slow
def test_training_sees_mirrored_images_and_the_test_does_not(finished_run, tmp_path):
    assert train.main([*QUICK, "--data.mirror", "--run-dir", str(tmp_path / "m")]) == 0
    plain, mirrored = (
        directory.read_result(run)["baseline_bits_per_dim"]
        for run in (finished_run, tmp_path / "m")
    )
    assert plain == mirrored
    (_, before), (_, after) = (vgm.load(run) for run in (finished_run, tmp_path / "m"))
    first = [jax.tree.leaves(params)[0] for params in (before, after)]
    assert not np.allclose(*first, atol=1e-3)
    prepared = experiment.prepare(directory.read_config(tmp_path / "m")[0])
    x = jax.numpy.asarray(prepared.dataset.test.x)
    np.testing.assert_array_equal(prepared.observe(jax.random.key(0), x), x)


def test_a_bound_that_is_not_finite_is_never_the_best():
    best = fitting.Best(None, None, 0, 0)
    for n, bound in enumerate([float("nan"), -100.0, -90.0, float("inf")]):
        best = fitting._better(best, {"a": n}, bound, n)
    assert best == fitting.Best({"a": 2}, -90.0, 2, 1)
    # Where none has been finite, the newest parameters are kept.
    never = fitting.Best({"a": 1}, None, 1, 1)
    kept = fitting._better(never, {"a": 2}, float("-inf"), 2)
    assert kept == fitting.Best({"a": 2}, None, 2, 2)


@pytest.mark.parametrize("script", [evaluate, sample, compare])
def test_scripts_name_a_folder_without_a_run(tmp_path, capsys, script):
    assert script.main([str(tmp_path)]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert str(tmp_path) in captured


def test_load_names_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        vgm.load(tmp_path)


def copied(finished_run, tmp_path, *removed):
    """A run of one's own, without some of its files."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run, run_dir)
    for name in removed:
        path = run_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run_dir


def test_a_damaged_checkpoint_changes_no_finished_run(finished_run, tmp_path, capsys):
    """Its parameters are in a file of their own; without it one is told."""
    _, expected = vgm.load(finished_run)
    run_dir = copied(finished_run, tmp_path)
    damage(run_dir / "checkpoints" / "30")
    chex.assert_trees_all_equal(vgm.load(run_dir)[1], expected)
    (run_dir / "params.npz").unlink()
    warned = []
    directory.load(run_dir, warn=warned.append)
    assert "not trained to its end" in warned[0]
    assert "checkpoint 30 in" in warned[1]
    out = tmp_path / "drawn"
    arguments = [str(run_dir), "--num-samples", "2", "--output", str(out)]
    assert sample.main(arguments) == 0
    assert capsys.readouterr().err.count("warning: ") == 2
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(UserError, match="no readable checkpoint"):
        directory.load(run_dir, warn=lambda line: None)


def test_parameters_of_another_model_are_refused(finished_run, tmp_path):
    run_dir = copied(finished_run, tmp_path)
    storage.save_params(run_dir / "params.npz", {"other": np.zeros(2)})
    with pytest.raises(UserError, match="the parameters of another model"):
        vgm.load(run_dir)


def test_a_run_is_of_one_process(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with storage.alone(tmp_path / "run"):
        assert train.main([*QUICK, "--run-dir", str(tmp_path / "run")]) == 2
    assert "in use by another process" in capsys.readouterr().err
    assert not any((tmp_path / "run").iterdir())
    with storage.alone(tmp_path / "run"):  # free again
        pass


def test_lost_metrics_are_said_to_be(finished_run, tmp_path, capsys):
    run_dir = copied(finished_run, tmp_path, "result.json", "metrics.csv")
    assert train.main([*QUICK, "--run-dir", str(run_dir), "--resume"]) == 0
    out = capsys.readouterr().out
    assert "metrics.csv is gone" in out
    assert "30 steps, - a second" in out
    assert json.loads((run_dir / "result.json").read_text())["steps_per_second"] is None


DAMAGED = {
    "config.json": (b"\xff\xfe", b'{"config": [], "data_form": {}}', b"[]"),
    "result.json": (b"[]", b"{}", b"{"),
    "likelihoods.npz": (b"", b"PK\x03\x04"),
    "params.npz": (b"", b"PK\x03\x04"),
    "metrics.csv": (b"step,train_bound\n1,word\n", b"bound\n1\n"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_of_a_run_are_named(finished_run, tmp_path, capsys, name):
    run_dir = copied(finished_run, tmp_path)
    if name == "metrics.csv":
        (run_dir / "result.json").unlink()
    script, *arguments = {
        "config.json": (evaluate, str(run_dir)),
        "result.json": (compare, str(finished_run), str(run_dir)),
        "likelihoods.npz": (compare, str(finished_run), str(run_dir)),
        "params.npz": (sample, str(run_dir), "--output", str(tmp_path / "drawn")),
        "metrics.csv": (train, *QUICK, "--run-dir", str(run_dir), "--resume"),
    }[name]
    for content in DAMAGED[name]:
        (run_dir / name).write_bytes(content)
        assert script.main(arguments) == 2
        message = capsys.readouterr().err
        assert re.fullmatch(rf"error: .*{re.escape(name)} is damaged.*\n", message)


def test_data_may_move_and_labels_are_data(tmp_path, capsys):
    """A run goes on with its data elsewhere; with other labels it does not."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (40, 4))
    labels = rng.integers(0, 2, 40)
    for name, test_labels in (
        ("a", labels[:5]),
        ("moved", labels[:5]),
        ("b", 1 - labels[:5]),
    ):
        np.savez(
            tmp_path / f"{name}.npz",
            **{"x_train": x, "x_valid": x[:5], "x_test": x[:5], "levels": 17},
            **{"y_train": labels, "y_valid": labels[:5], "y_test": test_labels},
        )
    run = [*QUICK, "--model.conditional", "--run-dir", str(tmp_path / "run")]
    assert train.main([*run, "--data.path", str(tmp_path / "a.npz")]) == 0
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "a.npz").unlink()
    capsys.readouterr()
    assert train.main([*run, "--data.path", str(tmp_path / "b.npz"), "--resume"]) == 2
    assert "made with other data (labels_digest" in capsys.readouterr().err
    moved = ["--data.path", str(tmp_path / "moved.npz")]
    assert train.main([*run, *moved, "--resume"]) == 0


def test_of_one_example_nothing_varies(finished_run):
    prepared = experiment.results.of_run(finished_run)
    _, params = vgm.load(finished_run)
    test = setup.stored_batch(prepared, prepared.dataset.test)

    def active(count):
        some = jax.tree.map(lambda leaf: leaf[:count], test)
        return experiment.results._active_units(prepared, prepared.model, params, some)

    assert active(1) is None
    assert isinstance(active(9), int)


def test_a_terminal_without_a_sign_gets_another(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.guarded(lambda: print("1 ± 0")) == 0
    assert written.getvalue() == b"1 ? 0\n"


def test_a_script_names_what_the_system_refuses(capsys):
    def full():
        raise OSError(28, "No space left on device", "runs/x")

    def greedy():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    for failing, said in (
        (full, "runs/x: No space left"),
        (greedy, "not enough memory"),
    ):
        assert cli.guarded(failing) == 2
        assert re.fullmatch(f"error: {said}.*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_a_run_that_ends_in_nan_is_no_result(tmp_path, capsys):
    """Every gradient was finite, and the parameters too large for any bound."""
    run_dir = tmp_path / "run"
    arguments = [
        *(*QUICK, "--train.num-steps", "1", "--train.eval-every", "1"),
        *("--optimizer.learning-rate", "1e30", "--optimizer.warmup-steps", "0"),
        *("--optimizer.schedule", "constant", "--optimizer.weight-decay", "0"),
    ]
    assert train.main([*arguments, "--run-dir", str(run_dir)]) == 2
    assert "the ELBO of the test split is NaN" in capsys.readouterr().err
    assert not (run_dir / "result.json").exists()


@pytest.mark.slow
def test_divergence_is_named(tmp_path, capsys):
    arguments = [*QUICK, "--optimizer.learning-rate", "1e30"]
    assert train.main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    assert "training diverged" in capsys.readouterr().err


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    storage.write_rows(tmp_path / "rows.csv", [{"step": 1}])
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        storage.write_rows(tmp_path / "rows.csv", [{"step": 2}, {"b": 3}])
    assert storage.read_rows(tmp_path / "rows.csv", last_step=9) == [{"step": 1}]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, False),
        ({"num_importance_samples": 5}, True),
        ({"num_importance_samples": 5, "evidence": False}, False),
        ({"evidence": True}, True),
    ],
)
def test_asking_for_k_asks_for_the_evidence(flags, expected):
    _, config = configs.PRESETS["vdm-mnist"]
    args = evaluate.Arguments(Path("run"), **flags)
    assert evaluate.changed(config, args).evaluation.evidence is expected


def test_whoever_interrupts_is_told_how_to_go_on(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.guarded(interrupted, remedy="; go on") == 130
    assert capsys.readouterr().err == "interrupted; go on\n"


def test_output_that_nobody_reads_ends_a_script_quietly(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert cli.guarded(lambda: print("a table")) == 141
    # What is left in the buffer went nowhere, without an error.
    assert capsys.readouterr().err == ""


def test_help_is_readable(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["vae-digits", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        "--data.name",
        "--data.path",
        "--train.num-steps",
        "--train.batch-size",
        "--optimizer.learning-rate",
        "--seed",
        "--run-dir",
        "--resume",
    ):
        assert flag in text
    # Paragraphs are filled: the source's line breaks are not the terminal's.
    assert "flow.target), or any TFDS image set" in text
    assert "What is observed." in text


@pytest.mark.parametrize("preset", configs.PRESETS)
def test_configurations_survive_json(preset):
    _, config = configs.PRESETS[preset]
    configs.validate(config)
    plain = json.loads(json.dumps(configs.to_dict(config)))
    assert configs.from_dict(plain) == config
    assert configs.changed_fields(config, configs.from_dict(plain)) == []


def test_the_json_of_a_result_has_no_nan(tmp_path):
    storage.write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.0]}


def test_a_split_that_is_none_is_refused(finished_run):
    with pytest.raises(UserError, match="split must be one of train, validation, test"):
        vgm.observations(finished_run, "valid")


def test_a_run_that_was_begun_with_an_unread_flag_goes_on(
    finished_run, tmp_path, capsys
):
    """As earlier versions began some; a new one is refused."""
    run_dir = copied(finished_run, tmp_path)
    content = json.loads((run_dir / "config.json").read_text())
    content["config"]["latent"]["num_components"] = 7
    (run_dir / "config.json").write_text(json.dumps(content))
    arguments = [*QUICK, "--latent.num-components", "7", "--resume", "--run-dir"]
    assert train.main([*arguments, str(run_dir)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert evaluate.main([str(run_dir), "--num-importance-samples", "2"]) == 0
    assert train.main([*arguments, str(tmp_path / "new")]) == 2
    assert "nothing reads it" in capsys.readouterr().err

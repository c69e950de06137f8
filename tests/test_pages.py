"""The Python of README.md and docs/own-model.md runs from top to bottom."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import train

ROOT = Path(__file__).parents[1]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(page, chosen):
    """Its blocks in one namespace: the namespace afterwards."""
    names = {"__name__": "page"}
    with jax.numpy_rank_promotion("allow"):  # as it is unless somebody forbids it
        for block in filter(chosen, blocks(page)):
            exec(compile(block, page, "exec"), names)
    return names


def test_the_readme_runs(capsys):
    names = run("README.md", lambda block: "runs/" not in block)
    assert int(names["state"].step) == 60
    assert names["log_evidence"].shape == (512,)
    assert jnp.isfinite(names["log_w"]).all()
    lines = capsys.readouterr().out.splitlines()
    bounds = [float(line.split()[1]) for line in lines[:3]]
    assert bounds == sorted(bounds)
    assert "passes" in lines[3]


def test_a_model_of_ones_own_reaches_the_evidence():
    names = run("docs/own-model.md", lambda block: True)
    # Factors with 0.3 of noise: their own normal is the best there is.
    assert abs(float(names["evidence"] - names["best"])) < 0.05


@pytest.mark.parametrize("page", sorted((ROOT / "notebooks").glob("0*.py")))
def test_notebooks_are_their_scripts(page):
    """Whoever edits one runs the other: CONTRIBUTING says how."""
    jupytext = pytest.importorskip("jupytext")
    both = (jupytext.read(page.with_suffix(end)) for end in (".py", ".ipynb"))
    script, notebook = ([cell.source for cell in each.cells] for each in both)
    assert notebook == script


@pytest.mark.slow
def test_the_readme_loads_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for preset in ("vae-digits", "hvae-digits"):
        few = ["--train.num-steps", "4", "--train.eval-every", "4"]
        assert train.main([preset, *few, "--run-dir", f"runs/{preset}"]) == 0
    names = run("README.md", lambda block: "training" not in block)
    assert names["redrawn"][0].shape == names["latents"][0].shape

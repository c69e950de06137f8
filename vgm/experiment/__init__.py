"""One configuration in, one run directory out."""

from typing import Any

from vgm import configs
from vgm.experiment import directory as directory
from vgm.experiment import fitting as fitting
from vgm.experiment import pictures as pictures
from vgm.experiment import results as results
from vgm.experiment import setup as setup
from vgm.experiment import storage as storage
from vgm.experiment import tables as tables
from vgm.experiment.directory import load as load
from vgm.experiment.reporter import Progress as Progress
from vgm.experiment.reporter import Reporter as Reporter
from vgm.experiment.results import evaluate as evaluate
from vgm.experiment.setup import Experiment as Experiment
from vgm.experiment.setup import prepare as prepare


def run(config: configs.Config, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train, evaluate and report.

    Args:
        config: Configuration.
        reporter: Where to talk to.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: If the input cannot be used, or training diverges.
    """
    reporter = reporter or Reporter()
    configs.validate(config)
    # What was begun says what it was begun with.
    if not directory.has_begun(directory.run_directory(config)):
        configs.require_read(config)
    experiment = prepare(config)
    config = experiment.config
    if not directory.has_begun(directory.run_directory(config)):
        directory.require_source(experiment)
    run_dir = directory.claim(config)
    with storage.alone(run_dir):
        if not (run_dir / "config.json").exists():
            directory.write_config(run_dir, config, experiment.form)
        directory.require_same_data(run_dir, experiment.form)
        finished = run_dir / "result.json"
        if finished.exists():
            reporter.say(f"{run_dir} is finished already; its result is unchanged")
            return directory.read_result(run_dir)
        reporter.say(tables.examples(experiment))
        if (warning := tables.repeated(experiment)) is not None:
            reporter.say(warning)
        fit = fitting.train(experiment, run_dir, reporter)
        storage.save_params(run_dir / "params.npz", fit.best.params)
        return results.report(experiment, run_dir, fit, reporter)

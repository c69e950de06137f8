"""Train a preset, report its test likelihood: scripts/train.py PRESET [--overrides]."""

import sys

from vgm import cli, configs, experiment
from vgm.experiment import directory, tables


def main(arguments: list[str] | None = None) -> int:
    remedy = "; go on with the same command and --resume"
    return cli.guarded(lambda: train(arguments), remedy=remedy)


def train(arguments: list[str] | None) -> None:
    config = cli.parse_preset(
        configs.PRESETS,
        arguments,
        prog="train.py",
        description="Train a variational generative model and report its likelihood.",
    )
    cli.enable_compilation_cache()
    with cli.reporting() as reporter:
        result = experiment.run(config, reporter)
    run_dir = directory.run_directory(config)
    cli.print_table(
        f"{result['preset']} on {result['data']} ({result['observation']})",
        tables.result_table(result),
        header=("quantity", "value", "how"),
    )
    print(f"report: {run_dir / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())

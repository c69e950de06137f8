"""Report the likelihood of a run again: scripts/evaluate.py RUN [--options]."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vgm import cli, experiment, runs
from vgm.errors import UserError

try:
    from tyro.conf import Positional
except ImportError:  # cli.parse says what to install
    Positional = Annotated


@dataclass(frozen=True)
class Arguments:
    """Report the likelihood of a run, with another K or on another split."""

    run: Positional[Path]
    """Folder made by scripts/train.py."""
    split: Literal["test", "validation"] = "test"
    """Split to evaluate."""
    num_importance_samples: int | None = None
    """K of the evidence; the run's own if not given."""
    data_path: Path | None = None
    """Where the data are now, if they moved."""
    output: Path | None = None
    """File for the numbers, as JSON; it must not exist."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: evaluate(arguments))


def evaluate(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="evaluate.py")
    if args.output is not None and args.output.exists():
        raise UserError(f"--output {args.output} exists; give another file")
    cli.enable_compilation_cache()
    config, _ = runs.read_config(args.run)
    if args.data_path is not None:
        moved = dataclasses.replace(config.data, path=args.data_path)
        config = dataclasses.replace(config, data=moved)
    if args.num_importance_samples is not None:
        changed = dataclasses.replace(
            config.evaluation, num_importance_samples=args.num_importance_samples
        )
        config = dataclasses.replace(config, evaluation=changed)
    prepared = experiment.prepare(config)
    _, params = runs.load(args.run)
    with cli.reporting() as reporter:
        numbers, _ = experiment.evaluate(
            prepared, params, split=args.split, reporter=reporter
        )
    rows = experiment.result_table(numbers)
    cli.print_table(f"{args.run}", rows, header=("quantity", "value", "how"))
    if args.output is not None:
        runs.write_json(args.output, numbers)


if __name__ == "__main__":
    sys.exit(main())

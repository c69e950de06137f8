"""Report the likelihood of a run again: scripts/evaluate.py RUN [--options]."""

import dataclasses
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vgm import cli, configs, experiment
from vgm.errors import UserError
from vgm.experiment import numbers, results, storage, tables


@dataclass(frozen=True)
class Arguments:
    """Report the likelihood of a run, with another K or on another split."""

    run: Path
    """Folder made by scripts/train.py."""
    split: Literal["test", "validation"] = "test"
    """Split to evaluate."""
    num_importance_samples: int | None = None
    """K of the evidence; the run's own if not given."""
    data_path: Path | None = None
    """Where the data are now, if they moved."""
    precision: Literal["float32", "bfloat16"] | None = None
    """What a diffusion's network is computed in; as it was trained if not given."""
    evidence: bool | None = None
    """Whether to estimate the evidence too; where not given, if K is or as the run
    did."""
    surgery: bool = False
    """Split the divergence into information and mismatch of the prior."""
    output: Path | None = None
    """File for the numbers, as JSON; it must not exist."""


_SURGERY = {
    "average_kl": "mean KL(q(z | x) ‖ p(z)), at most 2000 examples",
    "mutual_information": "of z and which example, 1 draw each; at most log of their "
    "number",
    "marginal_kl": "KL(mean of q(z | x) ‖ p(z))",
}


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: evaluate(arguments))


def evaluate(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="evaluate.py")
    if args.output is not None:
        storage.require_new_file(args.output, "--output")
    cli.enable_compilation_cache()
    change = functools.partial(changed, args=args)
    prepared = results.of_run(args.run, args.data_path, change=change)
    asked = args.num_importance_samples is not None or args.evidence
    if asked and numbers.is_exact(prepared.model):
        raise UserError(
            "--num-importance-samples and --evidence: log p(x) of this model is exact; "
            "drop them"
        )
    _, params = experiment.load(args.run, warn=cli.warn)
    parts: dict[str, float] = {}
    if args.surgery:
        cut = results.dissect(prepared, params, split=args.split)
        parts = {name: float(value) for name, value in cut._asdict().items()}
    with cli.reporting() as reporter:
        found, _ = experiment.evaluate(
            prepared, params, split=args.split, reporter=reporter
        )
    rows = tables.result_table(found)
    for name, value in parts.items():
        found[f"{name}_nats"] = value
        rows.append(
            (name.replace("_", " "), f"{tables.number(value, 2)} nats", _SURGERY[name])
        )
    cli.print_table(f"{args.run}", rows, header=("quantity", "value", "how"))
    if args.output is not None:
        storage.write_json(args.output, found)


def changed(config: configs.Config, args: Arguments) -> configs.Config:
    """The run's configuration with what the flags change of its evaluation."""
    model, evaluation = config.model, config.evaluation
    if args.precision is not None:
        model = dataclasses.replace(model, precision=args.precision)
    if args.num_importance_samples is not None:
        count = args.num_importance_samples
        evaluation = dataclasses.replace(evaluation, num_importance_samples=count)
    evidence = args.evidence
    if evidence is None and args.num_importance_samples is not None:
        evidence = True
    if evidence is not None:
        evaluation = dataclasses.replace(evaluation, evidence=evidence)
    after = dataclasses.replace(config, model=model, evaluation=evaluation)
    configs.require_read(after, before=config)
    return after


if __name__ == "__main__":
    sys.exit(main())

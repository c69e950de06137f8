"""One table over runs: scripts/compare.py RUN..."""

import sys
from dataclasses import dataclass
from pathlib import Path

from vgm import cli
from vgm.errors import UserError
from vgm.experiment import directory

SAME = ("observation", "binarization", "data", "split")


@dataclass(frozen=True)
class Arguments:
    """Compare finished runs that observe the same data in the same way."""

    runs: tuple[Path, ...]
    """Folders made by scripts/train.py."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: compare(arguments))


def compare(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="compare.py")
    if not args.runs:
        raise UserError("give at least one run: compare.py RUN...")
    results = [(path, directory.read_result(path)) for path in args.runs]
    first_path, first = results[0]
    for path, result in results[1:]:
        for name in SAME:
            if result[name] != first[name]:
                raise UserError(
                    f"{path} has {name} {result[name]!r}, {first_path} has "
                    f"{first[name]!r}: their numbers cannot be compared; compare runs "
                    f"of one {name}"
                )
    bits = first["bits_per_dim"] is not None
    rows = [_row(str(path), result, bits=bits) for path, result in results]
    baseline = ["independent pixels", "", f"{first['baseline_nats']:.2f}", ""]
    if bits:
        baseline.append(f"{first['baseline_bits_per_dim']:.3f}")
    rows.append([*baseline, "", "", ""])
    cli.print_table(
        f"{first['data']} ({first['observation']}), {first['num_examples']} "
        f"{first['split']} examples; nats an example, ± standard error",
        rows,
        header=_header(bits=bits),
    )


def _header(*, bits: bool) -> list[str]:
    header = ["run", "ELBO", "log evidence", "K"]
    if bits:
        header.append("bits/dim")
    return [*header, "parameters", "steps", "training s"]


def _row(name: str, result: dict, *, bits: bool) -> list[str]:
    row = [
        name,
        f"{result['elbo_nats']:.2f} ± {result['elbo_stderr']:.2f}",
        f"{result['log_evidence_nats']:.2f} ± {result['log_evidence_stderr']:.2f}",
        str(result["num_importance_samples"]),
    ]
    if bits:
        row.append(
            f"{result['bits_per_dim']:.3f} ± {result['bits_per_dim_stderr']:.3f}"
        )
    return [
        *row,
        f"{result['num_params']:,}",
        str(result["train_steps"]),
        f"{result['train_seconds']:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())

"""One table over runs: scripts/compare.py RUN..."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgm import cli
from vgm.errors import UserError
from vgm.evaluation import estimates, figures
from vgm.experiment import directory, numbers, storage
from vgm.experiment.tables import number

DIGESTS = {"test_digest": "examples", "labels_digest": "labels"}
SAME = ["observation", "binarization", "data", "split", "conditional", "target"]
SAME += ["levels", *DIGESTS]


@dataclass(frozen=True)
class Arguments:
    """Compare finished runs that observe the same data in the same way."""

    runs: tuple[Path, ...]
    """Folders made by scripts/train.py."""
    figure: Path | None = None
    """PNG file for a picture of the numbers; it must not exist."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: compare(arguments))


def compare(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="compare.py")
    if not args.runs:
        raise UserError("give at least one run: compare.py RUN...")
    if args.figure is not None:
        storage.require_new_file(args.figure, "--figure")
        if args.figure.suffix != ".png":
            raise UserError(f"--figure {args.figure}: give a name that ends in .png")
    finished = [(path, directory.read_result(path)) for path in args.runs]
    _require_comparable(finished)
    first_path, first = finished[0]
    bits = numbers.is_mass(first["observation"])
    rows = [
        _row(str(path), result, _difference(path, first_path), bits=bits)
        for path, result in finished
    ]
    if first["baseline_nats"] is not None:
        baseline = ["independent numbers", "", number(first["baseline_nats"], 2)]
        if bits:
            baseline += ["", "", number(first["baseline_bits_per_dim"], 3)]
        rows.append(baseline + [""] * (len(rows[0]) - len(baseline)))
    cli.print_table(
        f"{first['data']} ({first['observation']}), {first['num_examples']} "
        f"{first['split']} examples; nats an example, ± standard error",
        rows,
        header=_header(bits=bits),
    )
    if args.figure is not None:
        _draw(args.figure, finished)


def _require_comparable(finished: list[tuple[Path, dict]]) -> None:
    """Check that all runs observe the same examples in the same way."""
    first_path, first = finished[0]
    for path, result in finished[1:]:
        for name in SAME:
            if name not in first or name not in result:
                old = path if name in first else first_path
                raise UserError(
                    f"{old} was made by an earlier version, which did not record "
                    f"{name}; train it again to compare it"
                )
            before, after = first[name], result[name]
            if before != after and name in DIGESTS:
                raise UserError(
                    f"{path} and {first_path} report on different {DIGESTS[name]} of "
                    f"{first['data']!r}: their numbers cannot be compared; compare "
                    "runs of one data.path"
                )
            if before != after:
                raise UserError(
                    f"{path} has {name} {after!r}, {first_path} has {before!r}: their "
                    f"numbers cannot be compared; compare runs of one {name}"
                )


def _draw(path: Path, finished: list[tuple[Path, dict]]) -> None:
    """ELBO and evidence of every run."""

    def measured(name: str) -> list[tuple[float, float] | None]:
        pairs = [
            (result[f"{name}_nats"], result[f"{name}_stderr"]) for _, result in finished
        ]
        # The error of a single example is none.
        return [
            None if mean is None or not np.isfinite(mean) else (mean, err or 0.0)
            for mean, err in pairs
        ]

    values = {
        "ELBO": measured("elbo"),
        "evidence, K samples": measured("log_evidence"),
    }
    if not any(pair for pairs in values.values() for pair in pairs):
        raise UserError(f"--figure {path}: no run has a finite bound; drop the flag")
    figures.save_comparison(
        path,
        [_name(str(run), result) for run, result in finished],
        values,
        unit="nats an example, greater is better",
    )


def _header(*, bits: bool) -> list[str]:
    header = ["run", "ELBO", "log evidence", "K", "less the first"]
    if bits:
        header.append("bits/dim")
    return [*header, "parameters", "steps", "training s"]


def _difference(path: Path, first: Path) -> str:
    """Paired difference of the evidences, or of the ELBOs, example by example."""
    values, before = (directory.read_likelihoods(run) for run in (path, first))
    if path == first or values is None or before is None:
        return "-"
    # The same examples, though they may have been stored in another order.
    values, before = (_in_order(each) for each in (values, before))
    if not np.array_equal(values["example"], before["example"]):
        return "-"
    results = [directory.read_result(run) for run in (path, first)]
    # The evidence's bound rises with K: of other K it is no difference of the models.
    # An exact log p(x) is what it rises to.
    counts = {each["num_importance_samples"] for each in results if not _exact(each)}
    of_evidence = len(counts) < 2 and None not in counts
    what = "" if of_evidence else "ELBO "
    after, before = (
        each["log_evidence"] if of_evidence and not _exact(result) else each["elbo"]
        for each, result in zip((values, before), results, strict=True)
    )
    gain = estimates.paired_difference(after, before)
    if np.isnan(gain.mean):  # -inf of both
        return "-"
    return f"{what}{gain.mean:+.2f} ± {number(gain.stderr, 2)}"


def _in_order(by_example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(by_example["example"], kind="stable")
    return {name: values[order] for name, values in by_example.items()}


def _exact(result: dict) -> bool:
    return bool(result["is_exact"])


def _row(name: str, result: dict, difference: str, *, bits: bool) -> list[str]:
    evidence = "elbo" if _exact(result) else "log_evidence"
    row = [
        _name(name, result),
        _measured(result, "elbo_nats", "elbo_stderr", 2),
        _measured(result, f"{evidence}_nats", f"{evidence}_stderr", 2),
        "exact" if _exact(result) else str(result["num_importance_samples"] or "-"),
        difference,
    ]
    if bits:
        of_elbo = result["bits_per_dim_of"] == "elbo" and not _exact(result)
        measured = _measured(result, "bits_per_dim", "bits_per_dim_stderr", 3)
        row.append(f"{measured} (ELBO)" if of_elbo else measured)
    return [
        *row,
        f"{result['num_params']:,}",
        str(result["train_steps"]),
        number(result["train_seconds"], 1),
    ]


def _name(name: str, result: dict) -> str:
    """A run's name, with the T of a diffusion's bound."""
    steps = result["num_steps"]
    return name if steps is None else f"{name}, T = {steps}"


def _measured(result: dict, mean: str, stderr: str, digits: int) -> str:
    if result[mean] is None:
        return "-"
    return f"{number(result[mean], digits)} ± {number(result[stderr], digits)}"


if __name__ == "__main__":
    sys.exit(main())

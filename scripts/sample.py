"""Draw from a run: scripts/sample.py RUN --num-samples N."""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from vgm import cli
from vgm.errors import UserError
from vgm.evaluation import figures
from vgm.experiment import directory, pictures, storage


@dataclass(frozen=True)
class Arguments:
    """Draw samples of a run into an .npz file and, if they are images, a .png."""

    run: Path
    """Folder made by scripts/train.py."""
    num_samples: int = 100
    """How many."""
    seed: int = 0
    """Seed of the draws."""
    label: int | None = None
    """Class to draw, for a conditional model; all in turn if not given."""
    output: Path | None = None
    """File, its ending apart; RUN/samples-seed-SEED if not given. Must not exist."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: sample(arguments))


def sample(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="sample.py")
    if not 1 <= args.num_samples < 2**31:
        raise UserError(
            f"--num-samples must be at least 1 and below 2^31; got {args.num_samples}"
        )
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed must be from 0 to 2^32 - 1; got {args.seed}")
    if args.output is not None and not args.output.name:
        raise UserError(f"--output {args.output}: give a file without its ending")
    cli.enable_compilation_cache()
    config, form = directory.read_config(args.run)
    model, params = directory.load(args.run, warn=cli.warn)
    base = args.output or args.run / f"samples-seed-{args.seed}"
    base = base.with_suffix("") if base.suffix in (".npz", ".png") else base
    archive, picture = (base.with_name(base.name + end) for end in (".npz", ".png"))
    for path in (archive, picture):
        storage.require_new_file(path, "--output" if args.output else "--seed")
    num_classes = form.num_classes if config.model.conditional else 0
    condition = _labels(args, num_classes)
    key = jax.random.key(args.seed)
    draw = jax.jit(model.sample, static_argnums=2)
    draws = np.asarray(draw(key, params, args.num_samples, condition))
    arrays = {"samples": draws}
    if condition is not None:
        arrays["labels"] = condition
    np.savez(archive, allow_pickle=False, **arrays)
    print(f"samples: {archive}")
    if draws.ndim == 4 and draws.shape[-1] in (1, 3):
        top = pictures.figure_top(config.data.observation, form.levels)
        columns = pictures.num_columns(
            args.num_samples, num_classes if args.label is None else 0
        )
        grid = figures.image_grid(draws, columns=columns, top=top)
        figures.save_panels(picture, [("samples", grid)])
        print(f"picture: {picture}")


def _labels(args: Arguments, num_classes: int) -> np.ndarray | None:
    if not num_classes:
        if args.label is not None:
            raise UserError(f"--label: {args.run} is not conditional; drop the flag")
        return None
    if args.label is None:
        return np.arange(args.num_samples, dtype=np.int32) % num_classes
    if not 0 <= args.label < num_classes:
        raise UserError(
            f"--label must be from 0 to {num_classes - 1}; got {args.label}"
        )
    return np.full(args.num_samples, args.label, np.int32)


if __name__ == "__main__":
    sys.exit(main())

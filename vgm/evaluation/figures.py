"""Pictures: image grids and training curves. Colours and sizes in one place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vgm.bounds.elbo import ElboTerms


def image_grid(
    images: np.ndarray, *, columns: int, top: float, gap: int = 1
) -> np.ndarray:
    """Tile images into one, with thin light lines between them.

    Args:
        images: [count, height, width, channels], from 0 to ``top``.
        columns: Images in a row.
        top: Value shown white.
        gap: Width of the lines, in pixels.

    Returns:
        One image [height, width, 3] of values from 0 to 1.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    unit = np.clip(np.asarray(images, np.float64) / top, 0.0, 1.0)
    if channels == 1:
        unit = np.repeat(unit, 3, axis=-1)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 0.6
    )
    for number, image in enumerate(unit):
        row, column = divmod(number, columns)
        y, x = gap + row * (height + gap), gap + column * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return canvas


def save_panels(path: Path, panels: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write titled image grids side by side.

    Args:
        path: PNG file to write.
        panels: Titles and images.
    """
    widths = [panel.shape[1] / panel.shape[0] for _, panel in panels]
    # A strip of a few draws would be as wide as it likes.
    scale = min(1.0, 20.0 / (5.0 * sum(widths)))
    figure = _figure(scale * 5.0 * sum(widths), scale * 5.0 + 0.4)
    axes = figure.subplots(
        1, len(panels), gridspec_kw={"width_ratios": widths}, squeeze=False
    )
    for axis, (title, panel) in zip(axes[0], panels, strict=True):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    _save(figure, path)


def save_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Plot the bound over steps, and its terms, or the loss that is no bound.

    Args:
        path: PNG file to write.
        rows: Rows of ``metrics.csv``: a step, and values in nats by name; None where
            nothing was measured. Without a bound in training there is a ``train_loss``.
    """
    figure = _figure(11.0, 3.8)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    for split, colour in (("train", "tab:blue"), ("validation", "tab:orange")):
        _line(left, rows, f"{split}_bound", split, colour)
    left.set_title("Bound (greater is better)")
    if all(row.get("train_bound") is None for row in rows):
        _line(right, rows, "train_loss", "train", "tab:blue")
        right.set_title("Loss (less is better)")
        right.set_ylabel("squared error")
    else:
        for term, colour in zip(
            ElboTerms._fields, ("tab:green", "tab:red", "tab:purple"), strict=True
        ):
            _line(right, rows, f"train_{term}", term.replace("_", " "), colour)
        right.set_title("Terms of the ELBO, training")
        right.set_ylabel("nats / example")
    left.set_ylabel("nats / example")
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False)
    _zoom(left, rows)
    _save(figure, path)


def save_steps(path: Path, matching: Sequence[float]) -> None:
    """Plot the denoising term of each step, t from 1/T to 1.

    Args:
        path: PNG file to write.
        matching: Nats, one a step.
    """
    figure = _figure(7.0, 3.2)
    axis = figure.subplots()
    count = len(matching)
    axis.plot((np.arange(count) + 1) / count, matching, color="tab:purple")
    axis.set_xlabel("t")
    axis.set_ylabel("nats a step")
    axis.set_ylim(bottom=0.0)
    axis.set_title(f"Denoising matching, {sum(matching):.2f} nats in {count} steps")
    axis.grid(alpha=0.3)
    _save(figure, path)


def save_layers(path: Path, terms: Sequence[float]) -> None:
    """Plot the term of each layer of a hierarchy.

    Args:
        path: PNG file to write.
        terms: Nats, one a layer, z_1 first; the last one is the top's.
    """
    figure = _figure(7.0, 3.2)
    axis = figure.subplots()
    names = [f"$z_{{{number}}}$" for number in range(1, len(terms) + 1)]
    bars = axis.bar(names, terms, color="tab:purple", width=0.7)
    if len(terms) <= 16:
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.margins(y=0.15)
    axis.set_ylabel("nats")
    axis.set_title(f"Terms by layer, {sum(terms):.2f} nats in all; the top is the last")
    axis.grid(alpha=0.3, axis="y")
    _save(figure, path)


def save_comparison(
    path: Path,
    names: Sequence[str],
    values: Mapping[str, Sequence[tuple[float, float] | None]],
    *,
    unit: str,
) -> None:
    """Plot quantities of several runs with their standard errors.

    Args:
        path: PNG file to write.
        names: Names of the runs, the first on top.
        values: Mean and standard error of each run by quantity; None where a run has
            none.
        unit: What they are in.
    """
    figure = _figure(7.5, 1.2 + 0.45 * len(names))
    axis = figure.subplots()
    places = np.arange(len(names))
    styles = zip(("tab:blue", "tab:orange"), "os", (-0.12, 0.12), strict=True)
    for (quantity, measured), style in zip(values.items(), styles, strict=True):
        colour, marker, shift = style
        points = [
            (*value, place + shift)
            for value, place in zip(measured, places, strict=True)
            if value is not None
        ]
        if points:
            means, errors, heights = zip(*points, strict=True)
            axis.errorbar(
                means,
                heights,
                xerr=errors,
                fmt=marker,
                color=colour,
                capsize=3,
                label=quantity,
            )
    axis.set_yticks(places, names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(f"{unit}, ± standard error")
    axis.grid(alpha=0.3, axis="x")
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    _save(figure, path)


def save_densities(
    path: Path, panels: Sequence[tuple[str, np.ndarray]], axes: np.ndarray
) -> None:
    """Show densities and points in the plane side by side, on one scale.

    Args:
        path: PNG file to write.
        panels: Titles, and points, one a row, or densities on the grid of ``axes``, the
            second coordinate down the rows.
        axes: Both axes of the grid.
    """
    figure = _figure(4.3 * len(panels), 4.6)
    box = (axes[0, 0], axes[0, -1], axes[1, 0], axes[1, -1])
    brightest = max(v.max() for _, v in panels if v.shape == 2 * axes.shape[1:])
    every = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for axis, (title, values) in zip(every, panels, strict=True):
        axis.set_title(title)
        if values.shape == 2 * axes.shape[1:]:
            axis.imshow(
                values,
                extent=box,
                origin="lower",
                cmap="magma",
                aspect="auto",
                vmin=0.0,
                vmax=brightest,
            )
        else:
            size = min(5.0, max(1.0, 100.0 / len(values) ** 0.5))
            axis.scatter(*values.T, s=size**2, color="tab:blue", alpha=0.6, lw=0)
        axis.set_xlim(box[:2])
        axis.set_ylim(box[2:])
        axis.set_box_aspect((box[3] - box[2]) / (box[1] - box[0]))
    _save(figure, path)


def _line(
    axis: Any, rows: Sequence[Mapping[str, Any]], name: str, label: str, colour: str
) -> None:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points and any(value for _, value in points):
        # A single point is no line.
        marker = "o" if len(points) == 1 else None
        axis.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker)


def _zoom(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Cut the steep start off: from the first tenth's end, a little below."""
    names = ("train_bound", "validation_bound")
    values = [
        row[name]
        for row in rows[len(rows) // 10 :]
        for name in names
        if row.get(name) is not None and np.isfinite(row[name])
    ]
    if len(values) > 2:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 1.0
        axis.set_ylim(low - margin, high + margin)


def _figure(width: float, height: float) -> Any:
    """A figure of its own: pyplot's state, a notebook's backend say, stays as it is."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")

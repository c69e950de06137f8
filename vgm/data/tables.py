"""Tables of reals: one row an example, one column a number."""

import csv
from pathlib import Path

import numpy as np

from vgm.data.arrays import Dataset, Split, require_digits
from vgm.data.files import read_bytes
from vgm.errors import UserError

MIN_ROWS = 10
ABSENT = ("", "nan", "na", "n/a", "null", "none", "?")
"""How tables mark a missing number, in small letters."""


def load_csv(path: Path, *, missing: str = "none") -> Dataset:
    """A .csv or .csv.gz of numbers, kept in float32, with or without a line of names.

    A first line counts as names where no cell of it is a number, or where its cells
    are 0, 1, 2 and so on, as pandas names columns that have no names.

    A tenth of the rows are for test, the others for training: a fixed random split, in
    random order.

    Args:
        path: File.
        missing: "nan" where NaN, NA, null, ? or an empty cell marks a missing number,
            "none" where it is an error.

    Returns:
        The data set.

    Raises:
        UserError: If a cell is no finite number, rows differ in length, there are
            fewer than 10, or a column is constant or counts the rows.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8; save it as such") from error
    reader = csv.reader(text.splitlines())
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path} is no table ({error}); save it again") from error
    if missing == "nan" and max((len(row) for _, row in rows), default=0) == 1:
        # Of a single column, an empty line is an empty cell.
        rows = [(line, row or [""]) for line, row in rows]
    rows = [(line, row) for line, row in rows if row]
    header = 1 if rows and _are_names(rows[0][1]) else 0
    x = _numbers(path, rows[header:], missing)
    if len(x) < MIN_ROWS:
        raise UserError(f"{path} has {len(x)} rows; needs at least {MIN_ROWS}")
    names = rows[0][1] if header else []
    # A line of names may lack that of the rows' own, or be a comment.
    if len(names) != x.shape[1]:
        names = [""] * x.shape[1]
    _require_varied(path, x, names)
    x = x[np.random.default_rng(0).permutation(len(x))]
    cut = len(x) - len(x) // 10
    return Dataset(Split(x[:cut], None), None, Split(x[cut:], None), levels=0)


def _are_names(cells: list[str]) -> bool:
    # Over an index of the rows there is no name.
    names = cells[1:] if cells[0] == "" else cells
    least = 1 if len(names) < len(cells) else 2
    counted = names == [str(place) for place in range(max(least, len(names)))]
    return counted or not any(_is_number(cell) for cell in cells)


def _require_varied(path: Path, x: np.ndarray, names: list[str]) -> None:
    """What is no measurement would be learned as one, and flatter the density."""
    for column, (name, values) in enumerate(zip(names, x.T, strict=True), 1):
        where = f"{path}, column {column}" + (f" ({name!r})" if name else "")
        there = ~np.isnan(values)
        found = np.unique(values[there])
        if found.size < 2:
            held = f"{found[0]:g} in every row" if found.size else "empty"
            raise UserError(f"{where} is {held}, which has no density; remove it")
        # From 0 or 1: years, say, may follow one another and be measurements.
        starts = np.unique((values - np.arange(len(values)))[there])
        if starts.size == 1 and starts[0] in (0, 1):
            raise UserError(
                f"{where} counts the rows; remove it (of pandas: "
                "to_csv(..., index=False))"
            )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # 1_000 is one to Python alone


def _remedy(rows: list[list[str]], cell: str, column: int) -> str:
    """What to do about the first cell of a column that is no number."""
    separators = ((";", "';'"), ("\t", "tabs"))
    if len(rows[0]) == 1:
        separators += ((" ", "spaces"),)
    for separator, name in separators:
        if separator in cell.strip():
            return f"save the table with ',' between cells and not {name}"
    if cell.strip().lower() in ABSENT:
        return "mend or remove the row, or let a preset like vae-tabular model the rest"
    cells = [row[column - 1] for row in rows if len(row) >= column]
    words = sum(not _is_number(cell) for cell in cells)
    if 2 * words > len(cells):
        return f"remove the column: {words} of its {len(cells)} cells are no numbers"
    return "mend or remove the row"


def _numbers(path: Path, rows: list[tuple[int, list[str]]], missing: str) -> np.ndarray:
    absent = ABSENT if missing == "nan" else ()
    for line, row in rows:
        if len(row) != len(rows[0][1]):
            raise UserError(
                f"{path}, line {line}: {len(row)} cells where the first has "
                f"{len(rows[0][1])}; make them alike"
            )
        for column, cell in enumerate(row, 1):
            if cell.strip().lower() in absent:
                row[column - 1] = "nan"
            elif not _is_number(cell) or not np.isfinite(np.float32(cell)):
                raise UserError(
                    f"{path}, line {line}, column {column}: {cell!r} is no finite "
                    f"number; {_remedy([row for _, row in rows], cell, column)}"
                )
    numbers = np.asarray([row for _, row in rows], np.float64)
    require_digits(str(path), numbers)
    return numbers.astype(np.float32)

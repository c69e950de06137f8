"""What the scripts share: typed arguments, one-line errors, progress.

A script's ``main`` takes arguments and returns an exit status: 0; 2 for bad input,
after one line on standard error; 130 if interrupted; 141 if nobody reads the output.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from vgm.errors import UserError
from vgm.experiment.reporter import Progress, Reporter

T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str] | None, *, prog: str) -> T:
    """Command-line arguments as a dataclass, by tyro.

    Args:
        kind: The dataclass.
        arguments: Arguments; None for the process's.
        prog: Name of the script.

    Returns:
        Its instance.

    Raises:
        UserError: If they do not fit, in one line.
    """
    tyro = _tyro()
    _describe_fields(kind)
    with _one_line_errors():
        # What has no default is given by place: evaluate.py RUN, not --run RUN.
        positional = (tyro.conf.PositionalRequiredArgs,)
        return tyro.cli(kind, prog=prog, args=arguments, config=positional)


def parse_preset(
    presets: Mapping[str, tuple[str, T]],
    arguments: Sequence[str] | None,
    *,
    prog: str,
    description: str,
) -> T:
    """A preset with overrides from the command line, by tyro.

    Args:
        presets: Descriptions and configurations by name.
        arguments: Arguments; None for the process's.
        prog: Name of the script.
        description: What the script does.

    Returns:
        The configuration.

    Raises:
        UserError: If they do not fit, in one line.
    """
    tyro = _tyro()
    for kind in {type(preset) for _, preset in presets.values()}:
        _describe_fields(kind)
    with _one_line_errors():
        return tyro.extras.overridable_config_cli(
            presets, prog=prog, description=description, args=arguments
        )


def _tyro() -> Any:
    try:
        import tyro
    except ImportError as error:
        raise UserError(
            "the scripts read their flags with tyro, which is not installed; run: "
            "pip install tyro, or call vgm.experiment.run(config) from Python"
        ) from error
    return tyro


def _describe_fields(kind: type) -> None:
    """Give tyro each field's docstring as a paragraph; it would keep line breaks."""
    import docstring_parser

    descriptions = {
        item.arg_name: " ".join((item.description or "").split())
        for item in docstring_parser.parse_from_object(kind).params
    }
    for field in dataclasses.fields(kind):
        if text := descriptions.get(field.name):
            field.metadata = MappingProxyType({**field.metadata, "help": text})
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            _describe_fields(field.type)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            yield
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(condense(caught.getvalue())) from None


def condense(boxed: str) -> str:
    """One line from a boxed message of tyro.

    Args:
        boxed: Its lines, with borders.

    Returns:
        What is wrong, and the nearest flag or the choices where it names them.
    """
    lines = [re.sub(r"[│|╭╮╰╯+]", "", line).strip() for line in boxed.splitlines()[1:]]
    paragraphs = [
        " ".join(part.split())
        for part in re.split(r"[─-]{5,}", "\n".join(lines))
        if part.strip()
    ]
    message = paragraphs[0] if paragraphs else "the arguments cannot be read"
    for paragraph in paragraphs[1:]:
        if paragraph.startswith("Perhaps you meant"):
            given = re.search(r"--[\w.-]+", message)
            named = re.findall(r"--[\w.-]+", paragraph)
            if given and named:
                nearest = difflib.get_close_matches(given.group(), named, 1, 0.0)
                message += f"; did you mean {nearest[0]}?"
        elif paragraph.startswith("Available"):
            message += f"; {paragraph[0].lower()}{paragraph[1:]}"
    return f"{message}; see --help"


def guarded(main: Callable[[], None], *, remedy: str = "") -> int:
    """Run a script's body and turn its end into an exit status.

    Args:
        main: The body.
        remedy: What to say to whoever interrupts it.

    Returns:
        0, 2 (a message), 130 (interrupted) or 141 (nobody reads the output).
    """
    _accept_any_terminal()
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted{remedy}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        print(
            "error: not enough memory; lower the batch size, the chunk size or the "
            "sizes of the model",
            file=sys.stderr,
        )
        return 2
    return 0


def _accept_any_terminal() -> None:
    """Where a terminal has no ±, print something else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def warn(line: str) -> None:
    """Say what is not as it should be.

    Args:
        line: One line.
    """
    print(f"warning: {line}", file=sys.stderr)


def enable_compilation_cache() -> None:
    """Keep compiled programs between processes, unless the user set a place already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "vgm" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def reporting() -> Iterator[Reporter]:
    """A reporter: a progress bar on a terminal, plain lines elsewhere.

    Yields:
        The reporter.
    """
    if not sys.stdout.isatty():
        yield Reporter(say=_print_line, progress=_print_progress)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns) as bars:
        tasks: dict[str, Any] = {}

        def progress(news: Progress) -> None:
            if news.stage not in tasks:
                tasks[news.stage] = bars.add_task(
                    news.stage, total=news.total, status=""
                )
            status = "" if news.row is None else _status(news.row)
            bars.update(tasks[news.stage], completed=news.done, status=status)

        yield Reporter(say=bars.console.print, progress=progress)


def _print_line(line: str) -> None:
    print(line, flush=True)


def _print_progress(news: Progress) -> None:
    if news.row is not None:
        _print_line(f"step {news.done}/{news.total}  {_status(news.row)}")


def _status(row: Mapping[str, Any]) -> str:
    bound = row["train_bound"]
    loss = f"loss {row['train_loss']:.4f}"
    parts = [loss if bound is None else f"bound {bound:.2f} nats"]
    if row["validation_bound"] is not None:
        parts.append(f"validation {row['validation_bound']:.2f}")
    if row["train_skipped"]:
        parts.append(f"{row['train_skipped']:.0f} steps skipped")
    parts.append(f"{row['steps_per_second']:.0f} steps/s")
    return ", ".join(parts)


def print_table(
    title: str, rows: Sequence[Sequence[str]], header: Sequence[str]
) -> None:
    """Print a table, whole at any width of the terminal.

    Args:
        title: Title.
        rows: Cells.
        header: Names of the columns.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A pipe has no width; wide enough for every cell on one line.
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(table)

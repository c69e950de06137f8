"""Where a run talks to."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """What a person waiting wants to know.

    Attributes:
        stage: "train" or "evaluate".
        done: Steps or examples done.
        total: Steps or examples in all.
        row: The newest row of metrics, while training.
    """

    stage: str
    done: int
    total: int
    row: dict[str, Any] | None = None


class Reporter(NamedTuple):
    """Where a run talks to; silent by default.

    Attributes:
        say: Takes one line.
        progress: Takes progress.
    """

    say: Callable[[str], None] = lambda line: None
    progress: Callable[[Progress], None] = lambda progress: None

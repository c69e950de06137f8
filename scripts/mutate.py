"""Mutation testing of the mathematics: break each operator once, see a test go red.

    python scripts/mutate.py [--modules PART ...] [--minutes 30] [--output FILE]

Every arithmetic operator, comparison, number and a few calls of floors 0 to 4 are
changed, one at a time, in a copy of the package; the tests named in ``SUITES`` run
against the copy until one fails: first those that failed before, then the quick ones. A
mutant that no test notices survives. Needs a system that can fork.
"""

import argparse
import ast
import collections
import copy
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TIMEOUT = 300

SUITES = {
    "densities": "tests/test_densities.py",
    "numerics": "tests/test_divergences.py tests/test_densities.py",
    "divergences": "tests/test_divergences.py",
    "processes": "tests/test_processes.py",
    "bijections": "tests/test_bijections.py",
    "bijections/continuous": "tests/test_flows.py",
    "bounds/diffusion": "tests/test_diffusion.py",
    "bounds/trajectories": "tests/test_diffusion.py tests/test_hierarchical.py",
    "bounds/flow": "tests/test_flows.py",
    "bounds/hierarchical": "tests/test_hierarchical.py",
    "bounds/elbo": "tests/test_bounds.py",
    "bounds/importance": "tests/test_bounds.py tests/test_importance.py",
    "bounds/pareto": "tests/test_importance.py",
    "bounds/annealed": "tests/test_importance.py",
    "bounds/sandwich": "tests/test_importance.py",
    "bounds/gradients": "tests/test_gradients.py",
    "samplers": "tests/test_diffusion.py",
    "inference": "tests/test_inference.py",
    "oracles": "tests/test_oracles.py",
    "oracles/targets": "tests/test_flows.py",
}
"""Tests for the modules whose path begins so; the longest match counts."""

SELECT = {
    "densities/bernoulli": "bernoulli or discrete_entrop or frequencies",
    "densities/categorical": "categorical or discrete_entrop or frequencies",
    "densities/discretized_logistic": "logistic or samples_have",
    "densities/discretized_logistic_mixture": "mixture",
    "densities/discretized_normal": "discretized_normal or samples_have",
    "densities/mixture": "mixture",
    "densities/multivariate_normal": "multivariate or entropy or samples",
    "densities/normal": "normal or entropy",
    "numerics": "softplus or ndtr or expm1 or kl or logistic or normal or weights",
    "bounds/pareto": "pareto or constant_weights or tail or ties or quartile or index",
    "bounds/annealed": "anneal or hmc or temperature or tuned or intervals_hold",
    "bounds/sandwich": "interval or naive or overflow or cross or no_weight",
    "bijections/continuous": "continuous or velocity or divergence or probes",
    "bounds/flow": "flow or dequant or uniform or level or draws or matching",
    "oracles/targets": "target or normaliser",
    "samplers/diffusion": "ddim or ancestral or samples or trajectory",
}
"""Which of those tests, where few of a file concern the module."""

BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
COMPARISONS = {
    ast.Lt: ast.GtE,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
CALLS = {
    "sum": "mean",
    "mean": "sum",
    "max": "min",
    "min": "max",
    "maximum": "minimum",
    "minimum": "maximum",
    "exp": "expm1",
    "expm1": "exp",
    "log": "log1p",
    "log1p": "log",
    "abs": "negative",
    "tril": "triu",
    "sort": "asarray",
    "stop_gradient": "asarray",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
}


class Mutant(NamedTuple):
    """One change.

    Attributes:
        module: Path in the package.
        line: Line of the change.
        change: What became what.
        source: The module with the change.
    """

    module: str
    line: int
    change: str
    source: str


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes of the program's arithmetic: no annotations, defaults or messages."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.AnnAssign | ast.arguments):
            continue
        if isinstance(node, ast.FunctionDef):
            # Its body, not what it says of its arguments and result.
            yield from sites(ast.Module(node.body, []))
            continue
        yield node
        yield from sites(node)


def changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """What a node can become: a description, and a function that changes it."""
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        new = BINARY[type(node.op)]
        yield (
            f"{type(node.op).__name__} to {new.__name__}",
            lambda n: setattr(n, "op", new()),
        )
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new = COMPARISONS[type(node.ops[0])]
        yield (
            f"{type(node.ops[0]).__name__} to {new.__name__}",
            lambda n: setattr(n, "ops", [new()]),
        )
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign dropped", lambda n: setattr(n, "op", ast.UAdd())
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value: Any = node.value
        yield (
            f"{value} to {value + 1}",
            lambda n: setattr(n, "value", value + 1),
        )
    elif isinstance(node, ast.Attribute) and node.attr in CALLS:
        new_name = CALLS[node.attr]
        yield f"{node.attr} to {new_name}", lambda n: setattr(n, "attr", new_name)


def mutants(path: Path, module: str) -> Iterator[Mutant]:
    """Every mutant of a module, in order."""
    tree = ast.parse(path.read_text())
    count = len(list(sites(tree)))
    for position in range(count):
        node = list(sites(tree))[position]
        for description, _ in changes(node):
            changed = copy.deepcopy(tree)
            target = list(sites(changed))[position]
            for _, apply in changes(target):
                apply(target)
            line = getattr(node, "lineno", 0)
            yield Mutant(module, line, description, ast.unparse(changed))


def suite(module: str) -> list[str]:
    """Arguments of pytest for a module."""
    match = max((n for n in SUITES if module.startswith(n)), key=len)
    arguments = SUITES[match].split()
    if module in SELECT:
        arguments += ["-k", SELECT[module]]
    return arguments


class History:
    """What earlier runs of the tests of a module say of their order.

    Attributes:
        failures: How often each failed.
        seconds: How long each took.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self.failures: collections.Counter[str] = collections.Counter()
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Those that failed most come first, then the quickest."""
        items.sort(
            key=lambda item: (
                -self.failures[item.nodeid],
                self.seconds.get(item.nodeid, 0.0),
            )
        )

    def learn(self, lines: list[str]) -> None:
        """Take in what a run reported."""
        for line in lines:
            verdict, seconds, name = line.split(" ", 2)
            self.failures[name] += verdict == "failed"
            self.seconds.setdefault(name, float(seconds))


class Report:
    """Writes what became of each test, as it ends.

    Attributes:
        pipe: Where to.
    """

    def __init__(self, pipe: int) -> None:
        """Into this pipe."""
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One line a test."""
        if report.when == "call" or report.failed:
            line = f"{report.outcome} {report.duration:.3f} {report.nodeid}\n"
            os.write(self.pipe, line.encode())


def survives(mutant: Mutant, folder: Path, history: History) -> str:
    """Run the tests against a mutant in a fork: "killed", "timeout" or "survived"."""
    package = folder / "vgm" / f"{mutant.module}.py"
    original = package.read_text()
    package.write_text(mutant.source)
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        # Of computing, not on the clock: a run may be paused.
        resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT, TIMEOUT))
        code = 1
        try:
            code = _run(mutant.module, folder, [history, Report(sending)])
        finally:
            os._exit(code)
    os.close(sending)
    with os.fdopen(receiving) as lines:
        history.learn(lines.read().splitlines())
    _, status = os.waitpid(child, 0)
    package.write_text(original)
    if os.WIFSIGNALED(status):
        return "timeout"
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def _run(module: str, folder: Path, plugins: list[Any]) -> int:
    import pytest

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    os.environ["PYTEST_XDIST_WORKER"] = f"mutants-{folder.name}"
    os.chdir(ROOT)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:jaxtyping"]
    options += ["-o", "addopts=--import-mode=importlib", "-p", "no:xdist"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *suite(module)], plugins=plugins))


def unchanged(module: str, folder: Path) -> History:
    """Without a change the tests must pass; how long each takes."""
    history = History()
    source = (folder / "vgm" / f"{module}.py").read_text()
    if survives(Mutant(module, 0, "nothing", source), folder, history) != "survived":
        raise SystemExit(f"the tests of {module} fail without any change")
    return history


def work(arguments: tuple[int, list[Mutant], float]) -> list[tuple[Mutant, str]]:
    """Test a share of the mutants, each in a copy of the package, until a time."""
    number, share, deadline = arguments
    # Imported before the forks, so that no child pays for it; no device is touched.
    import chex  # noqa: F401
    import hypothesis  # noqa: F401
    import jax  # noqa: F401
    import scipy.stats  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix=f"mutants{number}-"))
    shutil.copytree(ROOT / "vgm", folder / "vgm")
    histories: dict[str, History] = {}
    results = []
    for done, mutant in enumerate(share, 1):
        start = time.perf_counter()
        if start > deadline:
            break
        if mutant.module not in histories:
            histories[mutant.module] = unchanged(mutant.module, folder)
        verdict = survives(mutant, folder, histories[mutant.module])
        results.append((mutant, verdict))
        seconds = time.perf_counter() - start
        print(
            f"[{number}] {done}/{len(share)} {verdict:8s} {mutant.module}:"
            f"{mutant.line} {mutant.change} ({seconds:.0f} s)",
            flush=True,
        )
    shutil.rmtree(folder)
    return results


def collect(parts: list[str]) -> list[Mutant]:
    """The mutants of all modules whose path contains one of ``parts``."""
    found = []
    for path in sorted((ROOT / "vgm").rglob("*.py")):
        module = path.relative_to(ROOT / "vgm").with_suffix("").as_posix()
        tested = any(module.startswith(name) for name in SUITES)
        wanted = tested and any(part in module for part in parts)
        if wanted and path.name != "__init__.py":
            found += mutants(path, module)
    return found


def main() -> None:
    """Test every mutant; print and write what survived."""
    parser = argparse.ArgumentParser(description="Mutation testing.")
    parser.add_argument("--modules", nargs="*", default=[""], help="parts of paths")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0.0, help="0: no limit")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    found = collect(args.modules)
    # In a random order, so that whatever a limit leaves is a fair sample.
    random.Random(0).shuffle(found)
    limit = args.minutes * 60 if args.minutes else float("inf")
    deadline = time.perf_counter() + limit
    count = args.workers
    shares = [(n, found[n::count], deadline) for n in range(count)]
    with multiprocessing.get_context("fork").Pool(args.workers) as pool:
        results = [pair for share in pool.map(work, shares) for pair in share]
    survivors = [mutant for mutant, verdict in results if verdict == "survived"]
    killed = len(results) - len(survivors)
    print(
        f"{killed} of {len(results)} mutants died ({killed / len(results):.1%}), "
        f"{len(results)} of {len(found)} tested"
    )
    for mutant in survivors:
        print(f"survived: vgm/{mutant.module}.py:{mutant.line} {mutant.change}")
    if args.output is not None:
        rows = [
            {"module": m.module, "line": m.line, "change": m.change, "verdict": v}
            for m, v in results
        ]
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

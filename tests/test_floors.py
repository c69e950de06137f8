"""The ladder of vgm/__init__.py, enforced: imports go down only."""

import ast
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

import vgm

PACKAGE = Path(vgm.__file__).parent


def floors_of(docstring):
    """Its table: a number, names in the first column, what they hold in the second."""
    found, floor = {}, 0
    for line in docstring.splitlines():
        if row := re.match(r"    (\d| )  (.{0,25})", line):
            floor = int(row[1]) if row[1].isdigit() else floor
            found |= dict.fromkeys(re.findall(r"\w+", row[2]), floor)
    return found


FLOORS = floors_of(vgm.__doc__)
BASE = {"jax", "jaxtyping"}
THIRD_PARTY = {
    5: BASE | {"flax"},
    6: BASE | {"flax", "optax", "orbax", "numpy"},
    7: BASE | {"numpy", "matplotlib"},
    8: BASE | {"numpy", "tensorboardX"},
    9: BASE | {"tyro", "docstring_parser", "rich"},
}
EXCEPTIONS = {
    # log 2 pi and quadrature nodes, once, in double precision.
    "densities/normal.py": {"numpy"},
    "densities/discretized_normal.py": {"numpy"},
    "processes/schedules.py": {"numpy"},
    # Inside the one function that solves an equation.
    "bijections/continuous.py": {"diffrax"},
}
DATA = {
    "jax",
    "numpy",
    "scipy",
    "sklearn",
    "tensorflow_datasets",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.name == "__init__.py" and len(relative.parts) == 1:
            continue
        yield relative.as_posix(), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module == "vgm":
                yield from (f"vgm.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_go_down_only(name, path):
    import sys

    own = name.split("/")[0].removesuffix(".py")
    for module in imports(path):
        top, *rest = module.split(".")
        if top in sys.stdlib_module_names:
            continue
        if top == "vgm":
            target = rest[0]
            if own == "data":
                assert target in {"data", "errors"}, module
            elif target == "data":
                assert FLOORS[own] >= 8, module
            else:
                assert FLOORS[target] <= FLOORS[own], module
            continue
        assert top in allowed(name, own), module


SHORTENED = {"models/convolutions.py", "models/made.py", "training/objective.py"}
"""Products of networks and of their gradients, as JAX would have them."""
PRODUCTS = {"dot", "dot_general", "einsum", "inner", "matmul", "multi_dot"}
PRODUCTS |= {"tensordot", "vdot"}


def test_products_keep_their_digits_on_accelerators():
    """By ``matmul`` of vgm.precision, or by saying which precision."""
    nodes = (
        (name, node)
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
    )
    for name, node in nodes:
        operation = getattr(node, "op", None)  # also of @=
        shortened = isinstance(operation, ast.MatMult)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            told = any(keyword.arg == "precision" for keyword in node.keywords)
            shortened = node.func.attr in PRODUCTS and not told
        assert not shortened or name in SHORTENED, f"{name}: {ast.unparse(node)}"


def test_only_biases_start_at_zero():
    """XLA miscompiles products with a constant of equal numbers (README)."""
    lines = [line for _, path in modules() for line in path.read_text().splitlines()]
    zeros = [
        line for line in lines if re.search(r"initializers\.(zeros|ones|const)", line)
    ]
    assert all('param("bias"' in line for line in zeros), zeros


def allowed(name, own):
    """What a module may import from others' packages."""
    if own == "data":
        return DATA
    return THIRD_PARTY.get(FLOORS[own], BASE) | EXCEPTIONS.get(name, set())


def test_every_floor_is_listed_in_the_package_docstring():
    """And nothing else: a package that comes anew has a floor."""
    there = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert {*FLOORS, "data"} == there - {"py"}
    assert (FLOORS["types"], FLOORS["cli"]) == (0, 9)


def public_functions():
    for info in pkgutil.walk_packages([str(PACKAGE)], "vgm."):
        module = import_module(info.name)
        for name, member in vars(module).items():
            function = inspect.isfunction(member) and not name.startswith("_")
            if function and member.__module__ == info.name:
                yield f"{info.name}.{name}", member


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_public_functions_are_documented(name, function):
    document = inspect.getdoc(function)
    assert document, name
    signature = inspect.signature(function)
    if signature.parameters:
        assert "Args:" in document, name
        for parameter in signature.parameters:
            assert f"{parameter}:" in document, (name, parameter)
    returns = signature.return_annotation not in (None, inspect.Signature.empty)
    if returns and "Yields:" not in document:
        assert "Returns:" in document, name


def test_the_mathematics_imports_without_networks():
    """Floors 0 to 4 import neither Flax nor Optax, in a process of its own."""
    import subprocess
    import sys

    code = (
        "import sys, vgm.densities, vgm.bounds, vgm.bijections, vgm.oracles;"
        "import vgm.inference;"
        "assert not {'flax', 'optax', 'orbax', 'tyro', 'diffrax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_stay_small():
    for name, path in modules():
        assert len(path.read_text().splitlines()) <= 300, name

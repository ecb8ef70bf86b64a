"""The layering of the modules: who may import whom."""

import ast
import re
import sys
from pathlib import Path

import pytest

import torchlogistic

# A module imports only from groups above its own. The mathematics, down to MATHEMATICS,
# imports torch, NumPy and SciPy's special functions, and no other package.
GROUPS = [
    ["_arrays", "_stream", "_threads", "_transfer", "_triton", "_warnings"],
    ["_rows", "_loss", "_cholesky"],
    ["_objective", "_kernels"],
    ["_batches", "_gradient", "_inplace", "_orthant", "_pairs"],
    ["_rules", "_graphs", "_line_search"],
    ["_steps", "_fullbatch", "_hessian"],
    ["_minibatch", "_candidates", "_lbfgs", "_newton", "_lockstep"],
    ["_lockstep_lbfgs", "_lockstep_newton"],
    ["_solvers"],
    [
        "_labels",
        "_tensors",
        "_weighting",
        "_callbacks",
        "_checkpoints",
        "_continuation",
        "_convergence",
        "_module",
        "_divergence",
        "_isolation",
        "_prediction",
    ],
    ["_validation", "_net", "_conversion"],
    ["_training"],
    ["_classifier"],
    ["_folds", "_scoring"],
    ["_joint_minibatch", "_joint_fullbatch"],
    ["_together"],
    ["_plan"],
    ["_search"],
]
MATHEMATICS = 9
SOURCE = Path(torchlogistic.__file__).parent
LEVEL = {name: level for level, group in enumerate(GROUPS) for name in group}


def imports(path):
    """Names of imported modules, those inside functions too, those for types not."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_every_module_has_its_place():
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    assert modules == set(LEVEL)


@pytest.mark.parametrize("name", LEVEL)
def test_imports_only_from_above(name):
    for module in imports(SOURCE / f"{name}.py"):
        assert not module.startswith("torchlogistic"), module
        if module.startswith("."):
            assert module != ".", "nobody imports from the package's __init__"
            assert LEVEL[module.lstrip(".")] < LEVEL[name], module


@pytest.mark.parametrize("name", [n for group in GROUPS[:MATHEMATICS] for n in group])
def test_mathematics_imports_no_estimators(name):
    for module in imports(SOURCE / f"{name}.py"):
        top = module.split(".")[0]
        assert (
            module.startswith(".")
            or top in ("torch", "numpy")
            or module == "scipy.special"
            or (name, top) == ("_triton", "triton")  # which torch's CUDA build brings
            or top in sys.stdlib_module_names
        )


def test_contributors_read_the_same_table():
    text = (SOURCE.parents[1] / "docs" / "contributing.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)\.py` \|", text, flags=re.MULTILINE)
    assert {name: int(group) - 1 for group, name in rows} == LEVEL


def test_files_stay_short():
    for path in SOURCE.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node)
                docstring = len(doc.splitlines()) if doc else 0
                length = node.end_lineno - node.lineno + 1 - docstring
                assert length <= 80, f"{path.name}: {node.name} has {length} lines"

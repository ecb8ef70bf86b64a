"""One pass over X: the same loss and gradient as autograd, however it is cut."""

import pytest
import torch

from torchlogistic import _arrays, _gradient, _objective
from torchlogistic._gradient import FullGradient
from torchlogistic._loss import make_loss
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, view_block
from torchlogistic._threads import Team


def problem(n_classes, *, weighted=True, fit_intercept=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(203, 5, dtype=dtype, generator=generator)
    loss = make_loss(n_classes)
    labels = torch.randint(n_classes, (203,), generator=generator)
    weight = torch.rand(203, dtype=dtype, generator=generator) if weighted else None
    rows = Rows(X, loss.targets(labels, dtype), weight)
    coef = allocate_coefficients(rows, loss.n_outputs, fit_intercept=fit_intercept)
    coef.values.normal_(generator=generator)
    return Objective(loss, alpha=0.3), rows, coef


def by_autograd(objective, rows, coef):
    values = coef.values.clone().requires_grad_()
    n = coef.n_features
    z = rows.X @ values[:n] + (values[n] if coef.fit_intercept else 0)
    losses = objective.loss.value(z, rows.y)
    mean = (losses if rows.weight is None else rows.weight * losses).mean()
    (mean + objective.l2 / 2 * values[:n].square().sum()).backward()
    return mean.item(), values.grad


@pytest.fixture(params=["one piece", "pieces", "groups of pieces", "groups"])
def piece_bytes(request, monkeypatch):
    size = {"pieces": 40 * 30, "groups of pieces": 40 * 7, "groups": 40 * 7}
    monkeypatch.setattr(_gradient, "PIECE_BYTES", size.get(request.param, 2**20))
    monkeypatch.setattr(_gradient, "SERIAL_BYTES", 0)
    monkeypatch.setattr(_gradient, "SERIAL_PIECE", 0)
    monkeypatch.setattr(_arrays, "MANY_ROWS", 1)
    monkeypatch.setattr(_arrays, "SOME_ROWS", 1)
    entries = {"groups of pieces": 30, "groups": 7}
    monkeypatch.setattr(_gradient, "SERIAL_ENTRIES", entries.get(request.param, 2**15))


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_equals_autograd(n_classes, weighted, fit_intercept):
    objective, rows, coef = problem(
        n_classes, weighted=weighted, fit_intercept=fit_intercept
    )
    loss, gradient = by_autograd(objective, rows, coef)
    full = FullGradient(objective, view_block(rows), Team(2))
    with torch.no_grad():
        assert full.evaluate(coef) == pytest.approx(loss, rel=1e-13)
        torch.testing.assert_close(coef.gradient, gradient)


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_along_a_line_equals_autograd(n_classes, weighted):
    objective, rows, coef = problem(n_classes, weighted=weighted)
    full = FullGradient(objective, view_block(rows), Team(2))
    direction = torch.randn_like(coef.values)

    def loss(step):
        values = coef.values + step * direction
        z = rows.X @ values[:-1] + values[-1]
        losses = objective.loss.value(z, rows.y)
        return (losses if rows.weight is None else rows.weight * losses).mean()

    step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    value = loss(step)
    (slope,) = torch.autograd.grad(value, step)
    zero = torch.zeros((), dtype=torch.float64)
    bend = torch.autograd.functional.hessian(loss, zero)
    with torch.no_grad():
        full.evaluate(coef)
        start, change = full.block.z.copy(), full.project(coef, direction.numpy())
        assert full.curvature_along(change) == pytest.approx(bend.item())
        along = full.along(start, change, 0.3)
    assert along == pytest.approx((value.item(), slope.item()))


@torch.no_grad()
@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("weighted", [False, True])
def test_number_of_threads_changes_no_bit(n_classes, weighted):
    objective, rows, coef = problem(n_classes, weighted=weighted, dtype=torch.float32)
    results = []
    for n_threads in (1, 2, 3):
        full = FullGradient(objective, view_block(rows), Team(n_threads))
        results.append((full.evaluate(coef), coef.gradient.tolist()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("too_little", ["SERIAL_BYTES", "SERIAL_PIECE"])
def test_a_team_is_for_much_data(too_little, missing, monkeypatch):
    """In large pieces."""
    objective, rows, _ = problem(2)
    for name in ("SERIAL_BYTES", "SERIAL_PIECE"):
        least = rows.X.nbytes - missing if name == too_little else 0
        monkeypatch.setattr(_gradient, name, least)
    full = FullGradient(objective, view_block(rows), Team(3))
    assert full._pieces.team.size == (3 if missing else 1)
    # A Hessian of four classes reads X for each of their pairs.
    assert full.team_for_bytes(6 * rows.X.nbytes).size == 3


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [2, 3])
def test_losses_of_several_logits_are_one_threads_work(n_classes, monkeypatch):
    objective, rows, _ = problem(n_classes)
    monkeypatch.setattr(_objective, "SERIAL_ENTRIES", 30)
    block, shared = view_block(rows), []
    block.z[...] = 0

    def each(function, items):
        shared.extend(items)
        return map(function, items)

    loss = objective.loss_sum(block, each)
    assert bool(shared) == (n_classes == 2)
    torch.testing.assert_close(loss, objective.loss_sum(block))


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("intercept", [0.0, 0.7])
def test_at_zero_only_the_gradient_takes_a_product(n_classes, intercept, monkeypatch):
    objective, rows, coef = problem(n_classes)
    coef.values.zero_()
    coef.intercept.fill_(intercept)
    loss, gradient = by_autograd(objective, rows, coef)
    product, heights = coef.product, set()

    def note(a, b, out):
        heights.add(a.shape[0])
        product(a, b, out)

    monkeypatch.setattr(coef, "product", note)
    full = FullGradient(objective, view_block(rows), Team(1))
    with torch.no_grad():
        assert full.evaluate(coef) == pytest.approx(loss, rel=1e-13)
    torch.testing.assert_close(coef.gradient, gradient)
    transposed = {coef.n_features}  # pieces have more rows
    assert (heights == transposed) == (intercept == 0.0)


@torch.no_grad()
def test_frozen_coefficients_have_no_gradient():
    objective, rows, coef = problem(2)
    coef.frozen = [False, True]
    FullGradient(objective, view_block(rows), Team(1)).evaluate(coef)
    assert coef.intercept_gradient.item() == 0
    assert coef.weight_gradient.all()


@pytest.mark.parametrize("n_outputs", [1, 4, 10])
@pytest.mark.parametrize(("n_rows", "n_features"), [(10_000, 20), (90_000, 3)])
def test_pieces_wake_no_other_threads(n_rows, n_features, n_outputs):
    """Neither of torch, by their entries, nor of BLAS, by their products."""
    shape = (n_rows,) if n_outputs == 1 else (n_rows, n_outputs)
    rows = Rows(torch.zeros(n_rows, n_features), torch.zeros(shape))
    groups = _gradient.cut(view_block(rows))
    lengths = [len(group.rows) for group in groups]
    assert sum(lengths) == n_rows
    assert max(lengths) * n_outputs <= _gradient.SERIAL_ENTRIES
    pieces = [len(piece) for group in groups for piece in group.pieces]
    assert sum(pieces) == n_rows
    assert max(pieces) * n_features * n_outputs <= _gradient.PIECE_PRODUCTS
    # As even as whole pieces let them be.
    assert max(lengths) - min(lengths) < max(pieces) * len(groups)


@pytest.mark.parametrize("n_features", [10, 300])
def test_many_outputs_are_not_cut_into_crumbs(n_features):
    rows = Rows(torch.zeros(2000, n_features), torch.zeros(2000, 600))
    pieces = [p for group in _gradient.cut(view_block(rows)) for p in group.pieces]
    assert len(pieces) <= 2000 / (_gradient.SERIAL_ENTRIES // 600) + 1

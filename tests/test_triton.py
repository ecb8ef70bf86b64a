"""The kernel that reads X once, in Triton's interpreter where there is no device."""

import pytest
import torch

from torchlogistic import _gradient, _kernels, _triton
from torchlogistic._batches import Copier
from torchlogistic._gradient import FullGradient
from torchlogistic._kernels import BatchGradient
from torchlogistic._loss import BinaryCrossEntropy
from torchlogistic._objective import Objective, allocate_coefficients
from torchlogistic._rows import Rows, buffer_block, view_block
from torchlogistic._threads import Team

LOSS = BinaryCrossEntropy()
on_device = torch.cuda.is_available()
device = "cuda" if on_device else "cpu"
if on_device:
    pytestmark = pytest.mark.gpu


@pytest.fixture
def few_programs(monkeypatch):
    pytest.importorskip(
        "triton", reason="needs Triton, which torch's CUDA build brings"
    )
    if not on_device:  # a program in the interpreter takes milliseconds
        monkeypatch.setattr(_triton, "PROGRAMS", 3)
        monkeypatch.setattr(_triton, "BATCH_PROGRAMS", 3)
        monkeypatch.setattr(_triton, "FINISH_PARTS", 2)


@pytest.fixture
def kernel(few_programs):
    return _triton.loss_and_gradient


@pytest.fixture
def batch_kernel(few_programs):
    return _triton.write_batch_gradient


def normal(*shape, dtype):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, dtype=dtype, generator=generator).to(device)


def make_rows(n_rows, n_features, *, weighted, dtype):
    generator = torch.Generator().manual_seed(n_rows)
    X = torch.randn(n_rows, n_features, dtype=dtype, generator=generator)
    y = torch.randint(2, (n_rows,), generator=generator).to(dtype)
    weight = torch.rand(n_rows, dtype=dtype, generator=generator) if weighted else None
    return Rows(*(None if t is None else t.to(device) for t in (X, y, weight)))


def reference(rows, w, b):
    """In float64, as :class:`._loss.BinaryCrossEntropy` has it."""
    X, y = rows.X.double(), rows.y.double()
    weight = torch.ones_like(y) if rows.weight is None else rows.weight.double()
    z = X @ w.double() + (0 if b is None else b.double())
    r = weight * (LOSS.mean(z) - y)
    return z, r, (weight * LOSS.value(z, y)).sum(), X.T @ r, r.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [1, 16, 100, 1024])
@pytest.mark.parametrize("n_rows", [1, 7, 515])
@pytest.mark.parametrize("whole", [True, False])
def test_equals_the_formulas(kernel, n_rows, n_features, dtype, whole):
    rows = make_rows(n_rows, n_features, weighted=whole, dtype=dtype)
    w = normal(n_features, dtype=dtype)
    b = normal(1, dtype=dtype) if whole else None
    z, r = torch.empty_like(rows.y), torch.empty_like(rows.y)
    X = torch.cat([rows.X, rows.X[:, :1]], dim=1)[:, :-1]  # with a gap after each row
    operands = _triton.Operands(X, rows.y, rows.weight, w, b, z, r)
    loss, gradient, total = kernel(operands)
    found = z.double(), r.double(), loss, gradient, total
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found, reference(rows, w, b), rtol=10 * eps, atol=eps * n_rows * n_features
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_features", [1, 16, 100, 1024])
@pytest.mark.parametrize("n_rows", [1, 7, 515])
@pytest.mark.parametrize("whole", [True, False])
def test_batch_gradient(batch_kernel, n_rows, n_features, dtype, whole):
    rows = make_rows(n_rows, n_features, weighted=whole, dtype=dtype)
    coef = normal(n_features + whole, dtype=dtype)
    w, b = coef[:n_features], coef[n_features:] if whole else None
    z, r = torch.empty_like(rows.y), torch.empty_like(rows.y)
    gradient = torch.full_like(coef, torch.nan)
    l2 = torch.tensor(0.3, dtype=torch.float64).to(device)
    operands = _triton.Operands(rows.X, rows.y, rows.weight, w, b, z, r)
    assert batch_kernel(operands, l2=l2, gradient=gradient) is gradient
    logits, residual, _, slope, total = reference(rows, w, b)
    expected = torch.cat([slope / n_rows + l2 * w, total[None] / n_rows])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        (z.double(), r.double(), gradient.double()),
        (logits, residual, expected[: len(coef)]),
        **{"rtol": 10 * eps, "atol": eps * n_features},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_digits_are_lost_far_from_zero(kernel, dtype):
    """Each loss on its own, of logits from -80 to 80; beyond, finite."""
    logits = torch.tensor([-1e30, -80.0, -30.0, -1e-3, 0.0, 0.5, 20.0, 80.0, 1e30])
    for z in logits.to(dtype=dtype, device=device):
        for y in (0.0, 1.0):
            rows = Rows(z.view(1, 1), torch.full_like(z.view(1), y))
            one = torch.ones_like(rows.y)
            out = torch.empty_like(one), torch.empty_like(one)
            operands = _triton.Operands(rows.X, rows.y, None, one, None, *out)
            loss, gradient, _ = kernel(operands)
            wanted = LOSS.value(z.double(), rows.y.double())[0]
            torch.testing.assert_close(
                loss, wanted, rtol=2e-6 if dtype.itemsize == 4 else 1e-14, atol=1e-100
            )
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_full_gradient_takes_it(kernel, fit_intercept, weighted, monkeypatch):
    rows = make_rows(203, 5, weighted=weighted, dtype=torch.float64)
    objective = Objective(LOSS, alpha=0.3)
    results = []
    for used in (None, kernel):
        if not on_device:
            monkeypatch.setattr("torchlogistic._arrays.for_numpy", lambda tensor: False)
        monkeypatch.setattr(_gradient, "find_kernel", lambda block, used=used: used)
        coef = allocate_coefficients(rows, 1, fit_intercept=fit_intercept)
        coef.values.copy_(torch.linspace(-1, 1, len(coef.values)))
        block = view_block(rows)
        loss = FullGradient(objective, block, Team(1)).evaluate(coef)
        results.append((loss, coef.gradient, block.logits, block.residual))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def broken(*args, **kwargs):
    raise RuntimeError("Failed to find C compiler")


def test_without_a_compiler_torch_takes_over(monkeypatch):
    rows = make_rows(30, 5, weighted=False, dtype=torch.float64)
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    full = FullGradient(Objective(LOSS), view_block(rows), Team(1))
    monkeypatch.setattr(_gradient, "find_kernel", lambda block: None)
    expected = full.evaluate(coef)
    monkeypatch.setattr(_gradient, "find_kernel", lambda block: broken)
    with pytest.warns(RuntimeWarning, match=r"could not build .*Failed to find C comp"):
        assert full.evaluate(coef) == expected
    assert full.evaluate(coef) == expected


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_batches_take_it(batch_kernel, fit_intercept, weighted, monkeypatch):
    """Also where X is a part of a buffer with a column of ones."""
    rows = make_rows(203, 5, weighted=weighted, dtype=torch.float64)
    objective = Objective(LOSS, alpha=0.3)
    if not on_device:
        monkeypatch.setattr("torchlogistic._arrays.for_numpy", lambda tensor: False)
    results = []
    for used in (None, batch_kernel):
        monkeypatch.setattr(_kernels, "find_batch_kernel", lambda block, k=used: k)
        coef = allocate_coefficients(rows, 1, fit_intercept=fit_intercept)
        coef.values.copy_(torch.linspace(-1, 1, len(coef.values)))
        block = buffer_block(rows, len(rows), fit_intercept=fit_intercept)
        Copier(rows, Team(1)).copy(slice(None), block)
        BatchGradient(objective, coef).make(coef, block)(block)
        results.append((coef.gradient, block.logits, block.residual))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def test_without_a_compiler_batches_are_computed_by_torch(monkeypatch):
    rows = make_rows(30, 5, weighted=False, dtype=torch.float64)
    coef = allocate_coefficients(rows, 1, fit_intercept=True)
    objective, block = Objective(LOSS), view_block(rows)
    objective.gradient(block, coef)
    expected = coef.gradient.clone()
    monkeypatch.setattr(_kernels, "find_batch_kernel", lambda block: broken)
    batches = BatchGradient(objective, coef)
    write = batches.make(coef, block)
    with pytest.warns(RuntimeWarning, match=r"could not build .*Failed to find C comp"):
        write(block)
    for gradient in (write, write, batches.make(coef, block)):
        assert coef.gradient.equal(expected)
        coef.gradient.fill_(torch.nan)
        gradient(block)
    assert coef.gradient.equal(expected)


def test_only_for_binary_rows_on_a_cuda_device():
    block = view_block(make_rows(3, 2, weighted=False, dtype=torch.float32))
    for find in (_kernels.find_kernel, _kernels.find_batch_kernel):
        assert (find(block) is not None) == on_device
    assert not _triton.serves(torch.device("cuda"), _triton.MAX_FEATURES + 1)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("width", [2**i for i in range(11)])
def test_tiles(width, itemsize):
    """Short rows are as many as threads, or a multiple; registers suffice."""
    n_rows, n_warps = _triton.tile_of(width, itemsize)
    registers = n_rows * width * itemsize / 4 / (32 * n_warps)  # of a thread, for X
    if width * itemsize <= _triton.LONG_ROW:
        assert n_rows % (32 * n_warps) == 0
    assert n_rows >= 1
    assert registers <= 128

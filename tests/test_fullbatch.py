"""The full-batch optimizers: lbfgs and newton."""

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from torchlogistic import TorchLogisticClassifier

OPTIMIZERS = ["lbfgs", "newton"]
over_optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def classifier(optimizer, **parameters):
    settings = {"optimizer": optimizer, "tol": 1e-9, "epochs": 2000, "device": "cpu"}
    return TorchLogisticClassifier(**{**settings, **parameters})


def classification(n_rows, n_features, n_classes=2, seed=0, **kwargs):
    kwargs = {"n_informative": 4, "n_redundant": 0, "flip_y": 0.2, **kwargs}
    return make_classification(
        n_rows, n_features, n_classes=n_classes, random_state=seed, **kwargs
    )


def collinear():
    X, y = classification(200, 6)
    return np.column_stack([X, X[:, 0] + X[:, 1], X[:, 2]]), y


def badly_scaled():
    X, y = classification(300, 5)
    return X * [1e-2, 1, 10, 1, 30], y


PROBLEMS = {
    "easy": lambda: classification(300, 6),
    "three classes": lambda: classification(300, 6, n_classes=3),
    "five classes": lambda: classification(400, 8, n_classes=5, n_informative=6),
    "collinear": collinear,
    "badly scaled": badly_scaled,
    "imbalanced": lambda: classification(400, 6, weights=[0.97]),
    "wide": lambda: classification(40, 80),
    "tiny": lambda: (np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 1, 0, 1])),
}


# Rows and features of random problems: tall, wide and tiny ones in turn.
SHAPES = [((20, 400), (1, 60)), ((20, 60), (60, 200)), ((8, 20), (1, 8))]


def random_problem(seed):
    """Rows, labels, weights and a penalty, each of a kind that the seed draws."""
    rng = np.random.default_rng(seed)
    n_classes = int(rng.choice([2, 2, 3, 4]))
    n_rows, n_features = (int(rng.integers(*ends)) for ends in SHAPES[seed % 3])
    X = rng.normal(size=(n_rows, n_features))
    if rng.random() < 0.3:  # collinear
        X = np.column_stack([X, X @ rng.normal(size=(n_features, 2))])
    if rng.random() < 0.3:  # badly scaled
        X *= 10.0 ** rng.uniform(-2, 1, size=X.shape[1])
    logits = X @ rng.normal(size=(X.shape[1], n_classes)) / np.sqrt(X.shape[1])
    logits[:, 0] += rng.choice([0, 0, 4])  # imbalanced
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    y[:n_classes] = range(n_classes)
    weight = rng.uniform(0.1, 3, n_rows) if rng.random() < 0.5 else None
    return X, y, weight, 10.0 ** rng.uniform(-4, -1)


def mean_objective(X, y, coef, intercept, alpha, weight=None, l1_ratio=0.0):
    """F(w, b) with the loss from its definition, in float64."""
    z = X @ coef.T + intercept
    if z.shape[1] == 1:
        z = np.column_stack([np.zeros(len(z)), z])
    losses = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
    weight = np.ones(len(y)) if weight is None else weight / weight.mean()
    norms = (1 - l1_ratio) / 2 * np.sum(coef**2) + l1_ratio * np.sum(np.abs(coef))
    return np.mean(weight * losses) + alpha * norms


@over_optimizers
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_reaches_the_optimum_of_logistic_regression(optimizer, problem, weighted):
    X, y = PROBLEMS[problem]()
    alpha = 0.01
    weight = np.random.default_rng(0).uniform(0.1, 3, len(y)) if weighted else None
    clf = classifier(optimizer, alpha=alpha).fit(X, y, sample_weight=weight)
    reference = LogisticRegression(
        C=clf.to_sklearn().C, tol=1e-12, max_iter=100_000, solver="newton-cholesky"
    ).fit(X, y, sample_weight=weight)
    ours, theirs = (
        mean_objective(X, y, model.coef_, model.intercept_, alpha, weight)
        for model in (clf, reference)
    )
    assert ours <= theirs * (1 + 1e-9)
    np.testing.assert_allclose(clf.coef_, reference.coef_, rtol=1e-4, atol=1e-5)


@over_optimizers
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "badly scaled"])
def test_l1_leads_to_the_minimum(optimizer, problem, l1_ratio):
    """The subgradient is zero, with exact zeros, and saga gets no lower."""
    X, y = PROBLEMS[problem]()
    alpha = 0.02
    clf = classifier(optimizer, alpha=alpha, l1_ratio=l1_ratio, tol=1e-8).fit(X, y)
    p = clf.predict_proba(X)
    residual = p - (y[:, None] == clf.classes_)
    gradient = (residual[:, 1:] if len(clf.classes_) == 2 else residual).T @ X / len(y)
    w, l1 = clf.coef_, alpha * l1_ratio
    gradient += alpha * (1 - l1_ratio) * w
    kept = w != 0
    np.testing.assert_allclose(gradient[kept], -l1 * np.sign(w[kept]), atol=2e-8)
    assert (np.abs(gradient[~kept]) <= l1 + 2e-8).all()
    reference = clf.to_sklearn().set_params(tol=1e-6, max_iter=5000, random_state=0)
    reference.fit(X, y)
    ours, theirs = (
        mean_objective(X, y, m.coef_, m.intercept_, alpha, l1_ratio=l1_ratio)
        for m in (clf, reference)
    )
    assert ours <= theirs * (1 + 1e-9)


@over_optimizers
def test_float32_reaches_the_objective_to_its_precision(optimizer):
    X, y = classification(500, 6)
    alpha = 0.01
    optimum = classifier(optimizer, alpha=alpha).fit(X, y)
    clf = classifier(optimizer, alpha=alpha, tol=1e-5, dtype="float32").fit(X, y)
    assert clf.coef_.dtype == np.float32
    best, reached = (
        mean_objective(X, y, m.coef_.astype(float), m.intercept_, alpha)
        for m in (optimum, clf)
    )
    assert reached <= best * (1 + 1e-6)


@over_optimizers
def test_starts_at_zero_and_needs_no_seed(optimizer):
    X, y = classification(100, 5)
    clf = classifier(optimizer, epochs=0).fit(X, y)
    np.testing.assert_array_equal(clf.coef_, 0)
    np.testing.assert_array_equal(clf.intercept_, 0)
    first = classifier(optimizer, random_state=0, alpha=0.1).fit(X, y)
    second = classifier(optimizer, random_state=1, alpha=0.1).fit(X, y)
    np.testing.assert_array_equal(first.coef_, second.coef_)


@over_optimizers
def test_loss_falls_and_it_stops_at_tol(optimizer):
    X, y = classification(300, 6)
    clf = classifier(optimizer, tol=1e-6).fit(X, y)
    assert np.all(np.diff(clf.loss_curve_) <= 0)
    assert clf.n_iter_ == len(clf.loss_curve_) < 100
    z = clf.decision_function(X)
    residual = 1 / (1 + np.exp(-z)) - y
    gradient = np.append(X.T @ residual, residual.sum()) / len(y)
    assert np.abs(gradient).max() <= 1e-6


@over_optimizers
def test_warns_if_epochs_run_out(optimizer):
    X, y = classification(300, 6)
    message = (
        rf"optimizer='{optimizer}': the gradient's max-norm is .*, above tol=1e-09, "
        r"after 2 iterations\. Increase epochs"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        clf = classifier(optimizer, epochs=2).fit(X, y)
    assert clf.n_iter_ == 2


@over_optimizers
def test_advises_float64_for_a_tol_below_the_precision(optimizer):
    X, y = classification(300, 6)
    message = r"after 2 iterations\. Use dtype='float64' for so small a tol, increase"
    clf = classifier(optimizer, epochs=2, tol=1e-8)
    with pytest.warns(ConvergenceWarning, match=message):
        clf.fit(X.astype(np.float32), y)
    with pytest.warns(ConvergenceWarning, match="after 2 iterations. Increase epochs"):
        clf.fit(X, y)


@over_optimizers
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_warns_if_the_gradient_is_as_small_as_the_features(
    optimizer, n_classes, weighted
):
    """A smaller tol lowers the loss, by no less than the warning says."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % n_classes
    X = 1e-5 * (rng.normal(size=(300, 3)) + 2 * y[:, None])
    weight = rng.random(300) if weighted else None
    message = rf"^optimizer='{optimizer}': .* within tol=0.01, but the loss can fall by"
    with pytest.warns(ConvergenceWarning, match=message) as caught:
        start = classifier(optimizer, tol=0.01).fit(X, y, weight)
    (text,) = [str(warning.message) for warning in caught]
    least = float(re.search(r"can fall by (\S+) or more", text)[1])
    with warnings.catch_warnings(action="ignore"):
        better = classifier(optimizer, tol=1e-10).fit(X, y, weight)
    assert start.loss_curve_[-1] - better.loss_curve_[-1] > 0.9 * least > 0


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_warns_if_features_are_far_from_zero(n_classes, weighted, dtype):
    rng = np.random.default_rng(0)
    y = np.arange(300) % n_classes
    X = np.c_[rng.normal(size=(300, 2)), 1000 + rng.normal(size=300) + 2 * y]
    weight = rng.random(300) if weighted else None
    params = {"epochs": 5000, "dtype": dtype, "alpha": 1e-3}
    with pytest.warns(ConvergenceWarning, match="too far from zero, for") as caught:
        start = classifier("lbfgs", tol=1e-2, **params).fit(X, y, weight)
    least = float(re.search(r"can fall by (\S+) or more", str(caught[0].message))[1])
    X[:, 2] -= 1000  # the intercept makes up for it
    better = classifier("lbfgs", tol=1e-4, **params).fit(X, y, weight)
    assert start.loss_curve_[-1] - better.loss_curve_[-1] > 0.9 * least > 0


@over_optimizers
def test_does_not_warn_of_small_gradients_of_what_is_of_no_use(optimizer):
    """Of noise, of constant columns, where the penalty keeps coefficients small.

    Nor of a tol that is too large for any features.
    """
    rng = np.random.default_rng(0)
    y = np.arange(2000) % 2
    X = np.c_[rng.normal(size=(2000, 2)), np.zeros(2000), np.full(2000, 1e-6)]
    classifier(optimizer, tol=0.01).fit(X, y)
    for dtype in ("float32", "float64"):
        constant = np.c_[X + y[:, None], np.full(2000, 1 / 3), np.full(2000, 7.7)]
        classifier(optimizer, tol=1e-4, alpha=0.1, dtype=dtype).fit(constant, y)
    classifier(optimizer, tol=0.01, alpha=0.1).fit(1e-3 * (X + y[:, None]), y)
    classifier(optimizer, tol=0.01, alpha=0.4, l1_ratio=1.0).fit(X + y[:, None], y)
    classifier(optimizer, tol=0.3).fit(X + y[:, None], y)


@over_optimizers
def test_a_tol_that_no_dtype_resolves(optimizer):
    X, y = classification(300, 6)
    message = "Set a tol that float64 resolves, increase epochs|no step lowers the loss"
    with pytest.warns(ConvergenceWarning, match=message):
        classifier(optimizer, epochs=30, tol=1e-300).fit(X, y)


def test_advises_no_larger_tol_where_the_gradient_is_steep():
    X, y = classification(300, 6)
    with pytest.warns(ConvergenceWarning, match=r"in float32\. Scale the features\.$"):
        classifier("lbfgs", dtype="float32").fit(1e10 * X, y)


@over_optimizers
def test_warns_of_separation(optimizer):
    X = np.linspace(-1, 1, 20)[:, None]
    y = (X[:, 0] > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match=r"separate the classes.*alpha > 0"):
        clf = classifier(optimizer, epochs=8, tol=1e-12).fit(X, y)
    assert clf.score(X, y) == 1
    assert np.isfinite(clf.coef_).all()
    assert classifier(optimizer, alpha=0.1).fit(X, y).n_iter_ < 100  # and none here


@over_optimizers
def test_warns_of_separation_at_the_tolerance(optimizer):
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    with pytest.warns(ConvergenceWarning, match="within tol=.*separate the classes"):
        classifier(optimizer, tol=1e-3).fit(X, [0, 0, 1, 1])


@over_optimizers
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_warns_of_a_class_that_is_separated_from_all_others(optimizer, fit_intercept):
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    X = StandardScaler().fit_transform(X)
    clf = classifier(optimizer, tol=1e-4, fit_intercept=fit_intercept)
    with pytest.warns(ConvergenceWarning, match="class 'setosa' from all others, so"):
        clf.fit(X, names)
    assert clf.score(X, names) < 1
    others = names != "setosa"
    # Without it, or with a penalty, there is an optimum, and no warning.
    classifier(optimizer, tol=1e-4).fit(X[others], names[others])
    clf.set_params(alpha=1e-3).fit(X, names)
    # Nor is a class separated whose rows do not count.
    weight = {"setosa": 0, "versicolor": 1, "virginica": 1}
    classifier(optimizer, tol=1e-4, class_weight=weight).fit(X, names)


@over_optimizers
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_class_between_others_is_not_separated(optimizer, fit_intercept):
    """Of three along a line all are found, up to a row at each border."""
    X = np.linspace(-1, 1, 61)[:, None]
    y = np.repeat([0, 1, 2], [20, 21, 20])
    y[[19, 20, 40, 41]] = 1, 0, 2, 1
    clf = classifier(optimizer, tol=1e-6, fit_intercept=fit_intercept)
    assert clf.fit(X, y).score(X, y) < 1  # a warning would be an error


@over_optimizers
def test_warns_if_the_precision_is_used_up(optimizer):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    with pytest.warns(ConvergenceWarning, match="no step lowers the loss.*float32"):
        classifier(optimizer, alpha=1e-3, tol=1e-14, dtype="float32").fit(X, y)


@over_optimizers
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ends_at_the_least_gradient_where_rounding_leads_astray(optimizer, seed):
    """Collinear, badly scaled rows in float32, to a tolerance that is out of reach."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 10))
    X = 1e3 * np.column_stack([X, X @ rng.normal(size=(10, 3))])
    labels = rng.integers(3, size=60)

    class Norms(Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append((net.solver_.gradient_norm, net.history[-1, "train_loss"]))

    seen = []
    params = {"alpha": 1e-9, "tol": 1e-14, "dtype": "float32", "callbacks": [Norms()]}
    classifier(optimizer, **params).fit(X, labels)
    assert len(seen) < 2000  # it did notice
    norms, losses = zip(*seen, strict=True)
    assert norms[-1] <= min(norms) * (1 + 1e-6) or losses[-1] < min(losses) * (1 + 1e-5)
    assert losses[-1] <= min(losses) * (1 + 1e-4)


@over_optimizers
def test_weights_that_differ_between_the_rows_that_are_judged(optimizer, recwarn):
    """Every third row is looked at, and these are the heavy ones."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3000, 2)), rng.integers(2, size=3000)
    weight = np.where(np.arange(3000) % 3 == 0, 1.0, 1e-3)
    clf = classifier(optimizer, alpha=0.1, tol=1e-4)
    clf.fit(X, y, sample_weight=weight)
    assert clf.loss_curve_[-1] < 0.7
    assert not recwarn.list


@over_optimizers
def test_callbacks_see_iterations_as_epochs(optimizer):
    class Recorder(Callback):
        def __init__(self):
            self.seen_ = []

        def on_batch_end(self, net, training=None, **kwargs):
            self.seen_.append(training)

    X, y = classification(100, 5)
    recorder = Recorder()
    heard = classifier(optimizer, alpha=0.1, callbacks=[recorder]).fit(X, y)
    silent = classifier(optimizer, alpha=0.1).fit(X, y)
    assert recorder.seen_ == [True] * heard.n_iter_
    np.testing.assert_array_equal(heard.coef_, silent.coef_)


@over_optimizers
def test_notices_coefficients_that_a_callback_changed(optimizer):
    class Shake(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 2:
                net.module_.linear.weight.data.add_(1.0)

    X, y = classification(200, 5)
    shaken = classifier(optimizer, alpha=0.1, callbacks=[Shake()]).fit(X, y)
    plain = classifier(optimizer, alpha=0.1).fit(X, y)
    np.testing.assert_allclose(shaken.coef_, plain.coef_, atol=1e-6)


@over_optimizers
def test_warm_start_continues_from_the_coefficients(optimizer):
    X, y = classification(200, 5)
    clf = classifier(optimizer, alpha=0.1, warm_start=True).fit(X, y)
    n_iter = clf.n_iter_
    assert clf.fit(X, y).n_iter_ <= n_iter + 1


@over_optimizers
def test_early_stopping(optimizer):
    X, y = classification(60, 20)
    clf = classifier(optimizer, early_stopping=True, random_state=0).fit(X, y)
    assert clf.n_iter_ < 50
    assert len(clf.validation_loss_curve_) == clf.n_iter_


@over_optimizers
def test_refuses_what_does_not_go_with_it(optimizer):
    X, y = classification(60, 5)
    with pytest.raises(ValueError, match=r"optimizer_params=\{'eps': 1\}"):
        classifier(optimizer, optimizer_params={"eps": 1}).fit(X, y)
    assert not hasattr(classifier(optimizer), "partial_fit")


def test_newton_refuses_a_hessian_that_does_not_fit(monkeypatch):
    monkeypatch.setattr("torchlogistic._newton.MAX_COEFFICIENTS", 5)
    X, y = classification(60, 5)
    with pytest.raises(ValueError, match=r"Hessian of 6 x 6.*'lbfgs'"):
        classifier("newton").fit(X, y)


def test_newton_sums_the_hessian_over_blocks(monkeypatch):
    X, y = classification(300, 5, n_classes=3)
    whole = classifier("newton", alpha=0.1).fit(X, y)
    monkeypatch.setattr("torchlogistic._hessian.PART_ROWS", 7)
    pieces = classifier("newton", alpha=0.1).fit(X, y)
    np.testing.assert_allclose(pieces.coef_, whole.coef_, rtol=1e-9)


@over_optimizers
def test_tensors_keep_their_device_and_dtype(optimizer):
    X, y = classification(60, 5)
    clf = classifier(optimizer, alpha=0.1, dtype="float32", tol=1e-4)
    assert clf.fit(torch.tensor(X), y).coef_.dtype == np.float32


def gradient_norm(X, y, coef, intercept, alpha, weight):
    """Max-norm of the gradient of the mean objective, by autograd in float64."""
    parts = [torch.tensor(part, dtype=torch.float64) for part in (coef, intercept)]
    w, b = (part.requires_grad_() for part in parts)
    z = torch.tensor(X, dtype=torch.float64) @ w.T + b
    if z.shape[1] == 1:
        z = torch.cat([torch.zeros_like(z), z], dim=1)
    losses = torch.nn.functional.cross_entropy(z, torch.tensor(y), reduction="none")
    if weight is not None:
        losses = losses * torch.tensor(weight / weight.mean())
    objective = losses.mean() + alpha / 2 * (w**2).sum()
    return max(abs(part).max() for part in torch.autograd.grad(objective, [w, b]))


@over_optimizers
@pytest.mark.parametrize(
    ("dtype", "tol", "rel", "rounding"),
    [(np.float64, 1e-9, 1e-9, 1e-12), (np.float32, 2e-7, 1e-6, 1e-7)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("seed", range(20))
def test_random_problems(seed, dtype, tol, rel, rounding, optimizer):
    """The objective of LogisticRegression, whatever the rows are like.

    With a penalty of 1e-4 a gradient of 1e-6 may leave the objective 5e-9 above the
    minimum per coefficient, which can be 1e-5 of it: float32 needs a smaller one, too.
    """
    X, y, weight, alpha = random_problem(seed)
    rows = X.astype(dtype)
    clf = classifier(optimizer, alpha=alpha, tol=tol)
    clf.fit(rows, y, sample_weight=weight)  # a warning would be an error
    norm = gradient_norm(rows, y, clf.coef_, clf.intercept_, alpha, weight)
    assert norm <= tol + rounding
    reference = LogisticRegression(
        C=clf.to_sklearn().C, tol=1e-12, max_iter=100_000, solver="newton-cholesky"
    ).fit(X, y, sample_weight=weight)
    ours, theirs = (
        mean_objective(X, y, model.coef_, model.intercept_, alpha, weight)
        for model in (clf, reference)
    )
    assert ours <= theirs * (1 + rel)

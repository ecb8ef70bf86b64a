"""Bad input: a clear error each, and an estimator that is as it was before."""

import copy
import inspect
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_moons
from sklearn.exceptions import (
    ConvergenceWarning,
    DataConversionWarning,
    NotFittedError,
)
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale
from sklearn.utils.fixes import parse_version
from skorch.callbacks import InputShapeSetter
from torch.utils.data import DataLoader, TensorDataset

from torchlogistic import TorchLogisticClassifier

X, y = make_moons(n_samples=60, noise=0.3, random_state=0)
y3 = np.arange(60) % 3
NAMES = np.array(["no", "yes"])
FRAME = pd.DataFrame(X, columns=["a", "b"])
ONES = np.ones(60)
IRIS = scale(load_iris().data), load_iris().target


def changed(array, index, value):
    dtype = np.result_type(array.dtype, np.asarray(value).dtype)
    array = np.array(array, dtype=dtype)
    array[index] = value
    return array


def make(**params):
    defaults = {"epochs": 5, "random_state": 0, "device": "cpu"}
    return TorchLogisticClassifier(**{**defaults, **params})


class Case:
    """One call of ``fit`` that fails.

    Parameters
    ----------
    match : str
        Regular expression that the message matches.
    X, y : array-like
    params : dict
        Parameters of the estimator.
    error : type
    **fit
        Further arguments of ``fit``.
    """

    def __init__(self, match, X=X, y=y, params=None, error=ValueError, **fit):
        self.match = "(?s)" + match
        self.params = params or {}
        self.error = error
        self.fit = {"X": X, "y": y, **fit}

    @property
    def classes(self):
        """Two labels of the type of y, whose bad ones are numbers or strings."""
        labels = np.asarray(self.fit["y"])
        return ["no", "yes"] if "yes" in labels.ravel().tolist() else [0, 1]


def case_of(match, **params):
    """A bad parameter; scikit-learn's InvalidParameterError is a ValueError."""
    return Case(match, params=params)


def validation(match, X_val=X, y_val=y, **kwargs):
    return Case(match, X_val=X_val, y_val=y_val, **kwargs)


ROWS = {
    "NaN": Case("Input X contains NaN", X=changed(X, (3, 1), np.nan)),
    "inf": Case("Input X contains infinity", X=changed(X, (3, 1), np.inf)),
    "None": Case("Expected 2D array, got scalar", X=None),
    "NaN in object": Case(
        "Input X contains NaN", X=changed(X, 0, np.nan).astype(object)
    ),
    "1-D": Case("Expected 2D array, got 1D array", X=X[:, 0]),
    "3-D": Case("Found array with dim 3", X=X[:, :, None]),
    "no rows": Case(r"Found array with 0 sample\(s\)", X=X[:0], y=y[:0]),
    "no features": Case(r"Found array with 0 feature\(s\)", X=X[:, :0]),
    "sparse": Case(
        "Sparse data was passed.*dense", X=scipy.sparse.csr_array(X), error=TypeError
    ),
    "sparse frame": Case(
        r"Sparse data was passed.*of a DataFrame \.sparse\.to_dense",
        X=pd.DataFrame(X).astype(pd.SparseDtype("float", 0)),
        error=TypeError,
    ),
    "data loader": Case(
        "X is a DataLoader, but an array or a tensor of all rows is required",
        X=DataLoader(TensorDataset(torch.tensor(X))),
        error=TypeError,
    ),
    "data set": Case(
        "X is a TensorDataset, but an array",
        X=TensorDataset(torch.tensor(X)),
        error=TypeError,
    ),
    "sparse tensor": Case(
        "a tensor of layout torch.sparse_coo .*to_dense",
        X=torch.tensor(X).to_sparse(),
        error=TypeError,
    ),
    "complex": Case("Complex data not supported", X=X + 1j),
    "complex tensor": Case("Complex data not supported", X=torch.tensor(X + 1j)),
    "strings": Case("could not convert string to float", X=np.full(X.shape, "a")),
    "objects": Case(
        "could not convert string to float: 'a'", X=changed(X.astype(object), 0, "a")
    ),
    "ragged": Case("inhomogeneous", X=[[1.0, 2.0]] * 59 + [[1.0]]),
    "masked": Case(
        r"masked array.*X\.filled.*SimpleImputer",
        X=np.ma.masked_array(X, mask=X > 1),
    ),
    "masked labels": Case(
        r"^y is a masked array.*Leave these rows out",
        y=np.ma.masked_array(y, mask=y > 0),
    ),
    "fewer labels": Case(r"inconsistent numbers of samples: \[60, 50\]", y=y[:50]),
    "too large for float32": Case(
        r"Input X contains infinity or a value too large for dtype\('float32'\)",
        X=changed(X, (3, 1), 1e39),
        params={"dtype": "float32"},
    ),
}

LABELS = {
    "None": Case("requires y to be passed, but the target y is None", y=None),
    "NaN": Case("Input y contains NaN", y=changed(y, 0, np.nan)),
    "inf": Case("Input y contains infinity", y=changed(y, 0, np.inf)),
    "NaN among strings": Case(
        "Input y? ?contains NaN", y=changed(NAMES[y].astype(object), 0, np.nan)
    ),
    "one class": Case("at least 2 classes.*one class: 1", y=np.ones(60, dtype=int)),
    "one class of strings": Case("only one class: 'yes'", y=np.full(60, "yes")),
    "continuous": Case("Unknown label type: continuous", y=X[:, 0]),
    "two columns": Case(
        r"y should be a 1d array, got an array of shape \(60, 2\)", y=np.c_[y, y]
    ),
    "mixed types": Case(
        "y mixes labels of types int and str.*astype",
        y=np.array([0, "yes"] * 30, dtype=object),
    ),
    "mixed types in a list": Case(
        "y mixes labels of types int and str", y=[0, "a"] * 30
    ),
    "None among strings": Case(
        "y mixes labels of types NoneType and str",
        y=changed(NAMES[y].astype(object), 0, None),
    ),
}
if parse_version(sklearn.__version__) >= parse_version("1.7"):  # it warned before
    LABELS["bytes"] = Case(
        "bytes is not supported", y=NAMES[y].astype("S"), error=TypeError
    )

WEIGHTS = {
    "NaN": Case(
        "Input sample_weight contains NaN", sample_weight=changed(ONES, 3, np.nan)
    ),
    "inf": Case(
        "Input sample_weight contains infinity",
        sample_weight=changed(ONES, 3, np.inf),
    ),
    "masked": Case(
        "^sample_weight is a masked array.*Leave these rows out",
        sample_weight=np.ma.masked_array(ONES, mask=y > 0),
    ),
    "negative": Case(
        r"sample_weight must not be negative: row 3 has weight -2\.0",
        sample_weight=changed(ONES, [3, 5], -2.0),
    ),
    "all zero": Case("at least one non-zero", sample_weight=0 * ONES),
    "of one class": Case(
        "at least 2 classes.*only one class: 0", sample_weight=1.0 - y
    ),
    "too few": Case(r"\(50,\), expected \(60,\)", sample_weight=ONES[:50]),
    "two columns": Case("must be 1D array or scalar", sample_weight=np.c_[ONES, ONES]),
    "strings": Case("could not convert string", sample_weight=np.full(60, "a")),
}

PARAMETERS = {
    "lr 0": case_of(r"'lr' .* must be .* \(0\.0, inf\)\. Got 0 instead", lr=0),
    "lr -1": case_of("'lr' .* Got -1 instead", lr=-1),
    "lr nan": case_of("'lr' .* Got nan instead", lr=np.nan),
    "lr inf": case_of("'lr' .* Got inf instead", lr=np.inf),
    "lr str": case_of("'lr' .* Got '0.1' instead", lr="0.1"),
    "epochs -1": case_of(r"'epochs' .* \[0, inf\)\. Got -1 instead", epochs=-1),
    "epochs 1.5": case_of("'epochs' .* must be an int .* Got 1.5 instead", epochs=1.5),
    "batch_size 0": case_of("'batch_size' .* Got 0 instead", batch_size=0),
    "batch_size all": case_of(
        "'batch_size' .* among {'auto'} or None. Got 'all' instead", batch_size="all"
    ),
    "optimizer sdg": case_of(
        "optimizer='sdg' is not known. Did you mean 'sgd'.*'sgd', 'adam', 'adamw', ",
        optimizer="sdg",
    ),
    "optimizer Adam": case_of(
        "'Adam' is not known. Did you mean 'adam'", optimizer="Adam"
    ),
    "optimizer with its module": case_of(
        "'torch.optim.Adam' is not known. Did you mean 'adam'",
        optimizer="torch.optim.Adam",
    ),
    "optimizer far off": case_of(
        r"'magic' is not known\. Valid are 'sgd'", optimizer="magic"
    ),
    "optimizer class": case_of(
        "optimizer=Linear is not a subclass of torch.optim.Optimizer",
        optimizer=torch.nn.Linear,
    ),
    "optimizer SparseAdam": case_of(
        "optimizer=SparseAdam takes sparse gradients only.*: use 'adam'",
        optimizer=torch.optim.SparseAdam,
    ),
    "optimizer of matrices": case_of(
        "Muon cannot be made with .* for this model: Muon only supports 2D parameters",
        optimizer=torch.optim.Muon,
    )
    if hasattr(torch.optim, "Muon")
    else case_of("'epochs'", epochs=-1),
    "optimizer instance": case_of(
        "optimizer is an instance of SGD: pass the class, .* lr .* optimizer_params",
        optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1),
    ),
    "momentum 1": case_of("'momentum' .* Got 1 instead", momentum=1),
    "lr in optimizer_params": case_of(
        "optimizer_params must not have 'lr': it is a parameter of the estimator",
        optimizer_params={"lr": 0.1},
    ),
    "momentum in optimizer_params": case_of(
        "optimizer_params must not have 'momentum': it is a parameter",
        optimizer_params={"momentum": 0.9},
    ),
    "params in optimizer_params": case_of(
        "optimizer_params must not have 'params'", optimizer_params={"params": []}
    ),
    "unknown optimizer_params": case_of(
        r"'nestrov', which SGD does not take\. Did you mean 'nesterov'\? Valid are "
        r"'dampening', 'weight_decay', 'nesterov', ",
        optimizer_params={"nestrov": True},
    ),
    "optimizer_params of another optimizer": case_of(
        r"'betas', which RMSprop does not take\. Valid are 'alpha', ",
        optimizer="rmsprop",
        optimizer_params={"betas": (0.5, 0.9)},
    ),
    "optimizer_params that are no names": case_of(
        "optimizer_params has 1, which Adam does not take",
        optimizer="adam",
        optimizer_params={1: True},
    ),
    "refused optimizer_params": case_of(
        "Nesterov momentum requires a momentum",
        optimizer_params={"nesterov": True},
        momentum=0.0,
    ),
    "alpha": case_of("'alpha' .* Got -1 instead", alpha=-1),
    "l1_ratio": case_of("'l1_ratio' .* Got 2 instead", l1_ratio=2),
    "device gpu0": case_of(
        "device='gpu0' is not a device of torch. Use 'auto', 'cpu'", device="gpu0"
    ),
    "device cpu:3": case_of("device='cpu:3' is not available", device="cpu:3"),
    "device meta": case_of("device='meta' is not available", device="meta"),
    "dtype float16": case_of("'dtype' .* Got 'float16' instead", dtype="float16"),
    "verbose 3": case_of("'verbose' .* Got 3 instead", verbose=3),
    "callbacks str": case_of("'callbacks' .* must be an instance", callbacks="x"),
    "callback that sets the shape": case_of(
        "callbacks has InputShapeSetter under the name 'InputShapeSetter', .* remove",
        callbacks=[InputShapeSetter()],
    ),
    "random_state str": case_of("'random_state' .* Got 'a' instead", random_state="a"),
    "class_weight str": case_of(
        "'class_weight' .* among {'balanced'} or None. Got 'equal'",
        class_weight="equal",
    ),
    "class_weight of another class": case_of(
        r"no weight for the classes \[1\], but .*: \[7\]$", class_weight={0: 1, 7: 1}
    ),
    "class_weight of text": case_of(
        "class_weight={0: 'a', 1: 1}: could not convert string to float",
        class_weight={0: "a", 1: 1},
    ),
    "class_weight negative": case_of(
        "class_weight={0: -1, 1: 3} must have finite weights",
        class_weight={0: -1, 1: 3},
    ),
    "class_weight nan": case_of(
        "class_weight={0: nan, 1: 1} must have finite weights",
        class_weight={0: np.nan, 1: 1},
    ),
    "class_weight that leaves one class": case_of(
        "class_weight={0: 0, 1: 1} leaves rows of only one class: at least 2",
        class_weight={0: 0, 1: 1},
    ),
    "class_weight all zero": case_of(
        "class_weight={0: 0, 1: 0} leaves rows of only one class",
        class_weight={0: 0, 1: 0},
    ),
    "class_weight and pos_weight": case_of(
        "class_weight and pos_weight are both given.* not both",
        class_weight="balanced",
        pos_weight=3,
    ),
    "pos_weight 0": case_of("'pos_weight' .* Got 0 instead", pos_weight=0),
    "pos_weight of three classes": Case(
        "pos_weight needs two classes, y has 3: use class_weight",
        y=y3,
        params={"pos_weight": 3},
    ),
    "validation_fraction too small": case_of(
        "cannot hold out validation_fraction=0.01 of 60 .*{0: 30, 1: 30}.*X_val",
        early_stopping=True,
        validation_fraction=0.01,
    ),
    "too few rows of a class to train on": Case(
        "cannot hold out .*{0: 58, 1: 2}",
        y=changed(np.zeros(60, dtype=int), [0, 1], 1),
        params={"early_stopping": True, "validation_fraction": 0.9},
    ),
    "one row of a class": Case(
        "cannot hold out .*{0: 59, 1: 1}",
        y=changed(np.zeros(60, dtype=int), 0, 1),
        params={"early_stopping": True},
    ),
}

VALIDATION = {
    "no y_val": validation("^X_val is given without y_val", y_val=None),
    "no X_val": validation("^y_val is given without X_val", X_val=None),
    "sample_weight_val alone": validation(
        "^sample_weight_val is given without X_val and y_val",
        X_val=None,
        y_val=None,
        sample_weight_val=ONES,
    ),
    "unknown label": validation(
        r"^y_val has labels that y does not have: \[2\]; y has \[0, 1\]", y_val=y + 1
    ),
    "unknown str label": validation(
        r"^y_val has labels that y does not have: \['maybe'\]; y has \['no', 'yes'\]",
        y=NAMES[y],
        y_val=np.full(60, "maybe"),
    ),
    "mixed types": validation(
        "^y_val mixes labels of types int and str: convert",
        y_val=np.array([0, "yes"] * 30, dtype=object),
    ),
    "fewer columns": validation(
        "^X_val: X has 1 features, but .* is expecting 2", X_val=X[:, :1]
    ),
    "other names": validation(
        "^X_val: The feature names should match",
        X=FRAME,
        X_val=FRAME.rename(columns={"a": "c"}),
    ),
    "NaN": validation("^X_val: .*contains NaN", X_val=changed(X, 0, np.nan)),
    "no rows": validation(r"^X_val: .*0 sample\(s\)", X_val=X[:0], y_val=y[:0]),
    "fewer labels": validation(
        "^y_val: .*inconsistent numbers of samples", y_val=y[:50]
    ),
    "two columns": validation("^y_val: y should be a 1d array", y_val=np.c_[y, y]),
    "masked labels": validation(
        "^y_val is a masked array.*Leave these rows out",
        y_val=np.ma.masked_array(y, mask=y > 0),
    ),
    "masked": validation(
        "^X_val: .*masked array", X_val=np.ma.masked_array(X, mask=X > 1)
    ),
    "sparse": validation(
        "^X_val: Sparse data", X_val=scipy.sparse.csr_array(X), error=TypeError
    ),
    "negative weights": validation(
        "^sample_weight_val must not be negative: row 0 has weight -1",
        sample_weight_val=-ONES,
    ),
    "too few weights": validation(
        r"^sample_weight_val: .*\(50,\), expected \(60,\)", sample_weight_val=ONES[:50]
    ),
}

DIVERGENCE = {
    "lr 1e6": case_of(
        r"diverged with lr=1e\+06: after epoch 100 the mean loss of 60 rows was \d\S+, "
        r"against 0\.693 of equal probabilities for all classes\. Try lr=0\.1\.$",
        lr=1e6,
        epochs=100,
    ),
    "a single step of lr 1e6": case_of(
        r"diverged with lr=1e\+06: after epoch 1 the mean loss of 60 rows was",
        lr=1e6,
        epochs=1,
        batch_size=None,
    ),
    "lr 1e300": case_of(r"diverged with lr=1e\+300: after epoch 5 the ", lr=1e300),
    "lr 1e300 in float32": case_of(
        r"diverged with lr=1e\+300: ", lr=1e300, dtype="float32"
    ),
    "features of 1e200": Case("diverged with .* epoch .*StandardScaler", X=X * 1e200),
    "features of 1e3 and lr 1e6": Case(
        r"all classes\. Scale the features, e\.g\. make_pipeline\(StandardScaler\(\), "
        r"TorchLogisticClassifier\(\)\), and try lr=0\.1 or a lower alpha\.$",
        X=X * 1e3,
        params={"lr": 1e6, "alpha": 1.0},
    ),
    "a value of 1e39 in each class": Case(
        "diverged with .*StandardScaler",
        X=changed(X, ([np.argmin(y), np.argmax(y)], 1), 1e39),
    ),
    "float32 features of 1e30": Case(
        "diverged with .* epoch .*StandardScaler", X=(X * 1e30).astype(np.float32)
    ),
    "validation features of 1e308": validation(
        "diverged with lr=10: in epoch 1 the mean validation loss became nan,",
        X_val=np.full(X.shape, 1e308),
        params={"lr": 10.0},
    ),
    "three classes": Case(
        r"diverged with lr=1e\+06: .*, against 1\.1 of", y=y3, params={"lr": 1e6}
    ),
    # Few rows of iris are on the wrong side: the loss at the end is not that large.
    **{
        f"iris {params}": Case(
            r"diverged with lr=1e\+06: (after epoch \d+ the mean loss of 150 rows|"
            r"in epoch \d+, the worst, the mean loss) was \S+e\+0\d, "
            r"against 1\.1 of equal probabilities for all classes\. Try lr=0\.1\.$",
            *IRIS,
            params={"lr": 1e6, "batch_size": 16, **params},
        )
        for params in (
            {"epochs": 1},
            {"epochs": 3},
            {"epochs": 10},
            {"epochs": 100},
            {"epochs": 10, "early_stopping": True},
            {"epochs": 100, "early_stopping": True},
            {"epochs": 3, "optimizer": "adam"},
            {"epochs": 3, "dtype": "float32"},
        )
    },
}

CASES = {
    f"{table}: {name}": case
    for table, cases in {
        "X": ROWS,
        "y": LABELS,
        "sample_weight": WEIGHTS,
        "parameters": PARAMETERS,
        "validation": VALIDATION,
        "divergence": DIVERGENCE,
    }.items()
    for name, case in cases.items()
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# scikit-learn casts before it checks for infinity.
casting = pytest.mark.filterwarnings(
    "ignore:overflow encountered in cast:RuntimeWarning"
)


def test_warns_of_a_fit_that_is_worse_than_none():
    with pytest.warns(
        ConvergenceWarning,
        match=r"mean loss at the end, of 60 rows, is .* above the 0\.69",
    ):
        make(epochs=20).fit(1000 * X, y)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
@pytest.mark.parametrize("random_state", range(3))
def test_unscaled_features_are_worth_a_warning(load, random_state):
    """They give a model, if a bad one."""
    with pytest.warns(ConvergenceWarning, match="Scale the features"):
        make(epochs=100, random_state=random_state).fit(*load(return_X_y=True))


CANCER = load_breast_cancer(return_X_y=True)
DIVERGING = {
    # scaled, lr, alpha: what happened, what to do
    "unscaled": (
        (False, 1e3, 0.0),
        r"after epoch 100 the mean loss of 569 rows was 2\.94e\+07",
        r"Scale the features, e\.g\. make_pipeline\(StandardScaler\(\), "
        r"TorchLogisticClassifier\(\)\), and try lr=0\.1",
    ),
    "unscaled, but for which lr would do": (
        (False, 1.0, 0.0),
        r"after epoch 100 the mean loss of 569 rows was 3\.14e\+04",
        r"Scale the features, e\.g\. make_pipeline\(StandardScaler\(\), "
        r"TorchLogisticClassifier\(\)\)",
    ),
    "scaled": (
        (True, 1e6, 0.0),
        r"in epoch 67, the worst, the mean loss was 3\.89e\+04",
        r"Try lr=0\.1",
    ),
    "scaled, with a penalty": (
        (True, 1e3, 0.1),
        "in epoch 5 the mean loss became nan",
        r"Try lr=0\.1 or a lower alpha",
    ),
    "steps that are too long for the penalty": (
        (True, 0.05, 1e3),
        r"in epoch \d+ the mean loss became nan",
        r"Try lr=0\.001 or a lower alpha",
    ),
}


@pytest.mark.parametrize("name", DIVERGING)
def test_divergence_says_what_happened_and_what_works(name):
    (scaled, lr, alpha), found, remedy = DIVERGING[name]
    rows, labels = CANCER
    rows = scale(rows) if scaled else rows
    clf = make(lr=lr, alpha=alpha, epochs=100)
    match = (
        f"^{re.escape(f'Training diverged with lr={lr:g}: ')}{found}, against 0.693 of "
        f"equal probabilities for all classes. {remedy}.$"
    )
    with pytest.raises(ValueError, match=match) as error:
        clf.fit(rows, labels)
    # What it says does work, without a warning.
    lr_to_try = re.search(r"for all classes.*try lr=([\d.]*\d)", str(error.value), re.I)
    if lr_to_try:
        clf.set_params(lr=float(lr_to_try[1]))
    clf.fit(scale(rows), labels)


@pytest.mark.parametrize("remedy", [{"batch_size": None}, {"optimizer": "lbfgs"}])
@pytest.mark.parametrize("scaled", [True, False])
def test_differences_of_gradients_of_mini_batches_diverge(scaled, remedy):
    rows = scale(CANCER[0]) if scaled else CANCER[0]
    clf = make(optimizer=torch.optim.LBFGS, lr=1.0, epochs=2, batch_size=16)
    warning = (
        "^LBFGS takes differences of gradients, and those of two mini-batches differ "
        r"by their rows as well: set batch_size=None, or use optimizer='lbfgs'\.$"
    )
    match = (
        "Training diverged with lr=1: .* Set batch_size=None, or use optimizer='lbfgs'"
        + (r"\.$" if scaled else ", and scale the features, ")
    )
    with (
        pytest.warns(UserWarning, match=warning),
        pytest.raises(ValueError, match=match),
    ):
        clf.fit(rows, CANCER[1])
    clf.set_params(alpha=1e-3, epochs=50, tol=1e-3, **remedy)
    assert clf.fit(scale(rows), CANCER[1]).loss_curve_[-1] < 0.1


def test_a_line_search_holds_differences_of_gradients():
    params = {"line_search_fn": "strong_wolfe", "max_iter": 4}
    clf = make(optimizer=torch.optim.LBFGS, optimizer_params=params, batch_size=64)
    assert clf.fit(scale(CANCER[0]), CANCER[1]).loss_curve_[-1] < 0.2


@pytest.mark.parametrize(("lr", "remedy"), [(1e3, "0.1"), (1e5, "0.1")])
def test_warning_of_long_steps_says_what_works(lr, remedy):
    rows = scale(CANCER[0])
    with pytest.warns(
        ConvergenceWarning, match=rf"for all classes\. Try lr={remedy}\.$"
    ):
        make(lr=lr, epochs=100).fit(rows, CANCER[1])


@pytest.mark.parametrize("random_state", [0, 4])
def test_warning_of_a_short_run_that_was_to_be_longer(random_state):
    """Early stopping does not hide that training led nowhere."""
    clf = make(early_stopping=True, epochs=100, random_state=random_state)
    match = r"loss at the end, of 512 rows, is \d.*Scale the features, e\.g\."
    with pytest.warns(ConvergenceWarning, match=match):
        clf.fit(*CANCER)
    assert clf.n_iter_ < 10


@pytest.mark.parametrize("offset", [0.0, 2024.0])
def test_warning_of_a_few_epochs_that_are_lost(offset):
    """The scale or an offset is what is wrong, and more epochs would not help."""
    rows = CANCER[0] if not offset else scale(CANCER[0]) + offset
    clf = make(epochs=2, lr=1e-3 if offset else 0.1)
    match = (
        r"loss at the end, of 569 rows, is \d.*classes\. Scale the features, e\.g\. "
        r"make_pipeline\(StandardScaler\(\), TorchLogisticClassifier\(\)\)\.$"
    )
    with pytest.warns(ConvergenceWarning, match=match):
        clf.fit(rows, CANCER[1])


def test_an_offset_is_told_from_long_steps():
    rows = np.c_[scale(CANCER[0]), np.full(len(CANCER[0]), 2024.0)]
    match = r"Training diverged with lr=0\.1: .* Scale the features, e\.g\."
    with pytest.raises(ValueError, match=match):
        make(epochs=100).fit(rows, CANCER[1])
    make(epochs=100).fit(scale(rows), CANCER[1])


@pytest.mark.parametrize(
    ("optimizer", "start"),
    [
        ("sgd", "Training diverged with lr=0.1: in epoch 1 "),
        ("lbfgs", "Training div"),
        ("newton", "optimizer='newton': "),
    ],
)
def test_values_that_nobody_looked_at(optimizer, start):
    match = f"^{start}.*X has values that are not finite: impute or remove them"
    with (
        sklearn.config_context(assume_finite=True),
        pytest.raises(ValueError, match=match),
    ):
        make(optimizer=optimizer).fit(changed(X, (3, 1), np.nan), y)


def test_values_to_validate_on_that_nobody_looked_at():
    match = r"the mean validation loss became nan, .* X_val has values that are not fin"
    with (
        sklearn.config_context(assume_finite=True),
        pytest.raises(ValueError, match=match),
    ):
        make().fit(X, y, X_val=changed(X, (3, 1), np.nan), y_val=y)


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_rows_to_validate_on_that_were_not_scaled(optimizer):
    rows, labels = CANCER
    clf = make(optimizer=optimizer, alpha=0.01, epochs=50, warm_start=True)
    match = r"^The mean loss of X_val is \d.*far from those of X.*\['X_val'\]\.$"
    clf.fit(scale(rows), labels, X_val=scale(rows), y_val=labels)  # none here
    for _ in range(2):
        with pytest.warns(UserWarning, match=match):
            clf.fit(scale(rows), labels, X_val=rows, y_val=labels)


@pytest.mark.parametrize("held_out", [False, True])
def test_rows_to_validate_on_of_which_nothing_was_learned(held_out):
    """They are like those of X: scaling them is not what helps."""
    rng = np.random.default_rng(0)
    rows, labels = 3 * rng.normal(size=(120, 5000)), rng.integers(2, size=120)
    if held_out:
        make(epochs=5, early_stopping=True).fit(rows, labels)
    else:
        held = {"X_val": rows[60:], "y_val": labels[60:]}
        clf = make(epochs=5).fit(rows[:60], labels[:60], **held)
        assert min(clf.validation_loss_curve_) > 7


def test_values_that_were_held_out_and_nobody_looked_at():
    rows, index = X.copy(), np.arange(len(X))
    _, held = train_test_split(index, test_size=0.1, stratify=y, random_state=0)
    rows[held[0], 1] = np.nan
    match = "validation loss became nan.* X has values that are not finite"
    with (
        sklearn.config_context(assume_finite=True),
        pytest.raises(ValueError, match=match),
    ):
        make(early_stopping=True).fit(rows, y)


def test_divergence_without_a_step_size():
    clf = make(optimizer="lbfgs", alpha=0.1, tol=0.1, warm_start=True).fit(X, y)
    clf.coef_ *= 1e300
    match = (
        r"^Training diverged: in epoch \d .* Scale the features.*Classifier\(\)\)\.$"
    )
    with pytest.raises(ValueError, match=match):
        clf.fit(X * 1e10, y)


def test_long_steps_that_find_the_classes_are_no_divergence():
    """Rows that a hyperplane separates leave no loss, however long the steps."""
    rows = np.r_[np.full((30, 2), -1.0), np.full((30, 2), 1.0)]
    labels = np.repeat([1, 0], 30)
    clf = make(lr=1e6, batch_size=None, epochs=20).fit(rows, labels)
    assert clf.score(rows, labels) == 1


def test_early_stopping_goes_back_to_before_the_divergence():
    """What is kept is judged, not what was tried."""
    clf = make(early_stopping=True, warm_start=True, epochs=20).fit(X, y)
    coef = clf.coef_
    clf.set_params(lr=1e7, epochs=3).fit(X, y)
    assert max(clf.loss_curve_) > 1e5
    np.testing.assert_array_equal(clf.coef_, coef)


def state(clf):
    """All attributes: parameters themselves, copies of the others."""
    params = clf.get_params(deep=False)
    return {k: v if k in params else copy.deepcopy(v) for k, v in vars(clf).items()}


@casting
@every_case
def test_message(case):
    with pytest.raises(case.error, match=case.match):
        make(**case.params).fit(**case.fit)


@casting
@every_case
def test_an_unfitted_estimator_stays_unfitted(case):
    clf = make(**case.params)
    before = set(vars(clf))
    with pytest.raises(case.error):
        clf.fit(**case.fit)
    assert set(vars(clf)) == before
    with pytest.raises(NotFittedError):
        clf.predict(X)


@casting
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("warm_start", [False, True], ids=["", "warm start"])
@every_case
def test_a_fitted_estimator_keeps_its_state(case, warm_start):
    clf = make(momentum=0.9, warm_start=warm_start)
    clf.fit(FRAME, y, X_val=FRAME, y_val=y)
    expected = clf.predict_proba(FRAME)
    clf.set_params(**case.params)
    before = state(clf)
    with pytest.raises(case.error):
        clf.fit(**case.fit)
    np.testing.assert_equal(vars(clf), before)
    np.testing.assert_array_equal(clf.predict_proba(FRAME), expected)


REFUSED_IN_PARTS = {
    name: case
    for name, case in CASES.items()
    if name.startswith(("X:", "y:", "sample_weight:")) and "one class" not in case.match
}


@casting
@pytest.mark.parametrize("case", REFUSED_IN_PARTS.values(), ids=REFUSED_IN_PARTS)
def test_partial_fit(case):
    first = make(**case.params)
    with pytest.raises(case.error, match=case.match):
        first.partial_fit(**case.fit, classes=np.unique(case.classes))
    with pytest.raises(NotFittedError):
        first.predict(X)

    labels = np.asarray(case.classes)
    later = make(**case.params).partial_fit(X, labels[y], labels)
    before = state(later)
    with pytest.raises(case.error, match=case.match):
        later.partial_fit(**case.fit)
    np.testing.assert_equal(vars(later), before)


def test_partial_fit_that_diverges():
    clf = make().partial_fit(X, y, [0, 1])
    before = state(clf)
    with pytest.raises(ValueError, match="in epoch 2 the mean loss became nan"):
        clf.partial_fit(X * 1e200, y)
    np.testing.assert_equal(vars(clf), before)


# Parameters that have no effect: no error and no warning, as in scikit-learn.

FULL_BATCH = {
    **{"lr": 1e6, "momentum": 0.9, "batch_size": 7, "shuffle": False},
    **{"random_state": 1, "l1_ratio": 0.5},
    **{"validation_fraction": 0.5, "n_iter_no_change": 1},
}
WITHOUT_EFFECT = [
    *(({"optimizer": "lbfgs"}, {name: value}) for name, value in FULL_BATCH.items()),
    *(({"optimizer": "newton"}, {name: value}) for name, value in FULL_BATCH.items()),
    *(
        ({"optimizer": name}, {"momentum": 0.9})
        for name in ("adam", "adamw", "rmsprop", "adagrad", torch.optim.NAdam)
    ),
    ({}, {"l1_ratio": 0.5}),
    ({}, {"tol": 1e-1}),
    ({}, {"validation_fraction": 0.5}),
    ({}, {"n_iter_no_change": 1}),
]


@pytest.mark.parametrize(("params", "more"), WITHOUT_EFFECT, ids=str)
def test_parameters_without_effect_are_ignored_and_say_so(params, more):
    clf = make(**{"epochs": 20, **params}).fit(X, y)
    other = make(**{"epochs": 20, **params, **more}).fit(X, y)
    np.testing.assert_array_equal(other.coef_, clf.coef_)
    described = inspect.getdoc(TorchLogisticClassifier)
    (name,) = more
    described = re.search(rf"\n{name} : (.*?\n)\n(?=\w)", described, re.S)[1]
    assert re.search(r"ignore|Without\s+effect|start from zero", described, re.I)


ABSENT = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")


@ABSENT
@pytest.mark.parametrize("device", ["cuda", "cuda:7", torch.device("cuda")])
def test_absent_device(device):
    message = r"device='cuda(:7)?' is not available: .* sees cpu.*device='auto'.*"
    clf = make(device=device)
    with pytest.raises(ValueError, match=message):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.predict(X)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_absent_device_of_several():
    with pytest.raises(ValueError, match="device='cuda:99' is not available"):
        make(device="cuda:99").fit(X, y)


METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


class TestPrediction:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (changed(X, 0, np.nan), "Input X contains NaN"),
            (changed(X, 0, -np.inf), "Input X contains infinity"),
            (X[:, :1], "X has 1 features, but .* is expecting 2 features"),
            (np.c_[X, X], "X has 4 features, but .* is expecting 2 features"),
            (X[0], "Expected 2D array, got 1D array"),
            (X[:, :, None], "Found array with dim 3"),
            (X[:0], r"0 sample\(s\)"),
            (X + 1j, "Complex data not supported"),
            (np.full(X.shape, "a"), "could not convert string to float"),
            (np.ma.masked_array(X, mask=X > 1), "masked array"),
        ],
        ids=[
            "NaN",
            "inf",
            "fewer columns",
            "more columns",
            "1-D",
            "3-D",
            "no rows",
            "complex",
            "strings",
            "masked",
        ],
    )
    def test_rows(self, method, rows, message):
        clf = make().fit(X, y)
        with pytest.raises(ValueError, match=message):
            getattr(clf, method)(rows)

    @pytest.mark.parametrize("method", METHODS)
    def test_sparse(self, method):
        clf = make().fit(X, y)
        with pytest.raises(TypeError, match="Sparse data was passed"):
            getattr(clf, method)(scipy.sparse.csr_array(X))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (FRAME.rename(columns={"b": "c"}), "unseen at fit time:\n- c"),
            (FRAME[["b", "a"]], "must be in the same order"),
            (FRAME.assign(c=0), "unseen at fit time:\n- c"),
            (FRAME[["a"]], "seen at fit time, yet now missing:\n- b"),
        ],
        ids=["another name", "another order", "one more", "one less"],
    )
    def test_feature_names(self, method, frame, message):
        clf = make().fit(FRAME, y)
        with pytest.raises(ValueError, match=message):
            getattr(clf, method)(frame)

    def test_names_on_one_side_only(self):
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            make().fit(FRAME, y).predict(X)
        with pytest.warns(UserWarning, match="X has feature names, but"):
            make().fit(X, y).predict(FRAME)

    @pytest.mark.parametrize(
        "use",
        [
            *(lambda clf, m=method: getattr(clf, m)(X) for method in METHODS),
            lambda clf: clf.score(X, y),
            lambda clf: clf.to_sklearn(),
            lambda clf: clf.module_,
        ],
        ids=[*METHODS, "score", "to_sklearn", "module_"],
    )
    def test_unfitted(self, use):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            use(make())

    def test_unseen_labels_score_zero(self):
        assert make().fit(X, y).score(X, y + 2) == 0


class TestAccepted:
    """Input near the edge that works."""

    def test_column_of_labels(self):
        with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
            clf = make().fit(X, y[:, None])
        np.testing.assert_array_equal(clf.coef_, make().fit(X, y).coef_)

    def test_masked_array_without_masked_values(self):
        clf = make().fit(np.ma.masked_array(X), y)
        np.testing.assert_array_equal(clf.coef_, make().fit(X, y).coef_)

    def test_batch_larger_than_the_data(self):
        one, other = (make(batch_size=n).fit(X, y) for n in (1000, None))
        np.testing.assert_array_equal(one.coef_, other.coef_)
        assert one.batch_size_ == 60

    def test_last_batch_of_one_row(self):
        clf = make(batch_size=59).fit(X, y)
        assert np.isfinite(clf.loss_curve_).all()
        assert clf.history_[0]["train_batch_count"] == 2

    def test_constant_and_repeated_features(self):
        clf = make().fit(np.c_[X[:, :1], X[:, :1], np.ones(60)], y)
        assert np.isfinite(clf.coef_).all()

    def test_single_weight_for_all_rows(self):
        clf = make().fit(X, y, sample_weight=3.0)
        np.testing.assert_array_equal(clf.coef_, make().fit(X, y).coef_)

    def test_weights_of_any_size(self):
        expected = make().fit(X, y).coef_
        for size in (1e-300, 1e300, 1e306):
            coef = make().fit(X, y, sample_weight=size * ONES).coef_
            np.testing.assert_allclose(coef, expected, rtol=1e-12)

    def test_large_pos_weight_is_no_divergence(self):
        """The loss is as large as the weight, before the first step already."""
        clf = make(pos_weight=1e6, lr=1e-9).fit(X, y)
        assert clf.loss_curve_[-1] < clf.loss_curve_[0]

    def test_set_params_after_fit_leaves_predictions(self):
        clf = make(alpha=0.1).fit(X, y)
        expected = clf.predict_proba(X)
        with torch.no_grad():
            z = clf.module_(torch.tensor(X)).numpy()
        clf.set_params(fit_intercept=False, lr=7, dtype="float32", device="cuda")
        np.testing.assert_array_equal(clf.predict_proba(X), expected)
        with torch.no_grad():
            np.testing.assert_array_equal(clf.module_(torch.tensor(X)).numpy(), z)

    def test_no_warning(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make().fit(X, y, X_val=X, y_val=y).predict(X)
        assert not caught


def test_one_row_of_a_stream_on_the_wrong_side_is_no_failure():
    clf = make().fit(X, y)
    for _ in range(10):  # without a warning
        clf.partial_fit(20 * X[:1], 1 - y[:1])


def test_a_stream_that_learns_nothing_is_warned_of():
    clf = make().fit(X, y)
    rows = np.tile(1000 * X, (4, 1)), np.tile(y, 4)
    with pytest.warns(ConvergenceWarning, match="mean loss at the end"):
        for _ in range(12):
            clf.partial_fit(*rows)


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_a_tol_that_leaves_the_l1_penalty_undecided(optimizer):
    clf = make(optimizer=optimizer, alpha=1e-3, l1_ratio=0.5, tol=1e-3, epochs=200)
    message = (
        r"is not below the L1 penalty, .* = 0\.0005: .*Set tol to .* 5e-05, or less"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        clf.set_params(tol=0.01).fit(X, y)
    clf.set_params(tol=5e-5).fit(X, y)  # without a warning

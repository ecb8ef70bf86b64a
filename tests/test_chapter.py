"""Every number of the chapter from which the package grew.

D. V. Godoy, "Deep Learning with PyTorch Step-by-Step", chapter 3.
"""

import numpy as np
import pytest
import sklearn
import torch
from scipy.special import expit, logit
from sklearn.metrics import auc, confusion_matrix, precision_recall_curve, roc_curve
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from torchlogistic import TorchLogisticClassifier
from torchlogistic._loss import BinaryCrossEntropy

SETTINGS = {"lr": 0.1, "epochs": 100, "batch_size": 16, "random_state": 42}


@pytest.fixture(scope="module", params=["float32", "float64"])
def fitted(request, chapter):
    clf = TorchLogisticClassifier(**SETTINGS, dtype=request.param, device="cpu")
    return clf.fit(
        chapter.X_train, chapter.y_train, X_val=chapter.X_val, y_val=chapter.y_val
    )


@pytest.fixture
def probabilities(fitted, chapter):
    return fitted.predict_proba(chapter.X_val)[:, 1]


def at_logits(logits, y, epochs=0, **weighting):
    """Fit rows with one feature, their logits, from coefficient one on."""
    clf = TorchLogisticClassifier(
        batch_size=None,
        epochs=0,
        fit_intercept=False,
        warm_start=True,
        device="cpu",
        **weighting,
    )
    X = np.asarray(logits)[:, None]
    clf.fit(X, y)
    clf.coef_ = np.ones((1, 1))
    return clf.set_params(epochs=epochs).fit(X, y)


def rates(cm):
    (tn, fp), (fn, tp) = cm
    return {
        "tpr": tp / (tp + fn),
        "fpr": fp / (fp + tn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
    }


def test_data(chapter):
    scaler = StandardScaler().fit(chapter.raw_train)
    np.testing.assert_allclose(scaler.mean_, [0.47771352, 0.27134359], atol=5e-9)
    np.testing.assert_allclose(scaler.scale_, [0.8935265, 0.5968974], atol=5e-8)
    assert np.bincount(chapter.y_train).tolist() == [41, 39]
    assert np.bincount(chapter.y_val).tolist() == [9, 11]


def test_initial_coefficients(chapter):
    clf = TorchLogisticClassifier(epochs=0, random_state=42, device="cpu")
    clf.fit(chapter.X_train, chapter.y_train)
    np.testing.assert_allclose(clf.coef_, [[0.5406, 0.5869]], atol=5e-5)
    np.testing.assert_allclose(clf.intercept_, [-0.1657], atol=5e-5)
    assert clf.n_iter_ == 0
    assert clf.loss_curve_ == []


def assert_trained(clf):
    np.testing.assert_allclose(clf.coef_, [[1.1806, -1.8693]], atol=5e-5)
    np.testing.assert_allclose(clf.intercept_, [-0.0591], atol=5e-5)


def assert_first_rows(model, X):
    np.testing.assert_allclose(
        model.decision_function(X),
        [0.20345594, 2.9444456, 3.693318, -1.2334073],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        model.predict_proba(X)[:, 1],
        [0.5506892, 0.9500003, 0.9757152, 0.2255856],
        atol=1e-5,
    )
    assert model.predict(X).tolist() == [1, 1, 1, 0]


def test_trained_coefficients(fitted):
    assert_trained(fitted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_a_pipeline_of_raw_data(chapter, dtype):
    """The pipeline scales the validation rows as it scales the others."""
    clf = TorchLogisticClassifier(**SETTINGS, dtype=dtype, device="cpu")
    with sklearn.config_context(enable_metadata_routing=True):
        model = Pipeline(
            [
                ("scale", StandardScaler()),
                ("clf", clf.set_fit_request(X_val=True, y_val=True)),
            ],
            transform_input=["X_val"],
        ).fit(
            chapter.raw_train,
            chapter.y_train,
            X_val=chapter.raw_val,
            y_val=chapter.y_val,
        )
    assert_trained(model["clf"])
    assert_first_rows(model, chapter.raw_train[:4])
    assert model["clf"].validation_loss_curve_[-1] == pytest.approx(0.2616, abs=5e-5)


def test_losses(fitted):
    epochs = [1, 10, 50, 100]
    np.testing.assert_allclose(
        [fitted.loss_curve_[epoch - 1] for epoch in epochs],
        [0.76724, 0.44052, 0.36235, 0.35965],
        atol=6e-6,
    )
    # The mean over the 20 rows; the chapter's mean of batch means is 0.22688.
    assert fitted.validation_loss_curve_[-1] == pytest.approx(0.2616, abs=5e-5)


def test_logits_probabilities_classes(fitted, chapter):
    assert_first_rows(fitted, chapter.X_train[:4])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.3, [[6, 3], [0, 11]]), (0.5, [[7, 2], [1, 10]]), (0.7, [[9, 0], [2, 9]])],
)
def test_confusion_matrix(probabilities, chapter, threshold, expected):
    cm = confusion_matrix(chapter.y_val, probabilities >= threshold)
    assert cm.tolist() == expected


def test_rates_at_one_half(probabilities, chapter):
    assert rates(confusion_matrix(chapter.y_val, probabilities >= 0.5)) == {
        "tpr": 0.9090909090909091,
        "fpr": 0.2222222222222222,
        "precision": 0.8333333333333334,
        "recall": 0.9090909090909091,
    }


@pytest.mark.parametrize(
    ("threshold", "precision"), [(0.4, 11 / 13), (0.5, 10 / 12), (0.57, 10 / 11)]
)
def test_precision_may_fall_as_the_threshold_rises(
    probabilities, chapter, threshold, precision
):
    cm = confusion_matrix(chapter.y_val, probabilities >= threshold)
    assert rates(cm)["precision"] == precision


def areas(y, score):
    fpr, tpr, _ = roc_curve(y, score)
    precision, recall, _ = precision_recall_curve(y, score)
    return auc(fpr, tpr), auc(recall, precision)


def test_areas_under_the_curves(probabilities, chapter):
    assert areas(chapter.y_val, probabilities) == (
        0.9797979797979798,
        0.9854312354312356,
    )


def test_areas_of_a_random_model(chapter):
    score = np.random.default_rng(39).standard_normal(chapter.y_val.shape)
    assert areas(chapter.y_val, score) == (0.5252525252525253, 0.540114743045365)


def test_odds_and_log_odds():
    odds = np.array([0.75, 0.25]) / (1 - np.array([0.75, 0.25]))
    np.testing.assert_allclose(odds, [3.0, 0.3333333333333333])
    log_odds = 1.0986122886681098
    np.testing.assert_allclose(logit([0.75, 0.25]), [log_odds, -log_odds])
    np.testing.assert_allclose(expit(logit([0.75, 0.25])), [0.75, 0.25])


def test_odds_and_log_odds_of_the_estimator():
    """At coefficient one and no intercept, x is the log odds."""
    clf = at_logits(np.log([3.0, 1 / 3]), [1, 0])
    X = np.log([[3.0], [1 / 3]])
    p = clf.predict_proba(X)
    np.testing.assert_allclose(p[:, 1], [0.75, 0.25])
    np.testing.assert_allclose(p[:, 1] / p[:, 0], [3.0, 0.3333333333333333])
    log_odds = 1.0986122886681098
    np.testing.assert_allclose(clf.decision_function(X), [log_odds, -log_odds])


def test_log_odds_are_the_logits_of_the_probabilities(fitted, chapter):
    p = fitted.predict_proba(chapter.X_val)
    z = fitted.decision_function(chapter.X_val)
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), z, rtol=1e-9)
    # A unit of a feature multiplies the odds by exp(coef_).
    p = fitted.predict_proba(chapter.X_val + np.array([1.0, 0.0]))
    odds = np.exp(z) * np.exp(float(fitted.coef_[0, 0]))
    np.testing.assert_allclose(p[:, 1] / p[:, 0], odds, rtol=1e-9)


class TestBinaryCrossEntropy:
    """The chapter's ways to one number, and ours."""

    labels = torch.tensor([1.0, 0.0], dtype=torch.float64)
    predictions = torch.tensor([0.9, 0.2], dtype=torch.float64)
    logits = torch.logit(predictions)

    def test_logits(self):
        torch.testing.assert_close(
            self.logits,
            torch.tensor([2.1972, -1.3863], dtype=torch.float64),
            atol=5e-5,
            rtol=0,
        )

    def ours(self):
        return BinaryCrossEntropy().value(self.logits, self.labels).mean()

    def by_class(self):
        positive = self.predictions[self.labels == 1].log().sum()
        negative = (1 - self.predictions[self.labels == 0]).log().sum()
        return -(positive + negative) / 2

    def by_formula(self):
        y, p = self.labels, self.predictions
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    def by_bce(self):
        return nn.BCELoss()(self.predictions, self.labels)

    def by_bce_with_logits(self):
        return nn.BCEWithLogitsLoss()(self.logits, self.labels)

    def by_sum(self):
        loss_fn = nn.BCEWithLogitsLoss(reduction="sum")
        return loss_fn(self.logits, self.labels) / len(self.labels)

    def by_estimator(self):
        logits = self.logits.numpy()
        clf = at_logits(logits, self.labels.numpy(), epochs=1)
        return np.float64(clf.loss_curve_[0])

    @pytest.mark.parametrize(
        "way",
        [
            "ours",
            "by_class",
            "by_formula",
            "by_bce",
            "by_bce_with_logits",
            "by_sum",
            "by_estimator",
        ],
    )
    def test_loss(self, way):
        assert getattr(self, way)().item() == pytest.approx(0.1643, abs=5e-5)


class TestImbalancedLoss:
    """One positive and three negative rows, as the loss of a step of size zero."""

    y = np.array([1, 0, 0, 0])
    logits = np.log([0.9 / 0.1, 0.2 / 0.8, 0.2 / 0.8, 0.2 / 0.8])

    def first_loss(self, **weighting):
        return at_logits(self.logits, self.y, epochs=1, **weighting).loss_curve_[0]

    def test_pos_weight_by_sum(self):
        """The sum over the rows, divided by their number and not by the weights."""
        loss_fn = nn.BCEWithLogitsLoss(reduction="sum", pos_weight=torch.tensor(3.0))
        total = loss_fn(torch.tensor(self.logits), torch.tensor(self.y.astype(float)))
        assert total.item() / 4 == pytest.approx(0.2464, abs=5e-5)
        assert total.item() / 6 == pytest.approx(0.1643, abs=5e-5)
        assert self.first_loss(pos_weight=3.0) == pytest.approx(total.item() / 4)

    def test_pos_weight_is_torchs(self):
        assert self.first_loss(pos_weight=3.0) == pytest.approx(0.2464, abs=5e-5)
        assert self.first_loss(pos_weight="balanced") == self.first_loss(pos_weight=3.0)

    def test_class_weight_is_the_weighted_mean(self):
        assert self.first_loss(class_weight="balanced") == pytest.approx(
            0.1643, abs=5e-5
        )
        assert self.first_loss(class_weight={0: 1, 1: 3}) == pytest.approx(
            0.1643, abs=5e-5
        )

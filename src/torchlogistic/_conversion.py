"""A fitted classifier as one of scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from ._weighting import scikit_learn_key


def to_logistic_regression(clf: Any) -> LogisticRegression:
    """A fitted ``LogisticRegression`` that predicts the same, with its objective."""
    run = clf._run
    alpha = run["alpha"] * run["weight_sum"]
    params: dict[str, Any] = {
        "C": 1 / alpha if alpha else np.inf,
        "fit_intercept": run["fit_intercept"],
    }
    weight = run["class_weight"]
    if run["pos_weight"] != 1.0:
        weight = np.array([1.0, run["pos_weight"]])
    if weight is not None:
        weights = dict(zip(clf.classes_.tolist(), weight.tolist(), strict=True))
        by_key = {scikit_learn_key(label): w for label, w in weights.items()}
        params["class_weight"] = by_key | weights
    if alpha and run["l1_ratio"]:
        params.update(l1_ratio=run["l1_ratio"], solver="saga")
        if LogisticRegression().penalty == "l2":  # scikit-learn < 1.8
            params["penalty"] = "elasticnet"
    model = LogisticRegression(**params)
    model.coef_ = np.array(clf.coef_, dtype=np.float64)
    model.intercept_ = np.array(clf.intercept_, dtype=np.float64)
    model.classes_ = clf.classes_.copy()
    model.n_iter_ = np.array([clf.n_iter_], dtype=np.int32)
    model.n_features_in_ = clf.n_features_in_
    if hasattr(clf, "feature_names_in_"):
        model.feature_names_in_ = clf.feature_names_in_.copy()
    return model

"""
The chapter, end to end
=======================

A binary classification from the first row to the last curve: chapter 3 of D. V. Godoy,
*Deep Learning with PyTorch Step-by-Step*, with
:class:`~torchlogistic.TorchLogisticClassifier` in place of the hand-written training
loop. Every number that the chapter prints stands beside ours, and its figures follow.
"""

# %%
# Data
# ----
# One hundred noisy moons, 80 to train on and 20 to validate. The scaler learns from the
# training rows only.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import ScalarFormatter
from scipy.special import logit
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.metrics import (
    PrecisionRecallDisplay,
    RocCurveDisplay,
    auc,
    confusion_matrix,
    precision_recall_curve,
    roc_curve,
)
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from torchlogistic import TorchLogisticClassifier

X, y = make_moons(n_samples=100, noise=0.3, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.2, random_state=13)
scaler = StandardScaler().fit(X_train)
X_train, X_val = scaler.transform(X_train), scaler.transform(X_val)

# %%
# Training
# --------
# The same batches in the same order as the chapter's ``DataLoader`` and seed give.

clf = TorchLogisticClassifier(lr=0.1, epochs=100, batch_size=16, random_state=42)
clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
probabilities = clf.predict_proba(X_val)[:, 1]

# %%
# The chapter's numbers and ours
# ------------------------------
# Its examples of a loss and of odds are given as logits: a coefficient of one and no
# intercept make them of rows that hold them.


def at_logits(logits, labels, epochs=0, **weighting):
    """The classifier whose log odds are the rows, and its loss if it takes an epoch."""
    model = TorchLogisticClassifier(
        batch_size=None, epochs=0, fit_intercept=False, warm_start=True, **weighting
    )
    rows = np.reshape(logits, (-1, 1))
    model.fit(rows, labels).coef_ = np.ones((1, 1))
    return model.set_params(epochs=epochs).fit(rows, labels)


def loss(score, labels, **weighting):
    """Mean loss of probabilities."""
    return at_logits(logit(score), labels, epochs=1, **weighting).loss_curve_[0]


def rates(threshold):
    """(TPR, FPR, precision) of the validation rows at a threshold."""
    (tn, fp), (fn, tp) = confusion_matrix(y_val, probabilities >= threshold)
    return tp / (tp + fn), fp / (fp + tn), tp / (tp + fp)


def areas(score):
    """Areas under the ROC and the precision-recall curve."""
    fpr, tpr, _ = roc_curve(y_val, score)
    precision, recall, _ = precision_recall_curve(y_val, score)
    return auc(fpr, tpr), auc(recall, precision)


def confusion(threshold):
    return confusion_matrix(y_val, probabilities >= threshold).tolist()


initial = clone(clf).set_params(epochs=0).fit(X_train, y_train)
random_score = np.random.default_rng(39).standard_normal(y_val.shape)
tpr, fpr, precision = rates(0.5)
auroc, aupr = areas(probabilities)
random_auroc, random_aupr = areas(random_score)
logits = clf.decision_function(X_train[:4])

bce = loss([0.9, 0.2], [1, 0])
imbalanced = loss([0.9, 0.2, 0.2, 0.2], [1, 0, 0, 0], pos_weight=3.0)
three_to_one = at_logits(logit([0.75, 0.25]), [1, 0])
log_odds = three_to_one.decision_function(logit([[0.75], [0.25]]))
p = three_to_one.predict_proba(logit([[0.75], [0.25]]))
odds = p[:, 1] / p[:, 0]

numbers = [
    ("initial weights", "0.5406, 0.5869", initial.coef_[0]),
    ("initial bias", "-0.1657", initial.intercept_),
    ("weight of x1", "1.1806", f"{clf.coef_[0, 0]:.4f}"),
    ("weight of x2", "-1.8693", f"{clf.coef_[0, 1]:.4f}"),
    ("bias", "-0.0591", f"{clf.intercept_[0]:.4f}"),
    ("logits of four rows", "0.2035, 2.9444, 3.6933, -1.2334", logits),
    (
        "their probabilities",
        "0.5507, 0.9500, 0.9757, 0.2256",
        clf.predict_proba(X_train[:4])[:, 1],
    ),
    ("confusion at .3", "[[6, 3], [0, 11]]", str(confusion(0.3))),
    ("confusion at .5", "[[7, 2], [1, 10]]", str(confusion(0.5))),
    ("confusion at .7", "[[9, 0], [2, 9]]", str(confusion(0.7))),
    ("TPR = recall at .5", "0.9090909090909091", str(tpr)),
    ("FPR at .5", "0.2222222222222222", str(fpr)),
    ("precision at .5", "0.8333333333333334", str(precision)),
    ("area under ROC", "0.9797979797979798", str(auroc)),
    ("area under PR", "0.9854312354312356", str(aupr)),
    ("random: under ROC", "0.5252525252525253", str(random_auroc)),
    ("random: under PR", "0.540114743045365", str(random_aupr)),
    ("BCE of .9 and .2", "0.1643", f"{bce:.4f}"),
    ("with pos_weight 3", "0.2464", f"{imbalanced:.4f}"),
    ("odds of .75 and .25", "3.0000, 0.3333", odds),
    ("their log odds", "1.0986, -1.0986", log_odds),
]
print(f"{'':20} {'chapter':33} here")
for name, expected, value in numbers:
    if not isinstance(value, str):
        value = ", ".join(f"{number:.4f}" for number in value)
    print(f"{name:20} {expected:33} {value}")

# %%
# Decision boundary and losses
# ----------------------------
# The probability of the positive class over the plane, the line where it is one half,
# and the rows: circles to train on, diamonds to validate. Beside it the losses: the
# validation loss is the mean over its 20 rows, 0.2616 at the end, where the chapter
# averages the means of a batch of 16 and one of 4. That it lies below the training loss
# is an accident of this split: its rows are the easier ones.

CLASSES = ["negative", "positive"]
COLORS = np.array(["#b2182b", "#2166ac"])
LIGHT = LinearSegmentedColormap.from_list("light", ["#e9a3a3", "#ffffff", "#9dbfe0"])
figure, (plane, curves) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
surface = DecisionBoundaryDisplay.from_estimator(
    clf,
    np.vstack([X_train, X_val]),
    response_method="predict_proba",
    class_of_interest=1,
    plot_method="pcolormesh",
    cmap=LIGHT,
    vmin=0,
    vmax=1,
    grid_resolution=300,
    ax=plane,
)
plane.contour(surface.xx0, surface.xx1, surface.response, levels=[0.5], colors="black")
for rows, labels, marker, name in (
    (X_train, y_train, "o", "training"),
    (X_val, y_val, "D", "validation"),
):
    plane.scatter(*rows.T, c=COLORS[labels], marker=marker, ec="white", label=name)
plane.set(xlabel="$x_1$", ylabel="$x_2$", title="Probability of the positive class")
classes = [Patch(color=c, label=n) for c, n in zip(COLORS, CLASSES, strict=True)]
plane.legend(handles=[*plane.collections[-2:], *classes], loc="upper left")
for handle in plane.get_legend().legend_handles[:2]:
    handle.set_facecolor("grey")
figure.colorbar(surface.surface_, ax=plane, ticks=[0, 0.25, 0.5, 0.75, 1])

epochs = range(1, clf.n_iter_ + 1)
curves.plot(epochs, clf.loss_curve_, label="training")
curves.plot(epochs, clf.validation_loss_curve_, "--", label="validation")
curves.set(xlabel="epoch", ylabel="mean loss (log scale)", title="Losses")
curves.set_yscale("log")
curves.yaxis.set_minor_formatter(ScalarFormatter())
curves.legend()
chapter_figure = figure  # docs/images/chapter.png, on the README

# %%
# Probability line
# ----------------
# The validation rows on the line of their probabilities: negative ones above, positive
# ones below, filled with the colour of the truth, edged with that of the prediction. A
# threshold cuts the line, and the four corners count the confusion matrix. Neighbours
# stand at different heights to be seen.

figure, axes = plt.subplots(3, 1, figsize=(8, 5.6), layout="constrained", sharex=True)
for ax, threshold in zip(axes, (0.3, 0.5, 0.7), strict=True):
    predicted = (probabilities >= threshold).astype(int)
    height = np.where(y_val == 1, -0.45, 0.45)
    order = np.argsort(probabilities)
    height[order] += np.resize([-0.2, 0.0, 0.2], len(order))
    ax.axhline(0, color="black", lw=1)
    ax.axvline(threshold, color="black", ls="--", lw=1)
    ax.scatter(
        probabilities, height, c=COLORS[y_val], ec=COLORS[predicted], lw=2.5, s=80
    )
    (tn, fp), (fn, tp) = confusion_matrix(y_val, predicted)
    for x, y_text, text in (
        (-0.1, 0.4, f"TN {tn}"),
        (1.1, 0.4, f"FP {fp}"),
        (-0.1, -0.4, f"FN {fn}"),
        (1.1, -0.4, f"TP {tp}"),
    ):
        ax.text(x, y_text, text, ha="center", va="center")
    ax.set(ylim=(-1, 1), xlim=(-0.2, 1.2), yticks=[], title=f"threshold {threshold}")
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_bounds(0, 1)
axes[-1].set_xlabel("probability of the positive class")
figure.legend(
    handles=[
        Line2D([], [], ls="", marker="o", mfc=fill, mec=edge, mew=2.5, ms=9, label=text)
        for fill, edge, text in (
            (COLORS[0], COLORS[0], "negative, predicted so"),
            (COLORS[0], COLORS[1], "negative, predicted positive"),
            (COLORS[1], COLORS[0], "positive, predicted negative"),
            (COLORS[1], COLORS[1], "positive, predicted so"),
        )
    ],
    loc="outside lower center",
    ncols=2,
    frameon=False,
)
line_figure = figure

# %%
# ROC and precision-recall curves
# -------------------------------
# The three thresholds on the curves of the model, and the model that guesses. The area
# under the second curve is that of the chapter, by trapezoids; AP in the legend sums
# steps, and for a curve of few points the two differ.

figure, (roc, pr) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
RocCurveDisplay.from_predictions(y_val, probabilities, name="model", ax=roc)
RocCurveDisplay.from_predictions(
    y_val, random_score, name="random", ax=roc, plot_chance_level=True
)
PrecisionRecallDisplay.from_predictions(y_val, probabilities, name="model", ax=pr)
PrecisionRecallDisplay.from_predictions(
    y_val, random_score, name="random", ax=pr, plot_chance_level=True
)
for threshold in (0.3, 0.5, 0.7):
    tpr, fpr, precision = rates(threshold)
    for ax, point, offset in (
        (roc, (fpr, tpr), (6, -12)),
        (pr, (tpr, precision), (-20, -12)),
    ):
        ax.plot(*point, "ko")
        ax.annotate(f"{threshold}", point, offset, textcoords="offset points")
roc.set_title(f"ROC, area {auroc:.4f}")
pr.set_title(f"Precision and recall, area {aupr:.4f}")
for ax in (roc, pr):
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.title.set_position((0.5, 1.02))
curves_figure = figure

# %%
# Run as a script, the example shows its figures, or saves them:
# ``python plot_chapter.py --save folder``.

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", type=Path, help="folder for the figures, as PNG")
    folder = parser.parse_known_args()[0].save
    if folder is None:
        plt.show()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in (
            ("chapter", chapter_figure),
            ("probability_line", line_figure),
            ("curves", curves_figure),
        ):
            figure.savefig(folder / f"{name}.png", dpi=110)
            print(f"saved {folder / name}.png")

"""
A validation surface from one run
=================================

Which step size, and for how many epochs? A grid search answers both at once.
:class:`~torchlogistic.BatchedGridSearchCV` trains all of its candidates together: step
sizes are columns of one matrix, and a run of 100 epochs passes through all shorter ones
on its way. To train a fine grid takes a few times as long as to train one of it.
"""

# %%
# The search
# ----------
# 17 step sizes, 11 numbers of epochs and 5 folds are 935 models. They come from one run
# of 100 epochs; what takes the time is to score them.

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from torchlogistic import BatchedGridSearchCV, TorchLogisticClassifier

X, y = load_breast_cancer(return_X_y=True)
clf = TorchLogisticClassifier(batch_size=16, random_state=0, device="cpu")
model = Pipeline([("scale", StandardScaler()), ("clf", clf)])
lrs = np.geomspace(1e-4, 1, 17)
epochs = np.array([1, 2, 3, 4, 6, 10, 16, 25, 40, 63, 100])
grid = {"clf__epochs": epochs, "clf__lr": lrs}

start = time.perf_counter()
search = BatchedGridSearchCV(model, grid, scoring="roc_auc", cv=5).fit(X, y)
seconds = time.perf_counter() - start

best = search.best_params_
n_models = len(search.cv_results_["params"]) * search.n_splits_
print(f"{n_models} models in {seconds:.1f} s")
print(
    f"best: lr={best['clf__lr']:.3g} for {best['clf__epochs']} epochs, "
    f"area under the ROC curve {search.best_score_:.4f}"
)

# %%
# The surface
# -----------
# On the left the mean area under the ROC curve of the validation folds, coloured by
# what it lacks to one. The lines of equal scores fall: ten times the step size needs a
# tenth of the epochs. On the right the same scores against the product of the two: the
# curves of all numbers of epochs lie on one another. Too small a product has not
# learned yet, too large a one fits the training rows too closely. Ten epochs of the
# right step size do as well as a hundred of a tenth of it.

scores = search.cv_results_["mean_test_score"].reshape(len(epochs), len(lrs))


def edges(centres):
    """Edges of cells around numbers on a logarithmic scale."""
    logs = np.log(centres)
    inner = (logs[1:] + logs[:-1]) / 2
    return np.exp([2 * logs[0] - inner[0], *inner, 2 * logs[-1] - inner[-1]])


figure, (plane, curves) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
mesh = plane.pcolormesh(
    edges(lrs),
    edges(epochs),
    1 - scores,
    cmap="viridis_r",
    norm=LogNorm(0.004, 0.1),
    rasterized=True,
)
levels = [0.95, 0.98, 0.99, 0.995]
tones = ["white", "white", "black", "black"]
lines = plane.contour(lrs, epochs, scores, levels, colors=tones, linewidths=1)
where = [(1e-3, 8), (2.5e-3, 8), (5e-3, 16), (2e-2, 40), (0.2, 63)]
for text in plane.clabel(lines, fmt="%g", fontsize=9, inline=False, manual=where):
    text.set(color="black", rotation=0)
    text.set_bbox({"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1})
plane.plot(best["clf__lr"], best["clf__epochs"], "*", ms=14, mfc="#d62728", mec="white")
plane.set(xscale="log", yscale="log", xlabel="lr", ylabel="epochs")
plane.set_title("Mean area under the ROC curve, star: the best")
plane.yaxis.set_major_locator(FixedLocator([1, 3, 10, 30, 100]))
plane.yaxis.set_major_formatter(ScalarFormatter())
plane.yaxis.set_minor_locator(NullLocator())
bar = figure.colorbar(mesh, ax=plane, extend="max", label="1 - area under the curve")
bar.set_ticks([0.004, 0.01, 0.03, 0.1], labels=["0.004", "0.01", "0.03", "0.1"])
bar.ax.yaxis.set_minor_locator(NullLocator())

colours = plt.get_cmap("plasma")(np.linspace(0, 0.9, len(epochs)))
for row, n, colour in zip(scores, epochs, colours, strict=True):
    label = f"{n}" if n in (1, 3, 10, 25, 100) else None
    curves.plot(lrs * n, row, color=colour, lw=1.2, marker=".", ms=4, label=label)
curves.set(xscale="log", xlim=(9e-3, 130), ylim=(0.97, 0.998))
curves.set(xlabel="lr times epochs", ylabel="area under the curve")
curves.set_title("The same against the product")
curves.legend(title="epochs", frameon=False, loc="lower center")
curves.spines[["top", "right"]].set_visible(False)

# %%
# Run as a script, the example shows its figure, or saves it:
# ``python plot_grid_search.py --save folder``.

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", type=Path, help="folder for the figure, as PNG")
    folder = parser.parse_known_args()[0].save
    if folder is None:
        plt.show()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "grid_search.png", dpi=110)
        print(f"saved {folder / 'grid_search'}.png")

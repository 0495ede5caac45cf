"""
Mislabelled rows
================

Find flipped labels by what the other rows predict.

A fit follows wrong labels in part, so that it believes them more than it should. `loo_predict`
gives what it would predict for each training row without that row, from one fit. Left: the rows
with the smallest leave-one-out probability of their own label. Right: the same next to the
probability of the fit itself; below the diagonal a row is believed because it was trained on.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

from sklearn_hfl import HFLClassifier

X, y = load_breast_cancer(return_X_y=True)
rng = np.random.default_rng(0)
rows = rng.permutation(len(y))[:400]
X, y = X[rows], y[rows]
flipped = rng.choice(400, 10, replace=False)
y[flipped] = 1 - y[flipped]

model = HFLClassifier(random_state=0).fit(X, y)
left_out = model.loo_predict()
fitted = model.predict_log_proba(X)[np.arange(400), y]

suspects = left_out.log_density.argsort()[:20]
print(f"flipped labels among the first 20 rows: {np.isin(flipped, suspects).sum()} of 10")

figure, (ranks, pairs) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
planted = np.isin(np.arange(400), flipped)
colors = np.where(planted, "C3", "0.7")
ranks.bar(np.arange(1, 21), -left_out.log_density[suspects], color=colors[suspects])
ranks.set(
    title="the 20 rows least expected by the others",
    xlabel="rank",
    ylabel="−log probability, left out",
    xticks=[1, 5, 10, 15, 20],
)
ranks.bar(0, 0, color="C3", label="flipped")
ranks.bar(0, 0, color="0.7", label="as recorded")
ranks.legend(frameon=False)
ranks.set_xlim(0.2, 20.8)

for name, which, color in (("as recorded", ~planted, "0.6"), ("flipped", planted, "C3")):
    pairs.loglog(
        np.exp(fitted[which]),
        np.exp(left_out.log_density[which]),
        "o",
        color=color,
        ms=4,
        label=name,
    )
low = np.exp(left_out.log_density).min() / 2
pairs.plot([low, 1], [low, 1], "k--", lw=0.8)
pairs.set(
    title="probability of the row's own label",
    xlabel="fitted",
    ylabel="left out",
    xlim=(low, 1.3),
    ylim=(low, 1.3),
)
pairs.legend(frameon=False)
plt.show()

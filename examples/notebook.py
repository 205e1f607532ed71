# %% [markdown]
# # A joint scorecard from a notebook
#
# A bank knows who repaid; a credit bureau knows something about the same customers. Here both tables are made up and
# lie in one frame, so this is a simulation: `fit` starts one process a party, which reads its own columns only.

# %%
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from party_agent.notebook import JointScorecard

matplotlib.use("Agg")  # pictures go to files; leave this out in a notebook

# %% Made-up data, the same every time
rng = np.random.default_rng(2026)
rows = 1_700
risk = rng.normal(size=(2, rows))
X = pd.DataFrame(
    {
        "utilisation": np.clip(0.45 + 0.2 * risk[0] + 0.1 * rng.normal(size=rows), 0, 1.2).round(3),
        "turnover": np.exp(9 - 0.5 * risk[0] + 0.6 * rng.normal(size=rows)).round(2),
        "months_with_bank": rng.poisson(np.exp(3.2 - 0.3 * risk[0])),
        "sector": np.array(["trade", "building", "transport", "crafts"])[
            np.clip(np.digitize(risk[0] + rng.normal(size=rows), [-1, 0, 1]), 0, 3)
        ],
        "late_payments": rng.poisson(np.exp(-0.3 + 1.0 * risk[1])),
        "inquiries": rng.poisson(np.exp(0.3 + 0.4 * risk[1])),
        "age_of_file": np.exp(4 - 0.4 * risk[1] + 0.5 * rng.normal(size=rows)).round(1),
    }
)
X.loc[rng.random(rows) < 0.06, "turnover"] = np.nan
y = (rng.random(rows) < 1 / (1 + np.exp(1.7 - 0.7 * risk[0] - 1.1 * risk[1]))).astype(int)

# %% The whole job: alignment, binning and training under encryption, points, validation, statement
scorecard = JointScorecard(
    providers={"bureau": ["late_payments", "inquiries", "age_of_file"]},
    recipe={"sample": {"seed": 7}, "keys": {"bits": 2048}, "model": {"l2": 1.0}},
)
scorecard.fit(X, y)

# %% What came out
print(scorecard.summary().round(3).to_string(index=False))
print(scorecard.binning_table("late_payments")[["bin", "rows", "bads", "bad_rate", "woe", "points"]].to_string())

# %% Predictions, as the job makes them
test = scorecard.scores_["sample"] == "test"
scored = X[test.to_numpy()].head(5)
print(
    pd.DataFrame(
        {
            "score": scorecard.score_points(scored),
            "grade": scorecard.grade(scored),
            "pd": scorecard.predict_proba(scored)[:, 1].round(4),
        }
    )
)

# %% How good it is, and what the bureau's data added
metrics = scorecard.report_["metrics"]
print(f"AUC on test rows {metrics['test']['auc']:.3f}, of the bank's columns alone {metrics['baseline']['auc']:.3f}")

# %% Pictures
pictures = Path("pictures")
pictures.mkdir(exist_ok=True)
for name in ("roc", "ks", "calibration", "score_distribution"):
    getattr(scorecard, f"plot_{name}")().figure.savefig(pictures / f"{name}.png", dpi=120)
scorecard.plot_woe("late_payments").figure.savefig(pictures / "woe.png", dpi=120)

# %% Who learned what, signed by all parties
lines = pd.DataFrame(scorecard.statement_["lines"])
print(lines.query("nature == 'opened'").groupby("to")["numbers"].sum().to_string())

"""Computes by scipy and scikit-learn what the package computes: JSON on stdin and stdout."""

import json
import sys
from collections.abc import Callable

import numpy as np
from scipy.special import digamma
from scipy.stats import binomtest, bootstrap

sys.path.append(f"{sys.prefix}/apart")  # where setup-vllm puts it
import sklearn
from sklearn.metrics import average_precision_score, roc_auc_score

ask = json.load(sys.stdin)
sklearn.set_config(skip_parameter_validation=True)  # half of the time of many small calls


def wilson(hits: int, n: int) -> list[float]:
    """Returns the score interval."""
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return [interval.low, interval.high]


def clustered(rows: dict, statistic: Callable[[np.ndarray], float]) -> dict[str, float]:
    """Bootstraps a statistic of row indices over clusters, by percentiles."""
    clusters = [np.flatnonzero(np.asarray(rows["cluster"]) == c) for c in range(max(rows["cluster"]) + 1)]
    result = bootstrap(
        (np.arange(len(clusters)),),
        lambda drawn: statistic(np.concatenate([clusters[c] for c in drawn])),
        n_resamples=400,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(5),
    )
    interval = result.confidence_interval
    return {"Value": statistic(np.concatenate(clusters)), "Low": interval.low, "High": interval.high}


def ranking(rows: dict) -> dict:
    """Returns areas and the shares of hits in three groups of rows."""
    values, hit = np.asarray(rows["values"], np.float32), np.asarray(rows["hit"])
    return {
        "AUC": clustered(rows, lambda at: roc_auc_score(hit[at], values[at])),
        "AP": clustered(rows, lambda at: average_precision_score(hit[at], values[at])),
        "Shares": [clustered(rows, lambda at, g=g: hit[at[at % 3 == g]].mean()) for g in range(3)],
    }


json.dump(
    {
        "Wilson": [wilson(*k) for k in ask["wilson"]],
        "Digamma": digamma(ask["digamma"]).tolist(),
        "Quantiles": [np.quantile(q["values"], q["at"]) for q in ask["quantiles"]],
        "Rankings": [ranking(r) for r in ask["rankings"]],
    },
    sys.stdout,
)

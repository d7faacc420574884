"""Recomputes a report's tables from results.parquet and rates.parquet, by pandas and scikit-learn.

usage: reference.py JOB REPORT [JOB REPORT…]. It prints what differs, as "JOB: what" lines.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(f"{sys.prefix}/apart")  # where setup-vllm puts it
import sklearn
from sklearn.metrics import average_precision_score, roc_auc_score

MEASURES = [f"{side}_{m}" for side in ("small", "reference") for m in ("entropy", "au", "eu")]
CLASSES = {" word": "word_start", "ing": "word_continuation", "7": "number", ".": "punctuation", "\n": "space"}
RESAMPLES = 200

differences = []
sklearn.set_config(skip_parameter_validation=True)  # half of the time of many small calls


def same(what: str, got: object, want: object, tolerance: float = 1e-9) -> None:
    """Notes a difference; NaN equals NaN."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    if got.shape != want.shape or not np.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True):
        differences.append(f"{what}: report has {got}, want {want}")


def table(name: str) -> pd.DataFrame:
    """Reads a table of the report."""
    return pd.read_csv(report / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def variants() -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields the choices of rows."""
    cut = (rows.finish_small == "length") | (rows.finish_reference == "length")
    yield "all", rows
    yield "no length-cut", rows[~cut]
    if "margin_small" in rows:
        tie = (rows.margin_small <= about["near_tie"]) | (rows.margin_reference <= about["near_tie"])
        yield "no near ties", rows[~tie]
        yield "neither", rows[~cut & ~tie]


def interval(frame: pd.DataFrame, statistic: Callable[[pd.DataFrame, np.ndarray], float]) -> tuple[float, float]:
    """Percentile interval over resampled sentences; statistic takes the rows' weights."""
    rng = np.random.default_rng(5)
    sentence = pd.Index(rows.sentence_id.unique()).get_indexer(frame.sentence_id)
    n = rows.sentence_id.nunique()
    values = [statistic(frame, np.bincount(rng.integers(n, size=n), minlength=n)[sentence]) for _ in range(RESAMPLES)]
    return tuple(np.nanpercentile(values, [2.5, 97.5]))


def same_interval(what: str, low: float, high: float, want: tuple[float, float]) -> None:
    """Compares intervals of different random numbers: the ends vary by a tenth of a standard error or so."""
    error = (want[1] - want[0]) / 3.92
    if not np.allclose([low, high], want, rtol=0, atol=error / 2):
        differences.append(f"{what}: interval {low} to {high}, want about {want}")


def different(frame: pd.DataFrame) -> np.ndarray:
    """Is 1 where the judge says that the meanings differ."""
    return (~frame.meaning_match.astype(bool)).astype(int).to_numpy()


def share(frame: pd.DataFrame, weight: np.ndarray) -> float:
    """Divergence rate."""
    return float(np.average(different(frame), weights=weight))


def check_overall() -> None:
    """Compares rates.csv and status.csv."""
    t = table("rates").set_index(["rate", "rows"])
    at = rates[rates.measure == "position"]
    r = t.loc[("mismatches of tokens", "all")]
    same(
        "tokens",
        [r.n, r.hits, r.share],
        [at.positions.sum(), at.mismatches.sum(), at.mismatches.sum() / at.positions.sum()],
    )
    for name, chosen in variants():
        judged = chosen[chosen.meaning_match.notna()]
        r = t.loc[("divergent of judged mismatches", name)]
        want = [
            len(judged),
            different(judged).sum(),
            len(chosen) - len(judged),
            different(judged).mean() if len(judged) else np.nan,
        ]
        same(f"rates {name}", [r.n, r.hits, r.missing_verdicts, r.share], want)
        if len(judged):
            same_interval(f"rates {name}", r.share_low, r.share_high, interval(judged, share))
    status = table("status").set_index("status").mismatches
    same("status", status.sort_index(), rows.status.value_counts().sort_index())


def check_divergence(name: str, keys: list[str], of: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Compares a table of divergence rates by group with a group-by."""
    t = table(name)
    for variant, chosen in variants():
        judged = chosen[chosen.meaning_match.notna()]
        judged = judged.assign(different=different(judged), **of(judged))
        want = judged.groupby(keys, observed=True).agg(
            sentences=("sentence_id", "nunique"),
            judged=("different", "size"),
            divergent=("different", "sum"),
            divergence_rate=("different", "mean"),
        )
        got = t[t.rows == variant].set_index(keys).sort_index()
        if list(got.index) != list(want.index):
            differences.append(f"{name} {variant}: groups {list(got.index)}, want {list(want.index)}")
            continue
        same(f"{name} {variant}", got[want.columns], want)


def check_quantiles() -> None:
    """Compares divergence-quantile.csv with pandas' qcut."""
    t = table("divergence-quantile")
    for m in MEASURES:
        if rows[m].notna().sum() == 0:
            same(f"rows of {m}", (t.measure == m).sum(), 0)
            continue
        group, edges = pd.qcut(rows[m].astype("float64"), 10, labels=False, retbins=True, duplicates="drop")
        for variant, chosen in variants():
            judged = chosen[chosen.meaning_match.notna() & chosen[m].notna()]
            got = t[(t.rows == variant) & (t.measure == m)]
            want = pd.Series(different(judged)).groupby(group[judged.index].to_numpy()).agg(["size", "sum", "mean"])
            same(f"{m} {variant}: edges", got["from"].tolist() + got["to"].tolist()[-1:], edges)
            same(f"{m} {variant}", got[["judged", "divergent", "divergence_rate"]], want)
            same(f"{m} {variant}: sizes", got.mismatches, group.value_counts().sort_index())


def check_areas() -> None:
    """Compares auc.csv and roc.csv with scikit-learn."""
    t = table("auc").set_index(["rows", "measure"])
    curve = table("roc")
    for variant, chosen in variants():
        for m in MEASURES:
            judged = chosen[chosen.meaning_match.notna() & chosen[m].notna()]
            if judged.empty:
                continue
            truth, r = different(judged), t.loc[(variant, m)]
            same(f"areas {m} {variant}", [r.judged, r.divergent], [len(truth), truth.sum()])
            same(f"AUC {m} {variant}", r.roc_auc, roc_auc_score(truth, judged[m]))
            same(f"AP {m} {variant}", r.average_precision, average_precision_score(truth, judged[m]))
            if variant == "all":
                check_points(m, curve[curve.measure == m], judged[m].to_numpy(), truth)
    frame = rows[rows.meaning_match.notna()]
    for column, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        r = t.loc[("all", "small_entropy")]
        want = interval(frame, lambda f, w, score=score: score(different(f), f.small_entropy, sample_weight=w))
        same_interval(column, r[column + "_low"], r[column + "_high"], want)


def check_points(m: str, points: pd.DataFrame, scores: np.ndarray, truth: np.ndarray) -> None:
    """Counts anew what each threshold finds."""
    for p in points.itertuples():
        called = scores >= p.threshold
        same(
            f"curve of {m} at {p.threshold}",
            [p.recall, p.false_positive_rate],
            [truth[called].sum() / truth.sum(), (1 - truth[called]).sum() / (1 - truth).sum()],
        )
    same(f"end of {m}'s curve", points[["recall", "false_positive_rate"]].iloc[-1], [1, 1])
    same(f"steps of {m}'s curve", (points.recall.diff() + points.false_positive_rate.diff()).max() < 0.3, True)


def check_tokens() -> None:
    """Compares the tables about all tokens with rates.parquet."""
    at = rates[rates.measure == "position"]
    t = table("mismatch-position")
    width = t.position_to.iloc[0] - t.position_from.iloc[0]
    for name, key in (("mismatch-position", at["from"] // width * width), ("mismatch-class", at.token_class)):
        want = at.groupby(key.rename("key")).agg(
            sentences=("sentence_id", "nunique"), positions=("positions", "sum"), mismatches=("mismatches", "sum")
        )
        want["mismatch_rate"] = want.mismatches / want.positions
        got = table(name).set_index("token_class" if name == "mismatch-class" else "position_from").sort_index()
        same(name, got[want.columns], want)
    if "mismatch-quantile" not in about["figures"]:
        return
    t = table("mismatch-quantile")
    for m in MEASURES:
        bins, groups = rates[rates.measure == m], t[t.measure == m]
        for g in groups.itertuples():
            inside = bins[(bins["from"] >= g._2) & (bins["to"] <= g.to)]
            n = inside.positions.sum()
            same(
                f"{m} from {g._2}",
                [g.positions, g.mismatches, g.mismatch_rate],
                [n, inside.mismatches.sum(), inside.mismatches.sum() / n],
            )
            same(
                f"{m} from {g._2}: near a tenth",
                abs(n / bins.positions.sum() - 0.1) <= bins.positions.max() / bins.positions.sum() + 1e-9,
                True,
            )
        same(f"{m}: all positions", groups.positions.sum(), bins.positions.sum())


def check_lengths() -> None:
    """Compares lengths.csv and finish.csv."""
    for side, r in zip(("small", "reference"), table("lengths").itertuples(), strict=True):
        n = rows[f"continuation_{side}_ids"].dropna().map(len)
        want = [
            len(n),
            n.mean(),
            np.quantile(n, 0.5, method="inverted_cdf"),
            np.quantile(n, 0.9, method="inverted_cdf"),
            n.max(),
        ]
        same(f"lengths {side}", [r.continuations, r.mean, r.median, r.p90, r.longest], want)
        got = table("finish").set_index(["side", "finish"]).loc[side].continuations
        same(f"finish {side}", got.sort_index(), rows[f"finish_{side}"].value_counts().sort_index())


def check_confidence() -> None:
    """Compares each source's histogram."""
    for source, of in rows[rows.meaning_match.notna()].groupby("confidence_source"):
        of = of[of.verify_confidence.notna()]
        if of.empty:
            continue
        t = table(f"confidence-{source}")
        for verdict, name in ((True, "same"), (False, "different")):
            c = of[of.meaning_match == verdict].verify_confidence.to_numpy()
            got = t[t.verdict == name]
            want = np.bincount(np.minimum((c * 20).astype(int), 19), minlength=20)
            same(f"confidence {source} {name}", got.verdicts, want)
            same(f"confidence {source} {name}: shares", got.share, want / len(c))


def check_reliability() -> None:
    """Compares the verdicts with the labels at each confidence."""
    labels = pd.read_csv(job / "gold.csv", dtype={"sentence_id": str})
    frame = rows.assign(sentence_id=rows.sentence_id.astype(str)).merge(labels, on=["sentence_id", "mismatch_position"])
    frame = frame[frame.meaning_match.notna() & frame.verify_confidence.notna()]
    frame = frame.assign(right=frame.meaning_match.astype(bool) == frame.label)
    for source, of in frame.groupby("confidence_source"):
        want = of.groupby(np.minimum((of.verify_confidence * 10).astype(int), 9)).agg(
            sentences=("sentence_id", "nunique"),
            verdicts=("right", "size"),
            right=("right", "sum"),
            mean_confidence=("verify_confidence", "mean"),
            share_right=("right", "mean"),
        )
        same(f"reliability {source}", table(f"reliability-{source}")[want.columns], want)


def check() -> None:
    """Checks what the report has."""
    check_overall()
    check_tokens()
    check_lengths()
    if "divergence-position" in about["figures"]:
        width = int(table("divergence-position").eval("position_to - position_from").iloc[0])
        check_divergence(
            "divergence-position", ["position_from"], lambda f: {"position_from": f.mismatch_position // width * width}
        )
        check_divergence(
            "divergence-class", ["token_class"], lambda f: {"token_class": f.real_token.map(CLASSES).fillna("other")}
        )
        check_confidence()
    if "auc" in about["figures"]:
        check_quantiles()
        check_areas()
    if "labels" in about:
        check_reliability()


for job, report in zip(map(Path, sys.argv[1::2]), map(Path, sys.argv[2::2]), strict=True):
    about = json.loads((report / "report.json").read_text())
    rows = pd.read_parquet(job / "results.parquet")
    rates = pd.read_parquet(job / "rates.parquet")
    differences.clear()
    check()
    for d in differences:
        print(f"{job}: {' '.join(d.split())}")

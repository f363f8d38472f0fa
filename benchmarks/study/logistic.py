"""Logistic regression by scikit-learn on our pretrained body's features: the side that any recipe has to beat."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf.config import Settings
from jaxclf.data.loader import loader_for
from jaxclf.inference.features import extract_features
from jaxclf.metrics import log_probabilities
from jaxclf.run.observer import Observer
from jaxclf.run.prepare import prepare
from study.data import train_files
from study.processes import INVOCATION, finished, keep
from study.said import Said, file_name, write_said

#: The sides, by the pools they see.
KINDS = ("average", "max-average")
#: Strengths that cross-validation chooses among, ascending.
STRENGTHS = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1))


def logistic_turn(folder: Path, data: Path, settings: Settings) -> None:
    """Logistic regression on pooled features of every kind; a folder of each with a record, unless it has ended.

    Args:
      folder: for the kinds' folders.
      settings: arch, weights, image_size, and seed (of the folds) are read.
    """
    read = {name: str(getattr(settings, name)) for name in ("arch", "weights", "image_size", "seed")}
    asked = [*(f"{name}={value}" for name, value in read.items()), *train_files(data)]
    if all(finished(folder / kind, asked) for kind in KINDS):
        return
    started = time.perf_counter()
    train, labels, valid, valid_labels, files = pooled(data, settings)
    features_seconds = time.perf_counter() - started
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        first, started = train.shape[1] // 2 if kind == "average" else 0, time.perf_counter()
        logs, strength = regression(train[:, first:], labels, valid[:, first:], settings.seed)
        write_said(folder / kind, Said(np.array(["end"]), logs[None], logs[None], valid_labels, files))
        solving = time.perf_counter() - started
        seconds = {"seconds": features_seconds + solving, "features_seconds": features_seconds}
        keep(folder / kind, {"asked": asked, **seconds, "C": strength, "invocation": INVOCATION})


def pooled(data: Path, settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[maximum, average] pools and labels of the training photos, those of the validation photos, and these's files."""
    settings = dataclasses.replace(settings, batch_size=32)
    prepared = prepare(data, settings, Observer())
    variables, model = prepared.initial_variables(settings.seed), prepared.spec.create()
    arrays: list[Any] = []
    for source in (prepared.splits.train, prepared.splits.valid):
        loader = loader_for(source, settings, prepared.spec.preprocess, train=False, cache="none")
        features = extract_features(model, variables, loader, placement="host")
        arrays += [np.asarray(features.rows(np.arange(len(source)))), np.asarray(source.labels)]
    names = [file_name(str(prepared.splits.valid.name(index))) for index in range(len(prepared.splits.valid))]
    return arrays[0], arrays[1], arrays[2], arrays[3], np.array(names)


def regression(train: np.ndarray, labels: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Log probabilities of the rows `valid`, float32 [n, c], and C, that of the lowest held-out loss.

    Features are standardised. There are five stratified folds, fewer where a class has fewer photos.
    Strengths are tried from the smallest until the loss rises: the others take longest.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.preprocessing import StandardScaler

    num_folds = min(5, int(np.bincount(labels).min()))
    if num_folds < 2:
        raise SystemExit("error: a class has a single photo to train on, so no strength can be cross-validated")
    scaler = StandardScaler().fit(train)
    train, rows = scaler.transform(train), np.arange(len(labels))
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)

    def held_out_loss(strength: float) -> float:
        model = LogisticRegression(C=strength, max_iter=1000)
        logs = _logs(cross_val_predict(model, train, labels, cv=folds, method="decision_function"))
        return float(-logs[rows, labels].mean())

    best, lowest = STRENGTHS[0], held_out_loss(STRENGTHS[0])
    for strength in STRENGTHS[1:]:
        loss = held_out_loss(strength)
        if loss > lowest:
            break
        best, lowest = strength, loss
    solved = LogisticRegression(C=best, max_iter=1000).fit(train, labels)
    return _logs(solved.decision_function(scaler.transform(valid))).astype(np.float32), best


def _logs(scores: np.ndarray) -> np.ndarray:
    """Log probabilities [n, c] of scikit-learn's scores: [n, c], or [n] of two classes; finite for sure ones, too."""
    return log_probabilities(scores if scores.ndim == 2 else np.stack([np.zeros_like(scores), scores], 1))

"""What a report is made of: plain values and arrays, gathered before anything is written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxclf.config import Recipe
from jaxclf.data.check.report import Report
from jaxclf.metrics import Predictions
from jaxclf.training.lr_curve import LRCurve

#: Pictures of each kind (largest losses, least certain).
NUM_PICTURES = 12


class RateTest(NamedTuple):
    """One learning-rate test.

    Attributes:
      name: which step it belongs to.
      curve: what was measured.
      suggestions: rule -> rate, None where the rule gives none.
      chosen: the rate that was taken, if one was.
    """

    name: str
    curve: LRCurve
    suggestions: Mapping[str, float | None] = {}
    chosen: float | None = None


class ReportContent(NamedTuple):
    """Everything a report can show. Whatever is None or empty is left out, with its section.

    Attributes:
      name: of the run.
      summary: as `summary.json` holds it. Read where present: `accuracy`, `loss`, `classes`, `num_train`, `num_valid`,
        `seconds`, `steps` (with name, seconds, loss, accuracy, and perhaps `loss_difference`, the mean and standard
        error of the per-image differences to the step before), `test` and `tta` (accuracy, loss, num_examples),
        `f_beta`, `threshold`, `best_threshold`, `skipped_images`, `weights`, `hardware`, `versions`, ...
      recipe: settings and phases.
      rows: of `metrics.jsonl`.
      predictions: of the validation pictures.
      files: a name per row of the predictions.
      rate_tests: learning-rate tests, in the order they were made.
      pictures: example index -> uint8 [h, w, 3], what the network sees; see `shown_indices` for those that count.
      heat_maps: example index -> float [h, w] in [0, 1], where the predicted class is seen (Grad-CAM).
      check: what was found in the data.
    """

    name: str
    summary: Mapping[str, Any]
    recipe: Recipe | None = None
    rows: tuple[Mapping[str, Any], ...] = ()
    predictions: Predictions | None = None
    files: tuple[str, ...] = ()
    rate_tests: tuple[RateTest, ...] = ()
    pictures: Mapping[int, np.ndarray] = {}
    heat_maps: Mapping[int, np.ndarray] = {}
    check: Report | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""
        return tuple(str(name) for name in self.summary.get("classes", ()))

    @property
    def multi_label(self) -> bool:
        """Whether a picture can have several labels: the recipe's loss says so."""
        return self.recipe is not None and self.recipe.settings.multi_label

    @property
    def threshold(self) -> float:
        """From which probability on a label counts as given, where there can be several."""
        return 0.5 if self.recipe is None else self.recipe.settings.threshold

    @property
    def judged(self) -> Predictions | None:
        """The predictions, if figures can be made of them: there are some, all with labels, of a model that is sane."""
        predictions = self.predictions
        if predictions is None or not len(predictions.labels) or not np.isfinite(predictions.logits).all():
            return None
        if predictions.logits.shape[1] != len(self.classes) or (predictions.labels < 0).any():
            return None
        return predictions

"""Test-time augmentation of several heads on one body, which sees each view once."""

from collections.abc import Mapping
from typing import Any

from jaxclf._progress import OnProgress, within
from jaxclf.config import AugmentName
from jaxclf.data.activations import ActivationLoader
from jaxclf.data.loader import Loader
from jaxclf.inference.features import extend_features, extract_features
from jaxclf.inference.tta import check_evaluates, presized_loader
from jaxclf.models.classifier import Classifier


def view_activations(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    *,
    num_views: int = 4,
    augment: AugmentName = "side_on",
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> ActivationLoader:
    """The pooled activations of what `predict_tta` shows: given to it as the loader, with the variables of any head on
    this body, it predicts what it predicts from the pictures, up to rounding.

    Args:
      model, variables: the classifier; only what lies below the head is read.
      loader: of photos, as `predict_tta` takes it.
      num_views: augmented views, at least 1.
      augment, seed: of the draws.
      on_progress: called with (views of examples done, in all).

    Raises:
      ValueError: for a training loader; as `extract_features`.
    """
    check_evaluates(loader)
    count, total = loader.num_examples, loader.num_examples * (num_views + 1)

    def views(done: int, _: int) -> None:
        within(on_progress, count, total)(done * num_views, total)

    plain = extract_features(model, variables, loader, on_progress=within(on_progress, 0, total))
    drawn = presized_loader(loader, plain.index)
    bank = extend_features(
        plain, model, variables, drawn, num_views=num_views + 1, augment=augment, seed=seed, on_progress=views
    )
    return ActivationLoader(bank, batch_size=loader.batch_size, train=False)

"""The figures of a finished run on a data set."""

import os
from typing import Any

from jaxclf._progress import OnProgress
from jaxclf.data.cache import OnBadImage
from jaxclf.data.devices import all_devices
from jaxclf.data.loader import loader_for
from jaxclf.data.sources import DataSource, fingerprint
from jaxclf.data.splits import open_data, open_parts
from jaxclf.inference.predict import predict
from jaxclf.metrics import summarize
from jaxclf.run.load import Run


def evaluation_source(run: Run, data: str | os.PathLike[str], split: str = "auto") -> tuple[DataSource, str]:
    """The examples of DATA that a run is to be judged on, and a sentence that says which they are.

    Args:
      run: the run; its classes decide the label numbers.
      data: a data folder as for `fit`.
      split: "train" or "valid" as `fit` would split the data; "all": every picture of a folder of class folders;
        "auto": the validation part, unless DATA is a plain folder of class folders the run was not trained on, which
        is taken whole.

    Raises:
      ValueError: for data that cannot be opened, or classes the run does not have.
    """
    if split not in ("auto", "train", "valid", "all"):
        raise ValueError(f"split={split!r} must be auto, train, valid or all")
    settings = run.recipe.settings
    whole, held_back, _ = open_parts(data, classes=run.classes)
    if split == "all" and held_back is not None:
        raise ValueError(f"split='all' is for a folder of class folders; {data} has a validation part of its own")
    trained_on = fingerprint(whole) == run.summary["data"]["fingerprint"]
    if held_back is None and (split == "all" or (split == "auto" and not trained_on)):
        return whole, f"all {len(whole)} pictures"
    splits = open_data(data, valid_fraction=settings.valid_fraction, seed=settings.seed, classes=run.classes)
    part = splits.train if split == "train" else splits.valid
    kind = "training" if split == "train" else "validation"
    drawn = f", drawn from the data with seed {settings.seed}" if held_back is None else ""
    return part, f"the {len(part)} {kind} pictures{drawn}"


def evaluate_run(
    run: Run,
    data: str | os.PathLike[str],
    split: str = "auto",
    *,
    on_bad_image: OnBadImage = "error",
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Figures of a run on a data set: `loss`, `accuracy`, `num_examples`, and `examples`, which says on what.

    Args:
      run, data, split: see `evaluation_source`.
      on_bad_image: "skip" leaves out pictures that cannot be read, and lists them as `skipped`: figures are then not
        those of the whole data set.
      on_progress: called with (done, in all): each picture counts twice, when it is decoded and when it is judged.

    Raises:
      ValueError: for data that cannot be opened, other classes, or a picture that cannot be read.
    """
    source, sentence = evaluation_source(run, data, split)
    run.recipe.settings.check_labels(source.multi_label)
    settings = run.recipe.settings
    mesh = all_devices(settings.batch(len(source)))
    loader = loader_for(source, settings, run.spec.preprocess, train=False, mesh=mesh)
    advance = on_progress or (lambda done, total: None)
    count = len(source)
    bad = loader.fill_cache(lambda done, _: advance(done, 2 * count), on_bad_image=on_bad_image)
    predictions = predict(
        run.model,
        run.variables,
        loader.without([picture.index for picture in bad]),
        threshold=run.spec.threshold,
        on_progress=lambda done, _: advance(count + len(bad) + done, 2 * count),
    )
    scores = summarize(predictions)
    skipped = {"skipped": [picture.reason for picture in bad]} if bad else {}
    return {**scores, "examples": sentence, **skipped}

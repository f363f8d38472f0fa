"""The report: what it says, that it needs nothing but itself, and that a browser shows it without a complaint."""

import base64
import functools
import io
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxclf._files import write_npz
from jaxclf._words import loss_text, percent
from jaxclf.config import Phase, Recipe, Settings, frozen_prefix, to_json
from jaxclf.data.check.listing import Finding
from jaxclf.data.check.report import Report
from jaxclf.data.decode import jpeg_thumbnail
from jaxclf.data.demo.drawing import draw_face
from jaxclf.metrics import Predictions, summarize
from jaxclf.plots.history import plot_steps
from jaxclf.plots.style import inline_svg
from jaxclf.report import RateTest, ReportContent, collect, make_report, write_report
from jaxclf.report.charts import MAX_STEPS, thinned
from jaxclf.report.pictures import RAMP, overlay, shown_indices
from jaxclf.report.sections import calibration_section
from jaxclf.run.recipes import eight_steps
from jaxclf.run.summary import _score_calibration
from jaxclf.training.lr_curve import LRCurve, growing_lrs, suggestions

CLASSES = ("basset", "beagle", "boxer", "chihuahua", "collie", "corgi", "dachshund", "husky", "pug", "saint bernard")
#: What a hostile class or file may be called.
EVIL = "<script>alert('x')</script>\"&--><svg onload=alert(1)>"


def fake_predictions(n: int = 1000, c: int = 10, seed: int = 0) -> Predictions:
    """Right about nine times in ten, and somewhat too sure."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, c, n)
    logits = generator.normal(0, 1.6, (n, c)) + 6.0 * (np.arange(c) == labels[:, None])
    logits[:, 1] += 1.5 * (labels == 0)  # one pair is confused more than the others
    return Predictions(logits.astype(np.float32), labels.astype(np.int32), np.arange(n, dtype=np.int32))


def fake_rows() -> list[dict]:
    """Two phases, as `fit` logs them."""
    rows, generator = [], np.random.default_rng(1)
    for phase, epochs, lr in (("head", 2, 1e-2), ("all layers", 7, 3e-3)):
        for step in range(0, epochs * 60, 5):
            falling = lr * (1 + np.cos(np.pi * (step % 60) / 60)) / 2
            loss = 2.0 * np.exp(-step / 90) + 0.1 * generator.random() + (0.1 if phase == "head" else 0.0)
            lrs = [falling / 100, falling / 10, falling]
            rows.append({"kind": "step", "phase": phase, "epoch": step // 60, "step": step, "loss": loss, "lrs": lrs})
        for epoch in range(epochs):
            valid = {"valid_loss": 0.9 * 0.8**epoch, "valid_accuracy": 0.93 - 0.2 * 0.7**epoch}
            train = {"train_loss": 1.2 * 0.75**epoch, "train_accuracy": 0.95 - 0.3 * 0.7**epoch}
            rows.append({"kind": "epoch", "phase": phase, "epoch": epoch, "step": epoch * 60, **train, **valid})
    return rows


def fake_rate_test(name: str = "Before the head") -> RateTest:
    lrs = growing_lrs(1e-6, 10.0, 100)
    losses = 2.3 - 1.5 / (1 + (3e-3 / lrs)) + 0.4 * lrs**2
    keep = losses < 8
    noisy = losses + np.random.default_rng(2).normal(0, 0.08, len(losses))
    curve = LRCurve(lrs[keep], noisy[keep], losses[keep], "the loss exceeded four times its lowest", None, 100)
    found = {rule: suggestion.lr for rule, suggestion in suggestions(curve).items()}
    return RateTest(name, curve, found, found["valley"])


def fake_check() -> Report:
    counts = {"train": dict.fromkeys(CLASSES, 480), "valid": dict.fromkeys(CLASSES, 100)}
    leak = Finding("leak", "the same picture in train and valid", ("train/pug/7.jpg", "valid/pug/9.jpg"))
    near = Finding("near duplicate", "2 pictures that look the same in train", ("train/pug/1.jpg", "train/pug/2.jpg"))
    return Report("photos", 5800, counts, {"32-63": 4, "256-511": 5796}, {"RGB": 5800}, (leak,), (near,))


def fake_content(n: int = 1000, classes: tuple[str, ...] = CLASSES, *, pictures: bool = True) -> ReportContent:
    predictions = fake_predictions(n, len(classes))
    scores = summarize(predictions)
    steps = [
        {"name": "head, precomputed", "seconds": 40.0, "loss": 0.45, "accuracy": 0.86},
        {"name": "head, augmented", "seconds": 95.0, "loss": 0.41, "accuracy": 0.87, "loss_difference": [-0.04, 0.03]},
        {"name": "all layers", "seconds": 610.0, "loss": scores["loss"], "accuracy": scores["accuracy"]}
        | {"loss_difference": [-0.15, 0.02]},
    ]
    summary = {
        "accuracy": scores["accuracy"],
        "loss": scores["loss"],
        "steps": steps,
        "seconds": 760.0,
        "num_classes": len(classes),
        "classes": list(classes),
        "num_train": 4800,
        "num_valid": n,
        "data": {"path": "photos", "layout": "split", "fingerprint": "c0ffee"},
        "skipped_images": {"train": [{"name": "pug/broken.jpg", "reason": "it is cut short"}], "valid": []},
        "weights": "timm/resnet34.a1_in1k",
        "num_parameters": 21_289_802,
        "precision": "float32",
        "hardware": "cpu x 1, x86_64",
        "versions": {"python": "3.11", "jax": "0.10"},
        "tta": {"accuracy": scores["accuracy"] + 0.004, "loss": scores["loss"] - 0.01, "num_examples": n},
    }
    phases = (
        Phase("head", lrs=(1e-4, 1e-3, 1e-2), frozen=frozen_prefix("stage4"), num_cycles=2),
        Phase("all layers", lrs=(3e-5, 3e-4, 3e-3), num_cycles=3, cycle_mult=2),
    )
    content = ReportContent(
        name="pets",
        summary=summary,
        recipe=Recipe(Settings(arch="resnet34", batch_size=32), phases),
        rows=tuple(fake_rows()),
        predictions=predictions,
        files=tuple(f"{classes[label]}/{row:04d}.jpg" for row, label in enumerate(predictions.labels)),
        rate_tests=(fake_rate_test(), fake_rate_test("Before all layers")),
        check=fake_check(),
    )
    return with_pictures(content) if pictures else content


def plain(content: ReportContent) -> ReportContent:
    """Without charts, which take most of a report's time; of fewer than fifty pictures there is no calibration."""
    summary = {**content.summary, "steps": content.summary["steps"][:1]}
    return content._replace(rows=(), rate_tests=(), summary=summary)


@functools.lru_cache
def drawing(number: int) -> np.ndarray:
    return np.asarray(draw_face(("cat", "dog")[number % 2], number, size=160))


def with_pictures(content: ReportContent) -> ReportContent:
    x = np.linspace(-2, 2, 160)
    spot = np.exp(-((x - 0.5) ** 2) - ((x + 0.3) ** 2)[:, None]).astype(np.float32)
    indices = shown_indices(content)
    pictures = {index: drawing(place % 8) for place, index in enumerate(indices)}
    return content._replace(pictures=pictures, heat_maps=dict.fromkeys(indices, spot))


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of style sheets."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.path, self.captions = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.path.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.path.pop() == tag, f"</{tag}> closes nothing that was opened last"

    def handle_data(self, data):
        if "style" not in self.path:
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def html() -> str:
    return make_report(fake_content())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def check_page(html: str) -> Page:
    """What holds for every report, whatever is missing from it."""
    page = Page(html)
    assert page.path == [], "something was left open"
    assert html.startswith("<!DOCTYPE html>")
    outside = re.findall(r"(?:https?:)?//[a-z0-9.]+\.[a-z]|@import|url\((?!#)", re.sub(r"base64,[\w+/=]+", "", html))
    assert outside == []
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "aria-labelledby"):
            for target in re.findall(r"^#?(.+)$", attributes.get(name) or ""):
                assert target in ids, f"{name} leads to {target}, which does not exist"
        for target in re.findall(r"url\(#([^)]+)\)", " ".join(filter(None, attributes.values()))):
            assert target in ids
    for image in page.all("img"):
        assert image["alt"] and image["src"].startswith("data:image/jpeg;base64,")
    for drawn in page.all("svg"):
        assert drawn["role"] == "img" and drawn["aria-label"] and drawn["viewbox"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    return page


def test_the_page_is_whole_and_needs_nothing_else(html):
    page = check_page(html)
    assert len(html.encode()) < 5_000_000
    assert page.all("html") == [{"lang": "en"}]
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy" and policy["content"].startswith("default-src 'none'")


def test_the_top_answers_the_three_questions(page):
    top = page.text[: page.text.index("Figures")]
    accuracy = summarize(fake_predictions())["accuracy"]
    error = (accuracy * (1 - accuracy) / 1000) ** 0.5
    assert f"{100 * accuracy:.1f} ± {100 * error:.1f} %" in top
    assert "1,000 validation pictures" in top and "optimistic" in top
    assert "basset taken for beagle" in top
    assert "resnet34 at 224 pixels, from timm/resnet34.a1_in1k" in top and "12 min 40 s" in top


def test_a_test_split_is_the_headline_and_no_longer_optimistic():
    content = plain(fake_content(40, pictures=False))
    test = {"accuracy": 0.875, "loss": 0.4, "num_examples": 800}
    text = Page(make_report(content._replace(summary={**content.summary, "test": test}))).text
    top = text[: text.index("Figures")]
    assert "87.5 ± 1.2 %" in top and "800 test pictures" in top and "optimistic" not in top


def test_no_mistake_is_no_proof():
    content = plain(fake_content(40, pictures=False))
    sure = content.predictions._replace(logits=10.0 * np.eye(10, dtype=np.float32)[content.predictions.labels])
    text = Page(make_report(content._replace(predictions=sure, summary={**content.summary, "accuracy": 1.0}))).text
    assert "none of 40 wrong; so few pictures rule out no error rate below 7.2 %" in text
    assert "No picture was taken for another class" in text


def test_differences_between_steps_are_judged_pairwise(page):
    assert "-0.0400 ± 0.0300 may be chance" in page.text and "-0.1500 ± 0.0200 better" in page.text


def solved_run(n: int = 40, **views) -> ReportContent:
    """A run of today: heads that were solved, all layers no better, and test-time augmentation."""
    content = plain(fake_content(n, pictures=False))
    curve = {"ridges": [100.0, 10.0, 1.0], "losses": [0.9, 0.31, 0.44], "errors": [0.1, 0.02, 0.05], "num_folds": 5}
    solved = {"ridge": 10.0, **curve, "num_held_out": 200, "gradient_norm": 1e-5, "iterations": 90}
    steps = [
        {"name": "head, precomputed", "loss": 0.5, "accuracy": 0.8, "kept": True, "solved": solved},
        {"name": "head, augmented", "loss": 0.3, "accuracy": 0.9, "kept": True, "solved": solved}
        | {"loss_difference": [-0.2, 0.02]},
        {"name": "all layers", "loss": 0.4, "accuracy": 0.85, "kept": False, "loss_difference": [0.1, 0.02]},
    ]
    tta = {"loss": 0.25, "accuracy": 0.925, "num_examples": n, "used": True, **views}
    last = {"name": "test-time augmentation", "loss": tta["loss"], "accuracy": tta["accuracy"], "kept": tta["used"]}
    final = last if tta["used"] else steps[1]
    summary = {
        **content.summary,
        "loss": 0.3,
        "accuracy": 0.9,
        "steps": [*steps, last],
        "tta": tta,
        "best": "head, augmented",
        "final": {name: final[name] for name in ("name", "loss", "accuracy")},
    }
    return content._replace(summary=summary)


def test_the_table_says_which_step_the_run_holds():
    (rows,) = re.findall("<caption><span>Validation figures.*?</table>", make_report(solved_run()), re.DOTALL)
    marks = {
        Page(f"<p>{name}</p>").text: re.sub("<[^>]*>", "", rest).strip()
        for name, rest in re.findall('<th scope="row">([^<]*)(.*?)</th>', rows)
    }
    assert marks == {
        "head, precomputed": "",
        "head, augmented ": "the run holds this",
        "all layers ": "no better: not used",
        "test-time augmentation ": "used for the final figures",
    }
    assert "to the best step before, picture by picture" in rows and "Its loss with" not in rows
    text = Page(make_report(solved_run())).text
    assert "it holds what head, augmented ended with: no later step was better" in text


def test_the_table_shows_what_each_step_is_with_augmented_views():
    """The last phase is not what the run went on from, and is what it holds."""
    content = solved_run()
    *phases, last = content.summary["steps"]
    seen = [
        {**step, "tta": {"loss": loss, "accuracy": 0.9}, "held": step["name"] == "all layers"}
        for step, loss in zip(phases, (0.45, 0.28, 0.25), strict=True)
    ]
    summary = {**content.summary, "steps": [*seen, last], "best": "all layers"}
    (table,) = re.findall(
        "<caption><span>Validation figures.*?</table>", make_report(content._replace(summary=summary)), re.DOTALL
    )
    assert "Its loss with test-time augmentation" in table and "no better: not used" not in table
    (row,) = [row for row in table.split("<tr>") if "all layers" in row]
    cells = re.findall('<td class="n">([^<]*)', row)
    assert "the run holds this" in row and cells[2:4] == ["0.4000", "0.2500"]


def test_the_headline_is_with_views_where_they_help_and_plain_pictures_stand_below():
    text = Page(make_report(solved_run())).text
    top, figures = text[: text.index("Figures")], text[text.index("Figures") : text.index("What each step")]
    assert "92.5 ± 4.2 %" in top and "accuracy, with test-time augmentation, on 40 validation pictures" in top
    assert "3 of 40 wrong" in top and "plain pictures, which everything below is about: 90.0 %, loss 0.3000" in top
    assert "standard error, plain pictures" in figures and "not used" not in figures
    text = Page(make_report(solved_run(used=False, loss=0.31))).text
    top, figures = text[: text.index("Figures")], text[text.index("Figures") : text.index("What each step")]
    assert "90.0 ± 4.7 %" in top and "augmentation, on" not in top and "plain pictures" not in text
    assert "loss 0.3100; no better: not used" in figures


def test_a_test_part_is_judged_plain():
    content = solved_run()
    test = {"accuracy": 0.875, "loss": 0.4, "num_examples": 800}
    text = Page(make_report(content._replace(summary={**content.summary, "test": test}))).text
    top = text[: text.index("Figures")]
    assert "87.5 ± 1.2 %" in top and "accuracy, on 800 test pictures" in top


def test_a_solved_head_shows_its_ridge_and_needs_no_curves():
    """Of a run that trained nothing: no row of a step or epoch."""
    content = solved_run()
    rows = tuple({"kind": "solve", "phase": step["name"], **step["solved"]} for step in content.summary["steps"][:2])
    phases = eight_steps(Settings()).phases[:2]
    html = make_report(content._replace(rows=rows, recipe=Recipe(Settings(), phases)))
    page = check_page(html)
    charts = [chart["aria-label"] for chart in page.all("svg") if "ridge" in (chart["aria-label"] or "")]
    assert len(charts) == 2 and charts[0] == (
        "Line chart: held-out loss in 5 folds, over ridges from 1 to 1e+02; 10 was chosen, with a loss of 0.31; the "
        "highest is 0.9."
    )
    text = page.text[page.text.index("Ridges of the solved heads") :]
    assert text.index("head, precomputed") < text.index("head, augmented")
    assert "Rate, loss and accuracy" not in text and "Learning-rate tests" not in text
    assert "solved, the ridge by cross-validation" in text and "side_on, 3 views" in text and "0 in 1 cycle" not in text


def test_defaults_that_follow_the_number_of_photos_are_not_chosen():
    content = plain(fake_content(40, pictures=False))
    summary = {**content.summary, "num_train": 499}
    for asked, bold in ((Settings(), set()), (Settings(batch_size=32, seed=3), {"batch_size", "seed"})):
        recipe = Recipe(asked.for_photos(500), content.recipe.phases)
        html = make_report(content._replace(summary=summary, recipe=recipe))
        assert set(re.findall("<li><strong>([^<]*)</strong><strong>", html)) == bold


def test_pictures_and_heat_maps_are_there(page):
    images = page.all("img")
    assert len(images) == 2 * 24
    for image in images[:2]:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1]))) as picture:
            assert picture.format == "JPEG" and picture.size == (160, 160)
    assert sum("taken for" in image["alt"] for image in images) == 24


def test_the_heat_map_glows_where_the_heat_is():
    pixels = np.full((8, 8, 3), 100, np.uint8)
    heat = np.zeros((8, 8))
    heat[2, 5] = 1.0
    shown = overlay(pixels, heat)
    assert (shown[0, 0] == 100).all()
    np.testing.assert_allclose(shown[2, 5], 0.35 * 100 + 0.65 * RAMP[-1], atol=1)


def test_strangers_text_is_shown_not_obeyed():
    classes = (EVIL, *CLASSES[1:])
    content = fake_content(80, classes)
    evil_phase = Phase(EVIL, lrs=(0.1,))
    content = content._replace(
        name=EVIL,
        files=tuple(f"{EVIL}/{row}" for row in range(80)),
        rows=tuple({**row, "phase": f"{row['phase']} {EVIL}"} for row in content.rows),
        recipe=Recipe(phases=(evil_phase,)),
        rate_tests=(fake_rate_test(EVIL),),
        check=Report("x", 1, {"train": {EVIL: 1}}, {}, {}, (Finding("leak", EVIL, (EVIL,)),), ()),
        summary={
            **content.summary,
            "weights": EVIL,
            "skipped_images": {"train": [{"name": EVIL, "reason": EVIL}]},
            "versions": {EVIL: EVIL},
            "steps": [{"name": EVIL, "seconds": 1.0, "loss": 1.0, "accuracy": 0.5}] * 2,
        },
    )
    html = make_report(content)
    page = check_page(html)
    assert "<script" not in html and page.text.count(EVIL) > 10


def test_many_classes_get_a_picture_of_their_confusion_and_folded_tables():
    classes = tuple(f"n{number:08d}_a_class" for number in range(40))
    page = check_page(make_report(plain(fake_content(200, classes, pictures=False))))
    assert page.all("details") and "wide" in [drawn.get("class") for drawn in page.all("svg")]
    assert "Most confused" in page.text


def test_several_labels_per_picture():
    generator = np.random.default_rng(3)
    labels = (generator.random((90, 4)) < 0.4).astype(np.float32)
    predictions = Predictions((labels * 5 - 2.5 + generator.normal(0, 2, labels.shape)), labels, np.arange(90))
    predictions = predictions._replace(multi_label=True, threshold=0.4)
    content = plain(fake_content(40, pictures=False))
    classes = ["haze", "clear", "river", EVIL]
    summary = {
        **content.summary,
        "classes": classes,
        "f_beta": 0.8,
        "best_threshold": {"threshold": 0.2, "f_beta": 0.85},
    }
    content = content._replace(
        recipe=Recipe(Settings(loss="sigmoid", threshold=0.4)), predictions=predictions, summary=summary
    )
    page = check_page(make_report(with_pictures(content)))
    assert "F2 0.8 at threshold 0.4" in page.text and "Labels" in page.text
    assert "Most confused" not in page.text and "Most uncertain" not in page.text and len(page.all("img")) == 24


@pytest.mark.parametrize("kept", [(), ("recipe",), ("rows",), ("predictions", "files"), ("rate_tests",), ("check",)])
def test_every_part_may_be_missing(kept):
    whole = fake_content(60, pictures=False)
    bare = ReportContent("bare", {"classes": list(CLASSES)} if "predictions" in kept else {})
    page = check_page(make_report(bare._replace(**{name: getattr(whole, name) for name in kept})))
    headings = {attributes["id"] for tag, attributes in page.tags if tag == "h2" and attributes.get("id")}
    titles = {
        "recipe": {"recipe", "provenance", "done"},
        "rows": {"training"},
        "predictions": {"figures", "fails", "confusion", "classes", "pictures-losses", "pictures-uncertain"}
        | {"calibration"},
        "rate_tests": {"training"},
        "check": {"data"},
    }
    assert headings == {"good"} | set().union(*(titles.get(name, set()) for name in kept))


def test_calibration_is_that_of_the_runs_summary():
    """Its folds are drawn from the run's seed."""
    content = fake_content(60, pictures=False)
    content = content._replace(recipe=Recipe(Settings(seed=3)))
    rows = calibration_section(content)["rows"]
    summary = _score_calibration(content.predictions, seed=3)
    assert rows[1][1:] == (percent(summary["ece_after"]), loss_text(summary["loss_after"]))
    others = [_score_calibration(content.predictions, seed=seed)["loss_after"] for seed in (0, 1, 2)]
    assert loss_text(summary["loss_after"]) not in map(loss_text, others)


def test_a_diverged_run_has_a_report_without_figures_of_it():
    content = plain(fake_content(40, pictures=False))
    broken = content.predictions._replace(logits=content.predictions.logits * np.nan)
    page = check_page(make_report(content._replace(predictions=broken)))
    assert "Steps" in page.text and "Most confused" not in page.text


def test_thinning_keeps_what_curves_need():
    rows = [{"kind": "step", "phase": "ab"[n > 7000], "step": n, "lrs": [1.0], "loss": 1.0} for n in range(10_000)]
    rows.insert(5000, {"kind": "epoch", "phase": "a", "epoch": 0})
    kept = thinned(rows)
    assert len(kept) <= MAX_STEPS + 4 and rows[5000] in kept and rows[-1] in kept and rows[7001] in kept
    assert thinned(rows[:300]) == rows[:300]


def test_an_inline_chart_leans_on_the_page_for_its_colours_and_on_nothing_else():
    ax = plot_steps([{"seconds": 1.0, "accuracy": 0.5}, {"seconds": 2.0, "accuracy": None}], num_examples=100)
    ax.set_title(EVIL, parse_math=False)
    drawn, again = (inline_svg(ax.figure, name) for name in ("one", "two"))
    assert "currentColor" in drawn.body and "var(--c1)" in drawn.body and "var(--grid)" in drawn.body
    assert "<script" not in drawn.body and "&lt;script&gt;" in drawn.body
    assert not re.search("https?:|xmlns|<style|<metadata|font-family", drawn.body)
    ids = re.findall(' id="([^"]*)"', drawn.body)
    assert ids and all(each.startswith("one-") for each in ids)
    assert drawn.body.replace("one-", "") != again.body and set(ids).isdisjoint(re.findall(' id="([^"]*)"', again.body))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_steps([]), "no steps"),
        (lambda: plot_steps([{}], metric="time"), "metric='time'"),
        (lambda: inline_svg(None, 'a" onload="'), "letters, digits"),
        (lambda: jpeg_thumbnail(np.zeros((4, 4, 3))), "uint8"),
        (lambda: jpeg_thumbnail(np.zeros((4, 0, 3), np.uint8)), "uint8"),
        (lambda: jpeg_thumbnail(np.zeros((4, 4, 3), np.uint8), side=0), "side=0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- from a RUN folder


def write_run(folder, content: ReportContent) -> None:
    folder.mkdir()
    (folder / "recipe.json").write_text(to_json(content.recipe))
    (folder / "summary.json").write_text(json.dumps(content.summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content.rows))
    arrays = {**content.predictions.arrays(), "files": np.array(content.files), "classes": np.array(content.classes)}
    write_npz(folder / "predictions.npz", arrays)


def test_a_run_folder_comes_back_as_it_was(tmp_path):
    content = fake_content(40, pictures=False)
    content = content._replace(rows=content.rows[-40:])
    write_run(tmp_path / "pets", content)
    test = content.rate_tests[0]
    found = {rule: {"lr": lr, "reason": ""} for rule, lr in test.suggestions.items()}
    curve = {name: getattr(test.curve, name).tolist() for name in ("lrs", "losses", "smoothed")}
    text = json.dumps({**curve, "reason": test.curve.reason, "suggestions": found, "rule": "valley"})
    (tmp_path / "pets" / "lr_curve.json").write_text(text)
    (tmp_path / "pets" / "check.json").write_text(json.dumps(content.check.to_dict()))
    read = collect(tmp_path / "pets")
    assert read.check == content.check and read.recipe == content.recipe and read.name == "pets"
    assert read.summary == content.summary and read.files == content.files
    assert read.rate_tests[0].chosen == test.chosen and read.rate_tests[0].suggestions == dict(test.suggestions)
    path = write_report(tmp_path / "pets")
    assert path.read_text() == make_report(read)  # the same content, the same page
    assert path == tmp_path / "pets" / "report.html"
    check_page(path.read_text())
    (tmp_path / "pets" / "check.json").write_text("{")
    with pytest.raises(ValueError, match="check.json is damaged"):
        collect(tmp_path / "pets")


def test_what_is_no_run_is_refused(tmp_path, capsys):
    from commands import fails, run

    fails(capsys, "report", tmp_path, mentions=[str(tmp_path), "holds no recipe.json"])
    (tmp_path / "recipe.json").write_text(to_json(Recipe()))
    fails(capsys, "report", tmp_path, mentions=["did not finish"])
    fails(capsys, "report", tmp_path, "--check", mentions=["needs DATA"], code=2)
    assert run("report", "--help") == 0 and "Example: jaxclf report" in capsys.readouterr().out


def test_the_command_finds_the_pictures_again(photos, tmp_path, capsys, monkeypatch):
    """A run that nobody trained: a checkpoint of random weights, and predictions of the photos' validation part.

    Grad-CAM is stood in for: it has tests of its own, and compiling it takes seconds.
    """
    import jax
    from commands import run

    from jaxclf.config import Preprocess
    from jaxclf.data.decode import evaluation_pixels
    from jaxclf.data.splits import open_data
    from jaxclf.models import init_variables
    from jaxclf.run.checkpoint_file import save_checkpoint
    from jaxclf.run.load import ClassifierSpec
    from jaxclf.schedules import constant
    from jaxclf.training.optimizer import make_optimizer
    from jaxclf.training.state import create_train_state

    valid = open_data(photos).valid
    spec = ClassifierSpec("resnet10t", valid.classes, "linear", 0.0, "float32", Preprocess(image_size=32))
    variables = init_variables(spec.create(), jax.random.key(0), image_size=32)
    state = create_train_state(variables, make_optimizer(variables["params"], constant(), (0.1,)))
    rest = plain(fake_content(40, pictures=False))
    logits = np.random.default_rng(0).normal(0, 1, (len(valid), 2)).astype(np.float32)
    predictions = Predictions(logits, valid.labels, np.arange(len(valid), dtype=np.int32))
    content = rest._replace(
        predictions=predictions,
        files=tuple(valid.name(i) for i in range(len(valid))),
        summary={**rest.summary, "classes": list(valid.classes), "checkpoint": "checkpoints/phase1"},
    )
    write_run(tmp_path / "run", content)
    (tmp_path / "run" / "checkpoints").mkdir()
    save_checkpoint(tmp_path / "run" / "checkpoints" / "phase1", state, {"classifier": spec.to_metadata()})
    asked = []

    def grad_cam(model, variables, images, classes, *, preprocess):
        asked.extend(zip(map(bytes, images), classes.tolist(), strict=True))
        return np.ones(images.shape[:3], np.float32)

    monkeypatch.setattr("jaxclf.report.from_run.grad_cam", grad_cam)
    assert run("report", tmp_path / "run", photos, "--check") == 0
    wanted = {(bytes(evaluation_pixels(valid[i].image, spec.preprocess)), int(logits[i].argmax())) for i in range(11)}
    assert set(asked) == wanted
    assert f"wrote {tmp_path / 'run' / 'report.html'}" in capsys.readouterr().out
    page = check_page((tmp_path / "run" / "report.html").read_text())
    assert len(page.all("img")) == 2 * 2 * len(valid) and "Check of 37 pictures" in page.text


# --- in a browser


@pytest.fixture(scope="module")
def chromium() -> list[str]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium on the PATH to see the page as a reader does")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    return [path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", *quiet]


def test_a_browser_shows_it_without_a_complaint(chromium, html, tmp_path):
    """No message on the console, no request beyond the file, every picture decoded, nothing wider than a phone.

    No window is as narrow as a phone, so the page stands in a frame that is, and reports to the page around it.
    """
    probe = """<script>
    addEventListener("load", () => {
      const images = [...document.images], charts = [...document.querySelectorAll("svg")];
      const all = [...document.querySelectorAll("body *")].filter((e) => !e.closest(".skip, svg"));
      const wide = all.filter((e) => {
        const region = e.parentElement.closest(".scroll");
        return e.getBoundingClientRect().right > innerWidth + 1 && !region;
      });
      const requests = performance.getEntriesByType("resource").map((e) => e.name);
      parent.postMessage({
        pictures: images.length, broken: images.filter((e) => !e.complete || e.naturalWidth === 0).length,
        charts: charts.length, flat: charts.filter((e) => e.getBoundingClientRect().height < 100).length,
        requests: requests.filter((name) => !name.startsWith("data:")),
        wide: wide.map((e) => e.tagName + "." + e.className), width: innerWidth,
        overflow: document.documentElement.scrollWidth - innerWidth }, "*");
    });</script>"""
    # The policy forbids scripts; the probe is the test's own, so in its copy they are allowed, and nothing else.
    allowed = html.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (tmp_path / "probe.html").write_text(allowed.replace("</body>", probe + "</body>"))
    listen = "onmessage = (event) => { document.body.dataset.seen = JSON.stringify(event.data); }"
    frame = '<iframe src="probe.html" style="border:0;width:390px;height:800px"></iframe>'
    (tmp_path / "outer.html").write_text(f"<!DOCTYPE html><body><script>{listen}</script>{frame}</body>")
    options = [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    command = [*chromium, *options, "--dump-dom", f"file://{tmp_path / 'outer.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(re.search('data-seen="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))
    assert (seen["pictures"], seen["charts"], seen["width"]) == (48, 9, 390)
    assert (seen["broken"], seen["flat"], seen["requests"], seen["wide"]) == (0, 0, [], []), seen
    assert seen["overflow"] <= 0

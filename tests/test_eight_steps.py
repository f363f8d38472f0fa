"""scripts/eight_steps.py runs as it stands, on drawings."""

import re
import runpy
import sys

from conftest import REPOSITORY

from jaxclf.data.demo.folder import write_drawings


def test_all_eight_steps_run_and_say_what_they_brought(tmp_path, monkeypatch, capsys):
    drawings = write_drawings(tmp_path / "drawings", num_train=32, num_valid=12, size=40)
    script = str(REPOSITORY / "scripts" / "eight_steps.py")
    arguments = (
        f"{drawings} --arch resnet10t --weights tiny-imagenet --image-size 32 --batch-size 8 --finder-steps 20 "
        f"--cycles 1 --out {tmp_path / 'out'}"
    )
    monkeypatch.setattr(sys, "argv", [script, *arguments.split()])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    assert re.findall(r"^(\d)", printed, re.MULTILINE) == list("234478"), printed
    assert re.search(r"^test-time augmentation: accuracy [01]\.\d+, loss \d", printed, re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "2 find_lr.png", "7 find_lr.png", "confusion.png"
    ]  # fmt: skip

"""scripts/custom_loop.py runs as it stands, and stopped it ends like the one that was left alone."""

import runpy
import sys

from conftest import REPOSITORY

from jaxclf.data.demo.folder import write_drawings


def test_stopped_and_gone_on_with_it_prints_the_same_figures(tmp_path, monkeypatch, capsys):
    drawings = write_drawings(tmp_path / "drawings", num_train=32, num_valid=12, size=40)
    script = str(REPOSITORY / "scripts" / "custom_loop.py")

    def lines(checkpoint, *more):
        arguments = f"{drawings} --image-size 32 --batch-size 8 --checkpoint {tmp_path / checkpoint}".split()
        monkeypatch.setattr(sys, "argv", [script, *arguments, *more])
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out.splitlines()

    whole = lines("none")
    assert [line.split(":")[0] for line in whole] == [
        "step    4", "epoch 1", "step    8", "epoch 2", "step   10", "step   12", "epoch 3", whole[-1].split(":")[0]
    ]  # fmt: skip
    assert whole[-1].startswith("the best epoch has a validation loss of ")
    stopped = lines("left", "--stop-at", "6")
    assert stopped[:2] == whole[:2] and stopped[2].startswith("stopped; ") and len(stopped) == 3
    went_on = lines("left")
    assert went_on[0].endswith("epoch 2, batch 3") and went_on[1:] == whole[2:]

"""What is counted in a compiled program's text, on one written by hand; and that a small step does not grow."""

import json
import subprocess
import sys

import pytest
from accel import hlo
from compilers import needs_compilers
from conftest import REPOSITORY

WINDOW = "window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_{KERNEL}->b01f"
GPU = WINDOW.replace("{KERNEL}", "o01i") + ", custom_call_target="
TEXT = f"""HloModule jit_step, entry_computation_layout={{(f32[4]{{0}})->f32[4]{{0}}}}

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

%sums (p: bf16[2,8,8,4]) -> f32[4] {{
  %p = bf16[2,8,8,4]{{3,2,1,0}} parameter(0)
  %wide = f32[2,8,8,4]{{3,2,1,0}} convert(%p)
  %zero = f32[] constant(0)
  ROOT %reduced = f32[4]{{0}} reduce(%wide, %zero), dimensions={{0,1,2}}, to_apply=%add
}}

%tpu (p.1: bf16[2,8,8,4], k.1: bf16[3,3,4,16]) -> bf16[2,4,4,16] {{
  %p.1 = bf16[2,8,8,4]{{3,2,1,0:T(8,128)(2,1)}} parameter(0)
  %k.1 = bf16[3,3,4,16]{{3,2,1,0}} parameter(1)
  ROOT %inner = bf16[2,4,4,16]{{3,2,1,0}} convolution(%p.1, %k.1), {WINDOW.replace("{KERNEL}", "01io")}
}}

ENTRY %main (x: bf16[2,8,8,4], k: bf16[16,3,3,4], d: f32[8,16]) -> f32[4] {{
  %x = bf16[2,8,8,4]{{3,2,1,0}} parameter(0)
  %k = bf16[16,3,3,4]{{3,2,1,0}} parameter(1)
  %d = f32[8,16]{{1,0}} parameter(2)
  %forward = (bf16[2,4,4,16], u8[0]) custom-call(%x, %k), {GPU}"__cudnn$convForward", metadata={{op_name="conv"}}
  %y = bf16[2,4,4,16]{{3,2,1,0}} get-tuple-element(%forward), index=0
  %kernel = (bf16[16,3,3,4]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %y), {GPU}"__cudnn$convBackwardFilter"
  %input = (bf16[2,8,8,4]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%y, %k), {GPU}"__cudnn$convBackwardInput"
  %fused = bf16[2,4,4,16] fusion(%x, %k), kind=kOutput, calls=%tpu, backend_config={{"estimated_cycles":"1234"}}
  %channels = f32[4]{{0}} fusion(%x), kind=kInput, calls=%sums
  %copied = f32[8,16]{{1,0}} copy(%d)
  %product = f32[8,8]{{1,0}} dot(%d, %copied), lhs_contracting_dims={{1}}, rhs_contracting_dims={{1}}
  %looped = f32[4]{{0}} while(%channels), condition=%c, body=%b
  ROOT %result = (bf16[2,4,4,16]{{3,2,1,0}}, f32[4]{{0}}) tuple(%y, %channels)
}}
"""
#: Of a small step on an H100: a tenth above what is in benchmarks/results.
KERNELS, MEGABYTES = 374, 100.6
#: A convolution from 2 x 8 x 8 x 4 to 2 x 4 x 4 x 16 by 3 x 3: 2 per output, and per input channel and window position.
FLOPS = 2 * (2 * 4 * 4 * 16) * (3 * 3 * 4)
INPUT, KERNEL, OUTPUT = 2 * 2 * 8 * 8 * 4, 2 * 16 * 3 * 3 * 4, 2 * 2 * 4 * 4 * 16


def test_operations_are_counted_by_hand():
    forward, kernel, into, fused, channels, copied, product = hlo.operations(TEXT)
    assert [row.kind for row in (forward, kernel, into, fused)] == ["convolution"] * 4
    assert [row.flops for row in (forward, kernel, into, fused)] == [FLOPS] * 4
    assert {row.bytes for row in (forward, kernel, into, fused)} == {INPUT + KERNEL + OUTPUT}
    assert not any(row.float32 for row in (forward, kernel, into, fused))
    assert (fused.cycles, forward.cycles) == (1234, 0) and forward.source == "conv"
    assert (channels.kind, channels.bytes, channels.flops) == ("reduction", INPUT + 16, 0)
    assert (copied.kind, copied.bytes) == ("layout", 2 * 4 * 8 * 16)
    assert (product.kind, product.flops, product.float32) == ("product", 2 * 8 * 16 * 8, True)
    assert hlo.hidden(TEXT) == 1


@pytest.mark.slow
@needs_compilers
def test_a_small_step_does_not_grow(tmp_path):
    """resnet18 on an H100, bfloat16, 64 pictures of 224 pixels."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "run.py"), "accelerators", "--no-peer", "--only"]
    command += [
        "device=h100, arch=resnet18, part=full, dtype=bfloat16, augment=none",
        "--json",
        str(tmp_path / "a.json"),
    ]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=600, capture_output=True)
    ((sample,),) = [each["ours"]["samples"] for each in json.loads((tmp_path / "a.json").read_text())["results"]]
    assert sample["kernels"] <= KERNELS and sample["MB per picture"] <= MEGABYTES and sample["gathers"] == 0

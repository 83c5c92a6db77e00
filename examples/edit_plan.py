"""Decide yourself: give the attention 6 bits. python examples/edit_plan.py [MODEL] [OUT]"""

import sys
from dataclasses import replace

import tailorbird

model = sys.argv[1] if len(sys.argv) > 1 else "demo:gemma-270m"
out = sys.argv[2] if len(sys.argv) > 2 else "edit-plan-out"

job = tailorbird.prepare(model, "rtn", "4bits")
print(f"planned: at most {job.nbytes:,} bytes")
attention = {part.name: job.method.spec(part, 6) for part in job.plan.parts if part.role == "attention"}
plan = replace(job.plan, specs={**job.plan.specs, **attention})
print(f"edited:  at most {tailorbird.prepare(model, plan=plan).nbytes:,} bytes")
print(f"written: {tailorbird.compress(model, out, plan=plan).artifact.nbytes:,} bytes")

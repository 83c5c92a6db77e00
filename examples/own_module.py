"""A torch module of your own, which is no language model: python examples/own_module.py [OUT]"""

import sys

import torch
from torch import nn

import tailorbird

out = sys.argv[1] if len(sys.argv) > 1 else "own-module-out"


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10))


torch.manual_seed(0)
trained = network()
batches = [torch.randn(64, 64) for _ in range(4)]  # what the network is used on

result = tailorbird.compress(trained, out, method="gptq", budget="5bits", data=batches)
packed = tailorbird.load_into(network(), out)  # its weights stay packed

with torch.no_grad():
    wanted, got = trained(batches[0]), packed(batches[0])
lost = float((got - wanted).square().mean() / wanted.square().mean())
print(f"{result.artifact.nbytes:,} bytes; relative error of the outputs {lost:.4f}")

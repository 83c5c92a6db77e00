"""From a model to a smaller one and a sentence: python examples/quickstart.py [MODEL] [OUT]"""

import sys

import tailorbird

model = sys.argv[1] if len(sys.argv) > 1 else "demo:gemma-270m"
out = sys.argv[2] if len(sys.argv) > 2 else "quickstart-out"

result = tailorbird.compress(model, out, method="gptq", budget="4bits", samples=16)
quality = tailorbird.evaluate(out, model, tokens=2046)
print(f"{result.artifact.nbytes:,} bytes, {result.artifact.bits:.3f} bits a weight, everything counted")
print(f"perplexity {quality.perplexity:.2f}, the original's {quality.reference_perplexity:.2f}")
for piece in tailorbird.load(out).generate("The tailorbird builds its nest", 24):
    print(piece, end="", flush=True)
print()

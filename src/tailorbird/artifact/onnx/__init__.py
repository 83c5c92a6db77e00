"""A causal language model as an ONNX graph of our own: packed weights, from token ids to logits."""

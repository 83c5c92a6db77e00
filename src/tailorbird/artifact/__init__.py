"""A folder that holds a compressed model: writing it, reading it, and making sure of it.

===================  ================================================================================
file                 content
===================  ================================================================================
config.json          the model's configuration, as it came, and for transformers the name of this package
plan.json            the format of every part
*.safetensors        packed parts (their stored arrays as ``part.array``) and tensors kept as they are
tokenizer.json.xz    the tokenizer, compressed (and small files that belong to it)
manifest.json        size and SHA-256 of every file above, digests of the weights, the artifact's digest
report.*, recipe.*   for people; not loaded
job.json             whose job it was, so that a killed one can be resumed; not loaded
===================  ================================================================================
"""

from tailorbird.artifact.reader import Artifact

__all__ = ["Artifact"]

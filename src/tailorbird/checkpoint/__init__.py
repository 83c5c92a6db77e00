"""Opening trained models: Hugging Face folders and ids, GGUF files, the demo model."""

from tailorbird.checkpoint.checkpoint import Checkpoint, TensorInfo
from tailorbird.checkpoint.open import open_checkpoint

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

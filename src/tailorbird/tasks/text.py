"""Text for calibration and evaluation: documents, the tokenizer, and windows of tokens."""

from tailorbird.tasks.documents import documents
from tailorbird.tasks.tokenizer import Tokenizer
from tailorbird.tasks.windows import calibration_windows, digest, evaluation_windows, windows

__all__ = ["Tokenizer", "calibration_windows", "digest", "documents", "evaluation_windows", "windows"]

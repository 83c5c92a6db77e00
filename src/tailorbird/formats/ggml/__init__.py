"""llama.cpp's block types (ggml, GGUF): their layout, our encoders, and decoders equal to ggml's bit for bit."""

from tailorbird.formats.ggml.codec import block_type, decode, encode
from tailorbird.formats.ggml.types import TYPES, BlockType

__all__ = ["TYPES", "BlockType", "block_type", "decode", "encode"]

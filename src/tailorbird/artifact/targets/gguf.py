"""GGUF: one file for llama.cpp and what is built on it.

Names, re-ordered rows and norms are as llama.cpp's converters write them; `checkpoint.gguf` reads them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np

from tailorbird.anatomy import Part
from tailorbird.artifact.reader import TOKENIZER, Artifact
from tailorbird.artifact.targets.gguf_check import compare
from tailorbird.artifact.targets.gguf_metadata import family_of, metadata
from tailorbird.artifact.targets.gguf_tensors import Stored, kept, names_of, packed, rope_frequencies
from tailorbird.artifact.targets.gguf_types import Choice, choose, mixture, named_for
from tailorbird.artifact.targets.gguf_vocabulary import vocabulary
from tailorbird.artifact.targets.target import Check, Target, Told
from tailorbird.errors import UsageError, require
from tailorbird.files import read_json
from tailorbird.formats import Spec, affine
from tailorbird.formats.ggml.exact import nearest_exact, without_waste

FILE = "model.gguf"
_ALIGN = 32


@dataclass(frozen=True, kw_only=True)
class GGUF(Target):
    """Every part in one of llama.cpp's types: exactly where a type holds its format, else encoded anew.

    Attributes:
        type: block type for all parts that no smaller type holds exactly, such as ``Q4_K``, and others for some roles
            or modules, such as ``IQ2_XS,embedding=Q6_K,down_proj=IQ3_S``; where rows don't divide into its blocks,
            what llama.cpp takes in its place. Parts without one: the smallest type within `loss`.
        loss: relative squared error that encoding anew may add to a part, as a share of 4**-bits; 1e-4 is always
            allowed.
    """

    name: ClassVar[str] = "gguf"
    extra: ClassVar[str] = "gguf"
    summary: ClassVar[str] = "one GGUF file for llama.cpp; formats it lacks are encoded anew, with the error told"
    solved_as: ClassVar[str] = "gguf-exact"

    type: str = ""
    loss: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a type that does not exist."""
        mixture(self.type)
        if not 0 <= self.loss <= 100:
            raise UsageError(f"loss={self.loss} is not between 0 and 100", hint="0.1 is usual")

    def refuse(self, artifact: Artifact) -> None:
        """Families, settings, tensors and tokenizers that llama.cpp does not have."""
        names_of(artifact, family_of(artifact.config)[1])
        keys_of(artifact)
        parts = artifact.plan.parts
        known = {"", *(part.role for part in parts), *(part.name.rpartition(".")[2] for part in parts)}
        if unknown := sorted(set(mixture(self.type)) - known):
            names = ", ".join(sorted(known - {""}))
            raise UsageError(f"type={self.type!r}: there is no {unknown[0]!r} in this model", hint=f"there are {names}")

    def write(self, artifact: Artifact, out: Path, told: Told) -> None:
        """Write model.gguf."""
        tensors = self._tensors(artifact, told)
        writer = _begun(artifact, tensors, out / FILE)
        [file] = writer.fout
        for done, tensor in enumerate(tensors):
            told("writing", done, len(tensors))
            writer.write_padding(file, file.tell())
            for piece in tensor.pieces():
                file.write(piece.contiguous().numpy().tobytes())
            writer.write_padding(file, file.tell())
        writer.close()

    def planned_bytes(self, artifact: Artifact) -> int:
        """Bytes of the file."""
        tensors = self._tensors(artifact, lambda what, done, total: None)
        with TemporaryDirectory(prefix="tailorbird-") as folder:
            _begun(artifact, tensors, Path(folder) / FILE).close()
            head = (Path(folder) / FILE).stat().st_size
        return sum(-(-nbytes // _ALIGN) * _ALIGN for nbytes in (head, *(tensor.nbytes for tensor in tensors)))

    def check(self, artifact: Artifact, out: Path) -> Check:
        """Read the file with the gguf library and compare its values with the artifact's."""
        family = family_of(artifact.config)[1]
        free = {part.name: self.loss for part in artifact.plan.parts if not named_for(mixture(self.type), part)}
        return compare(artifact, out / FILE, family, free)

    def choice(self, artifact: Artifact, part: Part) -> Choice:
        """The type of a part."""
        return choose(artifact, part, named_for(mixture(self.type), part), self.loss)

    def _tensors(self, artifact: Artifact, told: Told) -> list[Stored]:
        family = family_of(artifact.config)[1]
        parts = {part.tensor: part for part in artifact.plan.parts}
        names, found = names_of(artifact, family), []
        for done, (ours, theirs) in enumerate(names.items()):
            told("choosing types", done, len(names))
            if ours in parts:
                found.append(packed(artifact, parts[ours], theirs, self.choice(artifact, parts[ours]), family))
            else:
                found.append(kept(artifact, ours, theirs, family))
        return [*found, *rope_frequencies(artifact)]


@dataclass(frozen=True, kw_only=True)
class ExactGGUF(GGUF):
    """GGUF that changes no weight: for plans made for llama.cpp's plain types.

    It carries 1, 4, 5 and 8 bits, symmetric, in groups of 32 (128 for one bit) with half scales, the same in all groups
    of a part, and what else a type holds bit for bit.
    """

    name: ClassVar[str] = "gguf-exact"
    summary: ClassVar[str] = "GGUF without any change of weights: plain block types only"

    def carried(self, part: Part, spec: Spec) -> Spec:
        """The spec itself, or the nearest that a block type holds; rows that no block divides stay."""
        return nearest_exact(affine(spec))

    def planned(self, part: Part, spec: Spec) -> Spec:
        """The same, if the type keeps every code in the bits it has: what is narrower costs as much in the file."""
        return without_waste(affine(spec))


def keys_of(artifact: Artifact) -> dict[str, Any]:
    """All metadata of the file but its architecture, and a vocabulary where the artifact has one.

    Raises:
        ModelError: llama.cpp has no such family, setting or tokenizer.
    """
    keys = {"general.quantization_version": 2} | metadata(artifact.config)
    if TOKENIZER not in artifact.manifest.files:
        return keys | {"tokenizer.ggml.model": "no_vocab"}
    name = "tokenizer_config.json"
    settings = read_json(artifact.folder / name) if name in artifact.manifest.files else {}
    keys |= vocabulary(artifact.tokenizer_bytes(), settings, int(artifact.config["vocab_size"]))
    return keys | _ends(artifact, keys) | _template(artifact, settings)


def _ends(artifact: Artifact, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The token that ends a turn, where it is another than the one that ends a text."""
    name = "generation_config.json"
    settings = read_json(artifact.folder / name) if name in artifact.manifest.files else {}
    ends = settings.get("eos_token_id") or []
    ends = [
        end for end in ([ends] if isinstance(ends, int) else ends) if end != keys.get("tokenizer.ggml.eos_token_id")
    ]
    return {"tokenizer.ggml.eot_token_id": ends[0]} if ends else {}


def _template(artifact: Artifact, settings: Mapping[str, Any]) -> dict[str, Any]:
    name = "chat_template.jinja"
    if name in artifact.manifest.files:
        return {"tokenizer.chat_template": (artifact.folder / name).read_text(encoding="utf-8")}
    template = settings.get("chat_template")
    return {"tokenizer.chat_template": template} if isinstance(template, str) else {}


def _begun(artifact: Artifact, tensors: Sequence[Stored], path: Path) -> Any:
    """A writer that has written everything before the tensors' data."""
    library = require("gguf", extra="gguf")
    writer = library.GGUFWriter(path, family_of(artifact.config)[0])
    for key, value in keys_of(artifact).items():
        _add(writer, key, value)
    for tensor in tensors:
        kind = library.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _add(writer: Any, key: str, value: Any) -> None:
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kinds[type(value)](key, value)

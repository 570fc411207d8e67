"""Subword vocabulary: one sentencepiece unigram model shared by both languages, in Marian's layout.

A vocabulary is a directory with ``source.spm``, ``target.spm`` (the same model) and ``vocab.json``:
``</s>`` is 0, ``<unk>`` 1, then the pieces, the language codes and ``<pad>``, which is also the
decoder's start token. So the id of a piece is its sentencepiece id plus one.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from tools.train.subwords import Lattices

LANGUAGES = ("en", "zh")
EOS = 0
UNKNOWN = 1

# Compatibility forms that stay as they are: Chinese text is written with these marks.
_KEPT = set("，。？！：；（）【】「」『』《》〈〉、～…“”‘’")
_REMOVED = [0x00AD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF]
_SPACES = [0x0009, 0x000A, 0x000D, 0x00A0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]


def normalization_rules() -> str:
    """Sentencepiece rules (TSV of code points): NFKC of each character, but full-width marks stay.

    Full-width letters, digits and spaces become plain ones, zero-width characters vanish. NFKC as a
    whole would turn the Chinese comma into an ASCII one, which no Chinese reader wants back.
    """
    rules = dict.fromkeys(_REMOVED, "") | dict.fromkeys(_SPACES, " ")
    for code in range(0x20, 0x10000):
        if code in rules or 0xD800 <= code < 0xE000 or chr(code) in _KEPT:
            continue
        normal = unicodedata.normalize("NFKC", chr(code))
        if normal != chr(code):
            rules[code] = normal
    lines = (
        f"{code:X}\t{' '.join(f'{ord(c):X}' for c in text)}" for code, text in sorted(rules.items())
    )
    return "\n".join(lines) + "\n"


def train_vocabulary(
    sentences: Iterable[str],
    directory: Path,
    size: int,
    character_coverage: float = 0.9998,
    byte_fallback: bool = False,
) -> None:
    """Train a unigram model of ``size`` pieces on text of both languages; write ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    rules = directory / "normalization.tsv"
    rules.write_text(normalization_rules(), encoding="utf-8")
    prefix = directory / "source"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(prefix),
        vocab_size=size,
        model_type="unigram",
        character_coverage=character_coverage,
        byte_fallback=byte_fallback,
        normalization_rule_tsv=str(rules),
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_surface="",
        num_threads=1,
        minloglevel=2,
    )
    rules.unlink()
    prefix.with_suffix(".vocab").unlink()
    model = prefix.with_suffix(".model").rename(directory / "source.spm")
    (directory / "target.spm").write_bytes(model.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]
    tokens = ["</s>", "<unk>", *pieces, *(f">>{name}<<" for name in LANGUAGES), "<pad>"]
    if len(set(tokens)) != len(tokens):
        raise ValueError("sentencepiece made a piece with the name of a special token")
    text = json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False, indent=0)
    (directory / "vocab.json").write_text(text + "\n", encoding="utf-8")


class Vocabulary:
    """Text to ids and back, as MarianTokenizer does it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("source.spm", "target.spm", "vocab.json"):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory} is no vocabulary: {name} is missing")
        self.token_ids: dict[str, int] = json.loads(
            (directory / "vocab.json").read_text(encoding="utf-8")
        )
        self._processor = sentencepiece.SentencePieceProcessor(
            model_file=str(directory / "source.spm")
        )
        if self._processor.get_piece_size() + 2 + len(LANGUAGES) != len(self.token_ids):
            raise ValueError(
                f"{directory}: source.spm has {self._processor.get_piece_size()} pieces, "
                f"vocab.json {len(self.token_ids)} tokens; expected {2 + len(LANGUAGES)} more"
            )
        self.pad = self.token_ids["<pad>"]

    def __len__(self) -> int:
        return len(self.token_ids)

    def language(self, name: str) -> int:
        """The id of ``>>name<<``, the first token of a source that is to become ``name``."""
        try:
            return self.token_ids[f">>{name}<<"]
        except KeyError:
            raise ValueError(
                f"unknown target language {name!r}, expected one of {LANGUAGES}"
            ) from None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Piece ids of the best segmentation of each text, without special tokens."""
        encoded = self._processor.encode(list(texts), out_type=int, num_threads=1)
        return [[i + 1 for i in ids] for ids in encoded]

    def lattices(self, texts: Sequence[str], alpha: float) -> Lattices:
        """All segmentations of ``texts``, to sample from; their ids are one less than ours."""
        return Lattices(self._processor, texts, alpha)

    def encode_source(self, texts: Sequence[str], to: str) -> list[list[int]]:
        """Source ids of each text as the model reads them: language code, pieces, ``</s>``."""
        code = self.language(to)
        return [[code, *ids, EOS] for ids in self.encode(texts)]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Text of each row of target ids; special tokens are left out."""
        n_pieces = self._processor.get_piece_size()
        kept = [[i - 1 for i in ids if UNKNOWN < i <= n_pieces] for ids in rows]
        return [self._processor.decode(ids) for ids in kept]

"""Byte-level BPE out of vocab.json and merges.txt, for directories without a tokenizer.json.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2.  The two
files become a tokenizer.json, as transformers makes it for BART, RoBERTa and GPT-2.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .errors import ModelError
from .formats.files import MAX_JSON_BYTES, read_file, reason, shown
from .tokenizer_config import Token, TokenizerConfig
from .tokenizer_parts import parse_vocabulary

_BART_ROLES = {
    "bos_token": Token("<s>"),
    "eos_token": Token("</s>"),
    "unk_token": Token("<unk>"),
    "sep_token": Token("</s>"),
    "pad_token": Token("<pad>"),
    "cls_token": Token("<s>"),
    "mask_token": Token("<mask>", lstrip=True),  # it stands for a word with the space before it
}
_GPT2_ROLES = {role: Token("<|endoftext|>") for role in ("bos_token", "eos_token", "unk_token")}


def tokenizer_json(path: Path, config: TokenizerConfig, bracketed: bool) -> bytes:
    """A tokenizer.json of a directory's vocab.json and merges.txt.

    bracketed: sources are `<s> X </s>` (BART, RoBERTa), else `X` (GPT-2).  Raises ModelError.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    file = path / "vocab.json"
    vocab = parse_vocabulary(read_file(file, MAX_JSON_BYTES), str(file))
    merges = _merges(path / "merges.txt")
    prefix_space = bool(config.flag("add_prefix_space"))
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise ModelError(
            f"{path / 'merges.txt'} does not belong to vocab.json: {reason(error)}."
        ) from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    roles = {**(_BART_ROLES if bracketed else _GPT2_ROLES), **config.roles}
    for token in dict.fromkeys((*roles.values(), *config.extra)):
        if token.content in vocab:
            tokenizer.add_special_tokens([AddedToken(**{**asdict(token), "special": True})])
    if bracketed:
        ends = []
        for role in ("sep_token", "cls_token"):
            content = roles[role].content
            if content not in vocab:
                raise ModelError(f"{file} has no token {shown(content)}.")
            ends.append((content, vocab[content]))
        tokenizer.post_processor = processors.RobertaProcessing(
            ends[0], ends[1], trim_offsets=True, add_prefix_space=prefix_space
        )
    text: str = tokenizer.to_str()
    return text.encode("utf-8")


def _merges(file: Path) -> list[tuple[str, str]]:
    """The pairs of a merges.txt, best first.  Raises ModelError."""
    try:
        lines = read_file(file, MAX_JSON_BYTES).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8 text: {reason(error)}.") from None
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not space or not left or not right or " " in right:
            raise ModelError(f"line {number} of {file} is not a pair of tokens: {shown(line)}.")
        merges.append((left, right))
    return merges

"""WordPiece out of a vocab.txt, for BERT's older directories, which have no tokenizer.json.

Schuster and Nakajima, "Japanese and Korean voice search" (2012); Devlin et al., "BERT" (2018).  The
file becomes a tokenizer.json of the pieces that transformers puts together too.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .errors import ModelError
from .formats.files import MAX_JSON_BYTES, read_file, reason, shown
from .tokenizer_config import Token, TokenizerConfig

_ROLES = {
    "unk_token": Token("[UNK]"),
    "sep_token": Token("[SEP]"),
    "pad_token": Token("[PAD]"),
    "cls_token": Token("[CLS]"),
    "mask_token": Token("[MASK]"),
}


def tokenizer_json(path: Path, config: TokenizerConfig) -> bytes:
    """A tokenizer.json of a directory's vocab.txt, one token a line.  Raises ModelError."""
    file = path / "vocab.txt"
    try:
        text = read_file(file, MAX_JSON_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8: {reason(error)}.") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    vocab = {token: id for id, token in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    roles = {role: config.roles.get(role, usual) for role, usual in _ROLES.items()}
    for role, token in roles.items():
        if token.content not in vocab:
            raise ModelError(f"{file} lacks the token {shown(token.content)}, the {role}.")
    try:
        return _tokenizer_json(vocab, roles, config)
    except ModelError:
        raise
    except Exception as error:  # the library raises no narrower one
        raise ModelError(f"{file} does not make a tokenizer: {reason(error)}.") from None


def _tokenizer_json(
    vocab: dict[str, int], roles: dict[str, Token], config: TokenizerConfig
) -> bytes:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece(vocab, unk_token=roles["unk_token"].content))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.flag("tokenize_chinese_chars") is not False,
        strip_accents=config.flag("strip_accents"),
        lowercase=config.flag("do_lower_case") is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(
        [AddedToken(**{**asdict(token), "special": True}) for token in roles.values()]
    )
    first, last = roles["cls_token"].content, roles["sep_token"].content
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[f"{first}:0", "$A:0", f"{last}:0", "$B:1", f"{last}:1"],
        special_tokens=[(token, vocab[token]) for token in {first: 0, last: 0}],
    )
    data: str = tokenizer.to_str()
    return data.encode()

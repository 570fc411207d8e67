"""WordPiece out of a vocab.txt, for BERT's older directories, which have no tokenizer.json.

Schuster and Nakajima, "Japanese and Korean voice search" (2012); Devlin et al., "BERT" (2018).  The
file becomes a tokenizer.json of the pieces that transformers puts together too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ModelError
from .formats.files import MAX_JSON_BYTES, read_file, read_json_object, reason, shown
from .tokenizer import boolean_setting

_USUAL = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
}


def token_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Role (cls_token, ...) -> the token that the directory names for it, or the usual ones.

    Raises ModelError.
    """
    names: dict[str, tuple[str, ...]] = dict(_USUAL)
    for file in (path / "special_tokens_map.json", path / "tokenizer_config.json"):
        values = read_json_object(file) if file.exists() else {}
        for role in names:
            value = values.get(role)
            if isinstance(value, dict):  # an added token with its settings
                value = value.get("content")
            if value is None:
                continue
            if not isinstance(value, str):
                raise ModelError(f"{file} sets {role} to {shown(value)}, which is not a token.")
            names[role] = (value,)
    return names


def _settings(path: Path) -> tuple[dict[str, Any], str]:
    file = path / "tokenizer_config.json"
    return (read_json_object(file) if file.exists() else {}), str(file)


def wordpiece(path: Path) -> bytes:
    """tokenizer.json of a directory with vocab.txt, one token a line.  Raises ModelError."""
    file = path / "vocab.txt"
    lines = _text(file).split("\n")
    vocab = {token: id for id, token in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    roles = {role: names[0] for role, names in token_names(path).items()}
    for role, token in roles.items():
        if token not in vocab:
            raise ModelError(f"{file} lacks the token {shown(token)}, the {role}.")
    settings, what = _settings(path)

    def setting(key: str) -> bool:  # all are true where the file is silent
        return settings.get(key) is None or boolean_setting(settings, key, what)

    strip = settings.get("strip_accents")
    options = {
        "handle_chinese_chars": setting("tokenize_chinese_chars"),
        "strip_accents": None
        if strip is None
        else boolean_setting(settings, "strip_accents", what),
        "lowercase": setting("do_lower_case"),
    }
    try:
        return _tokenizer_json(vocab, roles, options)
    except Exception as error:  # the library raises no narrower one
        raise ModelError(f"{file} does not make a tokenizer: {reason(error)}.") from None


def _tokenizer_json(
    vocab: dict[str, int], roles: dict[str, str], options: dict[str, bool | None]
) -> bytes:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece(vocab, unk_token=roles["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in roles.values()])
    first, last = roles["cls_token"], roles["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[f"{first}:0", "$A:0", f"{last}:0", "$B:1", f"{last}:1"],
        special_tokens=[(token, vocab[token]) for token in {first: 0, last: 0}],
    )
    data: str = tokenizer.to_str()
    return data.encode()


def _text(file: Path) -> str:
    try:
        text = read_file(file, MAX_JSON_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8: {reason(error)}.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")

"""The tokenizer of a Hugging Face directory or of a native file: which kind, of which files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import language_codes
from .errors import ModelError
from .formats.files import MAX_JSON_BYTES, read_file, shown
from .languages import LanguageRule, SourcePlace, TargetPlace
from .sentencepiece_tokenizer import MAX_OFFSET, SentencepieceSettings, SentencepieceTokenizer
from .tokenizer import Blobs, Tokenizer
from .tokenizer_config import TokenizerConfig, read_tokenizer_config
from .tokenizer_parts import MAX_SPM_BYTES, load_spm, parse_vocabulary

SPM_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_CLASS_OF_FAMILY = {
    "bart": "BartTokenizer",
    "pegasus": "PegasusTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_bigcode": "GPT2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
    "llama": "LlamaTokenizer",
}
_WORDPIECE = ("bert", "distilbert")
_BRACKETED = ("BartTokenizer", "RobertaTokenizer", "LongformerTokenizer", "LEDTokenizer")
_BOS_AND_EOS = ("LlamaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend")
"""Classes whose add_bos_token and add_eos_token decide what stands round a text."""
_FAIRSEQ = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
_CODES = {  # class -> how a language's token looks, its code in it
    "MBartTokenizer": re.compile("([a-z]{2}_[A-Z]{2})"),
    "MBart50Tokenizer": re.compile("([a-z]{2}_[A-Z]{2})"),
    "NllbTokenizer": re.compile("([a-z]{3}_[A-Z][a-z]{3})"),
    "M2M100Tokenizer": re.compile("__([a-z]{2,3})__"),
}


def open_tokenizer(path: Path, family: str | None = None) -> tuple[Tokenizer | None, str | None]:
    """The tokenizer of a Hugging Face directory, or None and a sentence naming the missing file.

    source.spm decides for MarianTokenizer; then tokenizer.json, vocab.txt of BERT, vocab.json with
    merges.txt, and a sentencepiece model (SPM_FILES) are looked for.  family: the model_type, which
    decides what tokenizer_class in tokenizer_config.json leaves open.  Raises ModelError for files
    that are there but wrong.
    """
    if (path / "source.spm").exists():
        for name in ("target.spm", "vocab.json"):
            if not (path / name).exists():
                return None, f"{path} has source.spm but no {name}, so it takes and gives ids only."
        from .marian_tokenizer import MarianTokenizer

        return MarianTokenizer.from_directory(path), None
    config = read_tokenizer_config(path)
    name = config.tokenizer_class
    if name in ("", "PreTrainedTokenizer", "TokenizersBackend"):
        name = _CLASS_OF_FAMILY.get(family or "", name)
    if (path / "tokenizer.json").exists():
        data = read_file(path / "tokenizer.json", MAX_JSON_BYTES)
        return _json_tokenizer(data, name, family, config), None
    if (path / "vocab.txt").exists() and (name == "BertTokenizer" or family in _WORDPIECE):
        from . import wordpiece

        return _json_tokenizer(wordpiece.tokenizer_json(path, config), name, family, config), None
    if (path / "merges.txt").exists() and (path / "vocab.json").exists():
        from .byte_level import tokenizer_json

        return _json_tokenizer(
            tokenizer_json(path, config, name in _BRACKETED), name, family, config
        ), None
    for file in SPM_FILES:
        if (path / file).exists():
            return _sentencepiece_tokenizer(path, file, name, family, config), None
    if name == "ByT5Tokenizer":
        from .byte_tokenizer import MAX_SENTINELS, ByteTokenizer

        return ByteTokenizer(config.integer("extra_ids", 125, MAX_SENTINELS) or 125), None
    return None, (
        f"{path} has no source.spm and no tokenizer.json (nor merges.txt, {', '.join(SPM_FILES)}), "
        "so it takes and gives ids only."
    )


def tokenizer_from_blobs(kind: str, settings: Mapping[str, Any], blobs: Blobs) -> Tokenizer:
    """The tokenizer that `to_blobs` described.  Raises ModelError."""
    if kind == "marian":
        from .marian_tokenizer import MarianTokenizer

        return MarianTokenizer.from_blobs(settings, blobs)
    if kind == "json":
        from .json_tokenizer import JsonTokenizer

        return JsonTokenizer.from_blobs(settings, blobs)
    if kind == "sentencepiece":
        return SentencepieceTokenizer.from_blobs(settings, blobs)
    if kind == "bytes":
        from .byte_tokenizer import ByteTokenizer

        return ByteTokenizer.from_blobs(settings, blobs)
    raise ModelError(
        f"unknown tokenizer kind {shown(kind)}; this build knows marian, json, sentencepiece and "
        "bytes."
    )


# ---- tokenizer.json ------------------------------------------------------------------------------


def _json_tokenizer(
    data: bytes, name: str, family: str | None, config: TokenizerConfig
) -> Tokenizer:
    from .json_tokenizer import JsonTokenizer, load_tokenizer_json

    tokenizer = load_tokenizer_json(data)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if _complete(tokenizer, vocab, name, config):
        text: str = tokenizer.to_str()
        data = text.encode("utf-8")
        vocab = tokenizer.get_vocab(with_added_tokens=True)
    rule = _language_rule(name, family, config, vocab)
    return JsonTokenizer(data, bool(config.flag("clean_up_tokenization_spaces")), rule)


def _complete(tokenizer: Any, vocab: Mapping[str, int], name: str, config: TokenizerConfig) -> bool:
    """Add what tokenizer_config.json says beyond tokenizer.json; whether there was anything."""
    from tokenizers import AddedToken, processors

    changed = False
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for id, token in sorted(config.added.items()):
        if token.content not in known:
            tokenizer.add_tokens([AddedToken(**asdict(token))])
            known.add(token.content)
            changed = True
            if tokenizer.token_to_id(token.content) != id:
                raise ModelError(
                    f"{config.path} gives token {shown(token.content)} the id {id}, but after "
                    f"those of tokenizer.json comes {tokenizer.token_to_id(token.content)}."
                )
    for token in (*config.roles.values(), *config.extra):
        if token.content not in known and token.content in vocab:
            tokenizer.add_special_tokens([AddedToken(**{**asdict(token), "special": True})])
            known.add(token.content)
            changed = True
    flags = {role: config.flag(f"add_{role}_token") for role in ("bos", "eos")}
    if name in _BOS_AND_EOS and any(flag is not None for flag in flags.values()):
        template, tokens = ["$A"], []
        for role, at in (("bos", 0), ("eos", 2)):
            named = config.roles.get(f"{role}_token")
            if flags[role] and named is not None and named.content in vocab:
                template.insert(at, named.content)
                tokens.append((named.content, vocab[named.content]))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=list(dict.fromkeys(tokens))
        )
        changed = True
    return changed


def _language_rule(
    name: str, family: str | None, config: TokenizerConfig, vocab: Mapping[str, int]
) -> LanguageRule | None:
    """What tokenizer_class (or a token that only one of the classes has) says of languages."""
    reason = f"tokenizer_class {name} of {config.path.name}"
    if name not in _CODES:
        tell = {
            "mbart": (("af_ZA", "MBart50Tokenizer"), ("en_XX", "MBartTokenizer")),
            "m2m_100": (("__en__", "M2M100Tokenizer"), ("eng_Latn", "NllbTokenizer")),
        }
        for token, candidate in tell.get(family or "", ()):
            if token in vocab:
                name, reason = candidate, f"the token {token} of a model of the family {family}"
                break
        else:
            return None
    codes = {}
    for token, id in sorted(vocab.items(), key=lambda item: item[1]):
        match = _CODES[name].fullmatch(token)
        if match is not None:
            codes[match[1]] = id
    end = config.roles["eos_token"].content if "eos_token" in config.roles else "</s>"
    if not codes or end not in vocab:
        raise ModelError(f"{reason} asks for language tokens and {end}, but there are none.")
    suffix = name == "MBartTokenizer" or bool(config.flag("legacy_behaviour"))
    given: list[str | None] = []
    for key in ("src_lang", "tgt_lang"):
        code = config.text(key)
        if code is not None and code not in codes:
            raise ModelError(f"{config.path} sets {key} to {shown(code)}, which is no language.")
        given.append(code)
    return LanguageRule(
        codes=codes,
        end=vocab[end],
        source_place=SourcePlace.SUFFIX if suffix else SourcePlace.PREFIX,
        target_place=TargetPlace.START if name == "MBartTokenizer" else TargetPlace.FORCED,
        source_lang=given[0],
        to=given[1],
        reason=reason + (" with legacy_behaviour" if suffix and name == "NllbTokenizer" else ""),
    )


# ---- sentencepiece -------------------------------------------------------------------------------


def _sentencepiece_tokenizer(
    path: Path, file: str, name: str, family: str | None, config: TokenizerConfig
) -> Tokenizer:
    data = read_file(path / file, MAX_SPM_BYTES)
    spm = load_spm(data, file)
    n: int = spm.get_piece_size()
    vocab: dict[str, int] | None = None
    if (path / "vocab.json").exists() and name in ("", "M2M100Tokenizer"):
        where = path / "vocab.json"
        vocab = parse_vocabulary(read_file(where, MAX_JSON_BYTES), str(where))
        for token in _FAIRSEQ:
            if token not in vocab:
                raise ModelError(f"{where} has no token {shown(token)}.")
        name = name or "M2M100Tokenizer"
    make = _SPM_SETTINGS.get(name)
    if make is None:
        raise ModelError(
            f"{path} has {file} without a tokenizer.json, and {config.path.name} has the "
            f"tokenizer_class {shown(name)}; this build knows {', '.join(_SPM_SETTINGS)}."
        )
    settings = make(spm, n, vocab, config)
    rule = _language_rule(name, family, config, settings.added)
    return SentencepieceTokenizer(data, settings, vocab, rule)


def _settings(
    config: TokenizerConfig, unknown: int, special: Mapping[str, int], **more: Any
) -> SentencepieceSettings:
    """Settings of special tokens by id, and the directory's own added tokens.

    transformers names each role, so that a role's token under another name has the usual one's id.
    """
    added = dict(special)
    names = list(special)
    for id, token in config.added.items():
        for other in [other for other, its in added.items() if its == id]:
            del added[other]
            names = [name for name in names if name != other]
        added[token.content] = id
        if token.special:
            names.append(token.content)
    flags: dict[str, Any] = {
        flag: tuple(t.content for t in config.added.values() if getattr(t, flag))
        for flag in ("lstrip", "rstrip", "single_word")
    }
    return SentencepieceSettings(
        unknown_id=unknown,
        added=added,
        special=tuple(dict.fromkeys(names)),
        **flags,
        clean_up_tokenization_spaces=bool(config.flag("clean_up_tokenization_spaces")),
        **more,
    )


def _fairseq(codes: tuple[str, ...]) -> Callable[..., SentencepieceSettings]:
    def make(spm: Any, n: int, vocab: Any, config: TokenizerConfig) -> SentencepieceSettings:
        # fairseq's dictionary begins with four tokens where sentencepiece has three.
        names = [token.content for token in config.extra] or list(codes)
        tokens = [*dict.fromkeys(names), "<mask>"]
        special = {**_FAIRSEQ, **{token: n + 1 + i for i, token in enumerate(tokens)}}
        return _settings(config, 3, special, offset=1)

    return make


def _m2m100(
    spm: Any, n: int, vocab: dict[str, int] | None, config: TokenizerConfig
) -> SentencepieceSettings:
    if vocab is None:
        raise ModelError(f"{config.path.parent} has a sentencepiece model but no vocab.json.")
    wmt21 = config.text("language_codes") == "wmt21"
    codes = language_codes.WMT21 if wmt21 else language_codes.M2M100
    special = {token: vocab[token] for token in _FAIRSEQ}
    special.update({f"__{code}__": len(vocab) + i for i, code in enumerate(codes)})
    return _settings(config, vocab["<unk>"], special)


def _t5(spm: Any, n: int, vocab: Any, config: TokenizerConfig) -> SentencepieceSettings:
    extra = config.integer("extra_ids", 100, MAX_OFFSET)
    special = {spm.id_to_piece(i): i for i in (spm.pad_id(), spm.eos_id(), spm.unk_id()) if i >= 0}
    special.update({f"<extra_id_{i}>": n + extra - 1 - i for i in range(extra)})
    return _settings(config, spm.unk_id(), special, after=(_end(spm, config),))


def _pegasus(spm: Any, n: int, vocab: Any, config: TokenizerConfig) -> SentencepieceSettings:
    offset = config.integer("offset", 103, MAX_OFFSET)
    special = {"<pad>": 0, "</s>": 1, "<mask_1>": 2, "<mask_2>": 3}
    special.update({f"<unk_{i}>": i + 2 for i in range(2, offset)})
    special["<unk>"] = spm.unk_id() + offset
    return _settings(config, spm.unk_id() + offset, special, offset=offset, after=(1,))


def _llama(spm: Any, n: int, vocab: Any, config: TokenizerConfig) -> SentencepieceSettings:
    special = {spm.id_to_piece(i): i for i in (spm.unk_id(), spm.bos_id(), spm.eos_id()) if i >= 0}
    before = (spm.bos_id(),) if config.flag("add_bos_token") is not False else ()
    after = (_end(spm, config),) if config.flag("add_eos_token") else ()
    return _settings(
        config,
        spm.unk_id(),
        special,
        before=before,
        after=after,
        prefix_space=bool(config.flag("legacy")),
    )


def _end(spm: Any, config: TokenizerConfig) -> int:
    if spm.eos_id() < 0:
        raise ModelError(f"the sentencepiece model of {config.path.parent} has no end token.")
    id: int = spm.eos_id()
    return id


_SPM_SETTINGS: dict[str, Callable[..., SentencepieceSettings]] = {
    "MBartTokenizer": _fairseq(language_codes.MBART),
    "MBart50Tokenizer": _fairseq(language_codes.MBART_50),
    "NllbTokenizer": _fairseq(language_codes.NLLB),
    "M2M100Tokenizer": _m2m100,
    "T5Tokenizer": _t5,
    "MT5Tokenizer": _t5,
    "PegasusTokenizer": _pegasus,
    "LlamaTokenizer": _llama,
}

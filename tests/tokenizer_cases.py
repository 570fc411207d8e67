"""Small tokenizers of every kind of checkpoint: their files, trained here, and transformers' class.

Each case writes what a directory of that kind has (tokenizer files, tokenizer_config.json), in the
form of old checkpoints (sentencepiece models, vocab.json with merges.txt) or as transformers saves
them now (tokenizer.json).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2s_infer.language_codes import M2M100
from texts import texts

SENTENCES = [t for t in texts(400, seed=5) if 0 < len(t) < 200 and "\x00" not in t and "▁" not in t]


@dataclass(frozen=True)
class Case:
    name: str
    reference: str
    """Class of transformers."""
    write: Callable[[Path], None]
    """Writes the files of an old directory."""
    family: str
    arguments: dict[str, Any]
    """Of from_pretrained."""
    options: dict[str, Any]
    """Of our encode_source."""


_RULES = ("FF21\t41", "2460\t31", "FB01\t66 69", "3000\t20", "A0\t20", "9\t20", "A\t20", "200B\t")
"""A few of the usual normalization rules, which are 350 kB: code points in hexadecimal."""


def train_spm(folder: Path, name: str, few_rules: bool = False, **options: Any) -> Any:
    """Train a sentencepiece model into folder / name; the processor."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as work:
        if few_rules:
            (Path(work) / "rules.tsv").write_text("\n".join(_RULES) + "\n")
            options["normalization_rule_tsv"] = f"{work}/rules.tsv"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_prefix=f"{work}/spm",
            hard_vocab_limit=False,
            minloglevel=2,
            **{"vocab_size": 500, **options},
        )
        shutil.copy(f"{work}/spm.model", folder / name)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / name))


def dump(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def fairseq_spm(tokenizer_class: str, **config: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        bpe = tokenizer_class == "NllbTokenizer"
        few_rules = tokenizer_class == "MBart50Tokenizer"
        train_spm(
            folder,
            "sentencepiece.bpe.model",
            few_rules,
            model_type="bpe" if bpe else "unigram",
        )
        dump(folder, "tokenizer_config.json", {"tokenizer_class": tokenizer_class, **config})

    return write


def m2m100(folder: Path) -> None:
    spm = train_spm(folder, "sentencepiece.bpe.model", few_rules=True, model_type="bpe")
    pieces = [spm.id_to_piece(i) for i in range(3, spm.get_piece_size())]
    names = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces)]  # an order of its own
    dump(folder, "vocab.json", {name: i for i, name in enumerate(names) if i % 41 != 40})
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    dump(folder, "vocab.json", {name: i for i, name in enumerate(vocab)})  # without gaps
    languages = [f"__{code}__" for code in M2M100]
    config = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": languages}
    dump(folder, "tokenizer_config.json", config)


def t5(folder: Path) -> None:
    train_spm(folder, "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    dump(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 100})


def pegasus(folder: Path) -> None:
    train_spm(folder, "spiece.model", few_rules=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    dump(folder, "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer"})


def llama(folder: Path) -> None:
    train_spm(
        folder,
        "tokenizer.model",
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        vocab_size=800,
    )
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    dump(folder, "tokenizer_config.json", {**config, "legacy": False, "bos_token": "<s>"})


def byte_level(tokenizer_class: str, first: list[str], **config: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=first,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(SENTENCES, trainer)
        bpe.model.save(str(folder))
        dump(folder, "tokenizer_config.json", {"tokenizer_class": tokenizer_class, **config})

    return write


def byt5(folder: Path) -> None:
    dump(folder, "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"})


_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
CASES = [
    Case("bart", "BartTokenizer", byte_level("BartTokenizer", _ROBERTA), "bart", {}, {}),
    Case(
        "gpt2",
        "GPT2Tokenizer",
        byte_level("GPT2Tokenizer", ["<|endoftext|>"]),
        "gpt2",
        {},
        {},
    ),
    Case(
        "gpt2-prefix-space",
        "GPT2Tokenizer",
        byte_level("GPT2Tokenizer", ["<|endoftext|>"], add_prefix_space=True),
        "gpt_bigcode",
        {},
        {},
    ),
    Case(
        "mbart",
        "MBartTokenizer",
        fairseq_spm("MBartTokenizer"),
        "mbart",
        {"src_lang": "ro_RO"},
        {"source_lang": "ro_RO"},
    ),
    Case(
        "mbart50",
        "MBart50Tokenizer",
        fairseq_spm("MBart50Tokenizer"),
        "mbart",
        {"src_lang": "zh_CN"},
        {"source_lang": "zh_CN"},
    ),
    Case(
        "nllb",
        "NllbTokenizer",
        fairseq_spm("NllbTokenizer"),
        "m2m_100",
        {"src_lang": "zho_Hans"},
        {"source_lang": "zho_Hans"},
    ),
    Case(
        "nllb-legacy",
        "NllbTokenizer",
        fairseq_spm("NllbTokenizer", legacy_behaviour=True),
        "m2m_100",
        {"src_lang": "fra_Latn"},
        {"source_lang": "fra_Latn"},
    ),
    Case("m2m100", "M2M100Tokenizer", m2m100, "m2m_100", {"src_lang": "de"}, {"source_lang": "de"}),
    Case("t5", "T5Tokenizer", t5, "t5", {}, {}),
    Case("pegasus", "PegasusTokenizer", pegasus, "pegasus", {}, {}),
    Case("llama", "LlamaTokenizer", llama, "llama", {}, {}),
    Case("byt5", "ByT5Tokenizer", byt5, "t5", {}, {}),
]
MORE = [  # texts with the tokens of the kinds above
    "<|endoftext|>",
    "a <|endoftext|> b",
    "The <extra_id_0> is <extra_id_1>today<extra_id_99>",
    "<extra_id_0>",
    "<extra_id_100> <extra_id_12",
    "en_XX zh_CN eng_Latn __en__ __de__x",
    "Hello en_XX",
    "<mask_1> a <mask_2>b <unk_7>",
    "</s> </s>  </s>",
    " <s> a <pad> ",
    "<0x41> <0xE4>",
]


FLAGS = [  # of added tokens
    {"content": "<new>"},
    {"content": "<l>", "lstrip": True},
    {"content": "<r>", "rstrip": True},
    {"content": "<lr>", "lstrip": True, "rstrip": True, "special": True},
    {"content": "<sw>", "single_word": True},
    {"content": "norm", "normalized": True},
]
FLAGGED = [  # texts with them
    "a<new>b", "a <new> b", "<new> <new>", "x<new><r> today", "the  <lr>  cat", "the\t<l> \tcat",
    "a<l> \u3000b", "a \u3000<l>", "a<r> \u3000b c", "a<sw>b", "a <sw> b", "<sw>", "a-<sw>-b",
    "a_<sw>", "<l><r><lr>", "a <lr> <lr> <sw> b", "<r>  ", "\xe9<sw>", "NORM norm x", "<sw><sw>",
    "<sw> <sw>x", "a\x1c<l>\x1cb", "  <l>", "<lr> a",
]  # fmt: skip


def add_flagged(case: Case, folder: Path) -> None:
    """The tokens of FLAGS in the tokenizer_config.json of a directory."""
    n = len(open_reference(case, folder))
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), False)
    config["added_tokens_decoder"] = {
        str(n + i): {**flags, **token} for i, token in enumerate(FLAGS)
    }
    dump(folder, "tokenizer_config.json", config)


def samples() -> list[str]:
    return [*texts(), *MORE]


def open_reference(case: Case, folder: Path) -> Any:
    """transformers' tokenizer of a directory."""
    import transformers

    return getattr(transformers, case.reference).from_pretrained(folder, **case.arguments)


def save_modern(case: Case, old: Path, new: Path) -> None:
    """Write the directory as transformers saves it now, with a tokenizer.json where it has one."""
    import transformers

    reference = open_reference(case, old)
    if case.reference == "NllbTokenizer":
        # Out of a bare sentencepiece model, transformers 5 makes one without languages.
        model = json.loads(reference.backend_tokenizer.to_str())["model"]
        reference = transformers.NllbTokenizer(
            vocab=model["vocab"],
            merges=[tuple(merge) for merge in model["merges"]],
            legacy_behaviour=reference.legacy_behaviour,
        )
    reference.save_pretrained(new)

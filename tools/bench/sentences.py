"""Sentences for the built-in model: a file of the user's, else some that are made here."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

WHO = [
    ("我", "I"),
    ("她妹妹", "her sister"),
    ("我们的邻居", "our neighbours"),
    ("大家", "everyone"),
]
WHEN = [("", ""), ("昨天", " yesterday"), ("每个星期天下午", " every Sunday afternoon")]
WHAT = [
    ("来了", "came"),
    ("在学法语", "learned French"),
    ("看了一部老电影", "watched an old film"),
    ("忘了带钥匙", "forgot the keys"),
    ("坐火车去上海看朋友", "went to Shanghai by train to see a friend"),
    ("给孩子们讲了一个很长的故事", "told the children a very long story"),
    ("觉得这家饭馆的菜比以前好吃多了", "found the food of this restaurant much better than before"),
]
N_COMPOUND = 100


def sentence_pairs(path: Path | None) -> tuple[str, list[tuple[str, str]]]:
    """Where they are from, and (Chinese, English) pairs.

    path: lines of Chinese TAB English; None: sentences of one to three clauses made from the lists
    above.
    """
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        pairs = [(row[0], row[1]) for row in (line.split("\t") for line in lines) if len(row) > 1]
        if not pairs:
            raise SystemExit(f"{path} has no lines of Chinese TAB English")
        return path.name, pairs
    clauses = [
        (zh + zh_when + zh_what, f"{en} {en_what}{en_when}")
        for (zh, en), (zh_when, en_when), (zh_what, en_what) in itertools.product(WHO, WHEN, WHAT)
    ]
    rng = random.Random(5)
    joined = [rng.sample(clauses, rng.choice((2, 2, 3))) for _ in range(N_COMPOUND)]
    texts = [[clause] for clause in clauses] + joined
    rng.shuffle(texts)
    return f"{len(texts)} sentences of tools/bench/sentences.py", [
        ("，".join(zh for zh, _ in text) + "。", ", ".join(en for _, en in text) + ".")
        for text in texts
    ]

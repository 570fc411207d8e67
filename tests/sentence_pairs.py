"""A few sentence pairs for the trainer."""

from __future__ import annotations

PAIRS = [
    ("今天天气很好。", "The weather is nice today."),
    ("他来了。", "He came."),
    ("你喜欢喝茶吗？", "Do you like tea?"),
    ("我喜欢你。", "I like you."),
    ("他喜欢今天。", "He likes today."),
    ("我来了，你好！", "I came. Hello!"),
    ("你好！", "Hello!"),
    ("茶很好。", "The tea is nice."),
]

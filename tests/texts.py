"""Texts that tokenizers disagree about: many scripts, spaces, controls, markup of their own."""

from __future__ import annotations

import random

WRITTEN = [
    "",
    " ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\x00",
    "a\x00b",
    "\x01\x02\x03",
    "\x7f\x80\x9f",
    "\ufeff",
    "\ufeffHello",
    "\u200b",
    "zero\u200bwidth",
    "soft\u00adhyphen",
    "non\u00a0breaking",
    "\u2028line\u2029paragraph",
    "\u3000ideographic\u3000space\u3000",
    "今天天气很好",
    "今天天气很好。",
    "我喜欢吃苹果,不喜欢吃香蕉。",
    "他说:“你好!”",
    "The weather is nice today.",
    "the WEATHER is NiCe today!!!",
    "  leading and trailing  ",
    "many     spaces\t\tand\ttabs",
    "two\nlines",
    "Hello,world;no:spaces",
    "can't won't it's I'm we've you're",
    "3.14159 1,000,000 50% $5 €7 ¥9 №1",
    "http://example.org/a?b=c&d=e#f user@example.org",
    "ﬁ ﬂ ① ② Ⅷ ½ ㎏ ｶﾅ ＡＢＣ１２３",
    "e\u0301 é ñ n\u0303 ü u\u0308",
    "Где находится библиотека?",
    "¿Dónde está la biblioteca?",
    "Wo ist die Straße? ẞ ß",
    "Πού είναι η βιβλιοθήκη;",
    "أين المكتبة؟",
    "איפה הספרייה?",
    "पुस्तकालय कहाँ है?",
    "ห้องสมุดอยู่ที่ไหน",
    "図書館はどこですか。",
    "도서관이 어디에 있습니까?",
    "ქართული ენა",
    "Հայերեն",
    "ภาษาไทย ไม่มีช่องว่าง",
    "𠀀𠀁𪚥",
    "😀",
    "😀😃 👍🏽 👩‍👩‍👧‍👦 🇨🇳",
    "a😀b",
    "\U0001f1e8",
    "\ufdd0 \uffff \U0010ffff",
    "\ue000 private",
    "▁",
    "▁▁a▁",
    "▁Hello ▁world",
    "<unk>",
    "</s>",
    "<pad>",
    "<s>",
    "Hello</s>",
    "</s>Hello",
    "a </s> b",
    "a</s></s>b",
    "<unk> and <pad> and </s>",
    "</s",
    "<</s>>",
    "< /s>",
    "<PAD>",
    ">>en<<",
    ">>en<< Hello",
    ">>en<<Hello",
    ">>zh<< The weather is nice.",
    " >>en<< Hello",
    ">>xx<< unknown code",
    ">>en<< >>zh<< twice",
    ">>en<<>>zh<<",
    ">><< empty code",
    ">>en< broken",
    ">>a b c<< long",
    ">>\n<< newline",
    "Hello >>en<< inside",
    ">>en<<</s>>>zh<< after",
    "</s>>>zh<< 今天",
    ">>en",
    ">>",
    "<<",
    "a" * 1000,
    "ab " * 500,
    "今天" * 800,
    "今天天气很好。" * 60,
    "\u0301" * 50,
    "😀" * 200,
    "The weather is nice today. " * 80,
    "?!" * 300,
    "<unk>" * 20,
    "-" * 333,
]

_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789.,%-",
    "今天气很好我喜欢吃苹果他去学校了你们的书在哪里",
    "абвгдежзиклмнопрстуфхцчшщъыьэюя",
    "áéíóúñüçßøåæœ",
    "あいうえおカキクケコ",
    "가나다라마바사",
    "😀🎉👍🏽\u200d❤️",
    " \t\n\u00a0\u3000\u200b",
    "<>/s|&;:'\"",
    "\x00\x01\x1f\x7f\u0085\ufeff",
)


def texts(n: int = 420, seed: int = 1) -> list[str]:
    """The written texts, then random mixtures of scripts; the same for the same arguments."""
    rng = random.Random(seed)
    result = list(WRITTEN)
    while len(result) < n:
        words = []
        for _ in range(rng.randint(1, 12)):
            alphabet = rng.choice(_ALPHABETS)
            words.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 9))))
        text = rng.choice(("", " ", " ", " ")).join(words)
        if rng.random() < 0.15:
            text = rng.choice((">>en<< ", ">>zh<<", "</s>", "<unk>")) + text
        result.append(text)
    return result[:n]

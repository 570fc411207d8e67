"""What the trainer reads: vocabulary, sentence pairs, batches."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("tqdm")

from sentence_pairs import PAIRS
from tools.train.data import Corpus, Subwords, both_directions, cut, pack, read_tsv
from tools.train.vocabulary import EOS, UNKNOWN, Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")

ROOT = Path(__file__).parent.parent


# ------------------------------------------------------------------------------------- vocabulary


def test_vocabulary_layout(vocabulary: Vocabulary) -> None:
    n = len(vocabulary)
    ids = vocabulary.token_ids
    assert (ids["</s>"], ids["<unk>"]) == (EOS, UNKNOWN)
    assert (ids[">>en<<"], ids[">>zh<<"], ids["<pad>"]) == (n - 3, n - 2, n - 1)
    assert sorted(ids.values()) == list(range(n))


def test_vocabulary_round_trip(vocabulary: Vocabulary) -> None:
    texts = [s for pair in PAIRS for s in pair]
    assert vocabulary.decode(vocabulary.encode(texts)) == texts
    sampled = vocabulary.lattices(texts, 0.2).sample(3)
    assert vocabulary.decode([[i + 1 for i in ids] for ids in sampled]) == texts


def test_chinese_marks_stay_full_width_letters_do_not(vocabulary: Vocabulary) -> None:
    """NFKC would turn ，！？ into ASCII and so change every Chinese reference."""
    processor = vocabulary._processor
    assert (
        processor.normalize("ＡＢ１，！？（）：；\u3000“好”。\u200b") == "▁AB1，！？（）：；▁“好”。"
    )


def test_sampled_segmentation_depends_on_the_seed_alone(vocabulary: Vocabulary) -> None:
    """In another process too: two workers have to make the same batches."""
    texts = [en for _, en in PAIRS]
    one, two = (vocabulary.lattices(texts, 0.1).sample(seed) for seed in (1, 2))
    assert one != two
    program = (
        "import sys; from pathlib import Path; from tools.train.vocabulary import Vocabulary;"
        "print(Vocabulary(Path(sys.argv[1])).lattices(sys.argv[2:], 0.1).sample(1))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(vocabulary.directory), *texts],
        cwd=ROOT, text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(result.stdout) == one


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_sampling_follows_the_unigram_probabilities(vocabulary: Vocabulary, alpha: float) -> None:
    """Frequencies of all segmentations of a text against their exact probabilities."""
    text, processor = "He likes tea.", vocabulary._processor
    normal = processor.normalize(text)
    pieces = {processor.id_to_piece(i): i for i in range(1, processor.get_piece_size())}
    exact: dict[tuple[int, ...], float] = {}

    def extend(start: int, ids: tuple[int, ...], score: float) -> None:
        if start == len(normal):
            exact[ids] = math.exp(alpha * score)
        for end in range(start + 1, len(normal) + 1):
            if (i := pieces.get(normal[start:end])) is not None:
                extend(end, (*ids, i), score + processor.get_score(i))

    extend(0, (), 0.0)
    n = 40_000
    counts = Counter(map(tuple, vocabulary.lattices([text] * n, alpha).sample(9)))
    assert counts.keys() <= exact.keys() and len(exact) > 3
    total = sum(exact.values())
    for ids, weight in exact.items():
        p = weight / total
        assert abs(counts[ids] / n - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-4


def test_text_with_an_unknown_character_keeps_its_best_segmentation(
    vocabulary: Vocabulary,
) -> None:
    texts = ["He likes 龘龘 tea.", "", "Hello!"]
    best = vocabulary.encode(texts)
    assert UNKNOWN in best[0]
    sampled = [[i + 1 for i in ids] for ids in vocabulary.lattices(texts, 0.01).sample(1)]
    assert sampled[:2] == best[:2]
    assert vocabulary.decode(sampled[2:]) == ["Hello!"]


def test_unknown_language_is_named(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="unknown target language 'fr'"):
        vocabulary.language("fr")


def test_missing_vocabulary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"source\.spm is missing"):
        Vocabulary(tmp_path)


# ------------------------------------------------------------------------------------------- data


def test_bad_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("你好\tHello\n只有一个\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.tsv:2: expected two"):
        read_tsv(path)


def test_pack_shifts_targets_and_counts_positions() -> None:
    batch = pack([[7, 8, 0], [9, 0]], [[3, 0], [4, 5, 0]], pad=10)
    assert batch.source_ids.tolist() == [7, 8, 0, 9, 0]
    assert batch.source_offsets.tolist() == [0, 3, 5]
    assert batch.source_positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.target_ids.tolist() == [3, 0, 4, 5, 0]
    assert batch.decoder_ids.tolist() == [10, 3, 10, 4, 5]
    assert batch.target_positions.tolist() == [0, 1, 0, 1, 2]
    twice = pack([[7, 8, 0], [9, 0]], [[3, 0], [4, 5, 0]], pad=10, copies=2)
    assert twice.decoder_ids.tolist() == batch.decoder_ids.tolist() * 2
    assert twice.target_ids.tolist() == batch.target_ids.tolist()
    assert twice.target_offsets.tolist() == [0, 2, 5, 7, 10]


def test_cut_respects_the_limit() -> None:
    slices = cut(np.array([3, 3, 3, 9, 1, 1]), 6)
    assert slices == [(0, 2), (2, 3), (3, 4), (4, 6)]


def test_epoch_holds_every_pair_once_in_both_directions(vocabulary: Vocabulary) -> None:
    corpus = Corpus(both_directions(PAIRS), vocabulary, 100, Subwords(alpha=0.2))
    epoch = corpus.epoch(30, seed=5)
    assert sorted(np.concatenate(epoch.plan).tolist()) == list(range(2 * len(PAIRS)))
    for i, chosen in enumerate(epoch.plan):
        assert epoch.n_target_tokens(i) <= 30 or len(chosen) == 1
    codes = {epoch.sources[i][0] for i in range(len(PAIRS))}
    assert codes == {vocabulary.language("en")}, "the first half goes to English"
    assert epoch.sources == corpus.epoch(30, seed=5).sources
    assert epoch.sources != corpus.epoch(30, seed=6).sources
    parts = [epoch.batch(0, vocabulary.pad, rank, 2, 1) for rank in range(2)]
    n_tokens = sum(len(part.target_ids) for part in parts if part is not None)
    assert n_tokens == epoch.n_target_tokens(0)


def test_sides_are_sampled_separately(vocabulary: Vocabulary) -> None:
    best = Corpus(both_directions(PAIRS), vocabulary, 100, Subwords()).epoch(30, seed=5)
    half = Corpus(both_directions(PAIRS), vocabulary, 100, Subwords(alpha=0.1, target=False)).epoch(
        30, seed=5
    )
    assert half.targets == best.targets and half.sources != best.sources


def test_long_pairs_are_left_out(vocabulary: Vocabulary) -> None:
    pairs = both_directions([*PAIRS, ("好" * 300, "Hello!")])
    corpus = Corpus(pairs, vocabulary, 100, Subwords())
    assert sum(map(len, corpus.epoch(64, seed=1).plan)) == 2 * len(PAIRS)

"""How a Transformer trains, in one screen: ten words, four dimensions, one sentence to copy.

    python -m tools.train toy

The network is the real one (``model.py``), only small. It reads 今天天气很好 and has to write it
down again; a second, shorter sentence shows what a batch does with different lengths. The optimizer
is plain gradient descent, ``weight -= rate * gradient``, so that nothing hides what the gradient
does.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy

from tools.train import ops as reference
from tools.train.layers.dropout import Dropout
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Batch, Model, ModelConfig, initialize, parameter_shapes

WORDS = ["<pad>", "<bos>", "<eos>", "今", "天", "气", "很", "好", "我", "你"]
BOS, EOS = WORDS.index("<bos>"), WORDS.index("<eos>")
SENTENCES = ["今天天气很好", "你好"]
RATE = 0.1
STEPS = 500

CONFIG = ModelConfig(
    n_vocab=len(WORDS), d_model=4, d_ffn=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    max_positions=16,
)  # fmt: skip


def ids_of(text: str) -> list[int]:
    """One id per character."""
    return [WORDS.index(character) for character in text]


def words_of(ids: list[int] | numpy.ndarray) -> str:
    """The words of some ids, with spaces between."""
    return " ".join(WORDS[i] for i in ids)


def make_batch(sentences: list[str]) -> Batch:
    """Packed: the sentences lie one behind the other, ``offsets`` say where each begins."""
    sources = [[*ids_of(text), EOS] for text in sentences]
    offsets = numpy.cumsum([0, *map(len, sources)]).astype(numpy.int32)
    positions = numpy.concatenate([numpy.arange(len(ids)) for ids in sources]).astype(numpy.int32)
    source_ids = numpy.concatenate(sources).astype(numpy.int32)
    decoder_ids = numpy.concatenate([[BOS, *ids[:-1]] for ids in sources]).astype(numpy.int32)
    # copying: the target is the source, so ids, positions and offsets are the same
    return Batch(source_ids, positions, offsets, decoder_ids, source_ids.copy(), positions, offsets)


def make_model(seed: int) -> Model:
    """A fresh model with room for gradients."""
    shapes = parameter_shapes(CONFIG)
    n = count(shapes)
    parameters = Parameters(shapes, numpy.zeros(n), numpy.zeros(n))
    initialize(CONFIG, parameters, seed, depth_scaled=False)
    return Model(CONFIG, parameters, reference.load("numpy"))


def loss_and_gradients(model: Model, batch: Batch) -> float:
    """Forward, mean loss per token, backward: afterwards every parameter's ``grad`` is filled."""
    model.parameters.grad_buffer[...] = 0
    logits, backward = model.forward(batch, Dropout())
    n = len(batch.target_ids)
    total: float = model.ops.softmax_xent(logits, batch.target_ids, 0.0, 1 / n)[0]
    backward(logits)  # softmax_xent left d loss / d logits in its place
    return total / n


def copy_errors(model: Model, batch: Batch) -> tuple[int, list[str]]:
    """Let the model write by itself (greedy, no teacher); wrong words and what it wrote."""
    errors, written = 0, []
    for start, stop in zip(batch.source_offsets[:-1], batch.source_offsets[1:], strict=True):
        want = batch.source_ids[start:stop].tolist()
        decoder = [BOS]
        while len(decoder) <= len(want):
            one = Batch(
                batch.source_ids[start:stop],
                batch.source_positions[start:stop],
                numpy.array([0, stop - start]),
                numpy.array(decoder),
                numpy.array(decoder),
                numpy.arange(len(decoder)),
                numpy.array([0, len(decoder)]),
            )
            logits, _ = model.forward(one)
            decoder.append(int(logits[-1].argmax()))
            if decoder[-1] == EOS:
                break
        got = decoder[1:]
        errors += sum(a != b for a, b in zip(got, want, strict=False)) + abs(len(got) - len(want))
        written.append(words_of(got))
    return errors, written


# ------------------------------------------------------------------------------- what is printed


def cell(word: str) -> str:
    """The word in five columns of a terminal, where a Chinese character takes two."""
    return word + " " * (3 if len(word) == 1 else 0)


def act(number: int, title: str, text: str) -> None:
    """A heading and what it is about."""
    print(f"\n── Act {number}: {title} " + "─" * max(0, 76 - len(title)))
    print(text)


def show_batch(batch: Batch) -> None:
    """The two rectangles that everybody draws, and the packed form that is computed with."""
    offsets = batch.target_offsets
    width = int((offsets[1:] - offsets[:-1]).max())
    for name, ids in (
        ("encoder reads", batch.source_ids),
        ("decoder reads", batch.decoder_ids),
        ("has to say   ", batch.target_ids),
    ):
        for start, stop in pairwise(offsets):
            row = ids[start:stop].tolist()
            row += [0] * (width - len(row))
            print(f"  {name}  {row}   {words_of(row)}")
    print(f"  packed: ids {batch.source_ids.tolist()}, offsets {offsets.tolist()}")


def show_masks() -> None:
    """Who may look at whom."""
    sentence = [*SENTENCES[0], "<eos>"]
    shifted = ["<bos>", *SENTENCES[0]]
    print("  decoder self-attention (■ visible, · hidden): no word sees what comes after it")
    for i, word in enumerate(shifted):
        row = " ".join("■" if j <= i else "·" for j in range(len(shifted)))
        print(f"    {cell(word)}  {row}   → says {sentence[i]}")
    print(
        "  encoder and cross-attention: all words of the own sentence; padding does not exist here"
    )


def show_shapes(model: Model, batch: Batch) -> None:
    """The path of the numbers through the network."""
    n, d, v = len(batch.source_ids), CONFIG.d_model, CONFIG.n_vocab
    x, _ = model.embedding(batch.source_ids, batch.source_positions, Dropout())
    memory, _ = model.encode(
        batch.source_ids, batch.source_positions, batch.source_offsets, Dropout()
    )
    logits, _ = model.forward(batch)
    rows = [
        ("ids", f"[{n}]", "7 words of the first sentence, 3 of the second"),
        ("embedding + position", str(list(x.shape)), f"one row per word, d_model = {d}"),
        ("after the encoder", str(list(memory.shape)), "the same; rows know their neighbours"),
        ("decoder, per head", f"[7, {d // CONFIG.n_heads}]", f"{CONFIG.n_heads} heads share it"),
        ("attention weights", "[7, 7]", "per head; each row sums to 1"),
        ("logits", str(list(logits.shape)), f"a score for each of the {v} words at each position"),
    ]  # fmt: skip
    for name, shape, note in rows:
        print(f"  {name:<22}{shape:<10}{note}")
    print(f"  parameters: {model.parameters.buffer.size}")


def show_losses(model: Model, batch: Batch) -> None:
    """How surprised the model is by each right word."""
    logits, _ = model.forward(batch)
    logits -= logits.max(axis=1, keepdims=True)
    probs = numpy.exp(logits)
    probs /= probs.sum(axis=1, keepdims=True)
    for i, (seen, want) in enumerate(zip(batch.decoder_ids, batch.target_ids, strict=True)):
        p = float(probs[i, want])
        guess = WORDS[int(probs[i].argmax())]
        bar = "█" * min(40, round(-math.log(p) * 10))
        mark = "✓" if guess == WORDS[want] else "✗"
        position = int(batch.target_positions[i])
        print(
            f"  t={position}  after {cell(WORDS[seen])}  wants {cell(WORDS[want])}  p={p:5.3f}  "
            f"loss={-math.log(p):6.3f}  {mark} {bar}"
        )


def show_gradients(model: Model) -> None:
    """The norm of the gradient, module by module."""
    modules: dict[str, float] = {}
    for name, parameter in model.parameters.items():
        module = ".".join(name.split(".")[:-2] if "_proj" in name else name.split(".")[:-1]) or name
        modules[module] = modules.get(module, 0.0) + float((parameter.grad**2).sum())
    largest = max(modules.values())
    path = ("shared", "encoder", "decoder", "final_logits_bias")
    for module, squares in sorted(modules.items(), key=lambda m: path.index(m[0].split(".")[0])):
        bar = "█" * max(1, round(30 * math.sqrt(squares / largest)))
        print(f"  {module:<44}{math.sqrt(squares):8.4f}  {bar}")


def main(seed: int = 3) -> int:
    """Play all acts; returns the number of wrong words at the end."""
    batch, model = make_batch(SENTENCES), make_model(seed)
    act(1, "words become numbers", f"The whole language has {len(WORDS)} words.")
    print("  " + "  ".join(f"{i}={word}" for i, word in enumerate(WORDS)))
    act(2, "the batch", "Teacher forcing: the decoder reads the answer, shifted right by one word.")
    show_batch(batch)
    act(3, "the masks", "Position t must not see word t, or there would be nothing to learn.")
    show_masks()
    act(4, "forward", "Shapes on the way from ids to scores.")
    show_shapes(model, batch)
    act(5, "the loss before training", "-log p(right word): about log 10 = 2.3 for a blind guess.")
    show_losses(model, batch)
    act(6, "backward", "How strongly each module is asked to change: the norm of its gradient.")
    loss_and_gradients(model, batch)
    show_gradients(model)
    act(7, "gradient descent", f"{STEPS} times: weight -= {RATE} * gradient.")
    for step in range(STEPS + 1):
        loss = loss_and_gradients(model, batch)
        if step % (STEPS // 10) == 0:
            errors, _ = copy_errors(model, batch)
            bar = "█" * round(loss * 12)
            print(f"  step {step:5d}  loss {loss:7.4f}  wrong words {errors:2d}  {bar}")
        model.parameters.buffer -= RATE * model.parameters.grad_buffer
    act(8, "the loss after training", "The same positions as in act 5.")
    show_losses(model, batch)
    act(9, "without a teacher", "Now the decoder reads only what it has written itself.")
    errors, written = copy_errors(model, batch)
    for text, copy in zip(SENTENCES, written, strict=True):
        print(f"  {text}  →  {copy}")
    print(f"  wrong words: {errors}")
    return errors


if __name__ == "__main__":
    main()

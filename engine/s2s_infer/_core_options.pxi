# Part of _core.pyx: the decoding options, from Python to C.

_EARLY_STOPPING = {
    False: <int> c.S2S_STOP_HEURISTIC,
    True: <int> c.S2S_STOP_EARLY,
    "never": <int> c.S2S_STOP_NEVER,
}
_SCALAR_OPTIONS = (
    "max_new_tokens", "min_new_tokens", "num_beams", "num_return_sequences", "do_sample", "top_k",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "forced_bos_token_id",
    "repetition_stop", "return_scores", "n_alternatives", "return_alignment", "renormalize_logits",
    "n_prompt", "score_only", "early_stopping",
    "length_penalty", "temperature", "top_p", "min_p", "repetition_penalty", "seed",
)
_LIST_OPTIONS = ("eos_token_ids", "forced_eos_token_ids", "suppress_tokens", "begin_suppress_tokens")
_OPTIONS = frozenset((*_SCALAR_OPTIONS, *_LIST_OPTIONS, "bad_words"))


cdef class Options:
    cdef c.s2s_options _options
    cdef object _keep  # the arrays that the struct points into
    cdef readonly object values

    def __init__(self, values):
        unknown = values.keys() - _OPTIONS
        if unknown:
            raise OptionError(f"unknown option {sorted(unknown)[0]}")
        c.s2s_options_default(&self._options)
        self._keep = _fill_options(&self._options, values)
        self.values = values

    @property
    def max_new_tokens(self):
        return self._options.max_new_tokens


cdef object _fill_options(c.s2s_options *to, object options):
    """Fills the struct and returns the arrays that it points into."""
    keep = {name: _ids(name, options.get(name) or ()) for name in _LIST_OPTIONS}
    words = options.get("bad_words") or ()
    flat, offsets = array("i"), array("i", [0])
    for word in words:
        flat.extend(_ids("bad_words", word))
        offsets.append(len(flat))
    keep["bad_words"] = flat
    keep["bad_words_offsets"] = offsets
    name = ""
    try:
        for name in options:
            if options[name] is not None:
                _fill_option(to, name, options[name])
    except (TypeError, OverflowError, ValueError) as problem:
        raise OptionError(f"option {name} is wrong: {problem}") from None
    to.eos_token_ids = _data(keep["eos_token_ids"])
    to.n_eos_token_ids = len(keep["eos_token_ids"])
    to.forced_eos_token_ids = _data(keep["forced_eos_token_ids"])
    to.n_forced_eos_token_ids = len(keep["forced_eos_token_ids"])
    to.suppress_tokens = _data(keep["suppress_tokens"])
    to.n_suppress_tokens = len(keep["suppress_tokens"])
    to.begin_suppress_tokens = _data(keep["begin_suppress_tokens"])
    to.n_begin_suppress_tokens = len(keep["begin_suppress_tokens"])
    to.bad_words = _data(flat)
    to.bad_words_offsets = _data(offsets)
    to.n_bad_words = len(offsets) - 1
    return keep


cdef void _fill_option(c.s2s_options *to, str name, object value) except *:
    if name == "max_new_tokens":
        to.max_new_tokens = value
    elif name == "min_new_tokens":
        to.min_new_tokens = value
    elif name == "num_beams":
        to.num_beams = value
    elif name == "num_return_sequences":
        to.num_return_sequences = value
    elif name == "early_stopping":
        if value not in _EARLY_STOPPING:
            raise ValueError(f'expected False, True or "never", found {value!r}')
        to.early_stopping = _EARLY_STOPPING[value]
    elif name == "do_sample":
        to.do_sample = value
    elif name == "top_k":
        to.top_k = value
    elif name == "no_repeat_ngram_size":
        to.no_repeat_ngram_size = value
    elif name == "encoder_no_repeat_ngram_size":
        to.encoder_no_repeat_ngram_size = value
    elif name == "forced_bos_token_id":
        to.forced_bos_token_id = value
    elif name == "repetition_stop":
        to.repetition_stop = value
    elif name == "return_scores":
        to.return_scores = value
    elif name == "n_alternatives":
        to.n_alternatives = value
    elif name == "return_alignment":
        to.return_alignment = value
    elif name == "renormalize_logits":
        to.renormalize_logits = value
    elif name == "n_prompt":
        to.n_prompt = value
    elif name == "score_only":
        to.score_only = value
    elif name == "length_penalty":
        to.length_penalty = value
    elif name == "temperature":
        to.temperature = value
    elif name == "top_p":
        to.top_p = value
    elif name == "min_p":
        to.min_p = value
    elif name == "repetition_penalty":
        to.repetition_penalty = value
    elif name == "seed":
        to.seed = value

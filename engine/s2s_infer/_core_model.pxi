# Part of _core.pyx: the model description and its tensors, from Python to C.

_HEADS = {
    "pooler": <int> c.S2S_POOLER,
    "masked_lm": <int> c.S2S_MASKED_LM,
    "classifier": <int> c.S2S_CLASSIFIER,
}


_TENSOR_DTYPES = {
    np.dtype(numpy_dtype).str: code
    for numpy_dtype, code in (
        (np.float32, <int> c.S2S_F32),
        (np.uint16, <int> c.S2S_BF16),
        (np.int8, <int> c.S2S_INT8),
        (np.uint8, <int> c.S2S_INT4),
        (np.int32, <int> c.S2S_INT32),
    )
}


cdef void _fill_stack(c.s2s_stack_config *to, dict stack) except *:
    to.n_layers = stack["n_layers"]
    to.n_heads = stack["n_heads"]
    to.n_kv_heads = stack["n_kv_heads"]
    to.d_head = stack["d_head"]
    to.d_ffn = stack["d_ffn"]
    to.activation = stack["activation"]
    to.ffn_gated = stack["ffn_gated"]
    to.norm_kind = stack["norm_kind"]
    to.norm_place = stack["norm_place"]
    to.embed_norm = stack["embed_norm"]
    to.final_norm = stack["final_norm"]
    to.qkv_bias = stack["qkv_bias"]
    to.out_bias = stack["out_bias"]
    to.ffn_bias = stack["ffn_bias"]
    to.positions = stack["positions"]
    to.max_positions = stack["max_positions"]
    to.n_token_types = stack["n_token_types"]
    to.max_distance = stack["max_distance"]
    to.relative_per_layer = stack["relative_per_layer"]
    to.d_rotary = stack["d_rotary"]
    to.kv_rank = stack["kv_rank"]
    to.kv_norm = stack["kv_norm"]
    to.q_rank = stack["q_rank"]
    to.d_value = stack["d_value"]
    to.window = stack["window"]
    for layer in stack["full_layers"]:
        if not 0 <= layer < 256:
            raise OverflowError(f"there is no layer {layer}")
        to.full_layers[layer] = 1
    to.embed_scale = stack["embed_scale"]
    to.attention_scale = stack["attention_scale"]
    to.attention_softcap = stack["attention_softcap"]
    to.rotary_scale = stack["rotary_scale"]
    to.norm_eps = stack["norm_eps"]


cdef void _fill_head(c.s2s_head_config *to, object layers) except *:
    if len(layers) > <int> c.S2S_MAX_HEAD_LAYERS:
        raise ModelError(f"a head has at most {<int> c.S2S_MAX_HEAD_LAYERS} layers")
    to.n_layers = len(layers)
    for i, layer in enumerate(layers):
        to.layers[i].n_out = layer["n_out"]
        to.layers[i].activation = layer["activation"]
        to.layers[i].norm = layer["norm"]


@cython.no_gc_clear
cdef class Model:
    cdef c.s2s_model *_model
    cdef object _tensors  # keeps the memory that the model points into
    cdef int32_t _d_model
    cdef dict _head_widths
    cdef int32_t _kv_dtype

    def __cinit__(self, config, tensors, isa=None, kv_dtype=None):
        cdef c.s2s_error error
        cdef c.s2s_model_config c_config
        cdef c.s2s_tensor *c_tensors
        cdef c.s2s_isa level = c.S2S_ISA_AUTO
        cdef c.s2s_status status
        cdef size_t i, n = len(tensors)
        if isa is not None:
            if isa not in _ISAS:
                raise UnsupportedError(
                    f"isa must be one of {', '.join(ISA_NAMES)} on this CPU, but is {isa!r}"
                )
            level = <c.s2s_isa> <int> _ISAS[isa]
        if kv_dtype is not None and kv_dtype not in _DTYPES:
            raise OptionError(f"kv_dtype must be one of {', '.join(_DTYPES)}, but is {kv_dtype!r}")
        memset(&c_config, 0, sizeof(c_config))
        try:
            c_config.vocab_size = config["vocab_size"]
            c_config.source_vocab_size = config["source_vocab_size"]
            c_config.d_model = config["d_model"]
            c_config.output_bias = config["output_bias"]
            c_config.output_softcap = config["output_softcap"]
            _fill_stack(&c_config.encoder, dict(config["encoder"]))
            _fill_stack(&c_config.decoder, dict(config["decoder"]))
            for name, layers in config["heads"].items():
                _fill_head(&c_config.heads[<int> _HEADS[name]], layers)
        except (KeyError, OverflowError, TypeError) as problem:
            raise ModelError(f"the model description is wrong: {problem}") from None
        self._tensors = [(name.encode(), tensors[name]) for name in tensors]
        c_tensors = <c.s2s_tensor *> malloc((n + 1) * sizeof(c.s2s_tensor))
        if c_tensors == NULL:
            raise MemoryError("out of memory for the list of tensors")
        try:
            for i in range(n):
                _fill_tensor(&c_tensors[i], self._tensors[i][0], self._tensors[i][1])
            with nogil:
                status = c.s2s_model_create(&c_config, c_tensors, n, level, &self._model, &error)
            _check(status, &error)
            self._d_model = c_config.d_model
            self._kv_dtype = c.s2s_model_kv_dtype(self._model)
            if kv_dtype is not None:
                self._kv_dtype = _DTYPES[kv_dtype][0]
            self._head_widths = {name: layers[-1]["n_out"]
                                 for name, layers in config["heads"].items() if layers}
        finally:
            free(c_tensors)

    def __dealloc__(self):
        c.s2s_model_free(self._model)

    @property
    def isa(self):
        return c.s2s_isa_name(c.s2s_model_isa(self._model)).decode()

    @property
    def kv_dtype(self):
        return next(name for name, (code, _) in _DTYPES.items() if code == self._kv_dtype)


cdef void _fill_tensor(c.s2s_tensor *to, bytes name, object value) except *:
    cdef dict array = value.__array_interface__
    cdef tuple shape = array["shape"]
    if array["strides"] is not None or len(shape) > c.S2S_MAX_RANK:
        raise ModelError(f"tensor {name.decode()} must be C-contiguous with at most 4 dimensions")
    dtype = _TENSOR_DTYPES.get(array["typestr"])
    if dtype is None:
        raise ModelError(
            f"tensor {name.decode()} must be float32, bfloat16, int8, int4 or int32, but is {value.dtype}"
        )
    to.name = name
    to.dtype = <c.s2s_dtype> <int> dtype
    to.rank = len(shape)
    to.n_bytes = value.nbytes
    for axis in range(to.rank):
        to.shape[axis] = shape[axis]
    to.data = <const void *> <uintptr_t> array["data"][0]

# cython: language_level=3, binding=True, embedsignature=False
"""Thin binding of the C core: buffers, the GIL, lifetimes, status to exception.

Arrays cross as addresses (``__array_interface__`` and ``array.array``), not through the buffer
protocol, which the stable ABI of Python 3.10 does not have.
"""

from array import array

import numpy as np

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongAndOverflow
from libc.math cimport INFINITY
from libc.stdint cimport INT32_MAX, int8_t, int32_t, int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from s2s_infer cimport _capi as c

from s2s_infer.errors import ModelError, OptionError, UnsupportedError

TILE = <int> c.S2S_TILE
SIGNALS_SECONDS = 0.005

_DTYPES = {"float32": (<int> c.S2S_F32, np.float32), "bfloat16": (<int> c.S2S_BF16, np.uint16)}
_FINISH_REASONS = ("eos", "length", "repetition", "cancelled", "scored")
_ISAS = {
    c.s2s_isa_name(<c.s2s_isa> level).decode(): level
    for level in range(1, <int> c.S2S_ISA_NEON + 1)
    if c.s2s_isa_supported(<c.s2s_isa> level)
}
ISA_NAMES = tuple(_ISAS)


def best_isa():
    return c.s2s_isa_name(c.s2s_isa_best()).decode()


def profile():
    cdef int64_t ns = 0, n_times = 0
    cdef int32_t index = 0
    found = {}
    cdef const char *name = c.s2s_profile_read(index, &ns, &n_times)
    while name != NULL:
        found[(<bytes> name).decode()] = (ns * 1e-9, n_times)
        index += 1
        name = c.s2s_profile_read(index, &ns, &n_times)
    return found


cdef int _check(c.s2s_status status, c.s2s_error *error) except -1:
    if status == c.S2S_OK:
        return 0
    message = error.message.decode("utf-8", "replace")
    if not message.endswith((".", "?")):
        message += "."
    if status == c.S2S_INVALID_ARGUMENT:
        raise OptionError(message)
    if status == c.S2S_INVALID_MODEL:
        raise ModelError(message)
    if status == c.S2S_OUT_OF_MEMORY:
        raise MemoryError(message)
    if status == c.S2S_UNSUPPORTED:
        raise UnsupportedError(message)
    raise RuntimeError(message)


cdef uintptr_t _address(object numpy_array) except? 0:
    return numpy_array.__array_interface__["data"][0]


def plain_ids(values, int32_t vocab_size):
    cdef int overflow = 0
    cdef long number
    if type(values) is not list:
        return None
    cdef list ids = (<list> values).copy()
    for token in ids:
        if type(token) is not int:
            return None
        number = PyLong_AsLongAndOverflow(token, &overflow)
        if overflow != 0 or number < 0 or number >= vocab_size:
            return None
    return ids


def _ids(name, values):
    """An int32 array of token ids, or an OptionError that names the list."""
    try:
        return array("i", values)
    except (TypeError, OverflowError, ValueError) as error:
        raise OptionError(f"{name} must be a list of 32-bit integers: {error}") from None


cdef const int32_t *_data(object ids) except? NULL:
    return <const int32_t *> <uintptr_t> ids.buffer_info()[0]


cdef int _check_matrix(object weight) except -1:
    if not (isinstance(weight, np.ndarray) and weight.dtype == np.float32 and weight.ndim == 2
            and weight.flags.c_contiguous):
        raise OptionError("weight must be a C-contiguous float32 matrix")
    return 0


def pack(weight, dtype):
    cdef c.s2s_error error
    if dtype not in _DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(_DTYPES)}, but is {dtype!r}")
    _check_matrix(weight)
    code, storage = _DTYPES[dtype]
    cdef int64_t n_out = weight.shape[0], n_in = weight.shape[1]
    shape = (-(-n_out // TILE), n_in, TILE)
    tiles = empty_aligned(shape, storage)
    cdef const float *source = <const float *> _address(weight)
    cdef void *target = <void *> _address(tiles)
    cdef size_t n_bytes = tiles.nbytes
    cdef c.s2s_dtype c_dtype = <c.s2s_dtype> <int> code
    cdef c.s2s_status status
    with nogil:
        status = c.s2s_pack(source, n_out, n_in, c_dtype, target, n_bytes, &error)
    _check(status, &error)
    return tiles


def pack_int8(weight):
    cdef c.s2s_error error
    _check_matrix(weight)
    cdef int64_t n_out = weight.shape[0], n_in = weight.shape[1]
    n_tiles = -(-n_out // TILE)
    tiles = empty_aligned((n_tiles, -(-n_in // 4), TILE, 4), np.int8)
    scale = empty_aligned((n_tiles * TILE,), np.float32)
    sums = empty_aligned((n_tiles * TILE,), np.int32)
    cdef const float *source = <const float *> _address(weight)
    cdef int8_t *c_tiles = <int8_t *> _address(tiles)
    cdef float *c_scale = <float *> _address(scale)
    cdef int32_t *c_sums = <int32_t *> _address(sums)
    cdef size_t n_bytes = tiles.nbytes
    cdef c.s2s_status status
    with nogil:
        status = c.s2s_pack_int8(source, n_out, n_in, c_tiles, n_bytes, c_scale, c_sums, &error)
    _check(status, &error)
    return tiles, scale, sums


def empty_aligned(shape, dtype):
    """An uninitialised C-contiguous array whose data is 64-byte aligned."""
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    block = np.empty(n_bytes + 64, np.uint8)
    offset = -block.__array_interface__["data"][0] % 64
    return block[offset : offset + n_bytes].view(dtype).reshape(shape)


cdef double _now() noexcept nogil:
    """Seconds on a clock that only goes forward."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double> now.tv_sec + <double> now.tv_nsec * 1e-9


cdef class Pool:
    cdef c.s2s_pool *_pool

    def __cinit__(self, n_threads):
        cdef c.s2s_error error
        _check(c.s2s_pool_create(n_threads, &self._pool, &error), &error)

    def __dealloc__(self):
        c.s2s_pool_free(self._pool)

    @property
    def n_threads(self):
        return c.s2s_pool_n_threads(self._pool)

    def wake(self):
        c.s2s_pool_wake(self._pool)


include "_core_model.pxi"
include "_core_options.pxi"


cdef class Hypothesis:
    cdef readonly list tokens, logprobs
    cdef readonly object score, end_token, alignment, alternative_ids, alternative_logprobs
    cdef readonly str finish_reason


cdef class Result:
    cdef readonly uint64_t id
    cdef readonly int32_t n_source, n_steps, n_reused
    cdef readonly list hypotheses


cdef object _copy(const void *data, tuple shape, object dtype):
    out = np.empty(shape, dtype)
    memcpy(<void *> _address(out), data, <size_t> out.nbytes)
    return out


cdef Hypothesis _hypothesis(const c.s2s_result *result, const c.s2s_hypothesis *h):
    cdef int32_t i
    cdef Hypothesis out = Hypothesis.__new__(Hypothesis)
    out.tokens = [h.tokens[i] for i in range(h.n_tokens)]
    has_scores = h.logprobs != NULL
    out.logprobs = [h.logprobs[i] for i in range(h.n_logprobs)] if has_scores else None
    out.score = h.score if has_scores else None
    out.end_token = None if h.end_token < 0 else h.end_token
    out.finish_reason = _FINISH_REASONS[h.finish_reason]
    if h.alignment != NULL:
        out.alignment = _copy(h.alignment, (h.n_logprobs, result.n_source), np.float32)
    if h.alternative_ids != NULL:
        alternatives = (h.n_logprobs, result.n_alternatives)
        out.alternative_ids = _copy(h.alternative_ids, alternatives, np.int32)
        out.alternative_logprobs = _copy(h.alternative_logprobs, alternatives, np.float32)
    return out


cdef void _record(void *user, const char *name, int32_t rank, const int64_t *shape,
                  const float *data) noexcept with gil:
    recorded = <Recorded> user
    try:
        dims = tuple([shape[i] for i in range(rank)])
        recorded._sink(name.decode(), _copy(data, dims, np.float32))
    except BaseException as error:  # raised again by the call that was recording
        recorded._sink_error = error


# C memory refers to what these objects name (a session to its model, its pool, its prompt; a model to its
# tensors), so the cycle collector must not take the names away before they are freed: no_gc_clear.


@cython.no_gc_clear
cdef class Recorded:
    """What Session and Encoder share: the model and pool that they run on, and the record sink."""

    cdef Model _model
    cdef Pool _pool
    cdef object _sink, _sink_error

    cdef int _raise_sink_error(self) except -1:
        error, self._sink_error = self._sink_error, None
        if error is not None:
            raise error
        return 0


@cython.no_gc_clear
cdef class Encoder(Recorded):
    cdef c.s2s_encoder *_encoder

    def __cinit__(self, Model model not None, Pool pool, *, max_positions, max_tokens):
        cdef c.s2s_error error
        cdef c.s2s_encoder_config config
        self._model = model
        self._pool = pool
        try:
            config.max_positions = max_positions
            config.max_tokens = max_tokens
        except OverflowError:
            raise OptionError("an encoder's sizes must be 32-bit integers") from None
        cdef c.s2s_pool *c_pool = NULL if pool is None else pool._pool
        _check(c.s2s_encoder_create(model._model, c_pool, &config, &self._encoder, &error), &error)

    def __dealloc__(self):
        c.s2s_encoder_free(self._encoder)

    def encode(self, sequences, token_types=None):
        cdef c.s2s_error error
        cdef c.s2s_status status
        ids, types = array("i"), array("i")
        offsets = array("i", [0])
        for sequence in sequences:
            ids.extend(_ids("source", sequence))
            offsets.append(len(ids))
        if token_types is not None:
            for row in token_types:
                types.extend(_ids("token_types", row))
            if len(types) != len(ids):
                raise OptionError(f"{len(types)} token types were given for {len(ids)} tokens")
        out = np.empty((len(ids), self._model._d_model), np.float32)
        cdef const int32_t *c_ids = _data(ids)
        cdef const int32_t *c_types = NULL
        cdef const int32_t *c_offsets = _data(offsets)
        cdef int32_t n = len(offsets) - 1
        cdef float *c_out = <float *> _address(out)
        if token_types is not None:
            c_types = _data(types)
        with nogil:
            status = c.s2s_encoder_encode(self._encoder, c_ids, c_types, c_offsets, n, c_out,
                                          &error)
        self._raise_sink_error()
        _check(status, &error)
        return [out[offsets[i] : offsets[i + 1]] for i in range(n)]

    def head(self, name, states):
        cdef c.s2s_error error
        cdef c.s2s_status status
        if name not in self._model._head_widths:
            raise UnsupportedError(f"the model has no head {name!r}")
        width = self._model._head_widths[name]
        x = np.ascontiguousarray(states, np.float32)
        if x.ndim != 2 or x.shape[1] != self._model._d_model:
            raise OptionError(
                f"states must be [n, {self._model._d_model}], but are {list(x.shape)}"
            )
        out = empty_aligned((len(x), -(-width // TILE) * TILE), np.float32)
        sums = np.empty(len(x), np.float32)
        cdef c.s2s_head head = <c.s2s_head> <int> _HEADS[name]
        cdef int32_t n = len(x)
        cdef const float *c_x = <const float *> _address(x)
        cdef float *c_out = <float *> _address(out)
        cdef float *c_sums = <float *> _address(sums)
        with nogil:
            status = c.s2s_encoder_head(self._encoder, head, c_x, n, c_out, c_sums, &error)
        _check(status, &error)
        return out[:, :width], sums

    def set_record(self, record):
        self._sink = record
        if record is None:
            c.s2s_encoder_set_record(self._encoder, NULL, NULL)
        else:
            c.s2s_encoder_set_record(self._encoder, _record, <void *> self)


@cython.no_gc_clear
cdef class Prompt:
    cdef c.s2s_prompt *_prompt
    cdef readonly Model model

    def __cinit__(self, Model model not None, Pool pool, ids):
        cdef c.s2s_error error
        cdef c.s2s_status status = c.S2S_OK
        cdef int32_t n_left = 1
        self.model = model
        c_ids = _ids("prompt", ids)
        cdef c.s2s_pool *c_pool = NULL if pool is None else pool._pool
        _check(c.s2s_prompt_create(model._model, c_pool, model._kv_dtype, _data(c_ids), len(c_ids),
                                   &self._prompt, &error), &error)
        while n_left > 0:  # block by block, with an eye to signals
            with nogil:
                status = c.s2s_prompt_read(self._prompt, &n_left, &error)
            _check(status, &error)
            PyErr_CheckSignals()

    def __dealloc__(self):
        c.s2s_prompt_free(self._prompt)

    @property
    def n_bytes(self):
        return c.s2s_prompt_bytes(self._prompt)


@cython.no_gc_clear
cdef class Session(Recorded):
    cdef c.s2s_session *_session
    cdef Prompt _prompt  # whose ids the session compares with those of each request

    def __cinit__(self, Model model not None, Pool pool, max_rows, max_source_positions,
                  max_target_positions, max_encoder_tokens, max_sources=0,
                  Prompt prompt=None):
        cdef c.s2s_error error
        cdef c.s2s_session_config config
        self._model = model
        self._pool = pool
        self._prompt = prompt
        try:
            config.max_rows = max_rows
            config.max_source_positions = max_source_positions
            config.max_target_positions = max_target_positions
            config.max_encoder_tokens = max_encoder_tokens
            config.max_sources = max_sources
            config.kv_dtype = model._kv_dtype
            config.prompt = NULL if prompt is None else prompt._prompt
        except OverflowError:
            raise OptionError("a session's sizes must be 32-bit integers") from None
        cdef c.s2s_pool *c_pool = NULL if pool is None else pool._pool
        _check(c.s2s_session_create(model._model, c_pool, &config, &self._session, &error), &error)

    def __dealloc__(self):
        c.s2s_session_free(self._session)

    @property
    def n_bytes(self):
        return c.s2s_session_bytes(self._session)

    def submit(self, source, prefix, options):
        cdef c.s2s_error error
        cdef c.s2s_request request
        cdef uint64_t request_id
        cdef Options filled = options if isinstance(options, Options) else Options(options)
        source_ids = _ids("source", source)
        prefix_ids = _ids("prefix", prefix)
        request.source = _data(source_ids)
        request.n_source = len(source_ids)
        request.prefix = _data(prefix_ids)
        request.n_prefix = len(prefix_ids)
        request.options = filled._options
        _check(c.s2s_session_submit(self._session, &request, &request_id, &error), &error)
        return request_id

    def step(self, n_steps=1, seconds=None):
        cdef c.s2s_error error
        cdef int32_t n_pending = 0
        cdef c.s2s_status status = c.S2S_OK
        cdef int32_t n_left = n_steps
        cdef double end = INFINITY
        if seconds is not None:
            end = _now() + <double> seconds
        with nogil:
            while True:
                status = c.s2s_session_step(self._session, &n_pending, &error)
                n_left -= 1
                if (n_left <= 0 or status != c.S2S_OK or c.s2s_session_is_idle(self._session)
                        or (end != INFINITY and _now() >= end)):
                    break
        self._raise_sink_error()
        _check(status, &error)
        return n_pending

    cdef Result _next_result(self):
        cdef c.s2s_result *result = c.s2s_session_next_result(self._session)
        if result == NULL:
            return None
        cdef Result out = Result.__new__(Result)
        cdef int32_t i
        try:
            out.id = result.id
            out.n_source = result.n_source
            out.n_steps = result.n_steps
            out.n_reused = result.n_reused
            out.hypotheses = [_hypothesis(result, &result.hypotheses[i])
                              for i in range(result.n_hypotheses)]
            return out
        finally:
            c.s2s_result_free(result)

    def next_result(self):
        return self._next_result()

    def results(self):
        found = []
        result = self._next_result()
        while result is not None:
            found.append(result)
            result = self._next_result()
        return found

    def run(self, jobs):
        cdef Result result
        running = {self.submit(job.source, job.prefix, job.options): job for job in jobs}
        while running:
            self.step(INT32_MAX, SIGNALS_SECONDS)
            PyErr_CheckSignals()
            result = self._next_result()
            while result is not None:
                running.pop(result.id).result = result
                result = self._next_result()

    def cancel(self, request_id):
        cdef c.s2s_error error
        _check(c.s2s_session_cancel(self._session, request_id, &error), &error)

    def progress(self, request_id):
        cdef c.s2s_error error
        cdef uint64_t c_id = request_id
        cdef int32_t n = 0
        _check(c.s2s_session_progress(self._session, c_id, NULL, 0, &n, &error), &error)
        ids = array("i", bytes(4 * n))
        _check(c.s2s_session_progress(self._session, c_id, <int32_t *> _data(ids), n, &n, &error),
               &error)
        return ids.tolist()

    def set_record(self, record):
        self._sink = record
        if record is None:
            c.s2s_session_set_record(self._session, NULL, NULL)
        else:
            c.s2s_session_set_record(self._session, _record, <void *> self)

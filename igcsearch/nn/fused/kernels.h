// The walk over tiles, for one instruction set: included by kernels.cpp with IGC_LANES floats to a vector. No include guard.

constexpr int LANES = IGC_LANES;
typedef float vec __attribute__((vector_size(4 * IGC_LANES)));
typedef float uvec __attribute__((vector_size(4 * IGC_LANES), aligned(4), may_alias));  // in memory, anywhere
typedef int32_t ivec __attribute__((vector_size(4 * IGC_LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * IGC_LANES), aligned(2), may_alias));
typedef uint32_t wvec __attribute__((vector_size(4 * IGC_LANES)));
#if !defined(IGC_X86)
#define IGC_HOLD(v)
#elif IGC_LANES == 16
#define IGC_HOLD(v) __asm__("" : "+v"(v))
#else
#define IGC_HOLD(v) __asm__("" : "+x"(v))
#endif
#define FORCED inline __attribute__((always_inline))
#define INLINE static FORCED
#define FORCED_LAMBDA __attribute__((always_inline))

INLINE vec load(const float* p) { return *reinterpret_cast<const uvec*>(p); }
INLINE void store(float* p, vec v) { *reinterpret_cast<uvec*>(p) = v; }

// The numbers of a, then those of b, that stand at the places `at`.
template <typename V, typename I>
INLINE V shuffled(V a, V b, I at) {
#if defined(__clang__)
    constexpr int N = sizeof(V) / sizeof(float);
    V found = a;
    for (int i = 0; i < N; i++) found[i] = at[i] < N ? a[at[i]] : b[at[i] - N];
    return found;
#else
    return __builtin_shuffle(a, b, at);
#endif
}

INLINE float widen(uint16_t h) {
    uint32_t u = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
INLINE uint16_t narrow(float f) {  // to nearest, ties to even
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 64);
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
INLINE vec load(const uint16_t* p) { return reinterpret_cast<vec>(__builtin_convertvector(*reinterpret_cast<const hvec*>(p), wvec) << 16); }
INLINE void store(uint16_t* p, vec v) {
    wvec u = reinterpret_cast<wvec>(v);
    wvec rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, quiet = u >> 16 | 64;
    wvec nan = reinterpret_cast<wvec>((u & 0x7fffffffu) > 0x7f800000u);
    *reinterpret_cast<hvec*>(p) = __builtin_convertvector((nan & quiet) | (~nan & rounded), hvec);
}
INLINE float from(float f) { return f; }
INLINE float from(uint16_t h) { return widen(h); }
INLINE void to(float* p, float f) { *p = f; }
INLINE void to(uint16_t* p, float f) { *p = narrow(f); }

// ---------------------------------------------------------------- one group of one factor on one tile

enum { NONE = 0, RELU = 1, RELU6 = 2, HARDSWISH = 3 };

template <typename V>
INLINE V activate(V v, int kind) {
    if (kind == NONE) return v;
    V zero = {}, u = kind == HARDSWISH ? v + 3.0f : v;
    u = u < zero ? zero : u;  // what is no number stays what it is
    if (kind != RELU) u = u > zero + 6.0f ? zero + 6.0f : u;
    return kind == HARDSWISH ? v * u * (1.0f / 6.0f) : u;
}

// Vectors of several lengths: in memory, in a register, and as indices. Types, as a template argument would lose its alignment.
struct Whole {
    typedef uvec type;
    typedef vec value;
    typedef ivec places;
};
struct Eight {
    typedef float type __attribute__((vector_size(32), aligned(4), may_alias));
    typedef float value __attribute__((vector_size(32)));
    typedef int32_t places __attribute__((vector_size(32)));
};
struct Four {
    typedef float type __attribute__((vector_size(16), aligned(4), may_alias));
    typedef float value __attribute__((vector_size(16)));
    typedef int32_t places __attribute__((vector_size(16)));
};

// target = activation(source + more) for `count` rows of n numbers, each a step after the one before; `more` may be null.
// Short rows go in parts of a vector; the last numbers of a row may be done twice.
template <typename U>
INLINE void piece(const float* source, const float* more, float* target, int kind) {
    typedef typename U::type memory;
    auto v = *reinterpret_cast<const memory*>(source);
    if (more) v += *reinterpret_cast<const memory*>(more);
    *reinterpret_cast<memory*>(target) = activate(v, kind);
}
template <typename U, int N>
INLINE void lines_by(const float* source, int64_t source_step, const float* more, int64_t more_step, float* target,
                     int64_t target_step, int64_t n, int64_t count, int kind) {
    for (int64_t i = 0; i < count; i++, source += source_step, target += target_step) {
        for (int64_t p = 0; p + N <= n; p += N) piece<U>(source + p, more ? more + p : nullptr, target + p, kind);
        if (n % N) piece<U>(source + n - N, more ? more + n - N : nullptr, target + n - N, kind);
        if (more) more += more_step;
    }
}
template <int KIND>
static void lines_of(const float* source, int64_t source_step, const float* more, int64_t more_step, float* target,
                     int64_t target_step, int64_t n, int64_t count) {
    if (n >= LANES) {
        lines_by<Whole, LANES>(source, source_step, more, more_step, target, target_step, n, count, KIND);
    } else if (LANES > 8 && n >= 8) {
        lines_by<Eight, 8>(source, source_step, more, more_step, target, target_step, n, count, KIND);
    } else if (LANES > 4 && n >= 4) {
        lines_by<Four, 4>(source, source_step, more, more_step, target, target_step, n, count, KIND);
    } else {
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = 0; p < n; p++) {
                vec v = {source[i * source_step + p] + (more ? more[i * more_step + p] : 0.0f)};
                target[i * target_step + p] = activate(v, KIND)[0];
            }
    }
}
INLINE void lines(const float* source, int64_t source_step, const float* more, int64_t more_step, float* target,
                  int64_t target_step, int64_t n, int64_t count, int kind) {
    (kind == NONE ? lines_of<NONE> : kind == RELU ? lines_of<RELU> : kind == RELU6 ? lines_of<RELU6> : lines_of<HARDSWISH>)(
        source, source_step, more, more_step, target, target_step, n, count);
}

// Which vectors of pixels a walk takes: the first at `in` in the rows that it reads and at `out` in those that it writes, `vectors` of
// them, each a step after the one before, in order (one may reach into the next, which is written later). Then, unless it is
// negative, one more at `tail` in both, counted from the first.
struct Walk {
    int64_t in, out, step_in, step_out, vectors, tail;
    bool dense() const { return step_in == LANES && step_out == LANES; }
};
// n pixels one after the other; the last ones are done twice where that fills a vector.
INLINE Walk stretch_of(int64_t n) { return {0, 0, LANES, LANES, n / LANES, n % LANES ? most(0, n - LANES) : -1}; }

// R rows of output, V vectors of pixels at a time, all terms; `more`, where it is not null, is added before the activation.
template <int R, int V, bool DENSE>
INLINE void rows(const float* const* in, int64_t terms, const float* w, int64_t row_stride, int64_t term_stride,
                 const float* bias, const float* const* more, int kind, float* const* out, int64_t begin, int64_t step,
                 int64_t begin_out, int64_t step_out) {
    if (DENSE) step = step_out = LANES;
    vec sum[R][V];  // in registers, which takes loops that are unrolled, every one
    auto each = [&](auto work) FORCED_LAMBDA {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[r][v] = work(sum[r][v], r, v);
    };
    each([&](vec, int, int) FORCED_LAMBDA { return vec{}; });
    if (bias) each([&](vec, int r, int) FORCED_LAMBDA { return vec{} + bias[r]; });
    for (int64_t l = 0; l < terms; l++) {
        const float* x = in[l] + begin;
        vec part[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) part[v] = load(x + v * step);
        each([&](vec so_far, int r, int v) FORCED_LAMBDA { return so_far + part[v] * w[r * row_stride + l * term_stride]; });
    }
    if (more) each([&](vec so_far, int r, int v) FORCED_LAMBDA { return so_far + load(more[r] + begin_out + v * step_out); });
    if (kind == RELU)
        each([&](vec so_far, int, int) FORCED_LAMBDA { return activate(so_far, RELU); });
    else if (kind != NONE)
        each([&](vec so_far, int, int) FORCED_LAMBDA { return activate(so_far, kind); });
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) store(out[r] + begin_out + v * step_out, sum[r][v]);
}

template <int R, bool DENSE>
INLINE void strip(const float* const* in, int64_t terms, const float* w, int64_t row_stride, int64_t term_stride,
                  const float* bias, const float* const* more, int kind, float* const* out, const Walk& walk) {
    // As many sums as registers allow, and no single vector at the end: with few sums the loads are what takes the time.
    constexpr int V = LANES < 16 ? 2 : R > 6 ? 3 : R > 2 ? 4 : 6, LESS = V > 2 ? V - 1 : 1;
    int64_t i = 0, left = walk.vectors;
    for (; left >= V && left != V + 1; i += V, left -= V)
        rows<R, V, DENSE>(in, terms, w, row_stride, term_stride, bias, more, kind, out, walk.in + i * walk.step_in, walk.step_in,
                          walk.out + i * walk.step_out, walk.step_out);
    for (; left >= LESS; i += LESS, left -= LESS)
        rows<R, LESS, DENSE>(in, terms, w, row_stride, term_stride, bias, more, kind, out, walk.in + i * walk.step_in, walk.step_in,
                             walk.out + i * walk.step_out, walk.step_out);
    for (; left; i++, left--)
        rows<R, 1, true>(in, terms, w, row_stride, term_stride, bias, more, kind, out, walk.in + i * walk.step_in, 0,
                         walk.out + i * walk.step_out, 0);
    if (walk.tail >= 0)
        rows<R, 1, true>(in, terms, w, row_stride, term_stride, bias, more, kind, out, walk.in + walk.tail, 0, walk.out + walk.tail, 0);
}

constexpr int MOST_ROWS = LANES < 16 ? 4 : 8;

template <bool DENSE>
static void group_by(const float* const* in, int64_t terms, const float* w, int64_t row_stride, int64_t term_stride, const float* bias,
                     const float* const* more, int kind, float* const* out, int64_t count, const Walk& walk) {
    for (int64_t r = 0; r < count;) {
        const float* here = w + r * row_stride;
        const float* b = bias ? bias + r : nullptr;
        const float* const* m = more ? more + r : nullptr;
        int64_t left = count - r;
        if (left >= MOST_ROWS) {
            strip<MOST_ROWS, DENSE>(in, terms, here, row_stride, term_stride, b, m, kind, out + r, walk);
            r += MOST_ROWS;
        } else if (left >= 6 && MOST_ROWS > 6) {
            strip<6, DENSE>(in, terms, here, row_stride, term_stride, b, m, kind, out + r, walk);
            r += 6;
        } else if (left >= 4 && MOST_ROWS > 4) {
            strip<4, DENSE>(in, terms, here, row_stride, term_stride, b, m, kind, out + r, walk);
            r += 4;
        } else if (left >= 3) {
            strip<3, DENSE>(in, terms, here, row_stride, term_stride, b, m, kind, out + r, walk);
            r += 3;
        } else if (left == 2) {
            strip<2, DENSE>(in, terms, here, row_stride, term_stride, b, m, kind, out + r, walk);
            r += 2;
        } else {
            strip<1, DENSE>(in, terms, here, row_stride, term_stride, b, m, kind, out + r, walk);
            r += 1;
        }
    }
}
INLINE void group(const float* const* in, int64_t terms, const float* w, int64_t row_stride, int64_t term_stride, const float* bias,
                  int kind, float* const* out, int64_t count, const Walk& walk, const float* const* more = nullptr) {
    (walk.dense() ? group_by<true> : group_by<false>)(in, terms, w, row_stride, term_stride, bias, more, kind, out, count, walk);
}

// A factor on one tile: rows of `in` to rows of `out`. `scratch` has room for `in` pointers.
INLINE void apply(const igc_factor& f, const float* const* in, float* const* out, const float* bias, int kind,
                  const Walk& walk, float** list, const float* const* more = nullptr) {
    const float** scratch = const_cast<const float**>(list);
    for (int64_t g = 0; g < f.groups; g++) {
        for (int64_t l = 0; l < f.in; l++) scratch[l] = in[f.source[g * f.in + l]];
        group(scratch, f.in, f.weight + g * f.group_stride, f.row_stride, f.term_stride, bias ? bias + g * f.out : nullptr,
              kind, out + g * f.out, f.out, walk, more ? more + g * f.out : nullptr);
    }
}

// ---------------------------------------------------------------- tiles in and out of memory

// LANES x LANES numbers, rows to columns.
template <int H>
INLINE void exchange(vec* m) {
    ivec low, high;
    for (int i = 0; i < LANES; i++) {
        bool second = (i / H) % 2;
        low[i] = second ? LANES + i - H : i;
        high[i] = second ? LANES + i : i + H;
    }
    for (int i = 0; i < LANES; i++)
        if (!((i / H) % 2)) {
            vec a = m[i], b = m[i + H];
            m[i] = shuffled(a, b, low);
            m[i + H] = shuffled(a, b, high);
        }
}
INLINE void transpose(vec* m) {
    if (LANES > 8) exchange<(LANES > 8 ? 8 : 1)>(m);
    if (LANES > 4) exchange<(LANES > 4 ? 4 : 1)>(m);
    exchange<2>(m);
    exchange<1>(m);
}

// Where a tile lies: `count` pixels from pixel `begin` on, counted through all images.
struct Tile {
    int64_t begin, count, padded;
};

// Rows of a tile, copied out: row c gets the tile's pixels of channel c, zeros up to `padded`.
template <typename S>
INLINE void pack(const S* data, const igc_shape& shape, int64_t channels, const Tile& tile, float* to_rows, int64_t stride) {
    if (shape.channels_last) {
        const S* from_here = data + tile.begin * channels;
        int64_t whole = channels / LANES * LANES;
        for (int64_t p = 0; p < tile.padded; p += LANES) {
            int64_t here = least(LANES, tile.count - p);
            for (int64_t c = 0; c < whole; c += LANES) {
                vec m[LANES];
                for (int i = 0; i < LANES; i++) m[i] = i < here ? load(from_here + (p + i) * channels + c) : vec{};
                transpose(m);
                for (int i = 0; i < LANES; i++) store(to_rows + (c + i) * stride + p, m[i]);
            }
            for (int64_t c = whole; c < channels; c++)
                for (int i = 0; i < LANES; i++)
                    to_rows[c * stride + p + i] = i < here ? from(from_here[(p + i) * channels + c]) : 0.0f;
        }
        return;
    }
    int64_t done = 0;
    while (done < tile.count) {
        int64_t image = (tile.begin + done) / shape.pixels, at = (tile.begin + done) % shape.pixels;
        int64_t length = least(shape.pixels - at, tile.count - done);
        const S* here = data + image * channels * shape.pixels + at;
        for (int64_t c = 0; c < channels; c++) {
            const S* source = here + c * shape.pixels;
            float* target = to_rows + c * stride + done;
            int64_t p = 0;
            for (; p + LANES <= length; p += LANES) store(target + p, load(source + p));
            for (; p < length; p++) target[p] = from(source[p]);
        }
        done += length;
    }
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = tile.count; p < tile.padded; p++) to_rows[c * stride + p] = 0.0f;
}

// The reverse: channel c of the tile from row `rows_of[c]`.
template <typename S>
INLINE void unpack(S* data, const igc_shape& shape, int64_t channels, const Tile& tile, float* const* rows_of) {
    if (shape.channels_last) {
        S* to_here = data + tile.begin * channels;
        int64_t whole = channels / LANES * LANES;
        for (int64_t p = 0; p < tile.count; p += LANES) {
            int64_t here = least(LANES, tile.count - p);
            for (int64_t c = 0; c < whole; c += LANES) {
                vec m[LANES];
                for (int i = 0; i < LANES; i++) m[i] = load(rows_of[c + i] + p);
                transpose(m);
                for (int i = 0; i < LANES; i++)
                    if (i < here) store(to_here + (p + i) * channels + c, m[i]);
            }
            for (int64_t c = whole; c < channels; c++)
                for (int i = 0; i < here; i++) to(to_here + (p + i) * channels + c, rows_of[c][p + i]);
        }
        return;
    }
    int64_t done = 0;
    while (done < tile.count) {
        int64_t image = (tile.begin + done) / shape.pixels, at = (tile.begin + done) % shape.pixels;
        int64_t length = least(shape.pixels - at, tile.count - done);
        S* here = data + image * channels * shape.pixels + at;
        for (int64_t c = 0; c < channels; c++) {
            S* target = here + c * shape.pixels;
            const float* source = rows_of[c] + done;
            int64_t p = 0;
            for (; p + LANES <= length; p += LANES) store(target + p, load(source + p));
            for (; p < length; p++) to(target + p, source[p]);
        }
        done += length;
    }
}

// How the pixels of all images are cut: tiles inside images where those are large, several images to a tile where they are small.
struct Cut {
    int64_t total, per_image, size;  // tiles; in one image (0: images are not respected); pixels of one
    bool direct, aligned;            // rows may be used where they lie; and no vector of a tile is but partly filled

    Cut(const igc_shape& shape) {
        int64_t all = shape.images * shape.pixels;
        int64_t want = most(LANES, least(shape.tile, round_up((all + shape.threads - 1) / shape.threads, LANES)));
        bool inside = !shape.channels_last && shape.pixels >= least(want, 64);
        if (inside) {
            int64_t parts = (shape.pixels + want - 1) / want;
            size = least(round_up((shape.pixels + parts - 1) / parts, LANES), shape.pixels);
            per_image = (shape.pixels + size - 1) / size;
            total = per_image * shape.images;
        } else {
            size = want;
            per_image = 0;
            total = (all + size - 1) / size;
        }
        direct = inside && !shape.bfloat16 && shape.pixels - (per_image - 1) * size >= LANES;
        aligned = direct && shape.pixels % LANES == 0;
    }
    Tile at(int64_t i, const igc_shape& shape) const {
        Tile tile;
        if (per_image) {
            int64_t begin = i % per_image * size;
            tile = {i / per_image * shape.pixels + begin, least(size, shape.pixels - begin), 0};
        } else {
            tile = {i * size, least(size, shape.images * shape.pixels - i * size), 0};
        }
        tile.padded = round_up(tile.count, LANES);
        return tile;
    }
    int64_t stride() const { return round_up(size, LANES) + LANES; }  // no power of two: rows share no cache sets
};

// Pointers to the rows of a tile where they lie in a contiguous float32 tensor.
INLINE void point(float* data, const igc_shape& shape, int64_t channels, const Tile& tile, const int32_t* order, float** to_rows) {
    int64_t image = tile.begin / shape.pixels, at = tile.begin % shape.pixels;
    float* here = data + image * channels * shape.pixels + at;
    for (int64_t c = 0; c < channels; c++) to_rows[c] = here + (order ? order[c] : c) * shape.pixels;
}
INLINE void point(float* rows_at, int64_t channels, int64_t stride, float** to_rows) {
    for (int64_t c = 0; c < channels; c++) to_rows[c] = rows_at + c * stride;
}

static void fetch(const igc_tensor& x, const igc_shape& shape, const Tile& tile, float* to_rows, int64_t stride) {
    if (shape.bfloat16)
        pack(static_cast<const uint16_t*>(x.data), shape, x.channels, tile, to_rows, stride);
    else
        pack(static_cast<const float*>(x.data), shape, x.channels, tile, to_rows, stride);
}
static void put(const igc_tensor& y, const igc_shape& shape, const Tile& tile, float* const* rows_of) {
    if (shape.bfloat16)
        unpack(static_cast<uint16_t*>(y.data), shape, y.channels, tile, rows_of);
    else
        unpack(static_cast<float*>(y.data), shape, y.channels, tile, rows_of);
}

INLINE int64_t widest(const igc_factor* factors, int64_t count) {
    int64_t most_channels = 0;
    for (int64_t i = 0; i < count; i++)
        most_channels = most(most_channels, most(factors[i].groups * factors[i].in, factors[i].groups * factors[i].out));
    return most_channels;
}

// ---------------------------------------------------------------- forward

static void forward(const igc_shape& shape, const igc_factor* factors, int64_t count, const igc_tensor& x, const igc_tensor& y,
                    const int32_t* destination) {
    Cut cut(shape);
    if (cut.total == 0) return;
    int64_t channels = most(widest(factors, count), x.channels), stride = cut.stride();
    int threads = int(least(shape.threads, cut.total));
#pragma omp parallel num_threads(threads)
    {
        // Two buffers of rows, three lists of row pointers and one for a group.
        size_t buffer = size_t(channels) * stride * sizeof(float), list = size_t(channels) * sizeof(float*);
        char* memory = static_cast<char*>(arena.reserve(2 * buffer + 4 * list));
        float* buffers[2] = {reinterpret_cast<float*>(memory), reinterpret_cast<float*>(memory + buffer)};
        float** in = reinterpret_cast<float**>(memory + 2 * buffer);
        float** out = in + channels;
        float** placed = out + channels;
        float** scratch = placed + channels;
        int n = thread_count(), me = thread_number();
        for (int64_t i = cut.total * me / n; i < cut.total * (me + 1) / n; i++) {
            Tile tile = cut.at(i, shape);
            int next = 0;
            if (cut.direct) {
                point(static_cast<float*>(x.data), shape, x.channels, tile, nullptr, in);
            } else {
                fetch(x, shape, tile, buffers[0], stride);
                point(buffers[0], x.channels, stride, in);
                next = 1;
            }
            for (int64_t f = 0; f < count; f++) {
                bool last = f == count - 1;
                int64_t written = factors[f].groups * factors[f].out;
                if (last && cut.direct)
                    point(static_cast<float*>(y.data), shape, y.channels, tile, destination, out);
                else
                    point(buffers[next], written, stride, out);
                apply(factors[f], in, out, factors[f].bias, factors[f].activation, stretch_of(cut.direct ? tile.count : tile.padded), scratch);
                next = 1 - next;
                float** swap = in;
                in = out;
                out = swap;
            }
            if (!cut.direct) {
                for (int64_t c = 0; c < y.channels; c++) placed[destination[c]] = in[c];
                put(y, shape, tile, placed);
            }
        }
    }
}

// ---------------------------------------------------------------- backward

// Fold W accumulators (a power of two of them, at most LANES) into one vector with a stretch of LANES / W numbers for each.
template <int W, int H>
struct Fold {
    static FORCED vec run(const vec* a) {
        vec halves[W / 2];
        ivec low, high;
        for (int i = 0; i < LANES; i++) {
            int stretch = i / H, inside = i % H;  // output stretches of H numbers; those of the inputs were 2 H
            int stretches = LANES / (2 * H);      // of one input
            low[i] = (stretch / stretches) * LANES + (stretch % stretches) * 2 * H + inside;
            high[i] = low[i] + H;
        }
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; i++)
            halves[i] = shuffled(a[2 * i], a[2 * i + 1], low) + shuffled(a[2 * i], a[2 * i + 1], high);
        return Fold<W / 2, H / 2>::run(halves);
    }
};
template <int H>
struct Fold<1, H> {
    static FORCED vec run(const vec* a) { return a[0]; }
};

// gradient[r, l] += sum over pixels of dy's row r times x's row l, for an A x B block of them.
template <int A, int B>
INLINE void outer(const float* const* dy, const float* const* x, int64_t pixels, float* gradient, int64_t row_stride) {
    vec sum[A * B];
#pragma GCC unroll 16
    for (int i = 0; i < A * B; i++) sum[i] = vec{};
    for (int64_t p = 0; p < pixels; p += LANES) {
        vec part[B];
#pragma GCC unroll 4
        for (int b = 0; b < B; b++) part[b] = load(x[b] + p);
#pragma GCC unroll 4
        for (int a = 0; a < A; a++) {
            vec g = load(dy[a] + p);
#pragma GCC unroll 4
            for (int b = 0; b < B; b++) sum[a * B + b] += g * part[b];
        }
    }
    constexpr int W = A * B, EACH = LANES / W;
    vec folded = Fold<W, LANES / 2>::run(sum);
    float numbers[LANES];
    store(numbers, folded);
    for (int a = 0; a < A; a++)
        for (int b = 0; b < B; b++) {
            float total = 0;
            for (int e = 0; e < EACH; e++) total += numbers[(a * B + b) * EACH + e];
            gradient[a * row_stride + b] += total;
        }
}

template <int A>
INLINE void outer_rows(const float* const* dy, const float* const* x, int64_t terms, int64_t pixels, float* gradient) {
    constexpr int B = LANES / 4 < 4 ? (LANES == 4 ? 2 : LANES / 4) : 4;
    int64_t l = 0;
    for (; l + B <= terms; l += B) outer<A, B>(dy, x + l, pixels, gradient + l, terms);
    if (B > 2 && l + 2 <= terms) {
        outer<A, 2>(dy, x + l, pixels, gradient + l, terms);
        l += 2;
    }
    for (; l < terms; l++) outer<A, 1>(dy, x + l, pixels, gradient + l, terms);
}

// R rows of a gradient by V vectors of its terms, from the turned input (pixels, width): no sums across a vector.
template <int R, int V>
INLINE void turned_rows(const float* const* dy, const float* turned, int64_t width, int64_t terms, int64_t pixels, float* gradient,
                        int64_t row_stride) {
    vec sum[R][V];
    auto each = [&](auto work) FORCED_LAMBDA {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) work(sum[r][v], r, v);
    };
    each([&](vec& one, int, int) FORCED_LAMBDA { one = vec{}; });
    for (int64_t p = 0; p < pixels; p++) {
        vec part[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) part[v] = load(turned + p * width + v * LANES);
        each([&](vec& one, int r, int v) FORCED_LAMBDA { one += part[v] * dy[r][p]; });
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            float* target = gradient + r * row_stride + v * LANES;
            if ((v + 1) * LANES <= terms) {
                store(target, load(target) + sum[r][v]);
            } else {
                float numbers[LANES];
                store(numbers, sum[r][v]);
                for (int64_t i = 0; i < terms - v * LANES; i++) target[i] += numbers[i];
            }
        }
}

// A group's weight gradient by way of its input, turned: for branches so wide that a vector is filled.
static void weigh_turned(const float* const* dy, int64_t count, const float* const* x, int64_t terms, int64_t pixels, float* gradient,
                         float* room) {
    constexpr int V = 2, R = LANES < 16 ? 4 : 8;
    const int64_t width = V * LANES;
    for (int64_t l = 0; l < terms; l += width) {
        int64_t here = least(width, terms - l);
        for (int64_t p = 0; p < pixels; p += LANES)
            for (int64_t first = 0; first < width; first += LANES) {
                if (first >= here) break;
                vec m[LANES];
                for (int i = 0; i < LANES; i++) m[i] = first + i < here ? load(x[l + first + i] + p) : vec{};
                transpose(m);
                for (int i = 0; i < LANES; i++) store(room + (p + i) * width + first, m[i]);
            }
        int64_t r = 0;
        if (here > LANES) {
            for (; r + R <= count; r += R) turned_rows<R, 2>(dy + r, room, width, here, pixels, gradient + r * terms + l, terms);
            for (; r < count; r++) turned_rows<1, 2>(dy + r, room, width, here, pixels, gradient + r * terms + l, terms);
        } else {
            for (; r + R <= count; r += R) turned_rows<R, 1>(dy + r, room, width, here, pixels, gradient + r * terms + l, terms);
            for (; r < count; r++) turned_rows<1, 1>(dy + r, room, width, here, pixels, gradient + r * terms + l, terms);
        }
    }
}
constexpr int TURNED = 2 * LANES;  // numbers of room for each pixel

// A group's weight gradient, shape (count, terms); `room` for TURNED numbers a pixel, or null.
static void weigh(const float* const* dy, int64_t count, const float* const* x, int64_t terms, int64_t pixels, float* gradient,
                  float* room) {
    if (room && terms >= LANES - LANES / 4 && count >= 4 && pixels < 1024) {
        weigh_turned(dy, count, x, terms, pixels, gradient, room);
        return;
    }
    constexpr int A = LANES == 4 ? 2 : 4;
    int64_t r = 0;
    for (; r + A <= count; r += A) outer_rows<A>(dy + r, x, terms, pixels, gradient + r * terms);
    if (A > 2 && r + 2 <= count) {
        outer_rows<2>(dy + r, x, terms, pixels, gradient + r * terms);
        r += 2;
    }
    for (; r < count; r++) outer_rows<1>(dy + r, x, terms, pixels, gradient + r * terms);
}

// The threads' sums, in the order of the threads, into the factors' gradients. `area`: of the first factor's kernel.
INLINE void add_up(const igc_factor* factors, int64_t count, const float* sums, int threads, int64_t weights, int64_t area) {
    for (int64_t f = 0, at = 0; f < count; f++) {
        int64_t length = factors[f].groups * factors[f].in * factors[f].out * (f ? 1 : area);
        for (int64_t i = 0; i < length; i++) {
            float total = 0;
            for (int t = 0; t < threads; t++) total += sums[size_t(t) * weights + at + i];
            factors[f].gradient[i] = total;
        }
        at += length;
    }
}

static void backward(const igc_shape& shape, const igc_factor* factors, int64_t count, const igc_tensor& x,
                     const igc_tensor& dy, const igc_tensor& dx, const int32_t* destination) {
    Cut cut(shape);
    int64_t channels = most(widest(factors, count), x.channels), stride = cut.stride(), weights = 0;
    for (int64_t f = 0; f < count; f++) weights += factors[f].groups * factors[f].in * factors[f].out;
    int threads = int(most(1, least(shape.threads, cut.total)));
    float* sums = static_cast<float*>(std::calloc(size_t(threads) * weights + 1, sizeof(float)));
    if (!sums) std::abort();
    int used = 1;
#pragma omp parallel num_threads(threads)
    {
        int n = thread_count(), me = thread_number();
        if (me == 0) used = n;
        // Rows of the input of every factor, and two sets of rows of gradients; as many lists of pointers and two for a group.
        size_t buffer = size_t(channels) * stride * sizeof(float), list = size_t(channels) * sizeof(float*);
        size_t turned = size_t(TURNED) * stride * sizeof(float);
        char* memory = static_cast<char*>(arena.reserve((count + 2) * buffer + (count + 5) * list + turned));
        float* room = reinterpret_cast<float*>(memory + (count + 2) * buffer + (count + 5) * list);
        float** lists = reinterpret_cast<float**>(memory + (count + 2) * buffer);
        auto rows_of = [&](int64_t i) { return reinterpret_cast<float*>(memory + i * buffer); };
        auto list_of = [&](int64_t i) { return lists + i * channels; };
        const float** scratch = const_cast<const float**>(list_of(count + 2));
        float** placed = list_of(count + 3);
        float** targets = list_of(count + 4);
        for (int64_t i = cut.total * me / n; i < cut.total * (me + 1) / n; i++) {
            Tile tile = cut.at(i, shape);
            if (cut.aligned) {
                point(static_cast<float*>(x.data), shape, x.channels, tile, nullptr, list_of(0));
            } else {
                fetch(x, shape, tile, rows_of(0), stride);
                point(rows_of(0), x.channels, stride, list_of(0));
            }
            for (int64_t f = 0; f + 1 < count; f++) {
                point(rows_of(f + 1), factors[f].groups * factors[f].out, stride, list_of(f + 1));
                apply(factors[f], list_of(f), list_of(f + 1), nullptr, NONE, stretch_of(tile.padded), list_of(count + 2));
            }
            int64_t now = count, other = count + 1;  // lists of the gradients behind and before a factor
            if (cut.aligned) {
                point(static_cast<float*>(dy.data), shape, dy.channels, tile, destination, list_of(now));
            } else {
                fetch(dy, shape, tile, rows_of(count), stride);
                for (int64_t c = 0; c < dy.channels; c++) list_of(now)[c] = rows_of(count) + destination[c] * stride;
            }
            float* sum = sums + size_t(me) * weights + weights;
            for (int64_t f = count - 1; f >= 0; f--) {
                const igc_factor& factor = factors[f];
                int64_t read = factor.groups * factor.in;
                sum -= read * factor.out;
                bool first = f == 0;
                float** before = list_of(other);
                float* place = rows_of(now == count ? count + 1 : count);
                if (first && cut.aligned && dx.data)
                    point(static_cast<float*>(dx.data), shape, dx.channels, tile, nullptr, before);
                else
                    point(place, read, stride, before);
                for (int64_t g = 0; g < factor.groups; g++) {
                    const float* const* behind = const_cast<const float* const*>(list_of(now) + g * factor.out);
                    for (int64_t l = 0; l < factor.in; l++) {
                        int32_t row = factor.source[g * factor.in + l];
                        scratch[l] = list_of(f)[row];
                        targets[l] = before[row];
                    }
                    weigh(behind, factor.out, scratch, factor.in, tile.padded, sum + g * factor.in * factor.out, room);
                    if (!first || dx.data)
                        group(behind, factor.out, factor.weight + g * factor.group_stride, factor.term_stride, factor.row_stride,
                              nullptr, NONE, targets, factor.in, stretch_of(tile.padded));
                }
                int64_t swap = now;
                now = other;
                other = swap;
            }
            if (!cut.aligned && dx.data) {
                for (int64_t c = 0; c < dx.channels; c++) placed[c] = list_of(now)[c];
                put(dx, shape, tile, placed);
            }
        }
    }
    add_up(factors, count, sums, used, weights, 1);
    std::free(sums);
}

#include "spatial.h"
#include "sparse.h"

#undef INLINE
#undef IGC_HOLD
#undef FORCED
#undef FORCED_LAMBDA

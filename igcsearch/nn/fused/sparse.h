// A sparse convolution from its kept weights alone, for one instruction set: included by kernels.h. No include guard.
//
// A term is one input channel at one tap of the kernel. A tile of output pixels is worked on at a time: what a block of terms reads
// for these pixels is laid out row by row, zeros included, so that it lies in the first cache and every load is aligned whatever
// the tap, stride or padding; then each output row, with its sums in registers, walks its kept weights: one broadcast, and one load
// for each multiply-add. The weight itself is never made dense: a kept one is a float32 number and the 8-bit number of its term.

constexpr bool LITTLE = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
#if defined(IGC_X86)
#define IGC_HOLD_ADDRESS(p) __asm__("" : "+r"(p))  // in one register: what is added to it is then part of each instruction
#else
#define IGC_HOLD_ADDRESS(p)
#endif

// How the output's pixels are cut: inside images, or through all images where those are small. Each tile is worked on in `shares`
// parts of the rows, where there are fewer tiles than threads.
struct SparseCut {
    static constexpr int64_t MOST = LANES < 16 ? 12 : 14;  // vectors of a tile: its sums stay in registers
    int64_t vectors, per_image, total, pixels, all, shares;

    SparseCut(const SparseCall& call, int64_t terms) {
        pixels = call.out_height * call.out_width;
        all = call.images * pixels;
        bool inside = call.images == 1 || pixels >= 6 * LANES;
        int64_t wide = ((inside ? pixels : all) + LANES - 1) / LANES, images = inside ? call.images : 1, best = -1;
        vectors = 1;
        for (int64_t v = least(MOST, most(MOST / 2, first_cache() * 5 / 6 / int64_t(sizeof(vec)) / terms)); v >= 1; v--) {
            int64_t parts = (wide + v - 1) / v * images, turns = (parts + call.threads - 1) / call.threads;
            int64_t cost = (parts < call.threads ? parts : turns * call.threads) * (v + 2);  // 2: a weight and its place
            if (best < 0 || cost < best) best = cost, vectors = v;
        }
        per_image = inside ? (wide + vectors - 1) / vectors : 0;
        total = inside ? per_image * images : (wide + vectors - 1) / vectors;
        shares = total && total < call.threads ? (call.threads + total - 1) / total : 1;
    }
    Tile at(int64_t i) const {
        int64_t size = vectors * LANES, begin = i * size, end = all;
        if (per_image) {
            begin = i / per_image * pixels + i % per_image * size;
            end = (i / per_image + 1) * pixels;
        }
        return {begin, least(size, end - begin), size};
    }
};

// What a tap reads for the pixels of a tile, in order, without a gap; returns the end of the list.
static SparsePiece* sparse_pieces(const SparseCall& call, const Tile& tile, int64_t tap, SparsePiece* list) {
    SparsePiece* end = list;
    auto add = [&](int64_t to, int64_t from, int64_t count) {
        if (count <= 0) return;
        bool joins = end > list && (from < 0 ? end[-1].from < 0 : call.stride_w == 1 && end[-1].from >= 0 && end[-1].from + end[-1].count == from);
        if (joins)
            end[-1].count += count;
        else
            *end++ = {to, from, count};
    };
    int64_t shift_y = tap / call.kernel_w * call.dilation_h - call.pad_h, shift_x = tap % call.kernel_w * call.dilation_w - call.pad_w;
    int64_t low = shift_x < 0 ? (-shift_x + call.stride_w - 1) / call.stride_w : 0;  // columns of the output that read the image
    int64_t high = call.width - 1 - shift_x < 0 ? 0 : (call.width - 1 - shift_x) / call.stride_w + 1;
    for (int64_t done = 0; done < tile.count;) {
        int64_t line = (tile.begin + done) / call.out_width, at = (tile.begin + done) % call.out_width;
        int64_t here = least(call.out_width - at, tile.count - done), y = line % call.out_height * call.stride_h + shift_y;
        int64_t begin = least(most(low, at), at + here), stop = most(begin, least(high, at + here));
        if (y < 0 || y >= call.height) begin = stop = at + here;
        add(done, -1, begin - at);
        add(done + begin - at, ((line / call.out_height * call.channels) * call.height + y) * call.width + begin * call.stride_w + shift_x,
            stop - begin);
        add(done + stop - at, -1, at + here - stop);
        done += here;
    }
    add(tile.count, -1, tile.padded - tile.count);
    return end;
}

// M vectors (0: `vectors` of them) of each of `count` channels, `step` numbers apart, into rows that are `pitch` apart.
template <int M, int STRIDE>
static void sparse_copy(const float* from, int64_t step, int64_t count, int64_t vectors, float* to, int64_t pitch) {
    ivec even;
    for (int i = 0; i < LANES; i++) even[i] = 2 * i;
    if (M) vectors = M;
    for (; count > 0; count--, from += step, to += pitch)
#pragma GCC unroll 4
        for (int64_t i = 0; i < vectors * LANES; i += LANES) {
            if (STRIDE == 1)
                store(to + i, load(from + i));
            else
                store(to + i, shuffled(load(from + 2 * i), load(from + 2 * i + LANES), even));
        }
}
template <int STRIDE>
static void sparse_copies(const float* from, int64_t step, int64_t count, int64_t vectors, float* to, int64_t pitch) {
    auto copy = vectors == 1 ? sparse_copy<1, STRIDE> : vectors == 2 ? sparse_copy<2, STRIDE> : vectors == 3 ? sparse_copy<3, STRIDE>
              : vectors == 4 ? sparse_copy<4, STRIDE> : sparse_copy<0, STRIDE>;
    copy(from, step, count, vectors, to, pitch);
}

// The rows of `count` terms, channels one after the other at one tap. Pieces are in order, and there is room for LANES numbers
// behind each row: so that whole vectors are written, and what is written beyond a piece is overwritten by the next.
static void sparse_fill(const SparsePiece* piece, const SparsePiece* end, const float* x, int64_t area, int64_t count, const float* x_end,
                        int64_t stride, float* rows_of, int64_t pitch) {
    for (; piece < end; piece++) {
        int64_t vectors = (piece->count + LANES - 1) / LANES, safe = 0;
        float* to = rows_of + piece->to;
        if (piece->from < 0) {
            for (int64_t t = 0; t < count; t++)
                for (int64_t i = 0; i < vectors; i++) store(to + t * pitch + i * LANES, vec{});
            continue;
        }
        const float* from = x + piece->from;
        if (stride <= 2) {  // channels for which whole vectors may be read
            int64_t room = (x_end - from) - stride * vectors * LANES;
            safe = room < 0 ? 0 : least(count, room / area + 1);
            (stride == 1 ? sparse_copies<1> : sparse_copies<2>)(from, area, safe, vectors, to, pitch);
        }
        for (int64_t t = safe; t < count; t++)
            for (int64_t i = 0; i < piece->count; i++) to[t * pitch + i] = from[t * area + i * stride];
    }
}

template <typename U>
INLINE float* sparse_part(float* to, const float*& from) {
    typedef typename U::type memory;
    *reinterpret_cast<memory*>(to) = *reinterpret_cast<const memory*>(from);
    from += sizeof(memory) / sizeof(float);
    return to + sizeof(memory) / sizeof(float);
}
// The first `count` numbers of a vector, fewer than LANES.
INLINE void store_some(float* to, vec v, int64_t count) {
    float numbers[LANES];
    store(numbers, v);
    const float* from = numbers;
    if (LANES > 8 && count & 8) to = sparse_part<Eight>(to, from);
    if (LANES > 4 && count & 4) to = sparse_part<Four>(to, from);
    for (count &= 3; count; count--) *to++ = *from++;
}
INLINE vec load_some(const float* from, int64_t count) {
    float numbers[LANES] = {};
    for (int64_t i = 0; i < count; i++) numbers[i] = from[i];
    return load(numbers);
}

// Rows [begin, end) of a block on one tile of V vectors. Sums wait in `sums` between a row's blocks; the last one writes to y and
// reads the residual where `y` is not null.
template <int V>
static void sparse_rows(const SparseCall& call, const SparseBlock& block, int64_t begin, int64_t end, const float* tile, float* sums,
                        float* y, const float* residual, int64_t pixels, int64_t real) {
    constexpr int64_t P = V * LANES;
    constexpr int U = V > 4 ? 1 : V > 2 ? 2 : 4;  // sums in turn, that none waits for the one before
    const int32_t* starts = call.starts + block.starts - block.row_begin;
    for (int64_t r = begin; r < end; r++) {
        vec sum[U][V];
#pragma GCC unroll 4
        for (int u = 0; u < U; u++)
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) sum[u][v] = vec{};
        if (!block.first) {
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) sum[0][v] = load(sums + r * P + v * LANES);
        } else if (call.bias) {
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) sum[0][v] = vec{} + call.bias[r];
        }
        int64_t k = starts[r], stop = starts[r + 1];
        auto add = [&](uint32_t term, float w, int u) FORCED_LAMBDA {
            const float* x = tile + term * (P + LANES);
            IGC_HOLD_ADDRESS(x);
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) sum[u][v] += load(x + v * LANES) * w;
        };
        for (; k + 4 <= stop; k += 4) {
            uint32_t four;  // terms, by one load: loads are what takes the time
            std::memcpy(&four, call.terms + k, 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) add(four >> (LITTLE ? 8 * i : 24 - 8 * i) & 255, call.values[k + i], i % U);
        }
        for (; k < stop; k++) add(call.terms[k], call.values[k], 0);
#pragma GCC unroll 4
        for (int u = 1; u < U; u++)
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) sum[0][v] += sum[u][v];
        if (block.last && call.activation)
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) sum[0][v] = activate(sum[0][v], int(call.activation));
        if (!block.last || !y) {
#pragma GCC unroll 14
            for (int v = 0; v < V; v++) store(sums + r * P + v * LANES, sum[0][v]);
            continue;
        }
        float* out = y + r * pixels;
        const float* more = residual ? residual + r * pixels : nullptr;
#pragma GCC unroll 14
        for (int v = 0; v < V; v++) {
            int64_t left = real - v * LANES;
            bool whole = left >= LANES;
            if (left <= 0) break;
            vec found = sum[0][v];
            if (more) found += whole ? load(more + v * LANES) : load_some(more + v * LANES, left);
            if (call.final) found = activate(found, int(call.final));
            if (whole)
                store(out + v * LANES, found);
            else
                store_some(out + v * LANES, found, left);
        }
    }
}

typedef void (*SparseRows)(const SparseCall&, const SparseBlock&, int64_t, int64_t, const float*, float*, float*, const float*, int64_t, int64_t);
template <size_t... I>
INLINE SparseRows sparse_rows_of(int64_t vectors, std::index_sequence<I...>) {
    static const SparseRows known[] = {sparse_rows<int(I) + 1>...};
    return known[vectors - 1];
}

static void forward_sparse(const SparseCall& call) {
    int64_t most_terms = 1;
    for (int64_t b = 0; b < call.count; b++) most_terms = most(most_terms, call.blocks[b].terms);
    SparseCut cut(call, most_terms);
    if (cut.all == 0) return;
    int64_t size = cut.vectors * LANES, pitch = size + LANES, taps = call.kernel_h * call.kernel_w, area = call.height * call.width;
    int64_t most_pieces = 3 * (size / call.out_width + 2) + 1;
    SparseRows run = sparse_rows_of(cut.vectors, std::make_index_sequence<SparseCut::MOST>());
    const float* x_end = call.x + call.images * call.channels * area;
    int64_t items = cut.total * cut.shares;
#pragma omp parallel num_threads(int(least(call.threads, items)))
    {
        size_t numbers = size_t(most_terms * pitch + call.out_channels * size);
        char* memory = static_cast<char*>(arena.reserve(numbers * sizeof(float) + size_t(taps) * (most_pieces * sizeof(SparsePiece) + sizeof(void*))));
        float* rows_of = reinterpret_cast<float*>(memory);
        float* sums = rows_of + most_terms * pitch;
        SparsePiece* pieces = reinterpret_cast<SparsePiece*>(sums + call.out_channels * size);
        SparsePiece** ends = reinterpret_cast<SparsePiece**>(pieces + taps * most_pieces);
        int n = thread_count(), me = thread_number();
        for (int64_t i = items * me / n; i < items * (me + 1) / n; i++) {
            Tile tile = cut.at(i / cut.shares);
            int64_t share = i % cut.shares;
            int64_t from_row = call.out_channels * share / cut.shares, to_row = call.out_channels * (share + 1) / cut.shares;
            for (int64_t t = 0; t < taps; t++) ends[t] = sparse_pieces(call, tile, t, pieces + t * most_pieces);
            float* y = nullptr;
            const float* residual = nullptr;
            if (cut.per_image) {
                int64_t at = tile.begin / cut.pixels * call.out_channels * cut.pixels + tile.begin % cut.pixels;
                y = call.y + at;
                residual = call.residual ? call.residual + at : nullptr;
            }
            int64_t term = 0;
            for (int64_t b = 0; b < call.count; b++) {
                const SparseBlock& block = call.blocks[b];
                int64_t begin = most(block.row_begin, from_row), end = least(block.row_end, to_row);
                if (begin < end) {
                    for (int64_t t = 0, length; t < block.terms; t += length) {
                        const int32_t *tap = call.tap_of + term + t, *channel = call.channel_of + term + t;
                        for (length = 1; t + length < block.terms && tap[length] == *tap && channel[length] == *channel + length;) length++;
                        sparse_fill(pieces + *tap * most_pieces, ends[*tap], call.x + *channel * area, area, length, x_end, call.stride_w,
                                    rows_of + t * pitch, pitch);
                    }
                    run(call, block, begin, end, rows_of, sums, y, residual, cut.pixels, tile.count);
                }
                term += block.terms;
            }
            if (cut.per_image) continue;
            for (int64_t done = 0; done < tile.count;) {  // the stretch of each image
                int64_t image = (tile.begin + done) / cut.pixels, at = (tile.begin + done) % cut.pixels;
                int64_t here = least(cut.pixels - at, tile.count - done), begin = (image * call.out_channels + from_row) * cut.pixels + at;
                lines(sums + from_row * size + done, size, call.residual ? call.residual + begin : nullptr, cut.pixels, call.y + begin,
                      cut.pixels, here, to_row - from_row, int(call.final));
                done += here;
            }
        }
    }
}

#undef IGC_HOLD_ADDRESS

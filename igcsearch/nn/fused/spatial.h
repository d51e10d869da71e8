// Products that begin with a k x k factor, for one instruction set: included by kernels.h. No include guard.
//
// The input of a tile lies in zero-padded planes, one for each phase of the stride: plane (a, b) holds the padded input at rows
// s i + a and columns s j + b. A tap (dy, dx) of the kernel then is a pointer: plane (dy % s, dx % s), shifted by dy / s rows and
// dx / s places, and the k x k convolution the same walk over rows as a 1x1, with k*k terms for each channel. Rows are `pitch`
// places apart, just so far that a step over a row's end meets zeros; images follow one another in the same way.

// What a thread works on at a time: whole images, or rows of one; `lines` of the grid that rows and the gaps between them make.
struct Band {
    bool whole;
    int64_t image, images, row, rows, lines;
};

struct Bands {
    int64_t each, in_image, total, lines;  // images of a band (0: bands are parts of images); bands of an image; bands; most lines

    Bands(const igc_space& s, int threads) {
        int64_t high = s.out_height + s.gap, places = most(1, high * s.pitch);
        if (places <= 2 * s.tile || s.out_height < 8) {
            each = most(1, least(s.tile / places, (s.images + threads - 1) / threads));
            in_image = 1;
            total = (s.images + each - 1) / each;
            lines = each * high;
        } else {
            each = 0;
            in_image = (s.out_height + rows(s) - 1) / rows(s);
            total = in_image * s.images;
            lines = rows(s) + s.gap;
        }
    }
    static int64_t rows(const igc_space& s) {
        int64_t wanted = most(4, s.tile / s.pitch), parts = (s.out_height + wanted - 1) / wanted;
        return (s.out_height + parts - 1) / parts;
    }
    Band at(int64_t i, const igc_space& s) const {
        if (each) {
            int64_t images = least(each, s.images - i * each);
            return {true, i * each, images, 0, s.out_height, images * (s.out_height + s.gap)};
        }
        int64_t row = i % in_image * rows(s), here = most(0, least(rows(s), s.out_height - row));
        return {false, i / in_image, 1, row, here, here + (i % in_image == in_image - 1 ? s.gap : 0)};
    }
};

// Calls work(image, line of the band, row of the image, phase, count) for each run of rows of the input that `lines` lines of the
// planes hold: from that row on every stride-th, from that line on every one.
template <typename Work>
INLINE void input_rows(const igc_space& s, const Band& band, int64_t lines, Work work) {
    int64_t high = s.out_height + s.gap, begin = band.whole ? 0 : band.row, end = band.whole ? high : band.row + lines;
    for (int64_t i = 0; i < band.images; i++)
        for (int64_t phase = 0; phase < s.stride; phase++) {
            int64_t bottom = s.height - 1 + s.pad - phase;
            int64_t first = most(begin, (s.pad - phase + s.stride - 1) / s.stride), last = least(end - 1, bottom / s.stride);
            if (bottom < 0 || first > last) continue;
            work(band.image + i, (band.whole ? i * high : 0) + first - begin, first * s.stride + phase - s.pad, phase, last - first + 1);
        }
}

// Numbers at even and at odd places apart; N of each at a time, the last of an even row in steps that may overlap.
template <typename U, int N>
INLINE int64_t part_by(const float* source, float* evens, float* odds, int64_t n) {
    typedef typename U::type memory;
    typename U::places even, odd;
    for (int i = 0; i < N; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
    int64_t x = 0, whole = n / 2 * 2;
    if (whole < 2 * N) return 0;
    while (true) {
        typename U::value a = *reinterpret_cast<const memory*>(source + x), b = *reinterpret_cast<const memory*>(source + x + N);
        *reinterpret_cast<memory*>(evens + x / 2) = shuffled(a, b, even);
        *reinterpret_cast<memory*>(odds + x / 2) = shuffled(a, b, odd);
        x += 2 * N;
        if (x >= whole) return whole;
        x = least(x, whole - 2 * N);
    }
}
INLINE void part(const float* source, float* evens, float* odds, int64_t n) {
    int64_t x = part_by<Whole, LANES>(source, evens, odds, n);
    if (LANES > 8 && !x) x = part_by<Eight, 8>(source, evens, odds, n);
    if (LANES > 4 && !x) x = part_by<Four, 4>(source, evens, odds, n);
    for (; x < n; x++) {
        float* target = x % 2 ? odds : evens;
        target[x / 2] = source[x];
    }
}

// Rows of the image into the planes of their phase, and back; `step` between the rows that follow one another in a plane.
INLINE void spread(const float* source, int64_t step, float* planes, int64_t plane, const igc_space& s, int64_t count) {
    if (s.stride == 1) {
        lines(source, step, nullptr, 0, planes + s.pad, s.pitch, s.width, count, NONE);
        return;
    }
    for (int64_t i = 0; i < count; i++, source += step, planes += s.pitch) {
        if (s.stride == 2) {  // columns of one parity go to one plane
            int64_t odd = 1 - s.pad % 2;  // phase of the odd columns
            part(source, planes + (1 - odd) * plane + s.pad / 2, planes + odd * plane + (1 + s.pad) / 2, s.width);
            continue;
        }
        for (int64_t x = 0; x < s.width; x++) planes[(x + s.pad) % s.stride * plane + (x + s.pad) / s.stride] = source[x];
    }
}
INLINE void collect(const float* planes, float* target, int64_t step, int64_t plane, const igc_space& s, int64_t count) {
    if (s.stride == 1) {
        lines(planes + s.pad, s.pitch, nullptr, 0, target, step, s.width, count, NONE);
        return;
    }
    for (int64_t i = 0; i < count; i++, target += step, planes += s.pitch)
        for (int64_t phase = 0; phase < s.stride; phase++) {
            int64_t first = ((phase - s.pad) % s.stride + s.stride) % s.stride;  // column of the image
            const float* source = planes + phase * plane + (first + s.pad) / s.stride;
            for (int64_t x = first, j = 0; x < s.width; x += s.stride, j++) target[x] = source[j];
        }
}

// The pixels of a tensor that a band touches: rows [row, row + rows) of one image, or whole images.
INLINE Tile stretch(const Band& band, int64_t row, int64_t rows, int64_t height, int64_t width) {
    Tile tile = {band.image * height * width, band.images * height * width, 0};
    if (!band.whole) {
        int64_t top = most(0, row), bottom = least(height, row + rows);
        tile.begin += top * width;
        tile.count = most(0, bottom - top) * width;
    }
    tile.padded = round_up(tile.count, LANES);
    return tile;
}

// Where the rows of a tensor are read and written in float32: in the tensor, or in `dense`, channel after channel.
struct View {
    float* data;
    int64_t channels, height, width, begin, stride;  // stride 0: in the tensor

    float* row(int64_t image, int64_t y, int64_t c) const {
        if (!stride) return data + ((image * channels + c) * height + y) * width;
        return data + c * stride + (image * height + y) * width - begin;
    }
};
INLINE bool plain(const igc_shape& shape) { return !shape.channels_last && !shape.bfloat16; }
INLINE int64_t dense_stride(const Tile& tile) { return tile.padded + LANES; }
static View view(const igc_tensor& x, const igc_shape& shape, int64_t height, int64_t width, const Tile& tile, float* dense, bool read) {
    if (plain(shape)) return {static_cast<float*>(x.data), x.channels, height, width, 0, 0};
    igc_shape here = shape;
    here.pixels = height * width;
    if (read) fetch(x, here, tile, dense, dense_stride(tile));
    return {dense, x.channels, height, width, tile.begin, dense_stride(tile)};
}
INLINE void put_view(const igc_tensor& y, const igc_shape& shape, const View& from, const Tile& tile, float** list) {
    if (plain(shape)) return;
    igc_shape here = shape;
    here.pixels = from.height * from.width;
    point(from.data, y.channels, from.stride, list);
    put(y, here, tile, list);
}

// One channel's planes for `lines` lines of a band; what lies between images and rows is zero already.
INLINE void fill_plane(const igc_space& s, const Band& band, int64_t lines, const View& from_view, int64_t c, float* planes, int64_t plane) {
    input_rows(s, band, lines, [&](int64_t image, int64_t at, int64_t row, int64_t phase, int64_t count) FORCED_LAMBDA {
        spread(from_view.row(image, row, c), s.stride * s.width, planes + phase * s.stride * plane + at * s.pitch, plane, s, count);
    });
}

// Asks for the rows that fill_plane will read.
INLINE void fetch_ahead(const igc_space& s, const Band& band, int64_t lines, const View& from_view, int64_t c) {
    int64_t top = band.whole ? 0 : most(0, band.row * s.stride - s.pad);
    int64_t bottom = band.whole ? s.height : least(s.height, (band.row + lines) * s.stride - s.pad);
    for (int64_t i = 0; i < band.images; i++) {
        const char* p = reinterpret_cast<const char*>(from_view.row(band.image + i, top, c));
        const char* end = reinterpret_cast<const char*>(from_view.row(band.image + i, top, c) + (bottom - top) * s.width);
        for (; p < end; p += 64) __builtin_prefetch(p, 0, 2);  // into the second cache: the first has few misses to spare
    }
}

// The input's planes for `lines` lines of a band, each channel `room` numbers after the one before.
static void fill_planes(const igc_space& s, const igc_shape& shape, const igc_tensor& x, const Band& band, int64_t lines,
                        float* planes, int64_t room, int64_t plane, float* dense) {
    Tile part = stretch(band, band.row * s.stride - s.pad, lines * s.stride, s.height, s.width);
    View from_view = view(x, shape, s.height, s.width, part, dense, true);
    std::memset(planes, 0, sizeof(float) * room * x.channels);
    for (int64_t c = 0; c < x.channels; c++) fill_plane(s, band, lines, from_view, c, planes + c * room, plane);
}

// Calls work(image, row of the image, line of the band, count) for each run of rows of the output in the band, `before` rows above
// it included.
template <typename Work>
INLINE void output_rows(const igc_space& s, const Band& band, int64_t before, Work work) {
    int64_t first = most(-before, -band.row);
    for (int64_t i = 0; i < band.images; i++)
        work(band.image + i, band.row + first, i * (s.out_height + s.gap) + first, band.rows - first);
}

// Where each tap of the kernel lies in a channel's planes.
static std::vector<int64_t> shifts_of(const igc_space& s, int64_t plane) {
    std::vector<int64_t> shifts;
    for (int64_t dy = 0; dy < s.kernel; dy++)
        for (int64_t dx = 0; dx < s.kernel; dx++)
            shifts.push_back((dy % s.stride * s.stride + dx % s.stride) * plane + dy / s.stride * s.pitch + dx / s.stride);
    return shifts;
}

// The pointers of a group's terms: every tap of every channel.
INLINE void taps(const std::vector<int64_t>& shifts, const igc_factor& factor, int64_t g, const float* const* in, const float** terms) {
    for (int64_t l = 0; l < factor.in; l++) {
        const float* channel = in[factor.source[g * factor.in + l]];
        for (int64_t shift : shifts) *terms++ = channel + shift;
    }
}

// One channel by one 3x3 filter, R lines of V vectors at a time: lines share what they load.
template <int S, int R, int V>
INLINE void filter(const float* planes, int64_t plane, int64_t pitch, const float* w, float bias, int kind, float* out, int64_t width) {
    vec sum[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sum[r][v] = vec{} + bias;
#pragma GCC unroll 16
    for (int row = 0; row < S * (R - 1) + 3; row++)  // of the padded input
#pragma GCC unroll 3
        for (int dx = 0; dx < 3; dx++) {
            const float* x = planes + (row % S * S + dx % S) * plane + row / S * pitch + dx / S;
            vec part[V];
            for (int v = 0; v < V; v++) {
                part[v] = load(x + v * LANES);
                IGC_HOLD(part[v]);  // once, and not again for each line
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                int dy = row - S * r;
                if (dy >= 0 && dy < 3)
                    for (int v = 0; v < V; v++) sum[r][v] += part[v] * w[dy * 3 + dx];
            }
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(out + r * width + v * LANES, activate(sum[r][v], kind));
}
// Lines of `width` numbers, one right behind the other. In one of less than a vector the rest is overwritten by the next line.
template <int S, int R>
INLINE void filter_lines(const float* planes, int64_t plane, int64_t pitch, const float* w, float bias, int kind, float* out, int64_t width) {
    int64_t p = 0;
    for (; p + 2 * LANES <= width; p += 2 * LANES) filter<S, R, 2>(planes + p, plane, pitch, w, bias, kind, out + p, width);
    if (width - p > LANES) {
        filter<S, R, 1>(planes + p, plane, pitch, w, bias, kind, out + p, width);
        p += LANES;
    }
    if (p == width) return;
    p = most(0, width - LANES);
    filter<S, R, 1>(planes + p, plane, pitch, w, bias, kind, out + p, width);
}
template <int S>
static void channel_wise(const float* planes, int64_t plane, int64_t pitch, int64_t lines, const float* w, float bias, int kind, float* out,
                         int64_t width) {
    constexpr int R = LANES < 16 ? 2 : 4;
    int64_t i = 0;
    for (; i + R <= lines; i += R) filter_lines<S, R>(planes + i * pitch, plane, pitch, w, bias, kind, out + i * width, width);
    for (; i < lines; i++) filter_lines<S, 1>(planes + i * pitch, plane, pitch, w, bias, kind, out + i * width, width);
}

// Lines that are walked each by itself, vectors that reach over their ends included; shorter ones are walked all at once, with the
// gaps between them, which are then left out.
INLINE bool by_lines(const igc_space& s) { return s.out_width >= LANES - LANES / 4; }

// Row after row of a band, gaps left out: `image_step` between the images.
INLINE void close_gaps(const igc_space& s, const Band& band, const float* from_row, float* to_row, int64_t image_step) {
    for (int64_t i = 0; i < band.images; i++)
        lines(from_row + i * (s.out_height + s.gap) * s.pitch, s.pitch, nullptr, 0, to_row + i * image_step, s.out_width, s.out_width,
              band.rows, NONE);
}

// A channel-wise factor of `factor.out` filters a channel: row `row` of its output for a band, without gaps.
INLINE void filter_row(const igc_space& s, const Band& band, const std::vector<int64_t>& shifts, const igc_factor& factor, int64_t row,
                       const float* planes, int64_t plane, int kind, const float** scratch, float* gapped, float* out, int64_t image_step) {
    const float* w = factor.weight + row * s.kernel * s.kernel;
    float bias = factor.bias ? factor.bias[row] : 0.0f;
    int64_t high = s.out_height + s.gap;
    if (s.kernel == 3 && s.stride <= 2 && by_lines(s)) {
        for (int64_t i = 0; i < band.images; i++)
            (s.stride == 1 ? channel_wise<1> : channel_wise<2>)(planes + i * high * s.pitch, plane, s.pitch, band.rows, w, bias, kind,
                                                                out + i * image_step, s.out_width);
        return;
    }
    int64_t at = 0;
    for (int64_t shift : shifts) scratch[at++] = planes + shift;
    int64_t places = round_up((band.whole ? band.lines : band.rows) * s.pitch, LANES);
    group(scratch, at, w, at, 1, factor.bias ? &bias : nullptr, kind, &gapped, 1, stretch_of(places));
    close_gaps(s, band, gapped, out, image_step);
}

// Sizes, in numbers, of what a thread keeps for a band.
struct Room {
    int64_t places, plane, planes, behind, origin, dense_in, dense_out;

    Room(const igc_space& s, const igc_shape& shape, const Bands& bands, int64_t in_channels, int64_t out_channels) {
        int64_t lines = bands.lines, shift = s.reach * s.pitch + s.reach;
        places = round_up(lines * s.pitch, LANES) + 2 * LANES;
        plane = places + shift;
        planes = s.stride * s.stride * plane + LANES;
        origin = shift;
        behind = round_up(shift, LANES) + places;
        int64_t rows_in = bands.each ? bands.each * s.height : (lines + s.reach) * s.stride;
        int64_t rows_out = bands.each ? bands.each * s.out_height : lines + s.reach;
        dense_in = plain(shape) ? 0 : in_channels * (rows_in * s.width + 3 * LANES);
        dense_out = plain(shape) ? 0 : out_channels * (rows_out * s.out_width + 3 * LANES);
    }
};

// y's rows from those of the last factor, gaps left out: the residual added, then the activation.
static void finish(const igc_space& s, const igc_shape& shape, const igc_tensor& y, const igc_tensor& residual, int kind,
                   const Band& band, int64_t each, float* const* placed, float* dense_residual) {
    Tile part = stretch(band, band.row, band.rows, s.out_height, s.out_width);
    igc_shape here = shape;
    here.pixels = s.out_height * s.out_width;
    if (plain(shape)) {
        for (int64_t c = 0; c < y.channels; c++)
            for (int64_t i = 0; i < band.images; i++) {
                int64_t at = ((band.image + i) * y.channels + c) * here.pixels + band.row * s.out_width;
                lines(placed[c] + i * each, 0, residual.data ? static_cast<float*>(residual.data) + at : nullptr, 0,
                      static_cast<float*>(y.data) + at, 0, each, 1, kind);
            }
        return;
    }
    if (residual.data) fetch(residual, here, part, dense_residual, dense_stride(part));
    if (residual.data || kind != NONE)
        for (int64_t c = 0; c < y.channels; c++)
            lines(placed[c], 0, residual.data ? dense_residual + c * dense_stride(part) : nullptr, 0, placed[c], 0, part.padded, 1, kind);
    put(y, here, part, placed);
}

static void forward_spatial(const igc_space& s, const igc_shape& shape, const igc_factor* factors, int64_t count,
                            const igc_tensor& x, const igc_tensor& y, const igc_tensor& residual, const int32_t* destination,
                            int kind) {
    Bands bands(s, shape.threads);
    if (bands.total == 0) return;
    const igc_factor& first = factors[0];
    int64_t channels = most(most(widest(factors, count), x.channels), y.channels), terms = first.in * s.kernel * s.kernel;
    Room room(s, shape, bands, x.channels, y.channels);
    bool channel_by_channel = first.in == 1;
    int threads = int(least(shape.threads, bands.total));
    // The last factor writes into y where that is laid out as its rows are and nothing else is between them.
    int last_kind = factors[count - 1].activation;
    bool into_y = plain(shape) && (last_kind == NONE || (!residual.data && kind == NONE));
    into_y = into_y && (count > 1 ? s.out_height * s.out_width >= LANES : by_lines(s) && s.out_width >= LANES && !(channel_by_channel && residual.data));
    if (into_y && last_kind == NONE) last_kind = kind;
    int64_t pixels = s.out_height * s.out_width;
    const std::vector<int64_t> shifts = shifts_of(s, room.plane);
#pragma omp parallel num_threads(threads)
    {
        int64_t own = channel_by_channel ? 2 * room.planes + channels * room.places : x.channels * room.planes;
        size_t numbers = own + (2 * channels + first.out) * room.places + room.dense_in + room.dense_out;
        char* memory = static_cast<char*>(arena.reserve(round_up(numbers, 2) * sizeof(float) + (6 * channels + terms) * sizeof(float*)));
        float* planes = reinterpret_cast<float*>(memory);
        float* buffers[2] = {planes + own, planes + own + channels * room.places};
        float* gapped = buffers[1] + channels * room.places;  // rows of one branch of the first factor, with gaps
        float* dense = gapped + first.out * room.places;
        float** in = reinterpret_cast<float**>(memory + round_up(numbers, 2) * sizeof(float));
        float** out = in + channels;
        float** placed = out + channels;
        float** list = placed + channels;
        float** ends = list + channels;   // of y, by rows of the last factor
        float** added = ends + channels;  // likewise of the residual
        const float** scratch = const_cast<const float**>(added + channels);
        int n = thread_count(), me = thread_number();
        for (int64_t i = bands.total * me / n; i < bands.total * (me + 1) / n; i++) {
            Band band = bands.at(i, s);
            if (!band.rows) continue;
            int64_t grid = band.whole ? band.lines : band.rows;  // lines of the planes
            int64_t each = band.rows * s.out_width, high = s.out_height + s.gap;
            bool direct = into_y && each >= LANES;
            if (direct) {
                int64_t at = band.image * y.channels * pixels + band.row * s.out_width;
                for (int64_t c = 0; c < y.channels; c++) {
                    ends[c] = static_cast<float*>(y.data) + at + destination[c] * pixels;
                    added[c] = static_cast<float*>(residual.data) + (residual.data ? at + destination[c] * pixels : 0);
                }
            }
            const float* const* more = direct && residual.data ? added : nullptr;
            // Branch g of a pointwise factor, from rows without gaps.
            auto branch = [&](int64_t f, int64_t g, const float* const* from_rows, float* const* to_rows) FORCED_LAMBDA {
                const igc_factor& factor = factors[f];
                const float* weight = factor.weight + g * factor.group_stride;
                const float* bias = factor.bias ? factor.bias + g * factor.out : nullptr;
                if (!direct || f < count - 1) {
                    group(from_rows, factor.in, weight, factor.row_stride, factor.term_stride, bias, factor.activation,
                          to_rows + g * factor.out, factor.out, stretch_of(band.images * each));
                    return;
                }
                if (g + 1 < factor.groups)  // what the next branch will write
                    for (int64_t o = 0; o < factor.out; o++)
                        for (int64_t p = 0; p < each; p += 16) __builtin_prefetch(ends[(g + 1) * factor.out + o] + p, 1, 2);
                for (int64_t j = 0; j < band.images; j++) {
                    Walk walk = stretch_of(each);
                    walk.in = j * each;
                    walk.out = j * y.channels * pixels;
                    group(from_rows, factor.in, weight, factor.row_stride, factor.term_stride, bias, last_kind, ends + g * factor.out,
                          factor.out, walk, more ? more + g * factor.out : nullptr);
                }
            };
            int64_t done = 1;  // factors
            bool alone = direct && count == 1;
            int64_t image_step = alone ? y.channels * pixels : each;
            int first_kind = alone ? last_kind : first.activation;
            if (channel_by_channel) {
                // One branch of the next factor after the other: its channels are filtered just before it reads them.
                Tile part = stretch(band, band.row * s.stride - s.pad, (grid + s.reach) * s.stride, s.height, s.width);
                View from_view = view(x, shape, s.height, s.width, part, dense, true);
                const igc_factor& next = factors[count > 1];
                std::memset(planes, 0, sizeof(float) * 2 * room.planes);
                point(buffers[0], next.groups * next.out, room.places, out);
                float* filtered = planes + 2 * room.planes;
                int64_t branches = count > 1 ? next.groups : next.groups * next.out, width = count > 1 ? next.in : 1;
                // Planes are filled one channel ahead, so that what is loaded was not stored a moment ago.
                auto channel_at = [&](int64_t at) { return first.source[(count > 1 ? next.source[at] : int32_t(at)) / first.out]; };
                int64_t which = 0, all = branches * width;
                fill_plane(s, band, grid + s.reach, from_view, channel_at(0), planes, room.plane);
                for (int64_t g = 0; g < branches; g++) {
                    for (int64_t l = 0; l < width; l++) {
                        int64_t at = g * width + l, row = count > 1 ? next.source[at] : at;
                        int64_t here = which;
                        if (at + 1 < all && channel_at(at + 1) != channel_at(at)) {
                            which = 1 - which;
                            fill_plane(s, band, grid + s.reach, from_view, channel_at(at + 1), planes + which * room.planes, room.plane);
                            if (at + 2 * first.out < all) fetch_ahead(s, band, grid + s.reach, from_view, channel_at(at + 2 * first.out));
                        }
                        float* target = count > 1 ? filtered + l * room.places : alone ? ends[g] : out[g];
                        filter_row(s, band, shifts, first, row, planes + here * room.planes, room.plane, first_kind, scratch, gapped, target, image_step);
                        list[l] = target;
                    }
                    if (count > 1) branch(1, g, list, out);
                }
                done = count > 1 ? 2 : 1;
            } else {
                fill_planes(s, shape, x, band, grid + s.reach, planes, room.planes, room.plane, dense);
                point(planes, x.channels, room.planes, in);
                point(buffers[0], first.groups * first.out, room.places, out);
                for (int64_t g = 0; g < first.groups; g++) {
                    taps(shifts, first, g, in, scratch);
                    const float* weight = first.weight + g * first.out * terms;
                    const float* bias = first.bias ? first.bias + g * first.out : nullptr;
                    float** targets = (alone ? ends : out) + g * first.out;
                    if (by_lines(s)) {
                        for (int64_t j = 0; j < band.images; j++)
                            for (int64_t p = 0; p < s.out_width; p += LANES) {
                                int64_t column = most(0, least(p, s.out_width - LANES));
                                Walk walk = {j * high * s.pitch + column, j * image_step + column, s.pitch, s.out_width, band.rows, -1};
                                group(scratch, terms, weight, terms, 1, bias, first_kind, targets, first.out, walk,
                                      alone && more ? more + g * first.out : nullptr);
                            }
                    } else {
                        point(gapped, first.out, room.places, list);
                        group(scratch, terms, weight, terms, 1, bias, first_kind, list, first.out,
                              stretch_of(round_up(grid * s.pitch, LANES)));
                        for (int64_t o = 0; o < first.out; o++) close_gaps(s, band, list[o], targets[o], image_step);
                    }
                }
            }
            std::swap(in, out);
            for (int64_t f = done; f < count; f++) {
                const igc_factor& factor = factors[f];
                point(buffers[(f - done + 1) % 2], factor.groups * factor.out, room.places, out);
                for (int64_t g = 0; g < factor.groups; g++) {
                    for (int64_t l = 0; l < factor.in; l++) list[l] = in[factor.source[g * factor.in + l]];
                    branch(f, g, list, out);
                }
                std::swap(in, out);
            }
            if (direct) continue;
            for (int64_t c = 0; c < y.channels; c++) placed[destination[c]] = in[c];
            finish(s, shape, y, residual, kind, band, each, placed, dense + room.dense_in);
        }
    }
}

static void backward_spatial(const igc_space& s, const igc_shape& shape, const igc_factor* factors, int64_t count,
                             const igc_tensor& x, const igc_tensor& dy, const igc_tensor& dx, const int32_t* destination) {
    Bands bands(s, shape.threads);
    const igc_factor& first = factors[0];
    int64_t area = s.kernel * s.kernel, terms = first.in * area, weights = first.groups * first.out * terms;
    for (int64_t f = 1; f < count; f++) weights += factors[f].groups * factors[f].in * factors[f].out;
    int64_t channels = most(most(widest(factors, count), x.channels), dy.channels);
    int threads = int(most(1, least(shape.threads, bands.total)));
    float* sums = static_cast<float*>(std::calloc(size_t(threads) * weights + 1, sizeof(float)));
    // The first factor's weights by phase, branch and input channel, each a run over output channels and the taps of that phase.
    float* turned = static_cast<float*>(std::malloc(sizeof(float) * (first.groups * first.out * terms + 1)));
    if (!sums || !turned) std::abort();
    int64_t phases = s.stride * s.stride, begins[64], taps_of[64];
    for (int64_t q = 0, at = 0; q < phases; q++) {
        begins[q] = at;
        taps_of[q] = 0;
        for (int64_t t = 0; t < area; t++)
            if (t / s.kernel % s.stride * s.stride + t % s.kernel % s.stride == q) taps_of[q]++;
        for (int64_t g = 0; g < first.groups; g++)
            for (int64_t l = 0; l < first.in; l++)
                for (int64_t o = 0; o < first.out; o++)
                    for (int64_t t = 0; t < area; t++)
                        if (t / s.kernel % s.stride * s.stride + t % s.kernel % s.stride == q)
                            turned[at++] = first.weight[((g * first.out + o) * first.in + l) * area + t];
    }
    Room room(s, shape, bands, x.channels, dy.channels);
    int64_t shortcut = most(terms, first.out * area);
    const std::vector<int64_t> shifts = shifts_of(s, room.plane);
    int used = 1;
#pragma omp parallel num_threads(threads)
    {
        int n = thread_count(), me = thread_number();
        if (me == 0) used = n;
        size_t numbers = x.channels * room.planes + (count - 1) * channels * room.places + 2 * channels * room.behind +
                         x.channels * phases * room.places + 2 * room.dense_in + room.dense_out;
        size_t lists = (count + 6) * channels + shortcut;
        char* memory = static_cast<char*>(arena.reserve(round_up(numbers, 2) * sizeof(float) + lists * sizeof(float*)));
        float* planes = reinterpret_cast<float*>(memory);
        float* between = planes + x.channels * room.planes;
        float* gradients[2] = {between + (count - 1) * channels * room.places, between + (count - 1) * channels * room.places + channels * room.behind};
        float* planes_back = gradients[1] + channels * room.behind;
        float* dense = planes_back + x.channels * phases * room.places;
        float** pointers = reinterpret_cast<float**>(memory + round_up(numbers, 2) * sizeof(float));
        auto list_of = [&](int64_t k) { return pointers + k * channels; };
        float** behind = list_of(count);
        float** before = list_of(count + 1);
        float** targets = list_of(count + 2);
        float** list = list_of(count + 3);
        float** own = list_of(count + 4);
        const float** few = const_cast<const float**>(list_of(count + 5));
        const float** scratch = const_cast<const float**>(list_of(count + 6));
        for (int64_t i = bands.total * me / n; i < bands.total * (me + 1) / n; i++) {
            Band band = bands.at(i, s);
            if (!band.rows) continue;
            int64_t extent = round_up(band.lines * s.pitch, LANES);
            fill_planes(s, shape, x, band, band.lines + s.reach, planes, room.planes, room.plane, dense);
            point(planes, x.channels, room.planes, list_of(0));
            for (int64_t f = 0; f + 1 < count; f++) {
                const igc_factor& factor = factors[f];
                point(between + f * channels * room.places, factor.groups * factor.out, room.places, list_of(f + 1));
                if (f) {
                    apply(factor, list_of(f), list_of(f + 1), nullptr, NONE, stretch_of(extent), const_cast<float**>(few));
                } else {
                    for (int64_t g = 0; g < factor.groups; g++) {
                        taps(shifts, factor, g, list_of(0), scratch);
                        group(scratch, terms, factor.weight + g * factor.out * terms, terms, 1, nullptr, NONE,
                              list_of(1) + g * factor.out, factor.out, stretch_of(extent));
                    }
                }
            }
            // dy by rows of the last factor, with the lines above that the taps reach.
            int64_t above = band.whole ? 0 : s.reach;
            Tile part = stretch(band, band.row - above, band.rows + above, s.out_height, s.out_width);
            View from_view = view(dy, shape, s.out_height, s.out_width, part, dense + 2 * room.dense_in, true);
            int64_t all = round_up(room.origin + extent, LANES);
            int now = 0;
            for (int64_t c = 0; c < dy.channels; c++) {
                behind[c] = gradients[0] + c * room.behind;
                std::memset(behind[c], 0, sizeof(float) * room.behind);
                output_rows(s, band, above, [&](int64_t image, int64_t row, int64_t at, int64_t rows) FORCED_LAMBDA {
                    lines(from_view.row(image, row, destination[c]), s.out_width, nullptr, 0, behind[c] + room.origin + at * s.pitch,
                          s.pitch, s.out_width, rows, NONE);
                });
            }
            float* sum = sums + size_t(me) * weights + weights;
            for (int64_t f = count - 1; f > 0; f--) {
                const igc_factor& factor = factors[f];
                int64_t read = factor.groups * factor.in;
                sum -= read * factor.out;
                point(gradients[1 - now], read, room.behind, before);
                for (int64_t c = 0; c < factor.groups * factor.out; c++) own[c] = behind[c] + room.origin;
                for (int64_t g = 0; g < factor.groups; g++) {
                    for (int64_t l = 0; l < factor.in; l++) {
                        int32_t row = factor.source[g * factor.in + l];
                        few[l] = list_of(f)[row];
                        targets[l] = before[row];
                    }
                    weigh(own + g * factor.out, factor.out, few, factor.in, extent, sum + g * factor.in * factor.out, nullptr);
                    group(behind + g * factor.out, factor.out, factor.weight + g * factor.group_stride, factor.term_stride,
                          factor.row_stride, nullptr, NONE, targets, factor.in, stretch_of(all));
                }
                now = 1 - now;
                float** swap = behind;
                behind = before;
                before = swap;
            }
            sum -= first.groups * first.out * terms;
            for (int64_t c = 0; c < first.groups * first.out; c++) own[c] = behind[c] + room.origin;
            for (int64_t g = 0; g < first.groups; g++) {
                taps(shifts, first, g, list_of(0), scratch);
                weigh(own + g * first.out, first.out, scratch, terms, extent, sum + g * first.out * terms, nullptr);
            }
            if (!dx.data) continue;
            for (int64_t q = 0; q < phases; q++)
                for (int64_t g = 0; g < first.groups; g++) {
                    const float** at = scratch;
                    for (int64_t o = 0; o < first.out; o++)
                        for (int64_t t = 0; t < area; t++) {
                            int64_t y = t / s.kernel, z = t % s.kernel;
                            if (y % s.stride * s.stride + z % s.stride == q)
                                *at++ = own[g * first.out + o] - y / s.stride * s.pitch - z / s.stride;
                        }
                    int64_t length = first.out * taps_of[q];
                    for (int64_t l = 0; l < first.in; l++)
                        targets[l] = planes_back + (first.source[g * first.in + l] * phases + q) * room.places;
                    group(scratch, length, turned + begins[q] + g * first.in * length, length, 1, nullptr, NONE, targets, first.in, stretch_of(extent));
                }
            Tile back = stretch(band, band.row * s.stride - s.pad, band.lines * s.stride, s.height, s.width);
            View to_view = view(dx, shape, s.height, s.width, back, dense + room.dense_in, false);
            for (int64_t c = 0; c < dx.channels; c++)
                input_rows(s, band, band.lines, [&](int64_t image, int64_t at, int64_t row, int64_t phase, int64_t rows) FORCED_LAMBDA {
                    collect(planes_back + (c * phases + phase * s.stride) * room.places + at * s.pitch, to_view.row(image, row, c),
                            s.stride * s.width, room.places, s, rows);
                });
            put_view(dx, shape, to_view, back, list);
        }
    }
    add_up(factors, count, sums, used, weights, area);
    std::free(sums);
    std::free(turned);
}

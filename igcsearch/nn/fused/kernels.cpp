// Products of group 1x1 convolutions, fused: one read and one write of the activation, whatever the number of factors.
//
// A tile of pixels goes through all factors while it lies in the cache; every permutation is an index of a row pointer, so that
// shuffles cost nothing. The same walk with transposed weights gives the gradient of the input, and one that also recomputes
// the intermediates gives the gradients of the weights. Sums are in float32 whatever the tensors hold. Work is cut into tiles by
// sizes and the number of threads, and each thread has a fixed range of them: a run with as many threads gives the same numbers.
//
// A plain C face without torch's or Python's headers: built in seconds, loaded by ctypes (library.py), called by shared.py.
// kernels.h holds the code; it is compiled here once for each instruction set and chosen when the program runs.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define IGC_X86 1
#endif

#if defined(__clang__)
#define IGC_PRAGMA(text) _Pragma(#text)
#define IGC_TARGET_BEGIN(set) IGC_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define IGC_TARGET_END _Pragma("clang attribute pop")
#endif

namespace {

// One factor of a product, as the walk over it needs it. Row r of the factor's output is
// sum_l weight[group * group_stride + (r % out) * row_stride + l * term_stride] * input row source[group * in + l].
struct igc_factor {
    int64_t groups, in, out;  // branches; channels of one branch, read and written
    const int32_t* source;    // rows of the step before, in the order in which this factor reads them; length groups * in
    const float* weight;
    int64_t group_stride, row_stride, term_stride;
    float* gradient;          // of the weight, laid out as it; only in backward passes
    const float* bias;        // by row, or null
    int32_t activation;       // behind the bias
};

// A tensor of activations (n images, channels, pixels), contiguous or channels last, float32 or bfloat16.
struct igc_tensor {
    void* data;
    int64_t channels;
};

struct igc_shape {
    int64_t images, pixels;
    int32_t channels_last, bfloat16, threads, tile;
};

// Of a product that begins with a k x k factor of stride s, padded by k / 2: its maps, and the grid of places that spatial.h walks.
struct igc_space {
    int64_t images, height, width, out_height, out_width, kernel, stride, tile;
    int64_t pad, gap, reach, pitch;  // gap: zeros between rows, and between images; reach: the farthest shift of a tap

    igc_space() = default;
    explicit igc_space(const int64_t* a)
        : images(a[0]), height(a[1]), width(a[2]), out_height(a[3]), out_width(a[4]), kernel(a[5]), stride(a[6]), tile(a[10]),
          pad(kernel / 2), gap((pad + stride - 1) / stride), reach((kernel - 1) / stride), pitch(out_width + gap) {}
};

// Of a sparse convolution: sparse.h.
struct SparseBlock {
    int32_t row_begin, row_end, terms, first, last, starts;  // first and last of its rows; where its rows' starts begin
};

struct SparseCall {
    const float* x;
    float* y;
    const float* residual;
    int64_t final, images, channels, height, width, out_channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w,
        pad_h, pad_w, dilation_h, dilation_w, threads;
    const float* values;
    const uint8_t* terms;
    const int32_t *starts, *channel_of, *tap_of;  // of each row's kept weights; of each term, block after block
    const SparseBlock* blocks;
    int64_t count;
    const float* bias;  // or null
    int64_t activation;

    explicit SparseCall(const int64_t* a)
        : x(as<float>(a[0])), y(reinterpret_cast<float*>(a[1])), residual(as<float>(a[2])), final(a[3]), images(a[4]), channels(a[5]),
          height(a[6]), width(a[7]), out_channels(a[8]), out_height(a[9]), out_width(a[10]), kernel_h(a[11]), kernel_w(a[12]),
          stride_h(a[13]), stride_w(a[14]), pad_h(a[15]), pad_w(a[16]), dilation_h(a[17]), dilation_w(a[18]), threads(a[19]),
          values(as<float>(a[20])), terms(as<uint8_t>(a[21])), starts(as<int32_t>(a[22])), channel_of(as<int32_t>(a[23])),
          tap_of(as<int32_t>(a[24])), blocks(as<SparseBlock>(a[25])), count(a[26]), bias(as<float>(a[27])), activation(a[28]) {}

private:
    template <typename T>
    static const T* as(int64_t address) { return reinterpret_cast<const T*>(address); }
};

// A stretch of a term's row of a tile: `count` numbers at `to`, read from `from` on in the term's channel; zeros where that is negative.
struct SparsePiece {
    int64_t to, from, count;
};

// Memory of one thread, kept between calls.
struct Arena {
    char* base = nullptr;
    size_t size = 0;
    ~Arena() { std::free(base); }
    void* reserve(size_t bytes) {
        if (bytes > size) {
            std::free(base);
            size = (bytes + 4095) / 4096 * 4096;
            base = static_cast<char*>(std::aligned_alloc(4096, size));
            if (!base) { size = 0; std::abort(); }
        }
        return base;
    }
};
thread_local Arena arena;

inline int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
inline int thread_count() {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}
// Bytes of the first cache.
inline int64_t first_cache() {
#ifdef _SC_LEVEL1_DCACHE_SIZE
    static const int64_t said = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    if (said > 0) return said;
#endif
    return 32 * 1024;
}
constexpr int MOST_FACTORS = 32;
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

}

#define IGC_LANES 4
namespace baseline {
#include "kernels.h"
}
#undef IGC_LANES

#ifdef IGC_X86
#if defined(__clang__)
IGC_TARGET_BEGIN("avx2,fma")
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define IGC_LANES 8
namespace avx2 {
#include "kernels.h"
}
#undef IGC_LANES
#if defined(__clang__)
IGC_TARGET_END
IGC_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define IGC_LANES 16
namespace avx512 {
#include "kernels.h"
}
#undef IGC_LANES
#if defined(__clang__)
IGC_TARGET_END
#else
#pragma GCC pop_options
#endif
#endif

namespace {

int best_level() {
#ifdef IGC_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}
int level = best_level();

}

#ifdef IGC_X86
#define IGC_DISPATCH(call) (level == 2 ? avx512::call : level == 1 ? avx2::call : baseline::call)
#else
#define IGC_DISPATCH(call) (baseline::call)
#endif

extern "C" {

#ifndef IGC_SOURCE
#define IGC_SOURCE "unknown"
#endif

// What this library was compiled from, so that one of another source is not taken for it.
const char* igc_source() { return IGC_SOURCE; }

// The instruction set in use: 2 AVX-512, 1 AVX2, 0 neither. A lower one may be asked for, by tests; -1 asks for the best.
int igc_level(int wanted) {
    if (wanted >= -1) level = wanted < 0 || wanted > best_level() ? best_level() : wanted;
    return level;
}

// Arguments come as one list of 64-bit numbers, which costs a caller in Python least. Common to both calls:
//   images, height, width, out_height, out_width, kernel and stride of the first factor (1 and 1: the product is pointwise),
//   channels_last, bfloat16, threads, tile; number of factors; index (int32: the source of every factor, one after the other, then
//   the destination); then for each factor: groups, in, out, weight, gradient (or 0), bias by row (float32, or 0), activation.
// The last factor's row r is y's channel destination[r].
namespace {

struct Call {
    igc_shape shape;
    igc_space space;
    int64_t count;
    const int32_t* destination;
    igc_factor factors[MOST_FACTORS];

    // Reads the common part from `a` on; weights are laid out (groups, out, in, kernel, kernel).
    explicit Call(const int64_t* a) {
        space = igc_space(a);
        shape = {a[0], a[1] * a[2], int32_t(a[7]), int32_t(a[8]), int32_t(a[9]), int32_t(a[10])};
        count = a[11];
        const int32_t* index = reinterpret_cast<const int32_t*>(a[12]);
        a += 13;
        for (int64_t f = 0; f < count; f++, a += 7) {
            int64_t in = a[1], out = a[2];
            factors[f] = {a[0], in, out, index, reinterpret_cast<const float*>(a[3]), out * in, in, 1,
                          reinterpret_cast<float*>(a[4]), reinterpret_cast<const float*>(a[5]), int32_t(a[6])};
            index += a[0] * in;
        }
        destination = index;
    }
    bool pointwise() const { return space.kernel == 1 && space.stride == 1; }
};

igc_tensor tensor(int64_t data, int64_t channels) { return {reinterpret_cast<void*>(data), channels}; }

}

// y = activation(product of the factors, of x, + residual). `a`: x, its channels, y, its channels, residual (as y; or 0), activation
// behind it, then the common part.
void igc_forward(const int64_t* a) {
    Call call(a + 6);
    igc_tensor x = tensor(a[0], a[1]), y = tensor(a[2], a[3]), residual = tensor(a[4], a[3]);
    if (call.pointwise() && !residual.data && !a[5])
        IGC_DISPATCH(forward(call.shape, call.factors, call.count, x, y, call.destination));
    else
        IGC_DISPATCH(forward_spatial(call.space, call.shape, call.factors, call.count, x, y, residual, call.destination, int(a[5])));
}

// Gradients of the weights into each factor's `gradient` (overwritten), of x into dx where it is not 0. `a`: x, its channels, dy,
// its channels, dx, then the common part.
void igc_backward(const int64_t* a) {
    Call call(a + 5);
    igc_tensor x = tensor(a[0], a[1]), dy = tensor(a[2], a[3]), dx = tensor(a[4], a[1]);
    if (call.pointwise())
        IGC_DISPATCH(backward(call.shape, call.factors, call.count, x, dy, dx, call.destination));
    else
        IGC_DISPATCH(backward_spatial(call.space, call.shape, call.factors, call.count, x, dy, dx, call.destination));
}

// y = final(activation(sparse convolution of x, + bias) + residual), float32, contiguous. `a`, as sparse.h names them: x, y, residual
// (as y; or 0), final; images, channels, height, width; out_channels, out_height, out_width; kernel, stride, padding and dilation,
// two numbers each; threads; values, terms, starts, channel_of, tap_of, blocks, their
// number, bias (or 0), activation.
void igc_sparse(const int64_t* a) { IGC_DISPATCH(forward_sparse(SparseCall(a))); }

}

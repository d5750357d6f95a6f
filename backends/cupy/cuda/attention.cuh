// Attention's core, tile by tile: what its three kernels share. Queries [b, h, q, d], keys and values [b, h, k, d].
//
// A block of threads has TALL = 16 WARPS queries (or keys) of one head, each warp 16, and goes through all keys (or
// queries), WIDE at a time. Scores are in registers as products.cuh has them, one tile at a time; a product's first
// factor goes by way of shared memory. Defined before: Value, Result and Sum, Id; WIDTH, d up to a multiple of 16;
// WARPS; WIDE; MASK (0: none, 1: keep [b, k], 2: keep [q, k]); CAUSAL, DROPOUT.

const int TALL = 16 * WARPS, THREADS = 32 * WARPS, GAP = 16 / sizeof(Value), LD = WIDTH + GAP, LP = WIDE + GAP;
const int TILES = WIDE / 8, COLUMNS = WIDTH / 8;
// Less than every score, a masked one too.
const float NONE = -3e38f;

struct alignas(16) Chunk {
    unsigned int part[4];
};

// Where an operand's head begins, and its strides in elements along rows and d.
template <class T>
struct Head {
    T* start;
    long long row, column;

    __device__ inline Head(T* all, long long b, long long h, long long b_step, long long h_step, long long s, long long d)
        : start(all + b * b_step + h * h_step), row(s), column(d) {}
};

// Rows `first` to first + ROWS into shared memory, zeros behind the last and in columns behind d.
template <int ROWS>
__device__ inline void load(Value* to, const Head<const Value>& from, long long first, long long rows, int width) {
    const Value* const start = from.start + first * from.row;
    const bool packed = width == WIDTH && from.column == 1 && ((size_t)start | (size_t)(from.row * sizeof(Value))) % 16 == 0;
    const int left = rows - first < ROWS ? int(rows - first) : ROWS;
    if (packed) {
        const int chunks = WIDTH / GAP;
        for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
            const int r = i / chunks, c = i % chunks * GAP;
            *(Chunk*)(to + r * LD + c) = r < left ? *(const Chunk*)(start + r * from.row + c) : Chunk{{0, 0, 0, 0}};
        }
        return;
    }
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
        const int r = i / WIDTH, c = i % WIDTH;
        const bool inside = r < left && c < width;
        to[r * LD + c] = inside ? start[r * from.row + c * from.column] : convert<Value>(0.0f);
    }
}

// A warp's tile of the first factor of a product: rows lane / 4 and lane / 4 + 8, columns two by two.
__device__ inline void put(Value* to, const Sum (&tile)[TILES][4]) {
    const int row = threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
    // Whoever read what was there before has done so.
    __syncwarp();
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[(row + 8 * (i / 2)) * LP + 8 * n + column + i % 2] = convert<Value>(tile[n][i]);
    }
    __syncwarp();
}

template <int N>
__device__ inline void clear(Sum (&tile)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) tile[n][i] = Sum(0);
    }
}

// The warp's 16 rows of a result, times a factor for each row.
__device__ inline void store(
    const Head<Result>& to, const Sum (&tile)[COLUMNS][4], long long first, long long rows, int width, const Sum* factors) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const long long row = first + 16 * warp + lane / 4 + 8 * (i / 2);
            const int column = 8 * n + 2 * (lane % 4) + i % 2;
            if (row < rows && column < width)
                to.start[row * to.row + column * to.column] = convert<Result>(tile[n][i] * factors[i / 2]);
        }
    }
}

// Which scores count, and which of the probabilities dropout keeps.
struct Mask {
    const bool* keep;
    long long keep_b, keep_q, keep_k;  // strides of keep
    long long ahead;                   // query q sees keys k <= q + ahead
    long long queries, keys;
    unsigned int threshold;
    long long origin, query_step;      // the number of element (q, k) in the tensor is origin + q * query_step + k
    Keys draws;

    __device__ inline bool sees(long long q, long long k) const {
        if (CAUSAL && k > q + ahead) return false;
        return MASK == 0 || keep[q * keep_q + k * keep_k];
    }

    __device__ inline bool keeps(long long q, long long k) const {
        return draw(draws, origin + q * query_step + k) >= threshold;
    }

    // Both of (q, k) and (q, k + 1): one hash, where they are a pair.
    __device__ inline void keeps_two(long long q, long long k, bool* both) const {
        const long long element = origin + q * query_step + k;
        if (element % 2) {
            both[0] = draw(draws, element) >= threshold;
            both[1] = draw(draws, element + 1) >= threshold;
            return;
        }
        const unsigned int bits = pair_bits(draws, (unsigned long long)element >> 1);
        both[0] = (bits & 0xFFFFu) >= threshold;
        both[1] = bits >> 16 >= threshold;
    }

    // The keys that some query below `q` sees.
    __device__ inline long long keys_before(long long q) const {
        if (!CAUSAL || q + ahead >= keys) return keys;
        return q + ahead > 0 ? q + ahead : 0;
    }
};

// What every kernel is given of masks, in this order.
#define MASK_PARAMETERS                                                                                              \
    const bool *keep, long long keep_b, long long keep_q, long long keep_k, long long ahead, const Id *seed,         \
        const Id *step, long long key, unsigned int threshold, long long origin, long long b_step, long long h_step, \
        long long query_step
// All threads make it, for the head (b, h).
#define MAKE_MASK(mask)                                                                                     \
    Mask mask;                                                                                              \
    mask.keep = MASK ? keep + b * keep_b : keep;                                                            \
    mask.keep_q = keep_q, mask.keep_k = keep_k, mask.ahead = ahead, mask.queries = queries, mask.keys = keys; \
    mask.threshold = threshold, mask.origin = origin + b * b_step + h * h_step, mask.query_step = query_step; \
    if (DROPOUT) write_keys(*seed, *step, key, &mask.draws)

// The scores' scaling and mask, on a tile whose rows are queries from `q` on and whose columns are keys from `k` on.
// Behind the last key there is none: its score is NONE, and its probability 0.
__device__ inline void mask_scores(Sum (&z)[TILES][4], const Mask& mask, long long q, long long k, Sum scale) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const long long row = q + lane / 4 + 8 * (i / 2), column = k + 8 * n + 2 * (lane % 4) + i % 2;
            z[n][i] *= scale;
            if (column >= mask.keys) z[n][i] = NONE;
            else if (row < mask.queries && !mask.sees(row, column)) z[n][i] = Sum(-1e30);
        }
    }
}

// The largest score of a row so far, those of its half of a tile included; the four lanes that share the row have it.
__device__ inline Sum raised(Sum most, const Sum (&z)[TILES][4], int half) {
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
        most = most < z[n][2 * half] ? z[n][2 * half] : most;
        most = most < z[n][2 * half + 1] ? z[n][2 * half + 1] : most;
    }
    return row_top(most);
}

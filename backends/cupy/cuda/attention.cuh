// Attention's core, tile by tile: what its three kernels share. Queries [b, h, g, q, d], keys and values [b, h, k, d],
// one head for each GROUP of queries'.
//
// A block of threads has TALL queries (or keys) of one head, each warp HIGH fragments of 16, and goes through all keys (or
// queries), WIDE at a time: while one tile of them is computed with, the next is on its way. Scores are in registers as
// products.cuh has them, one tile at a time.
//
// With SIGHT, arguments say which query sees which key. Columns of which no row of a block of threads may see one are
// not even loaded, and a warp passes over those of which none of its own rows may: told from the least and the greatest
// of what the rows have, and from what each column has, so that nothing is assumed of an order (sight.cuh).
// Defined before: Value, Result and Sum, Id; GROUP; WIDTH, d up to a multiple of 16; HIGH, WARPS, WIDE; MASK (0: none, 1: keep
// [b, k], 2: keep [q, k]); CAUSAL; DROPOUT; PAIRED, whether each row's first element is the first of a pair and all
// pairs are of page 0 (hash.cuh); STATISTICS; SIGHT, QueryRange, KeyRange and Sight (sight.py).

const int TALL = 16 * HIGH * WARPS, THREADS = 32 * WARPS, GAP = 16 / sizeof(Value), LD = WIDTH + GAP, LP = WIDE + GAP;
const int TILES = WIDE / 8, COLUMNS = WIDTH / 8;
static_assert(WIDE <= THREADS, "each number of a tile is loaded by a thread of its own");
// What is masked is a key of probability 0: a scaled score that is at most MASKED, and in the kernels, for what a query
// does not see or is not there, NONE, far below. A query that sees no key has a sum of 0, O = 0 and no gradient.
const Sum MASKED = Sum(-1e30), NONE = Sum(-3e38);

typedef Products<Value, Sum, HIGH> Multiply;
typedef Sum Scores[HIGH][TILES][4];
typedef Sum Rows[HIGH][COLUMNS][4];
// A number for each row of which a lane has elements.
typedef Sum Numbers[HIGH][2];

// What a block of threads has of shared memory, piece by piece.
struct Pieces {
    unsigned char* free;
    __device__ inline Pieces() {
        extern __shared__ __align__(16) unsigned char memory[];
        free = memory;
    }
    template <class T>
    __device__ inline T* take(int count) {
        T* const piece = (T*)free;
        free += count * sizeof(T);
        return piece;
    }
};

// The warp's own piece, for what has to go by way of shared memory: of what the tensor cores multiply, nothing has.
__device__ inline Value* take_spare(Pieces& pieces) {
    if (sizeof(Value) == 2) return nullptr;
    return pieces.take<Value>(TALL * LP) + threadIdx.x / 32 * 16 * HIGH * LP;
}

// A head: of queries the g-th of the group that shares head h of keys.
struct Place {
    long long b, h, g;

    __device__ inline Place(int number, int heads) : b(number / GROUP / heads), h(number / GROUP % heads), g(number % GROUP) {}
};

// Where an operand's head begins, and its strides in elements along rows and d.
template <class T>
struct Head {
    T* start;
    long long row, column;

    __device__ inline Head(T* all, const Place& at, long long b, long long h, long long s, long long d)
        : start(all + at.b * b + at.h * h), row(s), column(d) {}
    __device__ inline Head(T* all, const Place& at, long long b, long long h, long long g, long long s, long long d)
        : start(all + at.b * b + at.h * h + at.g * g), row(s), column(d) {}
};

// Numbers of the rows of a head.
template <class T>
struct Line {
    T* start;
    long long step;

    __device__ inline Line(T* all, const Place& at, long long b, long long h, long long g, long long s)
        : start(all + at.b * b + at.h * h + at.g * g), step(s) {}
    __device__ inline T& operator[](int row) const { return start[row * step]; }
};

// Sends for rows `first` to first + ROWS, zeros behind the last and in columns behind d; see `await_tiles`.
template <int ROWS>
__device__ inline void send_for(Value* to, const Head<const Value>& from, int first, int rows, int width) {
    const Value* const start = from.start + first * from.row;
    const bool packed = width == WIDTH && from.column == 1 && ((size_t)start | (size_t)(from.row * sizeof(Value))) % 16 == 0;
    const int left = rows - first < ROWS ? rows - first : ROWS;
    if (packed) {
        const int chunks = WIDTH / GAP;
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
            const int r = i / chunks, c = i % chunks * GAP;
            copy_later(to + r * LD + c, r < left ? start + r * from.row + c : from.start, r < left);
        }
        return;
    }
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
        const int r = i / WIDTH, c = i % WIDTH;
        const bool inside = r < left && c < width;
        to[r * LD + c] = inside ? start[r * from.row + c * from.column] : convert<Value>(0.0f);
    }
}

// Until all that was sent for is there, and all threads are done with what they read before.
__device__ inline void await_tiles() {
    await_copies();
    __syncthreads();
}

template <int N>
__device__ inline void clear(Sum (&tile)[HIGH][N][4]) {
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) tile[m][n][i] = Sum(0);
        }
    }
}

// Where a lane's elements of a warp's tile lie.
__device__ inline int warp_row() { return threadIdx.x / 32 * 16 * HIGH; }
__device__ inline int lane_row(int m, int half) { return 16 * m + threadIdx.x % 32 / 4 + 8 * half; }
__device__ inline int lane_column(int n) { return 8 * n + 2 * (threadIdx.x % 4); }

template <class T>
struct alignas(2 * sizeof(T)) Two {
    T v[2];
};

// The warp's rows of a result, each times a factor of its own.
__device__ inline void store(
    const Head<Result>& to, const Rows& tile, int first, int rows, int width, const Numbers& factors) {
    const bool packed = to.column == 1 && ((size_t)to.start | (size_t)(to.row * sizeof(Result))) % sizeof(Two<Result>) == 0;
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + lane_row(m, half);
            if (row >= rows) continue;
            Result* const start = to.start + row * to.row;
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) {
                const int column = lane_column(n);
                Two<Result> both;
#pragma unroll
                for (int i = 0; i < 2; ++i) both.v[i] = convert<Result>(tile[m][n][2 * half + i] * factors[m][half]);
                if (packed && column + 1 < width) *(Two<Result>*)(start + column) = both;
                else {
                    if (column < width) start[column * to.column] = both.v[0];
                    if (column + 1 < width) start[(column + 1) * to.column] = both.v[1];
                }
            }
        }
    }
}

// -- numbers ---------------------------------------------------------------------------------------------------

__device__ inline double power_of_two(double x) { return exp2(x); }
#ifdef GRAPHIR_EMULATED
__device__ inline float power_of_two(float x) { return exp2f(x); }
#else
// To 2 units in the last place, as the machine has it.
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// exp(scale x) = 2^(binary x).
struct Scale {
    Sum natural, binary;
    __device__ inline Scale(Sum scale) : natural(scale), binary(scale * Sum(1.4426950408889634)) {}

    // From a row's maximum and Σ exp(Z − max) of the scaled scores Z, what probabilities are made with; where the sum is
    // 0, any that makes 0 of masked scores.
    __device__ inline Sum shift(Sum top, Sum sum) const {
        return sum == Sum(0) ? Sum(0) : top * Sum(1.4426950408889634) + log2(sum);
    }
    __device__ inline Sum probability(Sum score, Sum shift) const { return power_of_two(score * binary - shift); }

    // A row's maximum before any score: what is masked lies below, what is not above.
    __device__ inline Sum least() const { return MASKED / natural; }
    // exp(scale (score − top)), of a score that is seen or NONE.
    __device__ inline Sum relative(Sum score, Sum top) const { return power_of_two(score * binary - top * binary); }
    // The same of a maximum and a later one: exactly 1 where they are equal, of whatever size.
    __device__ inline Sum shrink(Sum old, Sum top) const { return power_of_two((old - top) * binary); }
};

// -- masks -----------------------------------------------------------------------------------------------------

// Which scores count, and which of the probabilities dropout keeps.
struct Mask {
    const bool* keep;
    long long keep_q, keep_k;  // strides of keep
    int ahead;                 // query q sees keys k <= q + ahead
    int queries, keys;
    unsigned int threshold;
    long long origin, query_step;  // the number of element (q, k) in the tensor is origin + q * query_step + k
    Keys draws;
    Sight sight;

    __device__ inline bool sees(int q, int k) const {
        if (CAUSAL && k > q + ahead) return false;
        if (SIGHT && !Sight::may_see(sight.query(q), sight.key(k))) return false;
        return MASK == 0 || keep[q * keep_q + k * keep_k];
    }

    // Whether all of so many queries from `q` on, some of which may not be, see all of so many keys from `k` on.
    __device__ inline bool sees_all(int q, int k, int wide) const {
        return MASK == 0 && k + wide <= keys && (!CAUSAL || k + wide - 1 <= q + ahead);
    }

    // Whether one of the queries up to `q` may see one of the keys from `k` on.
    __device__ inline bool sees_some(int q, int k) const { return !CAUSAL || k <= q + ahead; }

    __device__ inline bool keeps(int q, int k) const { return draw(draws, origin + q * query_step + k) >= threshold; }

    // The hash of (q, k) and (q, k + 1), where they are a pair, of an even k.
    __device__ inline unsigned int bits(int q, int k) const {
        const unsigned int row = (unsigned int)((unsigned long long)(origin + q * query_step) >> 1);
        return mix_32(row + (unsigned int)k / 2, draws.first, draws.second);
    }

    // Both of (q, k) and (q, k + 1), of an even k.
    __device__ inline void keeps_two(int q, int k, bool* both) const {
        if (!PAIRED) {
            both[0] = keeps(q, k);
            both[1] = keeps(q, k + 1);
            return;
        }
        const unsigned int drawn = bits(q, k);
        both[0] = (drawn & 0xFFFFu) >= threshold;
        both[1] = drawn >> 16 >= threshold;
    }

    // Of (q, k) and (q + 1, k), where the lane that is four away, of this warp, has the other of the keys k and k ^ 1:
    // each makes the hash of a pair.
    __device__ inline void keeps_across(int q, int k, bool* both) const {
        if (!PAIRED) {
            both[0] = keeps(q, k);
            both[1] = keeps(q + 1, k);
            return;
        }
        const int odd = k % 2;
        const unsigned int mine = bits(q + odd, k - odd), other = __shfl_xor_sync(0xffffffffu, mine, 4);
        const unsigned int first = odd ? other : mine, second = odd ? mine : other;
        both[0] = (first >> 16 * odd & 0xFFFFu) >= threshold;
        both[1] = (second >> 16 * odd & 0xFFFFu) >= threshold;
    }

    // The keys that some query below `q` sees.
    __device__ inline int keys_before(int q) const {
        if (!CAUSAL || q + ahead >= keys) return keys;
        return q + ahead > 0 ? q + ahead : 0;
    }
};

// What every kernel is given of masks, in this order.
#define MASK_PARAMETERS                                                                                              \
    const bool *keep, long long keep_b, long long keep_q, long long keep_k, long long ahead, const Id *seed,         \
        const Id *step, long long key, unsigned int threshold, long long origin, long long b_step, long long h_step, \
        long long g_step, long long query_step SIGHT_PARAMETERS
// All threads make it, for the head at `place`.
#define MAKE_MASK(mask, place)                                                                              \
    Mask mask;                                                                                              \
    mask.keep = MASK ? keep + place.b * keep_b : keep;                                                      \
    mask.keep_q = keep_q, mask.keep_k = keep_k, mask.ahead = int(ahead);                                    \
    mask.queries = int(queries), mask.keys = int(keys);                                                     \
    mask.threshold = threshold, mask.query_step = query_step;                                               \
    mask.origin = origin + place.b * b_step + place.h * h_step + place.g * g_step;                          \
    MAKE_SIGHT(mask.sight, place);                                                                          \
    if (DROPOUT) write_keys(*seed, *step, key, &mask.draws)

// The mask on a tile of scores, those of queries from `q` on and keys from `k` on, either of which are its rows: NONE, of
// which the probability is 0, where a query does not see a key, and behind the last query and the last key.
template <bool KEYS_IN_ROWS>
__device__ inline void hide(Scores& z, const Mask& mask, int q, int k) {
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = lane_row(m, i / 2), column = lane_column(n) + i % 2;
                const int query = q + (KEYS_IN_ROWS ? column : row), key = k + (KEYS_IN_ROWS ? row : column);
                if (query >= mask.queries || key >= mask.keys || !mask.sees(query, key)) z[m][n][i] = NONE;
            }
        }
    }
}

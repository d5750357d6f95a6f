// Products of a warp, whose C is in registers: HIGH fragments of 16 rows, of 8 N columns.
//
//     multiply_rows(c, A, B)             C += A • Bᵀ    the rows of both in shared memory
//     multiply_tile(c, tile, spare, B)   C += T • B     T in registers as C is, B in shared memory
//
// Lane l holds of a fragment, of each 8 columns, rows l / 4 and l / 4 + 8 and columns 2 (l % 4) and the next:
//
//     c[n][0], c[n][1] of row l / 4        c[n][2], c[n][3] of row l / 4 + 8
//
// as the tensor cores' m16n8k16 has it. 16-bit factors go to the tensor cores and are added up in float: two tiles of C
// lie in registers as a first factor has to, so T needs no memory. Float and double are multiplied by the ordinary
// units in the same places, and T goes by way of `spare`, the warp's own. All sizes are multiples of 16. A row of shared
// memory is 16 bytes longer than it need be, so that eight of them begin in different banks.

struct Four {
    unsigned int part[4];
};

#ifdef GRAPHIR_EMULATED
// What the instructions do: every lane shows its registers to the others.
template <class Value>
__device__ inline void multiply_fragment(float* c, const unsigned int* a, const unsigned int* b) {
    __shared__ unsigned int shown[32][32][6];
    const int lane = threadIdx.x % 32;
    unsigned int (*const mine)[6] = shown[threadIdx.x / 32];
    for (int i = 0; i < 4; ++i) mine[lane][i] = a[i];
    for (int i = 0; i < 2; ++i) mine[lane][4 + i] = b[i];
    __syncwarp();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        for (int k = 0; k < 16; ++k) {
            const unsigned int x = mine[4 * (row % 8) + k % 8 / 2][row / 8 + 2 * (k / 8)];
            const unsigned int y = mine[4 * column + k % 8 / 2][4 + k / 8];
            c[i] += number(Value{(unsigned short)(x >> 16 * (k % 2))}) * number(Value{(unsigned short)(y >> 16 * (k % 2))});
        }
    }
    __syncwarp();
}

template <bool TURNED, class Value>
__device__ inline Four load_matrices(const Value* row) {
    __shared__ const Value* shown[32][32];
    const int lane = threadIdx.x % 32;
    const Value** const rows = shown[threadIdx.x / 32];
    // An instruction reads 16 bytes a row, which have to begin at a multiple of that.
    (void)*(const Chunk*)row;
    rows[lane] = row;
    __syncwarp();
    Four found;
    for (int i = 0; i < 4; ++i) {
        const int at = lane / 4, two = 2 * (lane % 4);
        const Value low = TURNED ? rows[8 * i + two][at] : rows[8 * i + at][two];
        const Value high = TURNED ? rows[8 * i + two + 1][at] : rows[8 * i + at][two + 1];
        found.part[i] = low.bits | (unsigned int)high.bits << 16;
    }
    __syncwarp();
    return found;
}

template <class Value>
__device__ inline unsigned int two(float low, float high) {
    return convert<Value>(low).bits | (unsigned int)convert<Value>(high).bits << 16;
}
#else
// Volatile: all lanes of a warp have to carry them out together, so they may not be moved to where some need the result.
template <class Value>
__device__ inline void multiply_fragment(float* c, const unsigned int* a, const unsigned int* b);

template <>
__device__ inline void multiply_fragment<float16>(float* c, const unsigned int* a, const unsigned int* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ inline void multiply_fragment<bfloat16>(float* c, const unsigned int* a, const unsigned int* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices of 8 × 8: lane l gives where row l % 8 of matrix l / 8 begins, and gets of each matrix elements
// (l / 4, 2 (l % 4)) and the next; turned, those of its transpose.
template <bool TURNED, class Value>
__device__ inline Four load_matrices(const Value* row) {
    Four found;
    const unsigned int place = (unsigned int)__cvta_generic_to_shared(row);
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
            : "=r"(found.part[0]), "=r"(found.part[1]), "=r"(found.part[2]), "=r"(found.part[3]) : "r"(place) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
            : "=r"(found.part[0]), "=r"(found.part[1]), "=r"(found.part[2]), "=r"(found.part[3]) : "r"(place) : "memory");
    return found;
}

// Two numbers rounded, the first in the lower half.
template <class Value>
__device__ inline unsigned int two(float low, float high);

template <>
__device__ inline unsigned int two<float16>(float low, float high) {
    unsigned int both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

template <>
__device__ inline unsigned int two<bfloat16>(float low, float high) {
    unsigned int both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
#endif

// A warp's tile into shared memory.
template <class Value, class Sum, int N>
__device__ inline void put(Value* to, int ld, const Sum (&tile)[N][4]) {
    const int row = threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[(row + 8 * (i / 2)) * ld + 8 * n + column + i % 2] = convert<Value>(tile[n][i]);
    }
}

// By the ordinary units. A has rows A_LD apart, B rows B_LD apart, and K is what is summed over.
template <class Value, class Sum, int HIGH>
struct Products {
    template <int K, int A_LD, int B_LD, int N>
    static __device__ inline void multiply_rows(Sum (&c)[HIGH][N][4], const Value* A, const Value* B) {
        add<K, A_LD, 1, B_LD>(c, A, B);
    }

    template <int K, int B_LD, int T, int N>
    static __device__ inline void multiply_tile(
        Sum (&c)[HIGH][N][4], const Sum (&tile)[HIGH][T][4], Value* spare, const Value* B) {
        const int ld = 8 * T + 16 / sizeof(Value);
        // Whoever read what was there before has done so.
        __syncwarp();
#pragma unroll
        for (int m = 0; m < HIGH; ++m) put(spare + 16 * m * ld, ld, tile[m]);
        __syncwarp();
        add<K, ld, B_LD, 1>(c, spare, B);
    }

    // Element (k, n) of the second factor lies at k * B_ROW + n * B_COLUMN.
    template <int K, int A_LD, int B_ROW, int B_COLUMN, int N>
    static __device__ inline void add(Sum (&c)[HIGH][N][4], const Value* A, const Value* B) {
        const int row = threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const Value* const b = B + k * B_ROW + (8 * n + column) * B_COLUMN;
                const Sum b0 = b[0], b1 = b[B_COLUMN];
#pragma unroll
                for (int m = 0; m < HIGH; ++m) {
                    const Sum a0 = A[(16 * m + row) * A_LD + k], a1 = A[(16 * m + row + 8) * A_LD + k];
                    c[m][n][0] += a0 * b0;
                    c[m][n][1] += a0 * b1;
                    c[m][n][2] += a1 * b0;
                    c[m][n][3] += a1 * b1;
                }
            }
        }
    }
};

// By the tensor cores. What is loaded of B is multiplied by all of A's fragments.
template <class Value, int HIGH>
struct Narrow {
    template <int K, int A_LD, int B_LD, int N>
    static __device__ inline void multiply_rows(float (&c)[HIGH][N][4], const Value* A, const Value* B) {
        const int lane = threadIdx.x % 32;
        const Value* const a = A + lane % 16 * A_LD + lane / 16 * 8;
        const Value* const b = B + (lane / 16 * 8 + lane % 8) * B_LD + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            Four left[HIGH];
#pragma unroll
            for (int m = 0; m < HIGH; ++m) left[m] = load_matrices<false>(a + 16 * m * A_LD + k);
#pragma unroll
            for (int n = 0; n < N; n += 2) add(c, n, left, load_matrices<false>(b + 8 * n * B_LD + k));
        }
    }

    template <int K, int B_LD, int T, int N>
    static __device__ inline void multiply_tile(
        float (&c)[HIGH][N][4], const float (&tile)[HIGH][T][4], Value* spare, const Value* B) {
        const int lane = threadIdx.x % 32;
        const Value* const b = B + (lane / 8 % 2 * 8 + lane % 8) * B_LD + lane / 16 * 8;
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            Four left[HIGH];
#pragma unroll
            for (int m = 0; m < HIGH; ++m) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float* const x = tile[m][k / 8 + i / 2] + 2 * (i % 2);
                    left[m].part[i] = two<Value>(x[0], x[1]);
                }
            }
#pragma unroll
            for (int n = 0; n < N; n += 2) add(c, n, left, load_matrices<true>(b + k * B_LD + 8 * n));
        }
    }

    template <int N>
    static __device__ inline void add(float (&c)[HIGH][N][4], int n, const Four (&left)[HIGH], const Four& right) {
#pragma unroll
        for (int m = 0; m < HIGH; ++m) {
            multiply_fragment<Value>(c[m][n], left[m].part, right.part);
            multiply_fragment<Value>(c[m][n + 1], left[m].part, right.part + 2);
        }
    }
};

template <int HIGH>
struct Products<float16, float, HIGH> : Narrow<float16, HIGH> {};
template <int HIGH>
struct Products<bfloat16, float, HIGH> : Narrow<bfloat16, HIGH> {};

// What belongs to a row is spread over four lanes.
template <class Sum>
__device__ inline Sum row_sum(Sum x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <class Sum>
__device__ inline Sum row_top(Sum x) {
    x = fmax(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmax(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Products of a warp: C [16, 8 N] += A [16, K] • B [K, 8 N], A and B in shared memory, C in registers.
//
// Lane l holds of C, of each 8 columns, rows l / 4 and l / 4 + 8 and columns 2 (l % 4) and the next:
//
//     c[n][0], c[n][1] of row l / 4        c[n][2], c[n][3] of row l / 4 + 8
//
// as the tensor cores' m16n8k16 has it. 16-bit factors go to the tensor cores and are added up in float; float and
// double are multiplied by the ordinary units in the same places. K is a multiple of 16.

#ifdef GRAPHIR_EMULATED
// What the instruction does: every lane shows its registers to the others and forms its own four sums.
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
#else
// Volatile: all lanes of a warp have to carry it out together, so it may not be moved to where some need its result.
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
#endif

// Two elements that are `step` apart, the first in the lower half.
template <class Value>
__device__ inline unsigned int pair(const Value* x, int step) {
    if (step == 1) return *(const unsigned int*)x;
    return x[0].bits | (unsigned int)x[step].bits << 16;
}

// Element (m, k) of A lies at m * a_row + k, element (k, n) of B at k * b_row + n * b_column.
template <class Value, class Sum, int N>
struct Products {
    static __device__ inline void add(
        Sum (&c)[N][4], const Value* A, int a_row, const Value* B, int b_row, int b_column, int K) {
        const int row = threadIdx.x % 32 / 4, column = 2 * (threadIdx.x % 4);
        for (int k = 0; k < K; ++k) {
            const Sum a0 = A[row * a_row + k], a1 = A[(row + 8) * a_row + k];
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const Value* const b = B + k * b_row + (8 * n + column) * b_column;
                const Sum b0 = b[0], b1 = b[b_column];
                c[n][0] += a0 * b0;
                c[n][1] += a0 * b1;
                c[n][2] += a1 * b0;
                c[n][3] += a1 * b1;
            }
        }
    }
};

template <class Value, int N>
struct Narrow {
    static __device__ inline void add(
        float (&c)[N][4], const Value* A, int a_row, const Value* B, int b_row, int b_column, int K) {
        const int row = threadIdx.x % 32 / 4, two = 2 * (threadIdx.x % 4);
        for (int k = 0; k < K; k += 16) {
            const Value* const a = A + row * a_row + k + two;
            const unsigned int left[4] = {pair(a, 1), pair(a + 8 * a_row, 1), pair(a + 8, 1), pair(a + 8 * a_row + 8, 1)};
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const Value* const b = B + (k + two) * b_row + (8 * n + row) * b_column;
                const unsigned int right[2] = {pair(b, b_row), pair(b + 8 * b_row, b_row)};
                multiply_fragment<Value>(c[n], left, right);
            }
        }
    }
};

template <int N>
struct Products<float16, float, N> : Narrow<float16, N> {};
template <int N>
struct Products<bfloat16, float, N> : Narrow<bfloat16, N> {};

// What belongs to a row is spread over four lanes.
template <class Sum>
__device__ inline Sum row_sum(Sum x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <class Sum>
__device__ inline Sum row_top(Sum x) {
    Sum other = __shfl_xor_sync(0xffffffffu, x, 1);
    x = x < other ? other : x;
    other = __shfl_xor_sync(0xffffffffu, x, 2);
    return x < other ? other : x;
}

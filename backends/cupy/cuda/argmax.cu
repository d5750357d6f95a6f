// ids[row] = the column of the row's largest entry, the first of equals; NaN is larger than all, as NumPy has it.
//
// Value is the dtype of X, Sum what it is compared in, Id the dtype of ids. Rows are numbered over two axes: row
// r lies at (r / row_inner) * row_outer + (r % row_inner) * row_inner_step. Strides are in elements. A block of
// threads takes a row at a time.

const int THREADS = 256;

__device__ bool is_better(Sum a, long long at, Sum b, long long where)
{
    const bool a_is_nan = !(a == a), b_is_nan = !(b == b);
    if (a_is_nan != b_is_nan) return a_is_nan;
    if (a_is_nan || a == b) return at < where;
    return a > b;
}

extern "C" __global__ void __launch_bounds__(256) run(
    const Value* X, Id* ids, long long rows, long long length, long long row_inner,
    long long X_row_outer, long long X_row_inner, long long ids_row_outer, long long ids_row_inner, long long step)
{
    __shared__ Sum best[THREADS];
    __shared__ long long places[THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const Value* const x = X + (row / row_inner) * X_row_outer + (row % row_inner) * X_row_inner;
        // Beyond the row's end, its first entry again: it is never better than itself.
        long long place = threadIdx.x < length ? threadIdx.x : 0;
        Sum top = number(x[place * step]);
        for (long long j = threadIdx.x + THREADS; j < length; j += THREADS) {
            const Sum entry = number(x[j * step]);
            if (is_better(entry, j, top, place)) {
                top = entry;
                place = j;
            }
        }
        best[threadIdx.x] = top;
        places[threadIdx.x] = place;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) {
                const int other = threadIdx.x + half;
                if (is_better(best[other], places[other], best[threadIdx.x], places[threadIdx.x])) {
                    best[threadIdx.x] = best[other];
                    places[threadIdx.x] = places[other];
                }
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) ids[(row / row_inner) * ids_row_outer + (row % row_inner) * ids_row_inner] = Id(places[0]);
        __syncthreads();
    }
}

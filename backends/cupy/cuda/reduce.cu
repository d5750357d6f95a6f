// Y[row] = the sum of X's row, of rows that lie in any way: a row is the entries (o, i) of two axes, o * step_outer +
// i * step_inner from its beginning; rows themselves are numbered over two axes likewise. Strides are in elements.
//
// Value is the dtype of what is read and written, Sum what is added up in. A block of threads takes a row at a time;
// every thread its share in order, then halves of the threads the sums of the others: no two runs differ.

const int THREADS = 256;

extern "C" __global__ void __launch_bounds__(256) run(
    const Value* X, Value* Y, long long rows, long long length, long long row_inner,
    long long X_row_outer, long long X_row_inner, long long Y_row_outer, long long Y_row_inner,
    long long inner, long long step_outer, long long step_inner)
{
    __shared__ Sum sums[THREADS];
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const Value* const x = X + (row / row_inner) * X_row_outer + (row % row_inner) * X_row_inner;
        Sum sum = 0;
        for (long long j = threadIdx.x; j < length; j += THREADS)
            sum += number(x[(j / inner) * step_outer + (j % inner) * step_inner]);
        sums[threadIdx.x] = sum;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0)
            Y[(row / row_inner) * Y_row_outer + (row % row_inner) * Y_row_inner] = convert<Value>(sums[0]);
        __syncthreads();
    }
}

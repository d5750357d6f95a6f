// New rows [b, *h, s, d] into a cache [b, *h, n, d] where it lies: row i of sequence b becomes row (start[b] + i) mod n.
//
// The dims *h are numbered row-major; h lies at (h / inner) * outer_step + (h % inner) * inner_step. Strides are in
// elements. No more rows are written than the cache has: none is written twice.

extern "C" __global__ void run(
    Value* cache, const Value* rows, const Id* start, long long count, long long heads, long long inner, long long news,
    long long all, int width, long long cache_b, long long cache_outer, long long cache_inner, long long cache_row,
    long long cache_column, long long rows_b, long long rows_outer, long long rows_inner, long long rows_row,
    long long rows_column, long long start_b)
{
    for (long long r = blockIdx.x; r < count; r += gridDim.x) {
        const long long i = r % news, h = r / news % heads, b = r / news / heads;
        const long long row = ((long long)start[b * start_b] + i) % all;
        Value* const to = cache + b * cache_b + h / inner * cache_outer + h % inner * cache_inner + row * cache_row;
        const Value* const from = rows + b * rows_b + h / inner * rows_outer + h % inner * rows_inner + i * rows_row;
        for (int column = threadIdx.x; column < width; column += blockDim.x)
            to[column * cache_column] = from[column * rows_column];
    }
}

// Embedding lookup, in an embedding matrix E [V, D] or a block of its rows, of ids T [*b].
//
// Value is the dtype of E and X, Id that of T. The positions *b are numbered row-major; position r lies at
// (r / inner) * outer_step + (r % inner) * inner_step. Strides are in elements.

// X[r] = E[T[r] - first], or 0 where that row is in another block. A block of threads for a position at a time.
extern "C" __global__ void run(
    const Value* E, const Id* T, Value* X, long long positions, int width, long long rows, long long first,
    long long inner, long long T_outer, long long T_inner, long long X_outer, long long X_inner, long long X_column,
    long long E_row, long long E_column)
{
    for (long long r = blockIdx.x; r < positions; r += gridDim.x) {
        const long long row = (long long)T[(r / inner) * T_outer + (r % inner) * T_inner] - first;
        const bool inside = row >= 0 && row < rows;
        Value* const target = X + (r / inner) * X_outer + (r % inner) * X_inner;
        for (int column = threadIdx.x; column < width; column += blockDim.x)
            target[column * X_column] = inside ? E[row * E_row + column * E_column] : convert<Value>(0.0f);
    }
}

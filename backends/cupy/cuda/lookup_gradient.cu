// The gradient of an embedding lookup, dE [V, D] or a block of its rows, from dX [*b, D] and ids T [*b].
//
// Value is the dtype of dX and dE, Sum what is added up in, Id the dtype of T. The positions *b are numbered row-major;
// position r lies at (r / inner) * outer_step + (r % inner) * inner_step. Strides are in elements.

// dE[v] = sum of dX[r] over the positions r with T[r] - first = v, in the order of the positions: no two runs differ.
//
// A block of threads owns `cse` rows of dE and goes through all ids, THREADS at a time. It lists the positions of its
// own rows, in order, and adds them up whenever the list is full; every element is added to by one thread alone.
const int THREADS = 256, WARPS = THREADS / 32, LISTED = 1024;

__device__ void add_listed(
    const long long* listed, const int* listed_row, int count, bool again, const Value* dX, Value* dE, int width,
    int share, long long from, long long rows, long long inner, long long dX_outer, long long dX_inner,
    long long dX_column, long long dE_row, long long dE_column)
{
    for (int own = 0; own < share && from + own < rows; own++) {
        for (int column = threadIdx.x; column < width; column += THREADS) {
            Value* const target = dE + (from + own) * dE_row + column * dE_column;
            Sum sum = again ? Sum(number(*target)) : Sum(0);
            for (int i = 0; i < count; i++) {
                if (listed_row[i] == own) {
                    const long long r = listed[i];
                    sum += number(dX[(r / inner) * dX_outer + (r % inner) * dX_inner + column * dX_column]);
                }
            }
            *target = convert<Value>(sum);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) run(
    const Id* T, const Value* dX, Value* dE, long long positions, int width, long long rows, long long first,
    int share, long long inner, long long T_outer, long long T_inner, long long dX_outer, long long dX_inner,
    long long dX_column, long long dE_row, long long dE_column)
{
    __shared__ long long listed[LISTED];
    __shared__ int listed_row[LISTED];
    __shared__ int found[WARPS];
    const long long from = (long long)blockIdx.x * share;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int count = 0;
    bool again = false;
    for (long long start = 0; start < positions; start += THREADS) {
        const long long r = start + threadIdx.x;
        long long own = -1;
        if (r < positions) own = (long long)T[(r / inner) * T_outer + (r % inner) * T_inner] - first - from;
        const bool mine = own >= 0 && own < share;
        const unsigned votes = __ballot_sync(0xffffffffu, mine);
        if (lane == 0) found[warp] = __popc(votes);
        __syncthreads();
        int before = count + __popc(votes & ((1u << lane) - 1));
        for (int i = 0; i < WARPS; i++) {
            if (i < warp) before += found[i];
            count += found[i];
        }
        if (mine) {
            listed[before] = r;
            listed_row[before] = (int)own;
        }
        // Also: nobody writes `found` again before all have read it.
        __syncthreads();
        if (count > LISTED - THREADS) {
            add_listed(listed, listed_row, count, again, dX, dE, width, share, from, rows, inner, dX_outer, dX_inner,
                       dX_column, dE_row, dE_column);
            count = 0;
            again = true;
            __syncthreads();
        }
    }
    if (count > 0 || !again)
        add_listed(listed, listed_row, count, again, dX, dE, width, share, from, rows, inner, dX_outer, dX_inner,
                   dX_column, dE_row, dE_column);
}

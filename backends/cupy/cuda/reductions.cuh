// Sums and maxima over a team of threads that works on one row: a warp, or a whole block of TEAM threads.
//
// All threads of a team get the result, and the order of additions depends on the team's size alone: results are the
// same bits at every run. A maximum is NaN where one of the numbers is.

template <class T>
__device__ inline T larger(T a, T b) { return b > a || b != b ? b : a; }

// What a maximum starts from.
template <class T>
__device__ inline T lowest() { return T(__uint_as_float(0xFF800000u)); }

template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, apart);
    return x;
}

template <class T>
__device__ inline T warp_max(T x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) x = larger(x, __shfl_xor_sync(0xFFFFFFFFu, x, apart));
    return x;
}

// One number of each warp, seen by all.
template <class T>
__device__ inline T* of_warps(T x) {
    __shared__ T slots[32];
    __syncthreads();  // whoever still reads what was there before
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
    __syncthreads();
    return slots;
}

template <int TEAM, class T>
__device__ inline T team_sum(T x) {
    x = warp_sum(x);
    if (TEAM == 32) return x;
    const T* each = of_warps(x);
    T total = each[0];
#pragma unroll
    for (int warp = 1; warp < TEAM / 32; ++warp) total += each[warp];
    return total;
}

template <int TEAM, class T>
__device__ inline T team_max(T x) {
    x = warp_max(x);
    if (TEAM == 32) return x;
    const T* each = of_warps(x);
    T top = each[0];
#pragma unroll
    for (int warp = 1; warp < TEAM / 32; ++warp) top = larger(top, each[warp]);
    return top;
}

// Until all of the team are here, and see what the others wrote.
template <int TEAM>
__device__ inline void team_sync() {
    if (TEAM == 32) __syncwarp();
    else __syncthreads();
}

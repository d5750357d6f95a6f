// Sums over rows: each block of a kernel leaves its term, a row of `width` numbers, and a second kernel adds the terms.
//
// Who adds what, and in which order, follows from the sizes alone: results are the same bits at every run.

// The threads' terms of a row of WIDTH numbers, TEAMS rows by as many teams, added up team by team into `total`.
template <int TEAMS, int TEAM, int STEPS, int VECTOR, class T>
__device__ inline void add_teams(const T* mine, T* total) {
    const int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
    __syncthreads();  // whoever still reads what was there before
    for (int turn = 0; turn < TEAMS; ++turn) {
        if (team == turn) {
#pragma unroll
            for (int s = 0; s < STEPS; ++s) {
#pragma unroll
                for (int j = 0; j < VECTOR; ++j) {
                    const int k = (s * TEAM + lane) * VECTOR + j;
                    total[k] = turn == 0 ? mine[s * VECTOR + j] : total[k] + mine[s * VECTOR + j];
                }
            }
        }
        __syncthreads();
    }
}

// One number of each team, added up by the first thread, which alone gets the sum.
template <int TEAMS, int TEAM, class T>
__device__ inline T add_numbers(T mine) {
    __shared__ T slots[TEAMS];
    __syncthreads();
    if (threadIdx.x % TEAM == 0) slots[threadIdx.x / TEAM] = mine;
    __syncthreads();
    T total = slots[0];
#pragma unroll
    for (int team = 1; team < TEAMS; ++team) total += slots[team];
    return total;
}

// The sum of `count` rows of terms at columns first to first + 31, by 8 warps; a thread of the first has that of its column.
template <class T>
__device__ inline T add_terms(const T* terms, long long count, long long width, long long first) {
    __shared__ T parts[8][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T total = 0;
    if (first + lane < width) {
        for (long long row = warp; row < count; row += 8) total += terms[row * width + first + lane];
    }
    __syncthreads();
    parts[warp][lane] = total;
    __syncthreads();
    if (warp == 0) {
#pragma unroll
        for (int other = 1; other < 8; ++other) total += parts[other][lane];
    }
    return total;
}

// O = DO(S(SM(Q Kᵀ))) V, without the scores [q, k] in memory: softmax along with the products, as each tile of keys
// may raise a row's maximum, by which all that was added up before is scaled down (Milakov and Gimelshein, 2018; Dao et
// al., 2022). The sums of a row are over all its probabilities, those too that dropout leaves out.

extern "C" __global__ void __launch_bounds__(32 * WARPS) run(
    const Value* Q, const Value* K, const Value* V, Result* O, long long heads, long long queries, long long keys,
    int width, Sum scale, Sum factor,
    long long Q_b, long long Q_h, long long Q_s, long long Q_d, long long K_b, long long K_h, long long K_s, long long K_d,
    long long V_b, long long V_h, long long V_s, long long V_d, long long O_b, long long O_h, long long O_s, long long O_d,
    MASK_PARAMETERS)
{
    alignas(16) __shared__ Value q_tile[TALL * LD], k_tile[WIDE * LD], v_tile[WIDE * LD], p_tile[TALL * LP];
    // The last queries see the most keys: they begin first.
    const long long tiles = (queries + TALL - 1) / TALL, first = (tiles - 1 - blockIdx.x % tiles) * TALL;
    const long long b = blockIdx.x / tiles / heads, h = blockIdx.x / tiles % heads;
    const Head<const Value> of_q(Q, b, h, Q_b, Q_h, Q_s, Q_d), of_k(K, b, h, K_b, K_h, K_s, K_d),
        of_v(V, b, h, V_b, V_h, V_s, V_d);
    const Head<Result> of_o(O, b, h, O_b, O_h, O_s, O_d);
    MAKE_MASK(mask);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long q = first + 16 * warp;
    Value* const p_mine = p_tile + 16 * warp * LP;
    Sum out[COLUMNS][4], top[2] = {NONE, NONE}, total[2] = {0, 0};
    clear(out);
    load<TALL>(q_tile, of_q, first, queries, width);
    // Even a query that sees no key has the first tile's, all alike.
    const long long stop = mask.keys_before(first + TALL);
    for (long long k = 0; k == 0 || k < stop; k += WIDE) {
        __syncthreads();
        load<WIDE>(k_tile, of_k, k, keys, width);
        load<WIDE>(v_tile, of_v, k, keys, width);
        __syncthreads();
        Sum z[TILES][4];
        clear(z);
        Products<Value, Sum, TILES>::add(z, q_tile + 16 * warp * LD, LD, k_tile, 1, LD, WIDTH);
        mask_scores(z, mask, q, k, scale);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Sum most = raised(top[half], z, half);
            const Sum shrink = exp(top[half] - most);
            top[half] = most;
            total[half] *= shrink;
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) {
                out[n][2 * half] *= shrink;
                out[n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
                Sum* const two = z[n] + 2 * half;
                two[0] = exp(two[0] - most);
                two[1] = exp(two[1] - most);
                total[half] += two[0] + two[1];
                if (DROPOUT) {
                    bool kept[2];
                    mask.keeps_two(q + lane / 4 + 8 * half, k + 8 * n + 2 * (lane % 4), kept);
                    two[0] = kept[0] ? two[0] : Sum(0);
                    two[1] = kept[1] ? two[1] : Sum(0);
                }
            }
        }
        put(p_mine, z);
        Products<Value, Sum, COLUMNS>::add(out, p_mine, LP, v_tile, LD, 1, WIDE);
    }
    const Sum factors[2] = {factor / row_sum(total[0]), factor / row_sum(total[1])};
    store(of_o, out, first, queries, width, factors);
}

// The gradients of attention's core by its keys and values; see attention_queries.cu, which makes `rows`:
//
//     dV = (m P)ᵀ • dO        dK = (SM's slope dZ)ᵀ • Q
//
// A block of threads owns TALL keys of a head and goes through the queries that see them: no two add to the same number.

extern "C" __global__ void __launch_bounds__(32 * WARPS) run(
    const Value* Q, const Value* K, const Value* V, const Value* dO, Result* dK, Result* dV, const Sum* rows,
    long long plane, long long heads, long long queries, long long keys, int width, Sum scale, Sum factor,
    long long Q_b, long long Q_h, long long Q_s, long long Q_d, long long K_b, long long K_h, long long K_s, long long K_d,
    long long V_b, long long V_h, long long V_s, long long V_d, long long O_b, long long O_h, long long O_s, long long O_d,
    long long dK_b, long long dK_h, long long dK_s, long long dK_d,
    long long dV_b, long long dV_h, long long dV_s, long long dV_d, MASK_PARAMETERS)
{
    alignas(16) __shared__ Value k_tile[TALL * LD], v_tile[TALL * LD], q_tile[WIDE * LD], o_tile[WIDE * LD],
        z_tile[TALL * LP];
    const long long tiles = (keys + TALL - 1) / TALL, first = blockIdx.x % tiles * TALL;
    const long long b = blockIdx.x / tiles / heads, h = blockIdx.x / tiles % heads;
    const Head<const Value> of_q(Q, b, h, Q_b, Q_h, Q_s, Q_d), of_k(K, b, h, K_b, K_h, K_s, K_d),
        of_v(V, b, h, V_b, V_h, V_s, V_d), of_o(dO, b, h, O_b, O_h, O_s, O_d);
    const Head<Result> of_dk(dK, b, h, dK_b, dK_h, dK_s, dK_d), of_dv(dV, b, h, dV_b, dV_h, dV_s, dV_d);
    MAKE_MASK(mask);
    const Sum *const tops = rows + (b * heads + h) * queries, *const shares = tops + plane, *const cs = shares + plane;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long k = first + 16 * warp;
    Value* const z_mine = z_tile + 16 * warp * LP;
    Sum dk[COLUMNS][4], dv[COLUMNS][4];
    clear(dk);
    clear(dv);
    load<TALL>(k_tile, of_k, first, keys, width);
    load<TALL>(v_tile, of_v, first, keys, width);
    const long long begin = CAUSAL && first - mask.ahead > 0 ? (first - mask.ahead) / WIDE * WIDE : 0;
    for (long long q = begin; q < queries; q += WIDE) {
        __syncthreads();
        load<WIDE>(q_tile, of_q, q, queries, width);
        load<WIDE>(o_tile, of_o, q, queries, width);
        __syncthreads();
        Sum z[TILES][4], d[TILES][4];
        clear(z);
        clear(d);
        Products<Value, Sum, TILES>::add(z, k_tile + 16 * warp * LD, LD, q_tile, 1, LD, WIDTH);
        Products<Value, Sum, TILES>::add(d, v_tile + 16 * warp * LD, LD, o_tile, 1, LD, WIDTH);
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const long long key_at = k + lane / 4 + 8 * (i / 2), query = q + 8 * n + 2 * (lane % 4) + i % 2;
                const bool inside = key_at < keys && query < queries;
                const bool seen = inside && mask.sees(query, key_at);
                const bool kept = inside && (!DROPOUT || mask.keeps(query, key_at));
                const Sum score = seen ? z[n][i] * scale : Sum(-1e30);
                const Sum p = inside ? exp(score - tops[query]) * shares[query] : Sum(0);
                const Sum dp = kept ? d[n][i] * factor : Sum(0);
                d[n][i] = seen ? p * (dp - cs[query]) * scale : Sum(0);
                z[n][i] = kept ? p * factor : Sum(0);
            }
        }
        put(z_mine, z);
        Products<Value, Sum, COLUMNS>::add(dv, z_mine, LP, o_tile, LD, 1, WIDE);
        put(z_mine, d);
        Products<Value, Sum, COLUMNS>::add(dk, z_mine, LP, q_tile, LD, 1, WIDE);
    }
    const Sum ones[2] = {1, 1};
    store(of_dk, dk, first, keys, width, ones);
    store(of_dv, dv, first, keys, width, ones);
}

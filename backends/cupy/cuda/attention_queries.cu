// The gradient of attention's core by its queries, dQ, and what the gradients by keys and values need of each row.
//
// With P = S(Z), Z = SM(Q Kᵀ), m the mask of dropout and its factor, and dP = m (dO Vᵀ):
//
//     dZ = P (dP − c),  c = Σ P dP        dQ = SM's slope dZ • K
//
// Nothing of the forward pass is stored: a first round over all keys makes each row's maximum, 1 / Σ exp(Z − max) and
// c, as softmax is made along with the products, and a second one dQ. They are left in `rows`, three planes [b, h, q]. A
// masked score passes no gradient on.

extern "C" __global__ void __launch_bounds__(32 * WARPS) run(
    const Value* Q, const Value* K, const Value* V, const Value* dO, Result* dQ, Sum* rows, long long plane,
    long long heads, long long queries, long long keys, int width, Sum scale, Sum factor,
    long long Q_b, long long Q_h, long long Q_s, long long Q_d, long long K_b, long long K_h, long long K_s, long long K_d,
    long long V_b, long long V_h, long long V_s, long long V_d, long long O_b, long long O_h, long long O_s, long long O_d,
    long long dQ_b, long long dQ_h, long long dQ_s, long long dQ_d, MASK_PARAMETERS)
{
    alignas(16) __shared__ Value q_tile[TALL * LD], o_tile[TALL * LD], k_tile[WIDE * LD], v_tile[WIDE * LD],
        z_tile[TALL * LP];
    const long long tiles = (queries + TALL - 1) / TALL, first = (tiles - 1 - blockIdx.x % tiles) * TALL;
    const long long b = blockIdx.x / tiles / heads, h = blockIdx.x / tiles % heads;
    const Head<const Value> of_q(Q, b, h, Q_b, Q_h, Q_s, Q_d), of_k(K, b, h, K_b, K_h, K_s, K_d),
        of_v(V, b, h, V_b, V_h, V_s, V_d), of_o(dO, b, h, O_b, O_h, O_s, O_d);
    const Head<Result> of_dq(dQ, b, h, dQ_b, dQ_h, dQ_s, dQ_d);
    MAKE_MASK(mask);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long q = first + 16 * warp, stop = mask.keys_before(first + TALL);
    Value* const z_mine = z_tile + 16 * warp * LP;
    Sum out[COLUMNS][4], top[2] = {NONE, NONE}, total[2] = {0, 0}, c[2] = {0, 0};
    clear(out);
    load<TALL>(q_tile, of_q, first, queries, width);
    load<TALL>(o_tile, of_o, first, queries, width);
    for (int round = 0; round < 2; ++round) {
        for (long long k = 0; k == 0 || k < stop; k += WIDE) {
            __syncthreads();
            load<WIDE>(k_tile, of_k, k, keys, width);
            load<WIDE>(v_tile, of_v, k, keys, width);
            __syncthreads();
            Sum z[TILES][4], d[TILES][4];
            clear(z);
            clear(d);
            Products<Value, Sum, TILES>::add(z, q_tile + 16 * warp * LD, LD, k_tile, 1, LD, WIDTH);
            Products<Value, Sum, TILES>::add(d, o_tile + 16 * warp * LD, LD, v_tile, 1, LD, WIDTH);
            mask_scores(z, mask, q, k, scale);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const long long row = q + lane / 4 + 8 * half;
                Sum most = top[half];
                if (round == 0) {
                    most = raised(most, z, half);
                    const Sum shrink = exp(top[half] - most);
                    top[half] = most;
                    total[half] *= shrink;
                    c[half] *= shrink;
                }
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    const long long column = k + 8 * n + 2 * (lane % 4);
                    bool kept[2] = {true, true};
                    if (DROPOUT) mask.keeps_two(row, column, kept);
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const Sum dp = kept[i] ? d[n][2 * half + i] * factor : Sum(0);
                        Sum& score = z[n][2 * half + i];
                        if (round == 0) {
                            const Sum p = exp(score - most);
                            total[half] += p;
                            c[half] += p * dp;
                        } else {
                            const bool seen = column + i < keys && row < queries && mask.sees(row, column + i);
                            score = seen ? exp(score - most) * total[half] * (dp - c[half]) * scale : Sum(0);
                        }
                    }
                }
            }
            if (round == 1) {
                put(z_mine, z);
                Products<Value, Sum, COLUMNS>::add(out, z_mine, LP, k_tile, LD, 1, WIDE);
            }
        }
        if (round == 0) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // From here on, what the sum of exponentials is to be multiplied by.
                total[half] = 1 / row_sum(total[half]);
                c[half] = row_sum(c[half]) * total[half];
                const long long row = q + lane / 4 + 8 * half;
                if (lane % 4 == 0 && row < queries) {
                    Sum* const mine = rows + (b * heads + h) * queries + row;
                    mine[0] = top[half];
                    mine[plane] = total[half];
                    mine[2 * plane] = c[half];
                }
            }
        }
    }
    const Sum ones[2] = {1, 1};
    store(of_dq, out, first, queries, width, ones);
}

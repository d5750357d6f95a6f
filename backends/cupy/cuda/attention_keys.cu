// The gradients of attention's core by its keys and values; names as in attention_queries.cu:
//
//     dV = (m P)ᵀ • dO        dK = (SM's slope dZ)ᵀ • Q
//
// A block of threads owns TALL keys of a head and goes through the queries that see them, of one head of their group
// after the other: no two add to the same number.

extern "C" __global__ void __launch_bounds__(32 * WARPS) run(
    const Value* Q, const Value* K, const Value* V, const Value* dO, Result* dK, Result* dV, const Sum* tops,
    const Sum* sums, const Sum* cs, long long heads, long long queries, long long keys, int width, Sum scale, Sum factor,
    long long Q_b, long long Q_h, long long Q_g, long long Q_s, long long Q_d, long long K_b, long long K_h,
    long long K_s, long long K_d, long long V_b, long long V_h, long long V_s, long long V_d, long long O_b,
    long long O_h, long long O_g, long long O_s, long long O_d, long long dK_b, long long dK_h, long long dK_s,
    long long dK_d, long long dV_b, long long dV_h, long long dV_s, long long dV_d, long long tops_b, long long tops_h,
    long long tops_g, long long tops_s, long long sums_b, long long sums_h, long long sums_g, long long sums_s,
    long long cs_b, long long cs_h, long long cs_g, long long cs_s, MASK_PARAMETERS)
{
    const int tiles = int((keys + TALL - 1) / TALL), first = int(blockIdx.x) % tiles * TALL;
    Place place(int(blockIdx.x) / tiles * GROUP, int(heads));
    const Head<const Value> of_k(K, place, K_b, K_h, K_s, K_d), of_v(V, place, V_b, V_h, V_s, V_d);
    const Head<Result> of_dk(dK, place, dK_b, dK_h, dK_s, dK_d), of_dv(dV, place, dV_b, dV_h, dV_s, dV_d);
    MAKE_MASK(mask, place);
    Pieces pieces;
    // Of each query of a tile its shift and its c.
    Two<Sum>* const numbers = pieces.take<Two<Sum>>(2 * WIDE);
    Value *const k_tile = pieces.take<Value>(TALL * LD), *const v_tile = pieces.take<Value>(TALL * LD),
        *const q_tiles = pieces.take<Value>(2 * WIDE * LD), *const o_tiles = pieces.take<Value>(2 * WIDE * LD),
        *const spare = take_spare(pieces);
    const int k = first + warp_row();
    const Scale of(scale);
    Rows dk, dv;
    clear(dk);
    clear(dv);
    const Sighted<ByKeys> block(mask, first, TALL), warp(mask, k, 16 * HIGH);
    const int begin = CAUSAL && first - mask.ahead > 0 ? (first - mask.ahead) / WIDE * WIDE : 0;
    send_for<TALL>(k_tile, of_k, first, mask.keys, width);
    send_for<TALL>(v_tile, of_v, first, mask.keys, width);
    for (; place.g < GROUP; ++place.g, mask.origin += g_step) {
        const Head<const Value> of_q(Q, place, Q_b, Q_h, Q_g, Q_s, Q_d), of_o(dO, place, O_b, O_h, O_g, O_s, O_d);
        const Line<const Sum> of_tops(tops, place, tops_b, tops_h, tops_g, tops_s),
            of_sums(sums, place, sums_b, sums_h, sums_g, sums_s), of_cs(cs, place, cs_b, cs_h, cs_g, cs_s);
        Two<Sum> next = {{0, 0}};
        for (int q = begin - WIDE, at = WIDE, behind; q < mask.queries; q = behind, at = WIDE - at) {
            behind = block.next(mask, q + WIDE);
            // Before the first tile there is none: it is only sent for.
            await_tiles();
            const int coming = behind + int(threadIdx.x);
            if (behind < mask.queries) {
                send_for<WIDE>(q_tiles + (WIDE - at) * LD, of_q, behind, mask.queries, width);
                send_for<WIDE>(o_tiles + (WIDE - at) * LD, of_o, behind, mask.queries, width);
                if (threadIdx.x < WIDE && coming < mask.queries) {
                    next = {{of.shift(of_tops[coming], of_sums[coming]), of_cs[coming]}};
                }
            }
            if (q >= begin && (SIGHT ? warp.sees_some(mask, q) : mask.sees_some(q + WIDE - 1, k))) {
                Scores z, d;
                clear(z);
                clear(d);
                Multiply::multiply_rows<WIDTH, LD, LD>(z, k_tile + warp_row() * LD, q_tiles + at * LD);
                Multiply::multiply_rows<WIDTH, LD, LD>(d, v_tile + warp_row() * LD, o_tiles + at * LD);
                if (SIGHT ? !warp.sees_all(mask, q) : q + WIDE > mask.queries || !mask.sees_all(q, k, 16 * HIGH)) {
                    hide<true>(z, mask, q, k);
                }
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    const int column = lane_column(n);
                    const Two<Sum> of_two[2] = {numbers[at + column], numbers[at + column + 1]};
#pragma unroll
                    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            bool kept[2] = {true, true};
                            if (DROPOUT) mask.keeps_across(q + column, k + lane_row(m, half), kept);
#pragma unroll
                            for (int i = 0; i < 2; ++i) {
                                Sum &score = z[m][n][2 * half + i], &slope = d[m][n][2 * half + i];
                                const Sum p = of.probability(score, of_two[i].v[0]);
                                const Sum dp = kept[i] ? slope * factor : Sum(0);
                                slope = p * (dp - of_two[i].v[1]);
                                score = kept[i] ? p : Sum(0);
                            }
                        }
                    }
                }
                Multiply::multiply_tile<WIDE, LD>(dv, z, spare, o_tiles + at * LD);
                Multiply::multiply_tile<WIDE, LD>(dk, d, spare, q_tiles + at * LD);
            }
            if (threadIdx.x < WIDE) numbers[WIDE - at + threadIdx.x] = next;
        }
    }
    Numbers of_values, of_keys;
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) of_values[m][half] = factor, of_keys[m][half] = of.natural;
    }
    store(of_dv, dv, k, keys, width, of_values);
    store(of_dk, dk, k, keys, width, of_keys);
}

// The gradient of attention's core by its queries, dQ.
//
// With P = S(Z), Z = SM(Q Kᵀ), m the mask of dropout and its factor, dP = m (dO Vᵀ) and c = Σ P dP of each row:
//
//     dZ = P (dP − c)        dQ = SM's slope dZ • K
//
// Scores are made again, and probabilities of them, of each row's maximum and sum (`tops` and `sums`). A masked score
// passes no gradient on.

extern "C" __global__ void __launch_bounds__(32 * WARPS) run(
    const Value* Q, const Value* K, const Value* V, const Value* dO, Result* dQ, const Sum* tops, const Sum* sums,
    const Sum* cs, long long heads, long long queries, long long keys, int width, Sum scale, Sum factor,
    long long Q_b, long long Q_h, long long Q_g, long long Q_s, long long Q_d, long long K_b, long long K_h,
    long long K_s, long long K_d, long long V_b, long long V_h, long long V_s, long long V_d, long long O_b,
    long long O_h, long long O_g, long long O_s, long long O_d, long long dQ_b, long long dQ_h, long long dQ_g,
    long long dQ_s, long long dQ_d, long long tops_b, long long tops_h, long long tops_g, long long tops_s,
    long long sums_b, long long sums_h, long long sums_g, long long sums_s, long long cs_b, long long cs_h,
    long long cs_g, long long cs_s, MASK_PARAMETERS)
{
    const int tiles = int((queries + TALL - 1) / TALL), first = (tiles - 1 - int(blockIdx.x) % tiles) * TALL;
    const Place place(int(blockIdx.x) / tiles, int(heads));
    const Head<const Value> of_q(Q, place, Q_b, Q_h, Q_g, Q_s, Q_d), of_k(K, place, K_b, K_h, K_s, K_d),
        of_v(V, place, V_b, V_h, V_s, V_d), of_o(dO, place, O_b, O_h, O_g, O_s, O_d);
    const Head<Result> of_dq(dQ, place, dQ_b, dQ_h, dQ_g, dQ_s, dQ_d);
    const Line<const Sum> of_tops(tops, place, tops_b, tops_h, tops_g, tops_s),
        of_sums(sums, place, sums_b, sums_h, sums_g, sums_s),
        of_cs(cs, place, cs_b, cs_h, cs_g, cs_s);
    MAKE_MASK(mask, place);
    Pieces pieces;
    Value *const q_tile = pieces.take<Value>(TALL * LD), *const o_tile = pieces.take<Value>(TALL * LD),
        *const k_tiles = pieces.take<Value>(2 * WIDE * LD), *const v_tiles = pieces.take<Value>(2 * WIDE * LD),
        *const spare = take_spare(pieces);
    const int q = first + warp_row(), stop = mask.keys_before(first + TALL);
    const Sighted<ByQueries> block(mask, first, TALL), warp(mask, q, 16 * HIGH);
    const int begin = block.next(mask, 0);
    const Scale of(scale);
    Rows out;
    clear(out);
    Numbers shift, c, factors;
    send_for<TALL>(q_tile, of_q, first, mask.queries, width);
    send_for<TALL>(o_tile, of_o, first, mask.queries, width);
    send_for<WIDE>(k_tiles, of_k, begin, mask.keys, width);
    send_for<WIDE>(v_tiles, of_v, begin, mask.keys, width);
#pragma unroll
    for (int m = 0; m < HIGH; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = q + lane_row(m, half);
            shift[m][half] = row < mask.queries ? of.shift(of_tops[row], of_sums[row]) : Sum(0);
            c[m][half] = row < mask.queries ? of_cs[row] : Sum(0);
            factors[m][half] = of.natural;
        }
    }
    for (int k = begin, at = 0, next; k == begin || k < stop; k = next, at = WIDE * LD - at) {
        next = block.next(mask, k + WIDE);
        await_tiles();
        if (next < stop) {
            send_for<WIDE>(k_tiles + WIDE * LD - at, of_k, next, mask.keys, width);
            send_for<WIDE>(v_tiles + WIDE * LD - at, of_v, next, mask.keys, width);
        }
        if (SIGHT ? !warp.sees_some(mask, k) : !mask.sees_some(q + 16 * HIGH - 1, k)) continue;
        Scores z, d;
        clear(z);
        clear(d);
        Multiply::multiply_rows<WIDTH, LD, LD>(z, q_tile + warp_row() * LD, k_tiles + at);
        Multiply::multiply_rows<WIDTH, LD, LD>(d, o_tile + warp_row() * LD, v_tiles + at);
        if (SIGHT ? !warp.sees_all(mask, k) : !mask.sees_all(q, k, WIDE)) hide<false>(z, mask, q, k);
#pragma unroll
        for (int m = 0; m < HIGH; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    bool kept[2] = {true, true};
                    if (DROPOUT) mask.keeps_two(q + lane_row(m, half), k + lane_column(n), kept);
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        Sum& score = z[m][n][2 * half + i];
                        const Sum dp = kept[i] ? d[m][n][2 * half + i] * factor : Sum(0);
                        score = of.probability(score, shift[m][half]) * (dp - c[m][half]);
                    }
                }
            }
        }
        Multiply::multiply_tile<WIDE, LD>(out, z, spare, k_tiles + at);
    }
    store(of_dq, out, q, queries, width, factors);
}

// y = x W^T on x86 CPUs: W of int8 or int4 codes, rows of x quantized to int8 here.
//
// int8: W (n, k) row after row, w = q s of a row. int4: w = (q - 8) s + z of a group; W
// (n / 16, k / 8, 16, 4) of two codes a byte, so that 64 bytes hold 8 columns of 16 rows,
// four in the low halves and four in the high ones; s and z (n / 16, groups, 2, 16).
// isa: 1 = AVX2, 2 = AVX-512 VNNI, 3 = AMX.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <torch/library.h>
#include <unistd.h>

#include <vector>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,amx-tile")))
#define UNROLL _Pragma("GCC unroll 16")

namespace {
using at::BFloat16, at::Tensor;
constexpr int64_t FEW = 4;  // rows of x up to which int4 gains nothing by tiles

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Job {
  int64_t m, n, k, group, groups;
  bool int4, tiles, narrow, narrow_y;  // narrow: scales, or y, in bf16 instead of fp32
  const uint8_t* w;
  const void* scales;
  int64_t stride, lanes;  // bytes of a row of x; of a tile of y, the rows of x
  int8_t* x;              // codes: row after row; for int8 tiles 4 columns of `lanes`
  float *x_scales, *sums;  // (m,); of the codes of each group (m, groups)
  void* y;
};

float scale_at(const Job& j, int64_t i) {
  return j.narrow ? float(static_cast<const BFloat16*>(j.scales)[i])
                  : static_cast<const float*>(j.scales)[i];
}

void put(const Job& j, int64_t row, int64_t n, float y) {
  const int64_t at = row * j.n + n;
  if (j.narrow_y)
    static_cast<BFloat16*>(j.y)[at] = y;
  else
    static_cast<float*>(j.y)[at] = y;
}

// A row of x to int8, as `rounded_rows` does; what is not finite spoils its scale.
template <class T>
void quantize(const Job& j, const T* x, int64_t row, float* wide, int8_t* codes) {
  const int64_t k = j.k, group = j.group, lanes = j.lanes;  // a store of codes may be any
  float most = 0, spoilt = 0;
  for (int64_t i = 0; i < k; i++) wide[i] = float(x[i]);
#pragma omp simd reduction(max : most) reduction(+ : spoilt)
  for (int64_t i = 0; i < k; i++) {
    most = std::max(most, std::abs(wide[i]));
    spoilt += wide[i] * 0;
  }
  const float scale = std::max(most / 127, std::numeric_limits<float>::min());
  const float even = 12582912;  // 1.5 * 2^23: adding it rounds to whole numbers
  for (int64_t i = 0; i < k; i++)
    codes[i] = int32_t(std::min(127.f, std::max(-127.f, (wide[i] / scale + even) - even)));
  j.x_scales[row] = scale + spoilt;
  for (int64_t g = 0; g < j.groups; g++) {
    int32_t sum = 0;
    for (int64_t i = g * group; i < (g + 1) * group; i++) sum += codes[i];
    j.sums[row * j.groups + g] = sum;
  }
  if (j.int4 || !j.tiles) {
    std::memcpy(j.x + row * j.stride, codes, j.stride);
    return;
  }
  auto* to = reinterpret_cast<int32_t*>(j.x + row / 16 * 16 * j.stride) + row % 16;
  const auto* from = reinterpret_cast<const int32_t*>(codes);
  for (int64_t i = 0, quads = j.stride / 4; i < quads; i++) to[i * lanes] = from[i];
}

// ---- AVX2: one row of W of int8, 16 of int4
void plain(const Job& j, int64_t n) {
  const auto* w = reinterpret_cast<const int8_t*>(j.w);
  for (int64_t row = 0; row < j.m; row++) {
    const int8_t* x = j.x + row * j.stride;
    if (!j.int4) {
      int32_t sum = 0;
      for (int64_t i = 0; i < j.k; i++) sum += int16_t(w[n * j.k + i]) * int16_t(x[i]);
      put(j, row, n, sum * j.x_scales[row] * scale_at(j, n));
      continue;
    }
    float y[16] = {};
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int64_t g = 0; g < j.groups; g++) {
      __m256i sums[2] = {};
      for (int64_t i = g * j.group; i < (g + 1) * j.group; i += 8)
        for (int h = 0; h < 2; h++) {
          const auto* at = reinterpret_cast<const __m256i*>(w + n * j.k / 2 + i * 8);
          const __m256i q = _mm256_loadu_si256(at + h);
          int32_t four[2];
          std::memcpy(four, x + i, 8);
          const __m256i both = _mm256_add_epi16(
              _mm256_maddubs_epi16(_mm256_and_si256(q, low), _mm256_set1_epi32(four[0])),
              _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(q, 4), low),
                                   _mm256_set1_epi32(four[1])));
          sums[h] = _mm256_add_epi32(sums[h], _mm256_madd_epi16(both, ones));
        }
      int32_t out[16];
      std::memcpy(out, sums, 64);
      const int64_t pair = (n / 16 * j.groups + g) * 32;
      for (int r = 0; r < 16; r++) {
        const float s = scale_at(j, pair + r), z = scale_at(j, pair + 16 + r) - 8 * s;
        y[r] += s * out[r] + z * j.sums[row * j.groups + g];
      }
    }
    for (int64_t r = 0; r < std::min<int64_t>(16, j.n - n); r++)
      put(j, row, n + r, y[r] * j.x_scales[row]);
  }
}

// ---- AVX-512
VNNI __mmask16 first(int64_t count) { return count < 16 ? (1u << count) - 1 : 0xffff; }

VNNI __m512 scales_at(const Job& j, int64_t at, int64_t count = 16) {
  if (!j.narrow)
    return _mm512_maskz_loadu_ps(first(count), static_cast<const float*>(j.scales) + at);
  const auto* p = static_cast<const uint16_t*>(j.scales) + at;
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// 16 columns of a row of y, rounded to the nearest even where it is bf16.
VNNI void store(const Job& j, int64_t row, int64_t n, __m512 y) {
  const int64_t at = row * j.n + n;
  const __mmask16 mask = first(j.n - n);
  if (!j.narrow_y) {
    _mm512_mask_storeu_ps(static_cast<float*>(j.y) + at, mask, y);
    return;
  }
  const __m512i bits = _mm512_castps_si512(y), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  __m512i near = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 none = _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
  near = _mm512_mask_mov_epi32(near, none, _mm512_set1_epi32(0x7fc00000));
  const __m256i out = _mm512_cvtepi32_epi16(_mm512_srli_epi32(near, 16));
  _mm256_mask_storeu_epi16(static_cast<uint16_t*>(j.y) + at, mask, out);
}

// 16 x 16 numbers, rows for columns.
VNNI inline void turn(__m512i* b) {
  __m512i a[16];
  UNROLL for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(b[i], b[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(b[i], b[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) UNROLL for (int h = 0; h < 2; h++) {
    b[i + 2 * h] = _mm512_unpacklo_epi64(a[i + h], a[i + 2 + h]);
    b[i + 2 * h + 1] = _mm512_unpackhi_epi64(a[i + h], a[i + 2 + h]);
  }
  UNROLL for (int i = 0; i < 16; i += 8) UNROLL for (int h = 0; h < 4; h++) {
    a[i + h] = _mm512_shuffle_i32x4(b[i + h], b[i + 4 + h], 0x88);
    a[i + 4 + h] = _mm512_shuffle_i32x4(b[i + h], b[i + 4 + h], 0xdd);
  }
  UNROLL for (int i = 0; i < 8; i++) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    b[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
  }
}

// Sums of codes (16 of them, over W's rows) times both scales.
VNNI void store_sums(const Job& j, int64_t row, int64_t n, __m512i sums) {
  const __m512 x_scale = _mm512_set1_ps(j.x_scales[row]);
  const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), x_scale);
  store(j, row, n, _mm512_mul_ps(y, scales_at(j, n, j.n - n)));
}

VNNI void int8_rows(const Job& j, int64_t n, int64_t row) {
  __m512i sums[16] = {};
  const __m512i flip = _mm512_set1_epi8(-128);  // q + 128, for the operand without sign
  const uint8_t* w[16];
  for (int r = 0; r < 16; r++) w[r] = j.w + std::min(n + r, j.n - 1) * j.k;
  for (int64_t i = 0; i < j.k; i += 64) {
    const __m512i x = _mm512_loadu_si512(j.x + row * j.stride + i);
    const __mmask64 mask = j.k - i < 64 ? (1ull << (j.k - i)) - 1 : ~0ull;
    UNROLL for (int r = 0; r < 16; r++) {
      const __m512i q = _mm512_maskz_loadu_epi8(mask, w[r] + i);
      sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_xor_si512(q, flip), x);
    }
  }
  turn(sums);
  UNROLL for (int r = 1; r < 16; r++) sums[0] = _mm512_add_epi32(sums[0], sums[r]);
  const __m512i extra = _mm512_set1_epi32(128 * int32_t(j.sums[row]));
  store_sums(j, row, n, _mm512_sub_epi32(sums[0], extra));
}

template <int M>
VNNI void int4_rows(const Job& j, int64_t n, int64_t row) {
  __m512 y[M] = {};
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t g = 0; g < j.groups; g++) {
    __m512i sums[M][2] = {};
    const uint8_t* w = j.w + n * j.k / 2 + g * j.group * 8;
    const int8_t* x = j.x + row * j.stride + g * j.group;
    for (int64_t i = 0; i < j.group; i += 8) {
      const __m512i q = _mm512_loadu_si512(w + i * 8);
      const __m512i half[2] = {_mm512_and_si512(q, low),
                               _mm512_and_si512(_mm512_srli_epi16(q, 4), low)};
      UNROLL for (int c = 0; c < M; c++) UNROLL for (int h = 0; h < 2; h++) {
        int32_t four;
        std::memcpy(&four, x + c * j.stride + i + h * 4, 4);
        const __m512i all = _mm512_set1_epi32(four);
        sums[c][h] = _mm512_dpbusd_epi32(sums[c][h], half[h], all);
      }
    }
    const int64_t pair = (n / 16 * j.groups + g) * 32;
    const __m512 s = scales_at(j, pair);
    const __m512 z = _mm512_fmadd_ps(_mm512_set1_ps(-8), s, scales_at(j, pair + 16));
    UNROLL for (int c = 0; c < M; c++) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[c][0], sums[c][1]));
      const __m512 x_sum = _mm512_set1_ps(j.sums[(row + c) * j.groups + g]);
      y[c] = _mm512_fmadd_ps(sum, s, _mm512_fmadd_ps(x_sum, z, y[c]));
    }
  }
  for (int c = 0; c < M; c++)
    store(j, row + c, n, _mm512_mul_ps(y[c], _mm512_set1_ps(j.x_scales[row + c])));
}

void vnni(const Job& j, int64_t n) {
  int64_t row = 0;
  for (; j.int4 && row + 4 <= j.m; row += 4) int4_rows<4>(j, n, row);
  for (; row < j.m; row++) (j.int4 ? int4_rows<1> : int8_rows)(j, n, row);
}

// ---- AMX
struct alignas(64) Tiles {  // 0 to 3: sums; 4 and 5, 6 and 7: what is multiplied
  uint8_t palette = 1, start = 0, spare[14] = {};
  uint16_t width[16] = {};
  uint8_t height[16] = {};
};

// 32 rows of W: the sums are (rows of W, rows of x); what lies at edges is copied first.
VNNI void int8_tiles(const Job& j, int64_t n, std::vector<uint8_t>& own) {
  const uint8_t* w = j.w + n * j.k;
  int64_t stride = j.k;
  if (n + 32 > j.n || j.k % 64) {
    own.assign(32 * (stride = j.stride), 0);
    for (int64_t r = 0; r < std::min<int64_t>(32, j.n - n); r++)
      std::memcpy(own.data() + r * stride, w + r * j.k, j.k);
    w = own.data();
  }
  for (int64_t row = 0; row < j.m; row += 32) {
    const int8_t *x = j.x + row * j.stride, *next = x + 16 * j.stride;
    const bool two = row + 16 < j.m;
    alignas(64) int32_t sums[4][256];
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < j.stride; i += 64) {
      _tile_loadd(4, w + i, stride);
      _tile_loadd(5, w + 16 * stride + i, stride);
      _tile_loadd(6, x + i * j.lanes, j.lanes * 4);
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 5, 6);
      if (!two) continue;
      _tile_loadd(7, next + i * j.lanes, j.lanes * 4);
      _tile_dpbssd(2, 4, 7);
      _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int64_t t = 0; t < (two ? 4 : 2); t++) {
      if (n + t % 2 * 16 >= j.n) continue;
      __m512i turned[16];
      UNROLL for (int i = 0; i < 16; i++) turned[i] = _mm512_load_si512(sums[t] + i * 16);
      turn(turned);
      for (int64_t c = 0, at = row + t / 2 * 16; c < std::min<int64_t>(16, j.m - at); c++)
        store_sums(j, at + c, n + t % 2 * 16, turned[c]);
    }
  }
}

// 16 rows of W, unpacked once: the sums are (rows of x, rows of W).
VNNI void int4_tiles(const Job& j, int64_t n, std::vector<uint8_t>& own) {
  const int64_t unit = std::min<int64_t>(64, j.group);
  const __m512i low = _mm512_set1_epi8(15);
  own.resize(16 * j.k);
  for (int64_t i = 0; i < j.k; i += 8) {
    const __m512i q = _mm512_loadu_si512(j.w + n * j.k / 2 + i * 8);
    uint8_t* to = own.data() + i * 16;
    _mm512_storeu_si512(to, _mm512_and_si512(q, low));
    _mm512_storeu_si512(to + 64, _mm512_and_si512(_mm512_srli_epi16(q, 4), low));
  }
  for (int64_t row = 0; row < j.m; row += 16) {
    const int64_t rows = std::min<int64_t>(16, j.m - row);
    __m512 y[16];
    UNROLL for (int c = 0; c < 16; c++) y[c] = _mm512_setzero_ps();
    for (int64_t g = 0; g < j.groups; g++) {
      alignas(64) int32_t sums[256];
      _tile_zero(0);
      for (int64_t i = g * j.group; i < (g + 1) * j.group; i += unit) {
        _tile_loadd(4, j.x + row * j.stride + i, j.stride);
        _tile_loadd(6, own.data() + i * 16, 64);
        _tile_dpbsud(0, 4, 6);
      }
      _tile_stored(0, sums, 64);
      const int64_t pair = (n / 16 * j.groups + g) * 32;
      const __m512 s = scales_at(j, pair);
      const __m512 z = _mm512_fmadd_ps(_mm512_set1_ps(-8), s, scales_at(j, pair + 16));
      UNROLL for (int c = 0; c < 16; c++) {
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + c * 16));
        const __m512 x_sum = _mm512_set1_ps(j.sums[(row + c) * j.groups + g]);
        y[c] = _mm512_fmadd_ps(sum, s, _mm512_fmadd_ps(x_sum, z, y[c]));
      }
    }
    UNROLL for (int c = 0; c < 16; c++)
      if (c < rows)
        store(j, row + c, n, _mm512_mul_ps(y[c], _mm512_set1_ps(j.x_scales[row + c])));
  }
}

VNNI void tiles(const Job& j, int64_t begin, int64_t end) {
  Tiles made;
  const int64_t unit = j.int4 ? std::min<int64_t>(64, j.group) : 64;
  for (int t = 0; t < 8; t++) {
    const bool of_x = j.int4 ? t / 2 == 2 : t / 2 == 3;
    made.width[t] = 64, made.height[t] = 16;
    if (!j.int4 && t / 2 != 2) made.width[t] = j.lanes * 4;
    if (j.int4 && of_x) made.width[t] = unit;
    if (j.int4 && t / 2 == 3) made.height[t] = unit / 4;
  }
  _tile_loadconfig(&made);
  std::vector<uint8_t> own;
  for (int64_t b = begin; b < end; b++)
    j.int4 ? int4_tiles(j, b * 16, own) : int8_tiles(j, b * 32, own);
  _tile_release();
}

// What this CPU has; asking for tiles is what lets the process use them.
int64_t best_isa() {
  static const int64_t best = [] {
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl"))
      return 1;
    const bool amx = __builtin_cpu_supports("amx-int8");
    return amx && syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? 3 : 2;
  }();
  return best;
}

Tensor product(const Tensor& x, Job j, int64_t isa) {
  isa = std::min(isa, best_isa());
  j.narrow_y = x.scalar_type() == at::kBFloat16;
  const Tensor in = (j.narrow_y ? x : x.to(at::kFloat)).contiguous();
  j.m = x.size(0), j.k = x.size(1), j.lanes = std::min<int64_t>(16, j.m);
  j.tiles = isa == 3 && (!j.int4 || j.m > FEW);
  j.stride = j.int4 ? j.k : up(j.k, 64);
  const int64_t rows = up(j.m, 16);  // tiles read whole ones
  const Tensor codes = at::empty({rows, j.stride}, at::kChar);
  const Tensor of_x = at::empty({j.m + rows * j.groups}, at::kFloat);
  const Tensor y = at::empty({j.m, j.n}, in.options());
  j.x = codes.data_ptr<int8_t>(), j.y = y.data_ptr();
  j.x_scales = of_x.data_ptr<float>(), j.sums = j.x_scales + j.m;
  const int64_t few = 32768 / std::max<int64_t>(1, j.k);  // rows not worth a thread
  at::parallel_for(0, j.m, std::max<int64_t>(1, few), [&](int64_t row, int64_t end) {
    std::vector<float> wide(j.k);
    std::vector<int8_t> line(j.stride);
    for (; row < end; row++)
      if (j.narrow_y)
        quantize(j, in.data_ptr<BFloat16>() + row * j.k, row, wide.data(), line.data());
      else
        quantize(j, in.data_ptr<float>() + row * j.k, row, wide.data(), line.data());
  });
  const int64_t size = j.tiles && !j.int4 ? 32 : isa > 1 || j.int4 ? 16 : 1;
  const int64_t grain = std::max<int64_t>(1, few / size);
  at::parallel_for(0, up(j.n, size) / size, grain, [&](int64_t begin, int64_t end) {
    if (j.tiles) return tiles(j, begin, end);
    for (int64_t b = begin; b < end; b++) (isa > 1 ? vnni : plain)(j, b * size);
  });
  return y.to(x.scalar_type());
}

Tensor int8_dynamic(const Tensor& x, const Tensor& w, const Tensor& scales, int64_t isa) {
  Job j{};
  j.n = w.size(0), j.group = w.size(1), j.groups = 1;
  j.w = static_cast<const uint8_t*>(w.data_ptr());
  j.narrow = scales.scalar_type() == at::kBFloat16, j.scales = scales.data_ptr();
  return product(x, j, isa);
}

Tensor int4_dynamic(const Tensor& x, const Tensor& w, const Tensor& pairs, int64_t n,
                    int64_t isa) {
  Job j{};
  j.int4 = true, j.n = n, j.groups = pairs.size(1), j.group = x.size(1) / j.groups;
  j.w = w.data_ptr<uint8_t>();
  j.narrow = pairs.scalar_type() == at::kBFloat16, j.scales = pairs.data_ptr();
  return product(x, j, isa);
}
}  // namespace

TORCH_LIBRARY(fastlab, library) {
  library.def("int8_dynamic(Tensor x, Tensor weight, Tensor scales, int isa) -> Tensor");
  library.def("int4_dynamic(Tensor x, Tensor w, Tensor pairs, int n, int isa) -> Tensor");
  library.def("best_isa() -> int", best_isa);
}
TORCH_LIBRARY_IMPL(fastlab, CPU, library) {
  library.impl("int8_dynamic", int8_dynamic);
  library.impl("int4_dynamic", int4_dynamic);
}

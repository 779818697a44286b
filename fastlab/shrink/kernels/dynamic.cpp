// y = x W^T on x86 CPUs: W of int8 or int4 codes, rows of x quantized to int8 here (with W
// of int8 all but a row's largest value, beside which the others would be coarse), or many
// rows of bf16 as they come (`_widened`, for which W is widened to bf16).
//
// 16 rows of W at a time are unpacked to bytes, four columns of a row side by side, and
// multiplied by up to 16 rows of x. w = q s + z of a group of columns, q without sign:
// int8 is stored plainly (n, k), q = code + 128; int4 two codes a byte, (n / 16, k / 8,
// 16, 4): of 8 columns the first four in the low halves; s, z (n / 16, groups, 2, 16).
// isa: 1 = AVX2, 2 = AVX-512 VNNI, 3 = AMX.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <torch/library.h>
#include <unistd.h>

#include <bit>
#include <vector>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,amx-tile," \
                                     "prefer-vector-width=512")))
#define INLINE inline __attribute__((always_inline))
#define SIMD _Pragma("omp simd")
#define UNROLL _Pragma("GCC unroll 16")

namespace {
using at::BFloat16, at::Tensor;
constexpr int64_t FEW = 2;  // rows of x up to which neither tiles nor unpacking pay
constexpr int64_t ROWS = 32;  // of x at once, in two tiles

struct Job {
  int64_t m, n, k, group, groups, isa;  // k: of x here, filled up with zeros
  bool int4;
  const uint8_t* w;
  int64_t inputs;          // of W as stored
  const void* scales;
  bool narrow;  // scales in bf16, else in fp32
  int8_t* x;               // codes (m, k)
  float *x_scales, *sums;  // (m,); of x's codes in each group (m, groups)
  float* tops;             // (m, 2): each row's largest value in its scale, its column
};

// A row of x to int8, as `rounded_rows` does; what is not finite spoils its scale.
template <class T>
void quantize(const Job& j, const T* x, int64_t row, float* wide) {
  const int64_t k = j.inputs, group = j.group;  // no store below changes these
  int8_t* codes = j.x + row * j.k;
  float most[32] = {}, next[32] = {}, spoilt[32] = {};  // of every 32nd number
  for (int64_t i = 0; i < k; i++) wide[i] = float(x[row * k + i]);
  for (int64_t i = 0; i < j.k; i += 32) SIMD for (int l = 0; l < 32; l++) {
    const float size = std::abs(wide[i + l]);
    next[l] = std::max(next[l], std::min(most[l], size));
    most[l] = std::max(most[l], size), spoilt[l] += size * 0;
  }
  for (int s = 16; s; s /= 2) SIMD for (int l = 0; l < s; l++) {
    const float both = std::min(most[l], most[l + s]);
    next[l] = std::max(std::max(next[l], next[l + s]), both);
    most[l] = std::max(most[l], most[l + s]), spoilt[l] += spoilt[l + s];
  }
  int32_t at = 0;
  float top = 0;
  if (!j.int4) {
#pragma omp simd reduction(max : at)
    for (int32_t i = 0; i < k; i++) at = std::max(at, std::abs(wide[i]) == *most ? i : 0);
    top = wide[at], wide[at] = 0, *most = *next;
  }
  const float least = std::numeric_limits<float>::min();
  const float scale = std::max({*most / 127, std::abs(top) / (1 << 20), least});
  std::memset(codes + k, 0, j.k - k);
  j.x_scales[row] = scale + *spoilt;
  for (int64_t g = 0; g < j.groups; g++) {
    int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = g * group; i < std::min(k, (g + 1) * group); i++) {
      // Adding 1.5 * 2^23 rounds to whole numbers, whose last byte is the code.
      sum += codes[i] = int8_t(std::bit_cast<int32_t>(wide[i] / scale + 12582912));
    }
    j.sums[row * j.groups + g] = sum + top / scale;
  }
  j.tops[2 * row] = top / scale, j.tops[2 * row + 1] = std::bit_cast<float>(at);
}

// 16 rows of numbers for 16 columns.
AVX512 inline void turn(__m512i* a) {
  const __m512i lanes =
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  UNROLL for (int s = 1; s < 16; s *= 2) {
    const __mmask16 odd = _mm512_test_epi32_mask(lanes, _mm512_set1_epi32(s));
    const __m512i on = _mm512_add_epi32(lanes, _mm512_set1_epi32(s));
    const __m512i other = _mm512_add_epi32(lanes, _mm512_set1_epi32(16));
    const __m512i back = _mm512_sub_epi32(other, _mm512_set1_epi32(s));
    const __m512i low = _mm512_mask_mov_epi32(lanes, odd, back);
    const __m512i high = _mm512_mask_mov_epi32(on, odd, other);
    UNROLL for (int i = 0; i < 16; i++) if (!(i & s)) {
      const __m512i first = a[i];
      a[i] = _mm512_permutex2var_epi32(first, low, a[i + s]);
      a[i + s] = _mm512_permutex2var_epi32(first, high, a[i + s]);
    }
  }
}

// 64 columns of 16 rows of int8 from n on, without sign.
AVX512 inline void rows_of(const Job& j, int64_t n, int64_t i, __m512i* q) {
  const int64_t left = j.inputs - i;
  const __mmask64 mask = left < 64 ? (1ull << left) - 1 : ~0ull;
  UNROLL for (int r = 0; r < 16; r++) {
    const uint8_t* from = j.w + std::min(n + r, j.n - 1) * j.inputs + i;
    q[r] = _mm512_maskz_loadu_epi8(mask, from);
    q[r] = _mm512_xor_si512(q[r], _mm512_set1_epi8(-128));
  }
}

AVX512 void unpack_wide(const Job& j, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < j.k; i += 64) {
    __m512i q[16];
    rows_of(j, n, i, q);
    turn(q);
    UNROLL for (int r = 0; r < 16; r++) _mm512_storeu_si512(to + i * 16 + r * 64, q[r]);
  }
}

// 16 rows of W from n on: (k / 4, 16, 4).
template <int ISA>
INLINE void unpack(const Job& j, int64_t n, uint8_t* to) {
  if (j.int4) {
    const uint8_t* from = j.w + n * j.k / 2;
    for (int64_t i = 0; i < j.k; i += 8, from += 64, to += 128)
      SIMD for (int b = 0; b < 64; b++) to[b] = from[b] & 15, to[b + 64] = from[b] >> 4;
    return;
  }
  if (ISA > 1) return unpack_wide(j, n, to);
  for (int64_t r = 0; r < 16; r++) {
    const uint8_t* from = j.w + std::min(n + r, j.n - 1) * j.inputs;
    for (int64_t i = 0; i < j.inputs; i++) to[i / 4 * 64 + r * 4 + i % 4] = from[i] ^ 128;
  }
}

// Sums over `size` columns of x (rows, k) times W (size / 4, 16, 4): (rows, 16).
void sums_avx2(const int8_t* x, int64_t k, const uint8_t* w, int64_t size, int rows,
               int32_t* out) {
  for (int c = 0; c < rows; c++, x += k, out += 16) {
    __m256i sums[4] = {};
    for (int64_t i = 0; i < size; i += 4) {
      int32_t four;
      std::memcpy(&four, x + i, 4);
      const __m256i all = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
      for (int r = 0; r < 4; r++) {
        const auto* at = reinterpret_cast<const __m128i*>(w + i * 16) + r;
        const __m256i q = _mm256_cvtepu8_epi16(_mm_loadu_si128(at));
        sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(q, all));
      }
    }
    const auto* halves = reinterpret_cast<const int32_t*>(sums);
    for (int r = 0; r < 16; r++) out[r] = halves[2 * r] + halves[2 * r + 1];
  }
}

AVX512 void sums_vnni(const int8_t* x, int64_t k, const uint8_t* w, int64_t size,
                      int rows, int32_t* out) {
  for (int c = 0; c < rows; c++, x += k, out += 16) {
    __m512i sums[4] = {};
    for (int64_t i = 0; i < size; i += 16) UNROLL for (int h = 0; h < 4; h++) {
      int32_t four;
      std::memcpy(&four, x + i + h * 4, 4);
      const __m512i q = _mm512_loadu_si512(w + (i + h * 4) * 16);
      sums[h] = _mm512_dpbusd_epi32(sums[h], q, _mm512_set1_epi32(four));
    }
    const __m512i low = _mm512_add_epi32(sums[0], sums[1]);
    const __m512i high = _mm512_add_epi32(sums[2], sums[3]);
    _mm512_storeu_si512(out, _mm512_add_epi32(low, high));
  }
}

// The same of whole rows of W as int8 is stored: four rows are read side by side, the
// next four fetched ahead, which the CPU itself does too late.
AVX512 void sums_of_rows(const Job& j, int64_t n, const int8_t* x, int rows, int32_t* out) {
  const int64_t ahead = std::max<int64_t>(4096, 4 * j.inputs);
  for (int c = 0; c < rows; c++, x += j.k) for (int part = 0; part < 16; part += 4) {
    __m512i sums[4] = {};
    for (int64_t i = 0; i < j.k; i += 64) UNROLL for (int r = 0; r < 4; r++) {
      const int64_t left = j.inputs - i;
      const __mmask64 mask = left < 64 ? (1ull << left) - 1 : ~0ull;
      const uint8_t* from = j.w + std::min(n + part + r, j.n - 1) * j.inputs + i;
      _mm_prefetch(from + ahead, _MM_HINT_T0);
      __m512i q = _mm512_maskz_loadu_epi8(mask, from);
      q = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
      sums[r] = _mm512_dpbusd_epi32(sums[r], q, _mm512_loadu_si512(x + i));
    }
    UNROLL for (int r = 0; r < 4; r++) *out++ = _mm512_reduce_add_epi32(sums[r]);
  }
}

void sums_amx(const int8_t* x, int64_t k, const uint8_t* w, int64_t size, int rows,
              int32_t* out) {
  const int64_t unit = std::min<int64_t>(64, size);
  asm volatile("" : : : "memory");  // nor does it see what loads read
  _tile_zero(0);
  if (rows > 16) _tile_zero(3);
  for (int64_t i = 0; i < size; i += unit) {
    _tile_loadd(1, x + i, k);
    _tile_loadd(2, w + i * 16, 64);
    _tile_dpbsud(0, 1, 2);
    if (rows <= 16) continue;
    _tile_loadd(4, x + 16 * k + i, k);
    _tile_dpbsud(3, 4, 2);
  }
  _tile_stored(0, out, 64);
  if (rows > 16) _tile_stored(3, out + 256, 64);
}

AVX512 void configure(int64_t rows, int64_t unit) {  // 0, 3: sums, 1, 4: of x, 2: of W
  struct alignas(64) {
    uint8_t palette = 1, start = 0, spare[14] = {};
    uint16_t width[16] = {64, 0, 64, 64, 0, 64, 64, 64};
    uint8_t height[16] = {0, 0, 0, 0, 0, 16, 16, 16};
  } tiles;
  tiles.width[1] = tiles.width[4] = unit, tiles.height[2] = unit / 4;
  tiles.height[0] = tiles.height[1] = std::min<int64_t>(rows, 16);
  tiles.height[3] = tiles.height[4] = std::max<int64_t>(rows - 16, 1);
  asm volatile("" : : "r"(&tiles) : "memory");  // gcc takes it to read 8 bytes only
  _tile_loadconfig(&tiles);
}

AVX512 void release() { _tile_release(); }

// Of 16 rows of W from n on: s and z + (the q that stands for it) s, (groups, 2, 16).
template <class S>
INLINE void read_scales(const Job& j, const S* from, int64_t n, float* to) {
  for (int64_t r = 0; r < 16 && !j.int4; r++) {
    to[r] = from[std::min(n + r, j.n - 1)];
    to[16 + r] = -128 * to[r];
  }
  for (int64_t i = n * j.groups * 2; j.int4 && i < (n + 16) * j.groups * 2; i += 32, to += 32)
    SIMD for (int r = 0; r < 16; r++) {
      to[r] = from[i + r];
      to[16 + r] = float(from[i + 16 + r]) - 8 * to[r];
    }
}

// Adds to y (16,) a row's largest value times 16 rows of int8 from n on; w: as unpacked.
INLINE void add_top(const Job& j, int64_t n, int64_t row, const uint8_t* w, const float* s,
                    float* y) {
  const float top = j.tops[2 * row];
  const auto at = std::bit_cast<uint32_t>(j.tops[2 * row + 1]);
  const auto* fours = reinterpret_cast<const uint32_t*>(w + at / 4 * 64);
  int32_t q[16];
  if (w)
    SIMD for (int r = 0; r < 16; r++) q[r] = fours[r] >> at % 4 * 8 & 255;
  else
    for (int r = 0; r < 16; r++) q[r] = j.w[std::min(n + r, j.n - 1) * j.inputs + at] ^ 128;
  SIMD for (int r = 0; r < 16; r++) y[r] += top * q[r] * s[r];
}

AVX512 inline __m512 wide(const float* from) { return _mm512_loadu_ps(from); }
AVX512 inline __m512 wide(const BFloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return __m512(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// y (16,) of a row of x and 16 rows of W from n on, as int4 is stored and read once.
template <class S>
AVX512 void add_halves(const Job& j, const S* scales, int64_t n, int64_t row, float* y) {
  const uint8_t* w = j.w + n * j.k / 2;
  const int8_t* x = j.x + row * j.k;
  const float* sum = j.sums + row * j.groups;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 all = _mm512_setzero_ps();
  scales += n * j.groups * 2;
  for (int64_t g = 0; g < j.groups; g++, scales += 32) {
    __m512i sums[2] = {};
    for (int64_t i = 0; i < j.group; i += 8, w += 64, x += 8) {
      int32_t four[2];
      std::memcpy(four, x, 8);
      _mm_prefetch(w + 4096, _MM_HINT_T0);
      const __m512i q = _mm512_loadu_si512(w);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(q, 4), low);
      sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_and_si512(q, low),
                                    _mm512_set1_epi32(four[0]));
      sums[1] = _mm512_dpbusd_epi32(sums[1], odd, _mm512_set1_epi32(four[1]));
    }
    const __m512 s = wide(scales), eight = _mm512_set1_ps(8);
    const __m512 z = _mm512_fnmadd_ps(eight, s, wide(scales + 16));
    const __m512 product = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]));
    all = _mm512_fmadd_ps(product, s, all);
    all = _mm512_fmadd_ps(_mm512_set1_ps(sum[g]), z, all);
  }
  _mm512_storeu_ps(y, all);
}

template <class T>
INLINE T rounded(float y) {
  if constexpr (std::is_same_v<T, float>) return y;
  const auto bits = std::bit_cast<uint32_t>(y);  // to the nearest even, without a branch
  return T(BFloat16((bits + 0x7fff + (bits >> 16 & 1)) >> 16, BFloat16::from_bits()));
}

template <int ISA, class T>
INLINE void multiply(const Job& j, int64_t begin, int64_t end, T* out) {
  const auto sums_of = ISA > 2 && j.m > FEW ? sums_amx : ISA > 1 ? sums_vnni : sums_avx2;
  const bool whole = ISA > 1 && j.m <= FEW;  // W is read as it is
  const bool halves = whole && j.int4;  // together with its scales
  std::vector<uint8_t> w(whole ? 0 : 16 * j.k);
  std::vector<float> scales(32 * j.groups);
  int64_t configured = 0;
  for (int64_t n = begin * 16; n < end * 16; n += 16) {
    if (!whole) unpack<ISA>(j, n, w.data());
    if (!halves && j.narrow)
      read_scales(j, static_cast<const BFloat16*>(j.scales), n, scales.data());
    else if (!halves)
      read_scales(j, static_cast<const float*>(j.scales), n, scales.data());
    for (int64_t row = 0; row < j.m; row += ROWS) {
      const int rows = std::min(ROWS, j.m - row);
      if (sums_of == sums_amx && rows != configured)
        configure(configured = rows, std::min<int64_t>(64, j.group));
      alignas(64) float y[ROWS * 16];
      alignas(64) int32_t sums[ROWS * 16];
      for (int i = 0; i < rows * 16; i++) y[i] = 0;
      for (int c = 0; halves && c < rows; c++)
        if (j.narrow)
          add_halves(j, static_cast<const BFloat16*>(j.scales), n, row + c, y + c * 16);
        else
          add_halves(j, static_cast<const float*>(j.scales), n, row + c, y + c * 16);
      for (int64_t g = 0; !halves && g < j.groups; g++) {
        const int64_t at = g * j.group;
        const int8_t* x = j.x + row * j.k + at;
        if (whole)
          sums_of_rows(j, n, x, rows, sums);
        else
          sums_of(x, j.k, w.data() + at * 16, j.group, rows, sums);
        const float *s = scales.data() + g * 32, *z = s + 16;
        for (int c = 0; c < rows; c++) {
          const float sum = j.sums[(row + c) * j.groups + g];
          SIMD for (int r = 0; r < 16; r++)
            y[c * 16 + r] += sums[c * 16 + r] * s[r] + sum * z[r];
        }
      }
      for (int c = 0; c < rows; c++) {
        T line[16];
        const float x_scale = j.x_scales[row + c], *s = scales.data();
        if (!j.int4) add_top(j, n, row + c, whole ? nullptr : w.data(), s, y + c * 16);
        SIMD for (int r = 0; r < 16; r++) line[r] = rounded<T>(y[c * 16 + r] * x_scale);
        std::memcpy(out + (row + c) * j.n + n, line,
                    std::min<int64_t>(16, j.n - n) * sizeof(T));
      }
    }
  }
  if (configured) release();
}

template <class T>
AVX512 void multiply_wide(const Job& j, int64_t begin, int64_t end, T* out) {
  j.isa > 2 ? multiply<3>(j, begin, end, out) : multiply<2>(j, begin, end, out);
}

// 16 rows of int8 from n on as bf16, which holds every code: (k / 2, 16, 2).
AVX512 void widen_int8(const Job& j, int64_t n, uint32_t* to) {
  for (int64_t i = 0; i < j.k; i += 64) {
    __m512i q[16];
    rows_of(j, n, i, q);
    turn(q);
    UNROLL for (int r = 0; r < 32; r++, to += 16) {
      const __m512i four = _mm512_xor_si512(q[r / 2], _mm512_set1_epi8(-128));
      const __m512i two = r % 2 ? four : _mm512_slli_epi32(four, 16);
      const __m512i first = _mm512_srai_epi32(_mm512_slli_epi32(two, 8), 24);
      const auto low = __m512i(_mm512_cvtepi32_ps(first));
      const auto high = __m512i(_mm512_cvtepi32_ps(_mm512_srai_epi32(two, 24)));
      _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(low, 16), high));
    }
  }
}

// The same of int4 as torch's AVX-512 kernel orders it: the codes of a column together,
// of 64 rows or of those that are left; s and z in bf16 (groups, rows, 2).
AVX512 __attribute__((target("avx512bf16"))) void widen_int4(const Job& j, int64_t n,
                                                             uint32_t* to) {
  const __m512 code = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const int64_t rows = std::min<int64_t>(64, j.inputs - n / 64 * 64), part = n % 64 / 16;
  const uint8_t* from = j.w + n / 64 * 32 * j.k + (rows < 64 ? part * 8 : part % 2 * 16);
  for (int64_t i = 0; i < j.k; i += 2, to += 16) {
    const int64_t at = i / j.group * j.inputs + n;
    const __m512i pairs = _mm512_loadu_si512(static_cast<const uint32_t*>(j.scales) + at);
    const auto s = __m512(_mm512_slli_epi32(pairs, 16));
    const auto z = __m512(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
    __m512i w[2];
    UNROLL for (int h = 0; h < 2; h++, from += rows / 2) {
      const auto* bytes = reinterpret_cast<const __m128i*>(from);
      __m512i q;  // in the low 4 bits
      if (rows < 64) {
        q = _mm512_cvtepu8_epi64(_mm_loadl_epi64(bytes));
        q = _mm512_or_si512(q, _mm512_slli_epi64(q, 28));
      } else {
        q = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes));
        q = _mm512_srli_epi32(q, part / 2 * 4);
      }
      const __m512 exact = _mm512_fmadd_ps(_mm512_permutexvar_ps(q, code), s, z);
      w[h] = _mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(exact)));
    }
    _mm512_storeu_si512(to, _mm512_or_si512(w[0], _mm512_slli_epi32(w[1], 16)));
  }
}

// 32 rows of x (k / 32, 32, 32) by 32 of W (2, k / 2, 16, 2), in bf16: (32, 32).
void sums_widened(const BFloat16* x, const uint32_t* w, int64_t k, float* out) {
  asm volatile("" : : : "memory");
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int64_t i = 0; i < k; i += 32, x += 1024, w += 256) {
    _tile_loadd(4, x, 64); _tile_loadd(6, w, 64);
    _tile_loadd(7, w + 8 * k, 64); _tile_loadd(5, x + 512, 64);
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, 128); _tile_stored(1, out + 16, 128);
  _tile_stored(2, out + 512, 128); _tile_stored(3, out + 528, 128);
  asm volatile("" : : : "memory");
}

// All rows of x by rows of W that are widened once, of as many at a time as L2 holds.
AVX512 void multiply_widened(const Job& j, const BFloat16* x, int64_t begin, int64_t end,
                             BFloat16* out) {
  const int64_t most = std::clamp<int64_t>((1 << 14) / j.k, 1, 8) * 32;
  std::vector<uint32_t> w(most * j.k / 2);
  std::vector<float> scales(most, 1);
  configure(32, 64);
  for (int64_t n = begin * 32, last = std::min(end * 32, j.n); n < last; n += most) {
    const int64_t size = std::min(most, last - n);
    for (int64_t r = 0; r < size; r += 16)
      (j.int4 ? widen_int4 : widen_int8)(j, n + r, w.data() + r * j.k / 2);
    if (!j.int4) std::copy_n(static_cast<const float*>(j.scales) + n, size, scales.data());
    for (int64_t row = 0; row < j.m; row += 32) for (int64_t r = 0; r < size; r += 32) {
      float y[1024];
      sums_widened(x + row * j.k, w.data() + r * j.k / 2, j.k, y);
      const __mmask32 mask = size - r < 32 ? (1u << (size - r)) - 1 : ~0u;
      for (int64_t c = 0; c < std::min<int64_t>(32, j.m - row); c++) {
        BFloat16 line[32];
        SIMD for (int i = 0; i < 32; i++)
          line[i] = rounded<BFloat16>(y[c * 32 + i] * scales[r + i]);
        BFloat16* to = out + (row + c) * j.n + n + r;
        _mm512_mask_storeu_epi16(to, mask, _mm512_loadu_si512(line));
      }
    }
  }
  release();
}

// What this CPU has; asking for tiles is what lets the process use them.
int64_t best_isa() {
  static const int64_t best = [] {
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vl"))
      return 1;
    const bool amx = __builtin_cpu_supports("amx-int8");
    return amx && syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? 3 : 2;
  }();
  return best;
}

template <class T>
Tensor product(Job& j, const Tensor& x) {
  const Tensor y = at::empty({j.m, j.n}, x.options());
  const Tensor codes = at::empty({j.m, j.k}, at::kChar);
  const Tensor of_x = at::empty({j.m * (3 + j.groups)}, at::kFloat);
  j.x = codes.data_ptr<int8_t>(), j.x_scales = of_x.data_ptr<float>();
  j.tops = j.x_scales + j.m, j.sums = j.tops + 2 * j.m;
  const int64_t few = std::max<int64_t>(1, 32768 / j.k);  // rows not worth a thread
  at::parallel_for(0, j.m, few, [&](int64_t row, int64_t end) {
    std::vector<float> wide(j.k);
    for (; row < end; row++) quantize(j, x.data_ptr<T>(), row, wide.data());
  });
  at::parallel_for(0, (j.n + 15) / 16, (few + 15) / 16, [&](int64_t begin, int64_t end) {
    T* out = y.data_ptr<T>();
    j.isa > 1 ? multiply_wide(j, begin, end, out) : multiply<1>(j, begin, end, out);
  });
  return y;
}

Tensor product(Job j, const Tensor& x, const Tensor& scales, int64_t isa) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == j.inputs, "x of other widths than W");
  const bool narrow = x.scalar_type() == at::kBFloat16;
  j.narrow = scales.scalar_type() == at::kBFloat16;
  const Tensor in = (narrow ? x : x.to(at::kFloat)).contiguous();
  const Tensor held = (j.narrow ? scales : scales.to(at::kFloat)).contiguous();
  j.m = x.size(0), j.isa = std::min(isa, best_isa()), j.scales = held.data_ptr();
  return narrow ? product<BFloat16>(j, in) : product<float>(j, in).to(x.scalar_type());
}

Tensor int8_dynamic(const Tensor& x, const Tensor& w, const Tensor& scales, int64_t isa) {
  TORCH_CHECK(w.is_contiguous() && w.size(0) == scales.numel());
  Job j{.n = w.size(0), .groups = 1, .inputs = w.size(1)};
  j.group = j.k = (j.inputs + 63) / 64 * 64;
  j.w = reinterpret_cast<const uint8_t*>(w.data_ptr<int8_t>());
  return product(j, x, scales, isa);
}

Tensor int4_dynamic(const Tensor& x, const Tensor& w, const Tensor& pairs, int64_t n,
                    int64_t isa) {
  TORCH_CHECK(w.is_contiguous() && w.dim() == 4 && pairs.size(0) == w.size(0));
  Job j{.n = n, .k = w.size(1) * 8, .groups = pairs.size(1), .int4 = true};
  j.inputs = j.k, j.group = j.k / j.groups, j.w = w.data_ptr<uint8_t>();
  return product(j, x, pairs, isa);
}

Tensor widened(Job j, const Tensor& x, const Tensor& scales) {
  TORCH_CHECK(x.dim() == 2 && x.scalar_type() == at::kBFloat16 && best_isa() > 2);
  j.m = x.size(0), j.scales = scales.data_ptr();
  const int64_t rows = (j.m + 31) / 32 * 32, inputs = x.size(1);
  const Tensor in = x.contiguous(), tiles = at::empty({rows * j.k}, x.options());
  const Tensor y = at::empty({j.m, j.n}, x.options());
  auto* to = tiles.data_ptr<BFloat16>();
  for (int64_t row = 0; row < rows; row += 32) for (int64_t i = 0; i < j.k; i += 32)
    for (int64_t r = row; r < row + 32; r++, to += 32) {
      const int64_t size = r < j.m ? std::clamp<int64_t>(inputs - i, 0, 32) : 0;
      if (size < 32) std::fill_n(to, 32, BFloat16(0));
      std::copy_n(in.data_ptr<BFloat16>() + r * inputs + i, size, to);
    }
  at::parallel_for(0, (j.n + 31) / 32, 1, [&](int64_t begin, int64_t end) {
    auto* out = y.data_ptr<BFloat16>();
    multiply_widened(j, tiles.data_ptr<BFloat16>(), begin, end, out);
  });
  return y;
}

Tensor int8_widened(const Tensor& x, const Tensor& w, const Tensor& scales, int64_t) {
  TORCH_CHECK(w.is_contiguous() && w.size(0) == scales.numel());
  Job j{.n = w.size(0), .k = (w.size(1) + 63) / 64 * 64, .inputs = w.size(1)};
  j.w = reinterpret_cast<const uint8_t*>(w.data_ptr<int8_t>());
  TORCH_CHECK(x.size(1) == j.inputs, "x of other widths than W");
  return widened(j, x, scales.to(at::kFloat));
}

// inputs: rows of W as stored, filled up.
Tensor int4_widened(const Tensor& x, const Tensor& w, const Tensor& pairs, int64_t n,
                    int64_t) {
  TORCH_CHECK(w.is_contiguous() && pairs.is_contiguous() && pairs.dim() == 3);
  TORCH_CHECK(w.numel() * 2 == pairs.size(1) * x.size(1), "x of other widths than W");
  Job j{.n = n, .k = x.size(1), .groups = pairs.size(0), .int4 = true};
  j.group = j.k / j.groups, j.inputs = pairs.size(1), j.w = w.data_ptr<uint8_t>();
  return widened(j, x, pairs);
}
}  // namespace

TORCH_LIBRARY(fastlab, library) {
  library.def("int8_dynamic(Tensor x, Tensor w, Tensor scales, int isa) -> Tensor");
  library.def("int4_dynamic(Tensor x, Tensor w, Tensor pairs, int n, int isa) -> Tensor");
  library.def("int8_widened(Tensor x, Tensor w, Tensor scales, int isa) -> Tensor");
  library.def("int4_widened(Tensor x, Tensor w, Tensor pairs, int n, int isa) -> Tensor");
  library.def("best_isa() -> int", best_isa);
}
TORCH_LIBRARY_IMPL(fastlab, CPU, library) {
  library.impl("int8_dynamic", int8_dynamic);
  library.impl("int4_dynamic", int4_dynamic);
  library.impl("int8_widened", int8_widened);
  library.impl("int4_widened", int4_widened);
}

// Every operator of sdd_fast: its schema. Kernels are registered by csrc/<op>/<op>.cpp; fake
// kernels and autograd by sdd_fast/ops/<op>.py.
#include <torch/csrc/stable/library.h>

#include "common/cpu_level.h"

STABLE_TORCH_LIBRARY(sdd_fast, m) {
  m.def(
      "softmax_entropy_l1(Tensor x, bool abs_mean) -> "
      "(Tensor entropy, Tensor l1, Tensor deficit, Tensor log_mean_exp)");
  m.def(
      "softmax_entropy_l1_backward(Tensor? grad_entropy, Tensor? grad_l1, Tensor? grad_deficit, "
      "Tensor? grad_log_mean_exp, Tensor x, Tensor deficit, Tensor log_mean_exp, bool abs_mean) -> "
      "Tensor x_grad");
  // act: 0 linear, 1 relu, 2 lrelu
  m.def("bias_act(Tensor x, Tensor? b, int act, float alpha, float gain, float? clamp) -> Tensor");
  m.def(
      "bias_act_backward(Tensor grad, Tensor y, int act, float alpha, float gain, float? clamp, "
      "bool b_grad) -> (Tensor x_grad, Tensor b_grad)");
  m.def(
      "conv_epilogue(Tensor x, Tensor? factor, Tensor? noise, Tensor? bias, int act, float alpha, "
      "float gain, float? clamp) -> Tensor");
  m.def(
      "conv_epilogue_(Tensor(a!) x, Tensor? factor, Tensor? noise, Tensor? bias, int act, "
      "float alpha, float gain, float? clamp) -> ()");
  m.def(
      "conv_epilogue_backward(Tensor grad, Tensor x, Tensor? factor, Tensor? noise, Tensor? bias, "
      "int act, float alpha, float gain, float? clamp, bool factor_grad, bool noise_grad, "
      "bool bias_grad) -> (Tensor x_grad, Tensor factor_grad_, Tensor noise_grad_, "
      "Tensor bias_grad_)");
  m.def(
      "upfirdn2d(Tensor x, Tensor f, int up, int down, SymInt left, SymInt right, SymInt top, "
      "SymInt bottom, bool flip_filter, float gain) -> Tensor");
  m.def("demodulation(Tensor weight, Tensor styles, float eps) -> (Tensor factor, Tensor energy)");
  m.def(
      "group_norm_silu(Tensor x, int num_groups, Tensor weight, Tensor bias, float eps, bool silu) "
      "-> (Tensor y, Tensor mean, Tensor rstd)");
  m.def(
      "group_norm_silu_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor weight, "
      "Tensor bias, bool silu) -> Tensor x_grad");
}

// Read by sdd_fast.build_info() through ctypes.
extern "C" __attribute__((visibility("default"))) const char* sdd_fast_compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

extern "C" __attribute__((visibility("default"))) const char* sdd_fast_cpu_level() {
  return sdd::cpu_level_name();
}

extern "C" __attribute__((visibility("default"))) const char* sdd_fast_cpu_levels_compiled() {
#if defined(SDD_HAVE_X86_LEVELS)
  return "portable x86-64-v3 x86-64-v4";
#else
  return "portable";
#endif
}

extern "C" __attribute__((visibility("default"))) const char* sdd_fast_cuda_targets() {
#if defined(SDD_HAVE_CUDA)
  return SDD_HAVE_CUDA;
#else
  return "";
#endif
}

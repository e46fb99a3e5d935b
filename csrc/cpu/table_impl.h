// The body of a kernels_*.cpp: all loops in the namespace FUSED_RESNET_ISA. No standard header may come in after the
// file has raised its instruction set, for the reason given in number_impl.h.
#include "kernels.h"
#include "products.h"
#include "tables.h"

namespace fused_resnet::FUSED_RESNET_ISA {

namespace {
#include "number_impl.h"
#include "norm_impl.h"
#include "pool_impl.h"
#include "vector_impl.h"
#include "product_impl.h"
#include "pairs_impl.h"
#include "winograd_impl.h"
#include "operand_impl.h"

template <class T>
constexpr Kernels<T> table_of{affine_act<T>,      add_act<T>,  backward_apply<T>, moments<T>, merge_moments,
                              backward_reduce<T>, pool_row<T>, pool_backward<T>};

template <class T>
constexpr OperandKernels<T> operands_of{read<T, float>, read<T, T>, store_forward<T>, store_moments<T>,
                                        store_gradient<T>};

constexpr ProductKernels product_table{panel_width,       multiply<panel_vectors>, correlate<panel_vectors>,
                                       winograd_input,    winograd_output,         winograd_gradient,
                                       winograd_filter,   column_sums,             pair_columns,
                                       pair_pixels,       transpose};
} // namespace

const Tables tables{table_of<float>, table_of<double>,   table_of<BFloat16>,
                    product_table,   operands_of<float>, operands_of<BFloat16>};

} // namespace fused_resnet::FUSED_RESNET_ISA

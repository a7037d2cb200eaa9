#include <limits>

#include "base/error.h"
#include "codegen/generators.h"
#include "codegen/loops.h"
#include "codegen/row_kernel_stages.h"
#include "codegen/vector_memory.h"

namespace sinter {
namespace {

/// for each row: for each stage: once-a-row steps; full vectors of columns; masked vectors for the rest; reductions to one value.
class RowKernelWriter {
 public:
  RowKernelWriter(Emitter& emitter, const std::string& symbol, const RowKernel& kernel)
      : kernel_(kernel),
        staging_(stages_of(kernel)),
        function_(emitter.function(symbol, emitter.signature("ppiiii"), true)),
        entry_(llvm::BasicBlock::Create(emitter.context(), "", function_)),
        b(llvm::BasicBlock::Create(emitter.context(), "", function_)),
        math_(b, emitter.target()),
        memory_(b, math_, emitter.target(), entry_) {
    b.setFastMathFlags(contract_only());
    values_.resize(kernel.body.size());
    for (unsigned i = 0; i < 2; ++i) function_->addParamAttr(i, llvm::Attribute::NoAlias);
  }

  void write() {
    llvm::BasicBlock* start = b.GetInsertBlock();
    // No rows may mean a dim of size 0, by which setup would divide.
    V row_begin = argument(2), row_end = argument(3);
    emit_if(b, b.CreateICmpSLT(row_begin, row_end), [&] {
      setup(row_begin);
      emit_loop(b, row_begin, row_end, 1, [&](V row) {
        find_row(row);
        for (size_t i = 0; i < staging_.stages.size(); ++i) stage(staging_.stages[i], i + 1 == staging_.stages.size());
        next_row();
      });
    });
    b.CreateRetVoid();
    llvm::IRBuilder<>(entry_).CreateBr(start);
  }

 private:
  using V = llvm::Value*;
  struct Operand {
    V base, row = nullptr;  // address of element 0, of the row's column 0
    std::vector<V> strides, numerators, denominators;
    V column_stride = nullptr;  // in bytes; null: side by side
  };

  V argument(unsigned i) { return function_->getArg(i); }
  V param(int i) {
    return b.CreateAlignedLoad(b.getInt64Ty(), b.CreateConstGEP1_64(b.getInt64Ty(), argument(1), uint64_t(i)), llvm::Align(8));
  }
  V bytes(DType type) { return b.getInt64(uint64_t(byte_size(type))); }

  /// What holds for all rows.
  void setup(V row_begin) {
    columns_ = param(0);
    for (int d = 0; d < kernel_.rank; ++d) sizes_.push_back(param(1 + d));
    for (int i = 0; i < int(kernel_.operands.size()); ++i) operands_.push_back(operand(i));
    V rest = row_begin;
    indices_.resize(size_t(kernel_.rank));
    for (size_t d = indices_.size(); d-- > 0;) {
      indices_[d] = memory_.variable(b.getInt64Ty());
      b.CreateStore(d == 0 ? rest : b.CreateSRem(rest, sizes_[d]), indices_[d]);
      if (d > 0) rest = b.CreateSDiv(rest, sizes_[d]);
    }
  }

  Operand operand(int i) {
    const KernelOperand& o = kernel_.operands[size_t(i)];
    Operand result;
    result.base = b.CreateAlignedLoad(b.getPtrTy(), b.CreateConstGEP1_64(b.getPtrTy(), argument(0), uint64_t(i)), llvm::Align(8));
    int at = kernel_.operand_params(i);
    int strides = o.row == RowAccess::flat ? 1 : kernel_.rank;
    for (int d = 0; d < strides; ++d) result.strides.push_back(b.CreateMul(param(at + d), bytes(o.dtype)));
    if (o.column == ColumnAccess::strided) result.column_stride = b.CreateMul(param(at + kernel_.rank), bytes(o.dtype));
    if (o.row == RowAccess::scaled)
      for (int d = 0; d < kernel_.rank; ++d) {
        result.numerators.push_back(param(at + kernel_.rank + 1 + 2 * d));
        result.denominators.push_back(param(at + kernel_.rank + 2 + 2 * d));
      }
    return result;
  }

  V index(size_t dim) { return b.CreateLoad(b.getInt64Ty(), indices_[dim]); }

  void find_row(V row) {
    for (size_t i = 0; i < operands_.size(); ++i) {
      Operand& o = operands_[i];
      V offset = b.getInt64(0);
      for (size_t d = 0; d < o.strides.size(); ++d) {
        V at = kernel_.operands[i].row == RowAccess::flat ? row : index(d);
        if (!o.numerators.empty()) at = b.CreateSDiv(b.CreateMul(at, o.numerators[d]), o.denominators[d]);
        offset = b.CreateAdd(offset, b.CreateMul(at, o.strides[d]));
      }
      o.row = b.CreatePtrAdd(o.base, offset);
    }
  }

  /// Counts the indices on, like an odometer.
  void next_row() {
    V carry = b.getInt64(1);
    for (size_t d = indices_.size(); d-- > 0;) {
      V next = b.CreateAdd(index(d), carry);
      V wraps = b.CreateICmpEQ(next, sizes_[d]);
      b.CreateStore(b.CreateSelect(wraps, b.getInt64(0), next), indices_[d]);
      carry = b.CreateZExt(wraps, b.getInt64Ty());
    }
  }

  void stage(const KernelStage& stage, bool last) {
    for (int i : stage.row_steps) row_step(i);
    if (stage.column_steps.empty() && stage.reductions.empty()) return;
    V begin = last ? argument(4) : b.getInt64(0), end = last ? argument(5) : columns_;
    if (stage.reductions.empty()) {
      V full_end = round_down(begin, end, math_.lanes());
      emit_loop(b, begin, full_end, math_.lanes(), [&](V column) { column_steps(stage, column, nullptr); });
      masked_rest(full_end, end, [&](V column, const ActiveLanes& active) { column_steps(stage, column, &active); });
    } else {
      reduce(stage, begin, end);
    }
  }

  V round_down(V begin, V end, int64_t unit) {
    V length = b.CreateSub(end, begin);
    return b.CreateAdd(begin, b.CreateMul(b.CreateSDiv(length, b.getInt64(uint64_t(unit))), b.getInt64(uint64_t(unit))));
  }

  template <class Body>
  void masked_rest(V begin, V end, Body&& body) {
    emit_loop(b, begin, end, math_.lanes(), [&](V column) { body(column, memory_.active(column, end)); });
  }

  /// Several accumulators hide the latency of the addition. They are emptied into totals every 32 turns, sums into f64, so that
  /// the error of a sum does not grow with the row: those of group normalisation have a million columns.
  void reduce(const KernelStage& stage, V begin, V end) {
    const int copies = stage.column_steps.size() <= 12 ? 4 : 2;
    const int64_t step = int64_t(copies) * math_.lanes(), block = 32 * step;
    std::vector<V> totals, parts;
    for (int r : stage.reductions) {
      totals.push_back(memory_.variable(total_type(r)));
      b.CreateStore(llvm::ConstantFP::get(total_type(r), start_value(r)), totals.back());
      for (int u = 0; u < copies; ++u) parts.push_back(memory_.variable(math_.floats()));
    }
    V full_end = round_down(begin, end, step);
    emit_loop(b, begin, full_end, block, [&](V block_begin) {
      V block_end = b.CreateNSWAdd(block_begin, b.getInt64(uint64_t(block)));
      block_end = b.CreateSelect(b.CreateICmpSLT(block_end, full_end), block_end, full_end);
      for (size_t k = 0; k < parts.size(); ++k) b.CreateStore(start_of(stage.reductions[k / size_t(copies)]), parts[k]);
      emit_loop(b, block_begin, block_end, step, [&](V column) {
        for (int u = 0; u < copies; ++u) {
          column_steps(stage, b.CreateNSWAdd(column, b.getInt64(uint64_t(u) * uint64_t(math_.lanes()))), nullptr);
          for (size_t k = 0; k < stage.reductions.size(); ++k)
            accumulate(stage.reductions[k], parts[k * size_t(copies) + size_t(u)], input_of(stage.reductions[k]));
        }
      });
      for (size_t k = 0; k < parts.size(); ++k)
        accumulate(stage.reductions[k / size_t(copies)], totals[k / size_t(copies)], b.CreateLoad(math_.floats(), parts[k]));
    });
    masked_rest(full_end, end, [&](V column, const ActiveLanes& active) {
      column_steps(stage, column, &active);
      for (size_t k = 0; k < stage.reductions.size(); ++k) {
        int r = stage.reductions[k];
        accumulate(r, totals[k], b.CreateSelect(active.mask, input_of(r), start_of(r)));
      }
    });
    for (size_t k = 0; k < stage.reductions.size(); ++k) finish(stage.reductions[k], totals[k]);
  }

  bool is_sum(int reduction) { return kernel_.body[size_t(reduction)].kind == KernelStep::reduce_sum; }
  double start_value(int reduction) { return is_sum(reduction) ? 0 : -std::numeric_limits<double>::infinity(); }
  V start_of(int reduction) { return math_.constant(start_value(reduction)); }
  V input_of(int reduction) { return values_[size_t(kernel_.body[size_t(reduction)].a)]; }
  llvm::Type* total_type(int reduction) { return is_sum(reduction) ? math_.vector_of(b.getDoubleTy()) : math_.floats(); }

  /// Adds to a part (f32) or a total.
  void accumulate(int reduction, V variable, V value) {
    llvm::Type* type = llvm::cast<llvm::AllocaInst>(variable)->getAllocatedType();
    V before = b.CreateLoad(type, variable);
    V after = is_sum(reduction) ? b.CreateFAdd(before, b.CreateFPCast(value, type)) : math_.maximum(before, value);
    b.CreateStore(after, variable);
  }

  void finish(int reduction, V variable) {
    V total = b.CreateLoad(total_type(reduction), variable);
    V one = is_sum(reduction) ? b.CreateFPTrunc(math_.sum_of_lanes(total), b.getFloatTy()) : math_.maximum_of_lanes(total);
    values_[size_t(reduction)] = math_.splat(one);
  }

  void row_step(int i) {
    const KernelStep& s = kernel_.body[size_t(i)];
    V& value = values_[size_t(i)];
    switch (s.kind) {
      case KernelStep::load:
        value = memory_.load_one(type_of(s), operands_[size_t(s.operand)].row);
        break;
      case KernelStep::store:
        memory_.store_one(type_of(s), values_[size_t(s.a)], operands_[size_t(s.operand)].row);
        break;
      case KernelStep::constant:
        value = math_.constant(s.value);
        break;
      case KernelStep::row_index:
        value = math_.splat(b.CreateSIToFP(index(size_t(s.operand)), b.getFloatTy()));
        break;
      case KernelStep::primitive:
        value = primitive(s);
        break;
      case KernelStep::swap_pairs:
        value = values_[size_t(s.a)];
        break;
      default:
        fail(Code::Internal, "row kernel: step {} is not one of a row", i);
    }
  }

  void column_steps(const KernelStage& stage, V column, const ActiveLanes* active) {
    for (int i : stage.column_steps) {
      const KernelStep& s = kernel_.body[size_t(i)];
      V& value = values_[size_t(i)];
      switch (s.kind) {
        case KernelStep::load:
          value = memory_.load(type_of(s), address(s, column), column_stride(s), active);
          break;
        case KernelStep::store:
          memory_.store(type_of(s), values_[size_t(s.a)], address(s, column), column_stride(s), active);
          break;
        case KernelStep::column_index:
          value = column_numbers(column);
          break;
        case KernelStep::primitive:
          value = primitive(s);
          break;
        case KernelStep::swap_pairs:
          value = math_.swap_pairs(values_[size_t(s.a)]);
          break;
        default:
          fail(Code::Internal, "row kernel: step {} is not one of a column", i);
      }
    }
  }

  V primitive(const KernelStep& s) {
    auto at = [&](int i) { return i < 0 ? nullptr : values_[size_t(i)]; };
    return math_.emit(s.prim, at(s.a), at(s.b), at(s.c));
  }
  V column_numbers(V column) {
    V first = math_.splat(b.CreateTrunc(column, b.getInt32Ty()));
    return b.CreateSIToFP(b.CreateAdd(first, math_.lane_numbers()), math_.floats());
  }
  DType type_of(const KernelStep& s) { return kernel_.operands[size_t(s.operand)].dtype; }
  V column_stride(const KernelStep& s) { return operands_[size_t(s.operand)].column_stride; }
  V address(const KernelStep& s, V column) {
    V stride = column_stride(s);
    return b.CreatePtrAdd(operands_[size_t(s.operand)].row, b.CreateMul(column, stride ? stride : bytes(type_of(s))));
  }

  const RowKernel& kernel_;
  KernelStages staging_;
  llvm::Function* function_;
  llvm::BasicBlock* entry_;  // variables only
  llvm::IRBuilder<> b;
  X86VectorMath math_;
  VectorMemory memory_;
  V columns_ = nullptr;
  std::vector<V> sizes_, indices_;
  std::vector<Operand> operands_;
  std::vector<V> values_;  // by step: a vector, the same in all lanes for what does not vary by column
};

}  // namespace

void add_row_kernel(Emitter& emitter, const std::string& symbol, const RowKernel& kernel) {
  RowKernelWriter(emitter, symbol, kernel).write();
}

}  // namespace sinter

#include <bit>
#include <functional>
#include <limits>

#include "base/error.h"
#include "codegen/gpu_device.h"
#include "codegen/gpu_memory.h"
#include "codegen/loops.h"
#include "codegen/row_kernel_stages.h"

namespace sinter {
namespace {

/// What is stored in f32 gets all of its digits: a frequency that is off by two units in the last place gives an angle of
/// hundreds that is off by 1e-4. Otherwise quotients need not be rounded correctly, unless a whole number hangs on it.
GpuQuick what_may_be_quick(const RowKernel& kernel) {
  GpuQuick quick{true, true};
  for (const KernelStep& s : kernel.body) {
    if (s.kind == KernelStep::store && kernel.operands[size_t(s.operand)].dtype == DType::f32) return {};
    if (s.kind == KernelStep::primitive && (s.prim == Prim::floor || s.prim == Prim::less || s.prim == Prim::select))
      quick.quotients = false;
  }
  return quick;
}

void check(const RowKernel& kernel, const GpuSchedule& s) {
  bool power_of_two = std::has_single_bit(unsigned(s.row_threads));
  bool shape = s.row_threads >= 1 && s.block_rows >= 1 && s.block_threads() <= 1024;
  if (needs_whole_rows(kernel))
    shape = shape && (power_of_two || (s.row_threads % 32 == 0 && s.block_rows == 1)) && s.block_threads() % 32 == 0;
  bool vector = s.turns >= 1 && (s.vector == 1 || s.vector == 2 || s.vector == 4 || s.vector == 8) && s.columns % s.vector == 0;
  bool access = s.operands.size() == kernel.operands.size();
  for (size_t i = 0; access && i < s.operands.size(); ++i) {
    int a = s.operands[i].access;
    access = a >= 1 && s.vector % a == 0 && (a == 1 || a * byte_size(kernel.operands[i].dtype) <= 16) &&
             (a == 1 || kernel.operands[i].column == ColumnAccess::dense);
  }
  for (const KernelStep& step : kernel.body) vector = vector && (step.kind != KernelStep::swap_pairs || s.vector > 1);
  constexpr int kArgumentBytes = 4096;  // what a launch can pass
  if (int bytes = GpuArguments{kernel}.count() * 8; bytes > kArgumentBytes)
    fail(Code::Unsupported, "a row kernel takes {} bytes of arguments, more than the {} that a GPU allows\n{}", bytes,
         kArgumentBytes, kernel.text());
  if (!shape || !vector || !access)
    fail(Code::InvalidArgument, "a row kernel cannot be written for {}\n{}", s.text(), kernel.text());
}

/// One group of threads for each row, or for each chunk of a row; see GpuSchedule. Rows and columns past the end are worked on
/// like the last ones, and not stored: straight code loads far ahead, and everybody is there when threads exchange values.
class GpuRowKernelWriter {
 public:
  GpuRowKernelWriter(GpuDevice& device, const std::string& symbol, const RowKernel& kernel, const GpuSchedule& schedule)
      : kernel_(kernel),
        schedule_((check(kernel, schedule), schedule)),
        staging_(stages_of(kernel)),
        device_(device),
        slots_{kernel_},
        whole_(needs_whole_rows(kernel)),
        function_(device.kernel(symbol, slots_.count(), schedule.block_threads())),
        entry_(llvm::BasicBlock::Create(function_->getContext(), "", function_)),
        b(llvm::BasicBlock::Create(function_->getContext(), "", function_)),
        math_((device.emit_into(b), device.math(what_may_be_quick(kernel)))),
        types_(device.types(*math_)),
        memory_(b, *types_, device.global_space()) {
    b.setFastMathFlags(contract_only());
    values_.resize(kernel.body.size());
    packed_.resize(kernel.operands.size());
  }

  void write() {
    llvm::BasicBlock* start = b.GetInsertBlock();
    find_thread();
    if (whole_) {
      V last = b.CreateSub(rows_, b.getInt32(1));
      if (schedule_.block_rows > 1) {
        row_active_ = b.CreateICmpULT(row_, rows_);
        row_ = b.CreateSelect(row_active_, row_, last);
      }
      row();
    } else {
      V inside = schedule_.block_rows > 1 ? b.CreateICmpULT(row_, rows_) : nullptr;
      if (!surely_active(0)) inside = both(inside, b.CreateICmpULT(column_, columns_));
      inside ? emit_if(b, inside, [&] { row(); }) : row();
    }
    b.CreateRetVoid();
    llvm::IRBuilder<>(entry_).CreateBr(start);
  }

 private:
  using V = llvm::Value*;
  using Values = std::vector<V>;  // of the columns of one thread in one chunk, or one value for all
  struct Operand {
    V row = nullptr;            // address of column 0 of the row
    V column_stride = nullptr;  // in bytes, i64; null: side by side
  };

  int vector() const { return schedule_.vector; }
  int turns() const { return schedule_.turns; }
  size_t elements() const { return size_t(vector() * turns()); }
  llvm::Type* int32() { return b.getInt32Ty(); }
  V number(int64_t n) { return b.getInt32(uint32_t(n)); }
  V both(V x, V y) { return !x ? y : !y ? x : b.CreateAnd(x, y); }
  V slot(int i) { return device_.argument(i, int32()); }
  V variable(llvm::Type* type) { return llvm::IRBuilder<>(entry_, entry_->begin()).CreateAlloca(type); }
  bool walks() const { return whole_ && !schedule_.holds_row(); }

  /// n / d for a divisor in two slots.
  V divide(V n, int at) {
    V product = b.CreateMul(b.CreateZExt(b.CreateShl(n, 1), b.getInt64Ty()), b.CreateZExt(slot(at), b.getInt64Ty()));
    return b.CreateLShr(b.CreateTrunc(b.CreateLShr(product, 32), int32()), slot(at + 1));
  }

  void find_thread() {
    const GpuSchedule& s = schedule_;
    V thread = device_.thread_number(), block = device_.block_number(), chunk = nullptr;
    thread_ = thread;
    lane_ = thread;
    rows_ = slot(slots_.rows());
    columns_ = s.columns > 0 ? number(s.columns) : slot(slots_.columns());
    row_ = block;
    if (!whole_ && !s.holds_row()) {
      row_ = divide(block, slots_.chunks() + 1);
      chunk = b.CreateSub(block, b.CreateMul(row_, slot(slots_.chunks())));
    }
    if (s.block_rows > 1) {
      V in_block = b.CreateUDiv(thread, number(s.row_threads));
      lane_ = b.CreateURem(thread, number(s.row_threads));
      row_ = b.CreateAdd(b.CreateMul(row_, number(s.block_rows)), in_block);
    }
    column_ = b.CreateMul(lane_, number(vector()));
    if (chunk) column_ = b.CreateAdd(b.CreateMul(chunk, number(s.chunk())), column_);
  }

  /// Every thread has columns for this turn, in every chunk.
  bool surely_active(int turn) const {
    const GpuSchedule& s = schedule_;
    if (s.columns == 0) return false;
    if (s.columns % s.chunk() == 0) return true;
    return s.holds_row() && int64_t(turn + 1) * s.row_threads * s.vector <= s.columns;
  }

  void row() {
    find_operands();
    device_.wait_for_operands();
    if (!walks()) {
      begin_chunk(column_);
      load_ahead();
    }
    for (const KernelStage& s : staging_.stages) stage(s);
  }

  void find_operands() {
    Values index(static_cast<size_t>(kernel_.rank));
    V rest = row_;
    for (int d = kernel_.rank - 1; d > 0; --d) {
      V above = divide(rest, slots_.size(d) + 1);
      index[size_t(d)] = b.CreateSub(rest, b.CreateMul(above, slot(slots_.size(d))));
      rest = above;
    }
    index[0] = rest;
    indices_ = index;
    for (int i = 0; i < int(kernel_.operands.size()); ++i) {
      const KernelOperand& o = kernel_.operands[size_t(i)];
      V at = device_.argument(slots_.address(i), b.getInt64Ty());
      for (int d = 0; d < (o.row == RowAccess::flat ? 1 : kernel_.rank); ++d) {
        V along = o.row == RowAccess::flat ? row_ : index[size_t(d)];
        if (o.row == RowAccess::scaled) along = divide(b.CreateMul(along, slot(slots_.scale(i, d))), slots_.scale(i, d) + 1);
        at = b.CreateAdd(at, times_stride(along, slots_.operand(i) + d));
      }
      Operand found{memory_.pointer(at)};
      if (o.column == ColumnAccess::strided) found.column_stride = wide_slot(slots_.column_stride(i));
      operands_.push_back(found);
    }
  }

  V wide_slot(int at) { return schedule_.wide ? device_.argument(at, b.getInt64Ty()) : b.CreateSExt(slot(at), b.getInt64Ty()); }
  V times_stride(V index, int at) {
    // Row numbers use all 32 bits only from 2^31 rows on, which no index reaches.
    return b.CreateMul(b.CreateSExt(index, b.getInt64Ty()), wide_slot(at));
  }

  /// The columns of this thread in the chunk that begins, for it, at `column`.
  void begin_chunk(V column) {
    first_ = column;
    active_.assign(size_t(turns()), nullptr);
    turn_columns_.clear();
    V safe = column;
    for (int u = 0; u < turns(); ++u) {
      V at = b.CreateAdd(column, number(int64_t(u) * schedule_.row_threads * vector()));
      if (!surely_active(u) && !(u == 0 && (walks() || !whole_))) {
        active_[size_t(u)] = b.CreateICmpULT(at, columns_);
        if (u == 0) safe = b.CreateSelect(active_[0], at, number(0));
        at = u == 0 ? safe : b.CreateSelect(active_[size_t(u)], at, safe);
      }
      turn_columns_.push_back(at);
    }
    for (auto& packed : packed_) packed.clear();
  }

  V address(int operand, int turn) {
    const Operand& o = operands_[size_t(operand)];
    int64_t bytes = byte_size(kernel_.operands[size_t(operand)].dtype);
    auto offset = [&](V column) {
      V wide = b.CreateSExt(column, b.getInt64Ty());
      return b.CreateMul(wide, o.column_stride ? o.column_stride : b.getInt64(uint64_t(bytes)));
    };
    // Turns apart by a constant become part of the access, where no column was moved inside.
    if (active_[size_t(turn)] || o.column_stride) return b.CreatePtrAdd(o.row, offset(turn_columns_[size_t(turn)]));
    V first = b.CreatePtrAdd(o.row, offset(first_));
    return b.CreateConstGEP1_64(b.getInt8Ty(), first, uint64_t(int64_t(turn) * schedule_.row_threads * vector() * bytes));
  }

  /// Nobody writes to it while the kernel runs.
  bool reads_only(int operand) const { return schedule_.operands[size_t(operand)].read_only && !device_.overlaps(); }

  void load_packed(int operand) {
    auto& packed = packed_[size_t(operand)];
    if (!packed.empty()) return;
    const GpuSchedule::Operand& how = schedule_.operands[size_t(operand)];
    DType type = kernel_.operands[size_t(operand)].dtype;
    V stride = operands_[size_t(operand)].column_stride;
    for (int u = 0; u < turns(); ++u)
      packed.push_back(stride ? memory_.load_strided(type, address(operand, u), stride, vector(), reads_only(operand))
                              : memory_.load(type, address(operand, u), vector(), how.access, reads_only(operand)));
  }

  /// Loads everything at once before the first value is used: what later passes need arrives while threads wait for each other.
  void load_ahead() {
    constexpr int64_t kMostBytes = 76 * 4;  // of registers; with 80 of them a modulated f32 norm spills
    int64_t bytes = 0;
    for (const KernelStage& stage : staging_.stages)
      for (int i : stage.column_steps) {
        const KernelStep& s = kernel_.body[size_t(i)];
        if (s.kind != KernelStep::load) continue;
        if (packed_[size_t(s.operand)].empty()) bytes += int64_t(elements()) * byte_size(type_of(s));
        if (bytes <= kMostBytes || &stage == &staging_.stages[0]) load_packed(s.operand);
      }
  }

  void stage(const KernelStage& stage) {
    for (int i : stage.row_steps) row_step(i);
    if (stage.column_steps.empty() && stage.reductions.empty()) return;
    if (!walks()) {
      column_steps(stage);
      store_columns(stage);
      Values totals;
      for (int r : stage.reductions) totals.push_back(thread_total(r));
      if (!stage.reductions.empty()) share(stage, totals);
      return;
    }
    Values totals = start_totals(stage);
    emit_loop(b, column_, columns_, schedule_.chunk(), [&](V column) {
      begin_chunk(column);
      for (int i : stage.column_steps) values_[size_t(i)].clear();
      column_steps(stage);
      store_columns(stage);
      for (size_t k = 0; k < stage.reductions.size(); ++k) add_to_total(stage.reductions[k], &totals[2 * k]);
    });
    for (int i : stage.column_steps) values_[size_t(i)].clear();
    if (stage.reductions.empty()) return;
    Values sums;
    for (size_t k = 0; k < stage.reductions.size(); ++k) sums.push_back(b.CreateLoad(b.getFloatTy(), totals[2 * k]));
    share(stage, sums);
  }

  bool is_sum(int reduction) const { return kernel_.body[size_t(reduction)].kind == KernelStep::reduce_sum; }
  V start_value(int reduction) { return math_->constant(is_sum(reduction) ? 0 : -std::numeric_limits<double>::infinity()); }
  V combine(int reduction, V x, V y) { return is_sum(reduction) ? b.CreateFAdd(x, y) : math_->maximum(x, y); }

  /// In pairs, pairs of pairs, ...: short chains, and an error that grows with their logarithm.
  V pairwise(int reduction, Values x) {
    while (x.size() > 1) {
      size_t half = (x.size() + 1) / 2;
      for (size_t i = 0; i + half < x.size(); ++i) x[i] = combine(reduction, x[i], x[i + half]);
      x.resize(half);
    }
    return x[0];
  }

  V thread_total(int reduction) {
    const Values& from = values_[size_t(kernel_.body[size_t(reduction)].a)];
    Values x;
    for (size_t e = 0; e < elements(); ++e) {
      V active = active_[e / size_t(vector())], value = at(from, e);
      x.push_back(active ? b.CreateSelect(active, value, start_value(reduction)) : value);
    }
    return pairwise(reduction, x);
  }

  /// For each reduction the total, and what its last additions lost.
  Values start_totals(const KernelStage& stage) {
    Values all;
    for (int r : stage.reductions)
      for (V start : Values{start_value(r), math_->constant(0)}) {
        all.push_back(variable(b.getFloatTy()));
        b.CreateStore(start, all.back());
      }
    return all;
  }

  /// Rows can have a million columns: Kahan's summation keeps the error of a thread's sum at that of one addition.
  void add_to_total(int reduction, V* total_and_lost) {
    V total = b.CreateLoad(b.getFloatTy(), total_and_lost[0]), part = thread_total(reduction);
    if (!is_sum(reduction)) {
      b.CreateStore(math_->maximum(total, part), total_and_lost[0]);
      return;
    }
    part = b.CreateFSub(part, b.CreateLoad(b.getFloatTy(), total_and_lost[1]));
    V sum = b.CreateFAdd(total, part), lost = b.CreateFSub(b.CreateFSub(sum, total), part);
    lost = b.CreateSelect(b.CreateFCmpORD(lost, lost), lost, math_->constant(0));  // infinity loses nothing
    b.CreateStore(sum, total_and_lost[0]);
    b.CreateStore(lost, total_and_lost[1]);
  }

  /// The totals of the row's threads into one, known to all of them.
  void share(const KernelStage& stage, Values totals) {
    for (int distance = std::min(schedule_.row_threads, 32) / 2; distance >= 1; distance /= 2)
      for (size_t k = 0; k < totals.size(); ++k)
        totals[k] = combine(stage.reductions[k], totals[k], device_.shuffle(totals[k], distance));
    if (schedule_.row_threads > 32) share_between_warps(stage, totals);
    for (size_t k = 0; k < totals.size(); ++k) {
      V& total = totals[k];
      if (is_sum(stage.reductions[k])) total = b.CreateFAdd(total, math_->constant(0));  // sums start from 0, not from -0
      values_[size_t(stage.reductions[k])] = {total};
    }
  }

  /// Every reduction has places of its own, so one barrier is enough.
  void share_between_warps(const KernelStage& stage, Values& totals) {
    int warps = schedule_.block_threads() / 32, row_warps = schedule_.row_threads / 32;
    if (!shared_) {
      int reductions = 0;
      for (const KernelStage& s : staging_.stages) reductions += int(s.reductions.size());
      shared_ = device_.shared_floats(reductions * warps);
    }
    llvm::Type* type = b.getFloatTy();
    auto place = [&](size_t k, V warp) {
      return b.CreateGEP(type, shared_, b.CreateAdd(number((shared_used_ + int(k)) * warps), warp));
    };
    V warp = b.CreateLShr(thread_, 5);
    emit_if(b, b.CreateICmpEQ(b.CreateAnd(thread_, number(31)), number(0)), [&] {
      for (size_t k = 0; k < totals.size(); ++k) b.CreateAlignedStore(totals[k], place(k, warp), llvm::Align(4));
    });
    device_.barrier();
    V first = schedule_.block_rows == 1 ? number(0) : b.CreateAnd(warp, number(-row_warps));
    for (size_t k = 0; k < totals.size(); ++k) {
      Values parts;
      for (int w = 0; w < row_warps; ++w)
        parts.push_back(b.CreateAlignedLoad(type, place(k, b.CreateAdd(first, number(w))), llvm::Align(4)));
      totals[k] = pairwise(stage.reductions[k], parts);
    }
    shared_used_ += int(totals.size());
  }

  V at(const Values& values, size_t element) const { return values.size() == 1 ? values[0] : values[element]; }
  DType type_of(const KernelStep& s) const { return kernel_.operands[size_t(s.operand)].dtype; }

  void row_step(int i) {
    const KernelStep& s = kernel_.body[size_t(i)];
    Values& value = values_[size_t(i)];
    switch (s.kind) {
      case KernelStep::load:
        value = {memory_.element(memory_.load(type_of(s), operands_[size_t(s.operand)].row, 1, 1, reads_only(s.operand)), 0)};
        break;
      case KernelStep::store:
        store_row(s);
        break;
      case KernelStep::constant:
        value = {math_->constant(s.value)};
        break;
      case KernelStep::row_index:
        value = {b.CreateSIToFP(indices_[size_t(s.operand)], b.getFloatTy())};
        break;
      case KernelStep::primitive:
        value = {primitive(s, 0)};
        break;
      case KernelStep::swap_pairs:
        value = values_[size_t(s.a)];
        break;
      default:
        fail(Code::Internal, "row kernel: step {} is not one of a row", i);
    }
  }

  void store_row(const KernelStep& s) {
    // Other threads of the row may still have to read what lies there.
    bool in_place = false;
    for (size_t i = 0; i < kernel_.operands.size(); ++i)
      in_place = in_place || (!kernel_.operands[i].written && !schedule_.operands[i].read_only);
    if (in_place && !waited_) device_.barrier();
    waited_ = true;
    emit_if(b, both(b.CreateICmpEQ(lane_, number(0)), row_active_),
            [&] { memory_.store(type_of(s), {values_[size_t(s.a)][0]}, operands_[size_t(s.operand)].row, 1); });
  }

  void column_steps(const KernelStage& stage) {
    for (int i : stage.column_steps) {
      const KernelStep& s = kernel_.body[size_t(i)];
      if (s.kind == KernelStep::load) load_packed(s.operand);
    }
    for (int i : stage.column_steps) {
      Values& values = values_[size_t(i)];
      if (!values.empty() || kernel_.body[size_t(i)].kind == KernelStep::store) continue;
      for (size_t e = 0; e < elements(); ++e) values.push_back(column_step(i, e));
    }
  }

  V column_step(int i, size_t e) {
    const KernelStep& s = kernel_.body[size_t(i)];
    size_t turn = e / size_t(vector()), in_vector = e % size_t(vector());
    switch (s.kind) {
      case KernelStep::load:
        return memory_.element(packed_[size_t(s.operand)][turn], int(in_vector));
      case KernelStep::column_index:
        return b.CreateSIToFP(b.CreateAdd(turn_columns_[turn], number(int64_t(in_vector))), b.getFloatTy());
      case KernelStep::primitive:
        return primitive(s, e);
      case KernelStep::swap_pairs:
        return at(values_[size_t(s.a)], e ^ 1);
      default:
        fail(Code::Internal, "row kernel: step {} is not one of a column", i);
    }
  }

  V primitive(const KernelStep& s, size_t e) {
    auto input = [&](int i) { return i < 0 ? nullptr : at(values_[size_t(i)], e); };
    return math_->emit(s.prim, input(s.a), input(s.b), input(s.c));
  }

  void store_columns(const KernelStage& stage) {
    for (int u = 0; u < turns(); ++u) {
      V active = both(active_[size_t(u)], row_active_);
      bool stores = false;
      auto all = [&] {
        for (int i : stage.column_steps)
          if (kernel_.body[size_t(i)].kind == KernelStep::store) store_turn(kernel_.body[size_t(i)], u);
      };
      for (int i : stage.column_steps) stores = stores || kernel_.body[size_t(i)].kind == KernelStep::store;
      if (stores && active)
        emit_if(b, active, all);
      else if (stores)
        all();
    }
  }

  void store_turn(const KernelStep& s, int turn) {
    Values values;
    for (int i = 0; i < vector(); ++i) values.push_back(at(values_[size_t(s.a)], size_t(turn * vector() + i)));
    V stride = operands_[size_t(s.operand)].column_stride;
    if (stride)
      memory_.store_strided(type_of(s), values, address(s.operand, turn), stride);
    else
      memory_.store(type_of(s), values, address(s.operand, turn), schedule_.operands[size_t(s.operand)].access);
  }

  const RowKernel& kernel_;
  const GpuSchedule& schedule_;
  KernelStages staging_;
  GpuDevice& device_;
  GpuArguments slots_;
  bool whole_;
  llvm::Function* function_;
  llvm::BasicBlock* entry_;  // variables only
  llvm::IRBuilder<> b;
  std::unique_ptr<VectorMath> math_;
  std::unique_ptr<ElementTypes> types_;
  GpuMemory memory_;

  V thread_ = nullptr, lane_ = nullptr;     // in the block, in the row
  V rows_ = nullptr, columns_ = nullptr;    // i32
  V row_ = nullptr, row_active_ = nullptr;  // null: always
  V column_ = nullptr;                      // the first one of this thread
  std::vector<V> indices_;                  // by outer dim
  std::vector<Operand> operands_;
  V shared_ = nullptr;
  int shared_used_ = 0;
  bool waited_ = false;

  // Of the chunk at hand.
  V first_ = nullptr;
  std::vector<V> active_, turn_columns_;                // by turn; active null: always
  std::vector<std::vector<GpuMemory::Packed>> packed_;  // by operand and turn; empty: not loaded
  std::vector<Values> values_;                          // by step; empty: not computed
};

}  // namespace

void add_gpu_row_kernel(GpuDevice& device, const std::string& symbol, const RowKernel& kernel, const GpuSchedule& schedule) {
  GpuRowKernelWriter(device, symbol, kernel, schedule).write();
}

}  // namespace sinter

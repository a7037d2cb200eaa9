#pragma once
#include <llvm/IR/IRBuilder.h>

namespace sinter {

/// Emits `for (i = begin; i < end; i += step) body(i)` and goes on behind it. What the body carries from one turn to the next
/// lies in allocas of the entry block, which the optimiser turns into registers.
template <class Body>
void emit_loop(llvm::IRBuilder<>& b, llvm::Value* begin, llvm::Value* end, int64_t step, Body&& body) {
  llvm::Function* function = b.GetInsertBlock()->getParent();
  llvm::BasicBlock* before = b.GetInsertBlock();
  llvm::BasicBlock* inside = llvm::BasicBlock::Create(b.getContext(), "", function);
  llvm::BasicBlock* behind = llvm::BasicBlock::Create(b.getContext(), "", function);
  b.CreateCondBr(b.CreateICmpSLT(begin, end), inside, behind);
  b.SetInsertPoint(inside);
  llvm::PHINode* i = b.CreatePHI(begin->getType(), 2);
  i->addIncoming(begin, before);
  body(i);
  llvm::Value* next = b.CreateNSWAdd(i, llvm::ConstantInt::get(begin->getType(), uint64_t(step)));
  i->addIncoming(next, b.GetInsertBlock());
  b.CreateCondBr(b.CreateICmpSLT(next, end), inside, behind);
  b.SetInsertPoint(behind);
}

/// Emits `if (condition) yes()`.
template <class Yes>
void emit_if(llvm::IRBuilder<>& b, llvm::Value* condition, Yes&& yes) {
  llvm::Function* function = b.GetInsertBlock()->getParent();
  llvm::BasicBlock* inside = llvm::BasicBlock::Create(b.getContext(), "", function);
  llvm::BasicBlock* behind = llvm::BasicBlock::Create(b.getContext(), "", function);
  b.CreateCondBr(condition, inside, behind);
  b.SetInsertPoint(inside);
  yes();
  b.CreateBr(behind);
  b.SetInsertPoint(behind);
}

}  // namespace sinter

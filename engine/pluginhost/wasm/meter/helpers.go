package meter

// helper is a function of the rewriter that charges a bulk operation by its
// length, the operand on top of the stack, and gives the length back.
type helper int

const (
	helperNone    helper = iota
	helperBytes          // memory.fill, copy, init: a tick for 64 bytes
	helperEntries        // table.fill, copy, init: a tick for 8 entries
	helperPages          // memory.grow: a tick for 64 bytes
	helperTable          // table.grow: a tick for 8 entries
	helperCount
)

var lengthType = FuncType{Params: []ValueType{I32}, Results: []ValueType{I32}}

// helper gives the index of a helper function; the first use adds it.
func (rw *rewriter) helper(h helper) uint32 {
	if rw.helpers[h] == 0 {
		rw.helpers[h] = rw.addFunc(&lengthType, rw.helperBody(h))
	}
	return rw.helpers[h]
}

// helperBody assembles a helper. Growth beyond the cap fails at once and costs
// no more than the call, so that a guest that asks for too much gets its -1.
func (rw *rewriter) helperBody(h helper) []byte {
	var a asm
	a.op(0) // no locals
	switch h {
	case helperPages:
		a.returnIfAbove(rw.m.lim.MemoryPages)
	case helperTable:
		a.returnIfAbove(rw.m.lim.MaxTableEntries)
	}
	a.indexed(opGlobalGet, rw.budget)
	a.indexed(opLocalGet, 0)
	switch h {
	case helperBytes:
		a.i32(6)
		a.op(opI32ShrU, opI64ExtendI32U)
	case helperEntries, helperTable:
		a.i32(3)
		a.op(opI32ShrU, opI64ExtendI32U)
	case helperPages:
		a.op(opI64ExtendI32U)
		a.i64(10)
		a.op(opI64Shl)
	}
	a.op(opI64Sub)
	a.indexed(opGlobalSet, rw.budget)
	a.indexed(opGlobalGet, rw.budget)
	a.trapIfNegative()
	a.indexed(opLocalGet, 0)
	a.op(opEnd)
	return a.b
}

// returnIfAbove gives the length back uncharged when it is over the cap.
func (a *asm) returnIfAbove(limit uint32) {
	a.indexed(opLocalGet, 0)
	a.i32(int32(limit))
	a.op(opI32GtU, opIf, blockEmpty)
	a.indexed(opLocalGet, 0)
	a.op(opReturn, opEnd)
}

// wrapper assembles a function that fills the budget from its first parameter,
// sets the depth back, and calls target with the other parameters.
func (rw *rewriter) wrapper(target uint32, t *FuncType) uint32 {
	params := append([]ValueType{I64}, t.Params...)
	var a asm
	a.op(0) // no locals
	a.indexed(opLocalGet, 0)
	a.indexed(opGlobalSet, rw.budget)
	a.i64(int64(rw.m.lim.MaxCallDepth))
	a.indexed(opGlobalSet, rw.depth)
	for i := range t.Params {
		a.indexed(opLocalGet, uint32(i+1))
	}
	a.indexed(opCall, target)
	a.op(opEnd)
	return rw.addFunc(&FuncType{Params: params, Results: t.Results}, a.b)
}
